"""The recipes of CONTRIBUTING.md run as they are printed, each in a process of its own (registering is for good)."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = dict(re.findall(r"```python\n# ipsolve/(\S+)\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S))

CHECKS = {
    "operators/row_sampling.py": """
from ipsolve.operators import parse_task
from ipsolve.randomness import image_rng
spec = parse_task({"operator": "row_sampling", "step": 3, "noise_std": 0.0}).operator
rng = image_rng(0, ["a", "b"], "operator")
A = spec.draw((3, 8, 8), rng, torch.float64)
x, y = rng.normal(3, 8, 8, dtype=torch.float64), rng.normal(*A.measurement_shape, dtype=torch.float64)
torch.testing.assert_close((A.forward(x) * y).sum(), (x * A.adjoint(y)).sum(), rtol=1e-12, atol=0)
torch.testing.assert_close(A.forward(A.prox(x, y)), y)
""",
    "solvers/decoupled/half_quadratic.py": """
from ipsolve.operators import parse_task
from ipsolve.priors import load_prior
from ipsolve.problem import pose
from ipsolve.randomness import image_rng
from ipsolve.solvers import SOLVERS
prior = load_prior({"prior": "white", "size": 8, "std": 0.5})
task = parse_task({"operator": "super_resolution", "factor": 2, "noise_std": 0.1})
x = 0.5 * image_rng(0, ["a", "b"], "truth").normal(3, 8, 8)
posed = pose(task, x, prior, 0, ["a", "b"])
solver = SOLVERS["half_quadratic"](num_steps=5)
solver.check(task, prior.traits)
x_hat = solver.solve(posed.problem)
assert (posed.consistency(x_hat) < posed.consistency(torch.zeros_like(x))).all()
assert ((x_hat - x).flatten(1).norm(dim=1) < x.flatten(1).norm(dim=1)).all()
torch.testing.assert_close(solver.solve(pose(task, x[1:], prior, 0, ["b"]).problem), x_hat[1:])
""",
    "priors/white.py": """
from ipsolve.priors import load_prior, prior_summary
prior = load_prior({"prior": "white", "size": 8, "std": 0.5})
assert prior_summary({"prior": "white", "size": 8}).image_shape == prior.image_shape == (3, 8, 8)
x_t = torch.ones(2, 3, 8, 8)
clean, noisy = prior.schedule.level(0), prior.schedule.level(999)
torch.testing.assert_close(prior.denoise(x_t, clean), x_t, atol=1e-3, rtol=0)
assert prior.denoise(x_t, noisy).abs().max() < 1e-2
""",
    "metrics/mae.py": """
from ipsolve.metrics import METRICS
x = torch.zeros(2, 3, 4, 4)
x_hat = x.clone()
x_hat[1] += 0.5
assert METRICS["mae"]()(x_hat, x).tolist() == [0, 0.25]
""",
}
NEEDS = {"solvers/decoupled/half_quadratic.py": ["priors/white.py"]}


def test_every_recipe_is_checked():
    assert RECIPES.keys() == CHECKS.keys()


@pytest.mark.parametrize("recipe", CHECKS)
def test_recipe_works_as_printed(recipe, tmp_path):
    for number, name in enumerate([*NEEDS.get(recipe, []), recipe]):
        (tmp_path / f"recipe_{number}.py").write_text(RECIPES[name])
    imports = "".join(f"import {path.stem}\n" for path in sorted(tmp_path.glob("recipe_*.py")))
    (tmp_path / "check.py").write_text(f"import torch\n{imports}{CHECKS[recipe]}")
    run = subprocess.run(
        [sys.executable, "check.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_is_in_the_house_style(recipe, tmp_path):
    (tmp_path / "recipe.py").write_text(RECIPES[recipe])
    run = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml", tmp_path / "recipe.py"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout
