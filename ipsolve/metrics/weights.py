"""Published weight files: where their libraries look for them, and whether they are what was published."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from ipsolve.requests.errors import RequestError


@dataclass(frozen=True)
class PublishedFile:
    """A file of weights with its address and its SHA-256; ``folders`` are searched after torch.hub's."""

    name: str
    url: str
    sha256: str
    key: str  # of the configuration, for messages
    folders: tuple[str, ...] = ()

    def find(self, path: str | None) -> Path | None:
        """Return the file at ``path``, or at the first place in which it exists, or None.

        Raises:
            RequestError: ``path`` is given and there is no such file.
        """
        if path is not None:
            chosen = Path(path).expanduser()
            if not chosen.is_file():
                raise RequestError(self.key, f"no file at {path!r}; allowed: the path of {self.name}, or null")
            return chosen
        places = [_hub_folder(), *map(Path, self.folders)]
        return next((place / self.name for place in places if (place / self.name).is_file()), None)

    def unavailable(self, path: str | None = None, sha256: str | None = None) -> str | None:
        """Return why the file cannot be used and the command that gets it, or None if it can be used."""
        chosen = self.find(path)
        if chosen is None:
            return f"{self.name} is not on this machine; get it with: {self.command()}"
        expected, stat = sha256 or self.sha256, chosen.stat()
        found = _digest(chosen, stat.st_mtime_ns, stat.st_size)
        if found != expected.lower():
            return f"{chosen.name} has SHA-256 {found}, expected {expected}; replace it with: {self.command()}"
        return None

    def read(self, path: str | None = None, sha256: str | None = None) -> bytes:
        """Return the content, checked: what is hashed is what is returned, so no one can swap the file in between.

        Raises:
            RequestError: the file is absent or has another SHA-256.
        """
        chosen = self.find(path)
        content = b"" if chosen is None else chosen.read_bytes()
        if hashlib.sha256(content).hexdigest() != (sha256 or self.sha256).lower():
            raise RequestError("", self.unavailable(path, sha256) or f"{self.name} changed while it was read")
        return content

    def command(self) -> str:
        """Return the one command that puts the file where it is looked for."""
        folder, home = str(_hub_folder()), os.path.expanduser("~")
        shown = "~" + folder[len(home) :] if folder.startswith(home + os.sep) else folder
        return f"curl -fL --create-dirs -o {shown}/{self.name} {self.url}"


def missing_package(module: str, package: str) -> str | None:
    """Return that ``module`` is not installed and how to install it, or None if it is."""
    if importlib.util.find_spec(module) is not None:
        return None
    return f"the package {package} is not installed; get it with: pip install {package}"


def _hub_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


@lru_cache(maxsize=16)
def _digest(path: Path, mtime_ns: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
