"""How a reader knows that a process died of an image: Ray starts it again without end and a word (ray.md 1d)."""

from __future__ import annotations

from typing import Any

from ipsolve.files.filesystems import patiently
from ipsolve.runs.results import ATTEMPTS, RunFolder

MAX_DEATHS = 3  # of one image


class ReaderDeaths:
    """What is known of the readers of one stretch of the dispatch.

    The first costs a store two requests for the whole stretch. After a death every batch is noted before it is read,
    and the images of one that a process died on, each before it is read: so the image that kills is found, and is
    given up after ``MAX_DEATHS``. What others have died of meanwhile, such as a lost node, does not count twice.

    Args:
        location: of the run.
        start: the first batch of the stretch.
    """

    def __init__(self, location: str, start: int) -> None:
        self.run, self.name = RunFolder(location), f"{ATTEMPTS}/read-{start}.json"
        before: dict[str, Any] = patiently(lambda: self.run.read_json(self.name))
        self.careful = bool(before)
        self.deaths: dict[str, int] = before.get("deaths", {})
        if at := before.get("at"):
            self.deaths[at] = self.deaths.get(at, 0) + 1
        self._write("")

    def batch(self, number: int) -> bool:
        """Note that a batch will be read; return whether it must be read image by image."""
        if self.careful:
            self._write(str(number))
        return str(number) in self.deaths

    def image(self, batch: int, index: int) -> str:
        """Note that an image will be read; return why it must not be, or nothing."""
        at = f"{batch}/{index}"
        if (died := self.deaths.get(at, 0)) >= MAX_DEATHS:
            return f"the process that read it died {died} times"
        self._write(at)
        return ""

    def rest(self) -> None:
        """Note that nothing is being read: a process that ends while it waits for actors ended for other reasons."""
        if self.careful:
            self._write("")

    def _write(self, at: str) -> None:
        patiently(lambda: self.run.write_json(self.name, {"at": at, "deaths": self.deaths}))
