"""Folders in the cache of huggingface_hub: ``hf:ORG/NAME``, ``hf:ORG/NAME@REVISION``.

They are read from the cache and never fetched by a run: a plan must not move gigabytes, and the workers of a cluster
must all read the same commit. Who lacks one is told the command that fetches it.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from ipsolve.requests.errors import RequestError

PREFIX = "hf:"
_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@(\w[\w./-]*))?")
_SNAPSHOT = re.compile(r"/models--([\w.-]+?)--([\w.-]+)/snapshots/(\w+)(?:/|$)")


def patterns(variant: str | None = None) -> list[str]:
    """Return the patterns of the files that a prior may need: JSON, safetensors, and the words of tokenizers."""
    dot = f".{variant}" if variant else ""
    stems = ("*diffusion_pytorch_model", "text_encoder*/model")
    weights = [f"{stem}{dot}{shards}.safetensors" for stem in stems for shards in ("", "-*-of-*")]
    older = [f"{stem}-*-of-*{dot}.safetensors" for stem in stems] if variant else []
    return ["*.json", "tokenizer*/*.txt", *weights, *older]


def fetch_command(repository: str, revision: str | None = None, variant: str | None = None) -> str:
    """Return the command that fetches what a prior needs of a repository, and nothing else, into the cache."""
    words = ["hf", "download", repository]
    words += ["--revision", revision] if revision else []
    for pattern in patterns(variant):
        words += ["--include", pattern]
    return shlex.join(words)


def how_to_fetch(folder: Path) -> str:
    """Return the command for a folder of the cache that lacks something, to go after a message; else nothing."""
    found = _SNAPSHOT.search(folder.as_posix())
    return f"; fetch it with: {fetch_command(f'{found[1]}/{found[2]}', found[3])}" if found else ""


def cached(path: str, variant: str | None = None, key: str = "prior.path") -> Path:
    """Return the folder in the cache that ``hf:ORG/NAME[@REVISION]`` names; ``key`` is that of an error.

    Raises:
        RequestError: another form, or the cache has it not, or not whole.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, revision = _parse(path, key)
    try:
        found = snapshot_download(
            repository, revision=revision, local_files_only=True, allow_patterns=patterns(variant)
        )
    except LocalEntryNotFoundError:
        how = f"fetch it with: {fetch_command(repository, revision, variant)}"
        raise RequestError(key, f"{path} is not in the cache of huggingface_hub; {how}") from None
    except ValueError as error:  # a name that cannot be one
        raise RequestError(key, f"{path} is no repository: {' '.join(str(error).split())}") from None
    return Path(found)


def pin(path: str) -> str:
    """Return ``hf:ORG/NAME`` as the commit that the cache has of it; other paths, and what is not cached, unchanged.

    A name moves with its repository: with the commit in the request, every worker reads the same weights or none.
    """
    if not path.startswith(PREFIX):
        return path
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    repository, revision = _parse(path)
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
    reference = folder / "refs" / (revision or "main")
    if not reference.is_file():
        return path
    return f"{PREFIX}{repository}@{reference.read_text().strip()}"


def _parse(path: str, key: str = "prior.path") -> tuple[str, str | None]:
    found = _NAME.fullmatch(path)
    if found is None or ".." in path:
        raise RequestError(key, f"{path!r} is no repository; allowed: hf:ORG/NAME or hf:ORG/NAME@REVISION")
    return found[1], found[2]


PriorPath = Annotated[str, AfterValidator(pin)]
