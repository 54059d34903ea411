# The first of python3.11, python3.12 and python3 that runs and is new enough; override with make PYTHON=...
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
UV_VERSION := 0.13.9

# uv does not read pip's settings: hand a mirror that pip was told of on to it
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif

.PHONY: help demo test test-slow lint format bench pins clean .venv

help: ## print the targets
	@sed -n 's/^\([a-z.]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 8

demo: .venv ## compare solvers on the built-in portraits, a few minutes on two cores
	$(BIN)/python -m ray_jobs.evaluate configs/demo.yaml

test: .venv ## run the tests, a process per core (PYTEST_ARGS="..." for a part of them)
	$(BIN)/python -m pytest -m "not slow" --numprocesses=auto --maxprocesses=4 --dist=loadgroup \
		--no-loadscope-reorder $(PYTEST_ARGS)

test-slow: .venv ## the tests that take minutes each: every fault of benchmarks/faults, a whole training
	$(BIN)/python -m pytest -m slow --numprocesses=2 --dist=loadgroup --no-loadscope-reorder $(PYTEST_ARGS)

lint: .venv ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict ipsolve ray_jobs tuning

format: .venv ## rewrite the code in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv ## measure speed, side by side
	$(BIN)/python -m benchmarks

.venv: .venv/.built ## install the pinned versions (also done by every other target)

.venv/.built: requirements-dev.txt requirements.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found; name one: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python --no-deps -r requirements-dev.txt -e .
	@touch $@

pins: .venv ## pin again, after a change of the dependencies in pyproject.toml (UPGRADE=--upgrade: to the newest)
	$(BIN)/uv pip compile -q --universal --python-version 3.11 $(UPGRADE) pyproject.toml --extra jobs --extra hf \
		-o requirements.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 $(UPGRADE) pyproject.toml --extra jobs --extra hf \
		--extra dev -c requirements.txt -o requirements-dev.txt

clean: ## remove caches and the environment, keep runs
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
