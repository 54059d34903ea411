"""What a prior can be told of the images of a batch, beside the measurement: a text, a label."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Context:
    """What is known of the B images of a batch: of each entry B, one for each image, or 1, the same for all.

    Attributes:
        prompt: what they show; None in the place of a text is the one that the prior has.
        negative_prompt: what guidance leads away from; None in the place of a text likewise.
        label: class indices, int64.
    """

    prompt: tuple[str | None, ...] | None = None
    negative_prompt: tuple[str | None, ...] | None = None
    label: Tensor | None = None

    def __str__(self) -> str:
        given = {name: value for name, value in vars(self).items() if value is not None}
        return " and ".join(name.replace("_", " ") for name in given) or "nothing"


def per_row(entries: Tensor, count: int) -> Tensor:
    """Return an entry for each of ``count`` rows, (n, ...) -> (count, ...).

    The rows of one image lie side by side, as :meth:`ipsolve.problem.Problem.repeat` and particles have them.

    Raises:
        ValueError: the rows are no multiple of the entries: nobody could say which is of which image.
    """
    times, rest = divmod(count, len(entries))
    if rest or not times:
        raise ValueError(f"{count} rows for a context of {len(entries)} images: select the rows first")
    return entries.repeat_interleave(times, 0)


def select_entries(entries: Tensor, rows: Tensor) -> Tensor:
    """Return the entries of some images; one that is for all images stays as it is."""
    return entries if len(entries) == 1 else entries[torch.as_tensor(rows, device=entries.device)]
