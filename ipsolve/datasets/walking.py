"""The files below a local folder, or those of them that a glob names: one walk for both, so that they agree."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

EVERYTHING = ("**",)
HIDDEN, CLOSED, LOOP = "hidden", "in a closed folder", "linked in a circle"  # why a name is left out


def is_hidden(relative: str) -> bool:
    """Return whether a part of a path, given from the source's root on with forward slashes, begins with a dot."""
    return any(part.startswith(".") for part in relative.split("/"))


def hidden_root(relative: str) -> str:
    """Return the shortest hidden part of a path that is hidden: ``a/.git`` of ``a/.git/b/c``."""
    parts = relative.split("/")
    first = next(i for i, part in enumerate(parts) if part.startswith("."))
    return "/".join(parts[: first + 1])


def walk(root: Path, pattern: Sequence[str] = EVERYTHING, left_out: Counter[str] | None = None) -> Iterator[Path]:
    """Yield the files below ``root`` that no hidden name leads to, in no order; links to folders are followed.

    A link that leads back to a folder that it is in is not followed. A folder that is closed to this user is empty.

    Args:
        root: a folder; one that is absent has no files.
        pattern: the parts of a glob from ``root`` on; ``**`` stands for any number of folders.
        left_out: is counted up for what the pattern may have meant and is not yielded. What lies in a folder that is
            hidden or closed is not known: it counts as one.
    """
    yield from _walk(root, pattern, _closed(pattern, {0}), frozenset(), Counter() if left_out is None else left_out)


def _walk(
    folder: Path, pattern: Sequence[str], states: set[int], above: frozenset[str], left_out: Counter[str]
) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:  # by real path: a loop of links has no end of names
        left_out[LOOP] += 1
        return
    try:
        with os.scandir(folder) as listed:
            entries = list(listed)
    except PermissionError:
        left_out[CLOSED] += 1
        return
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        reached = _step(pattern, states, entry.name)
        if is_hidden(entry.name):
            left_out[HIDDEN] += len(pattern) in reached or bool(reached and _is_dir(entry))
        elif reached and _is_dir(entry):
            yield from _walk(folder / entry.name, pattern, reached, above | {real}, left_out)
        elif len(pattern) in reached and (folder / entry.name).is_file():
            yield folder / entry.name


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _step(pattern: Sequence[str], states: set[int], name: str) -> set[int]:
    """Return how many parts of the pattern may be used up after one more name."""
    reached = set()
    for used in states:
        if used < len(pattern):
            if pattern[used] == "**":
                reached.add(used)
            elif fnmatchcase(name, pattern[used]):
                reached.add(used + 1)
    return _closed(pattern, reached)


def _closed(pattern: Sequence[str], states: set[int]) -> set[int]:
    """Add what ``**`` lets through by standing for no folder at all."""
    closed = set(states)
    for used in range(len(pattern)):
        if used in closed and pattern[used] == "**":
            closed.add(used + 1)
    return closed
