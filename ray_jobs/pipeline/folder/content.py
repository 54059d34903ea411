"""Which images a run has read, as one number: their ids and their pixels, whatever order they were read in.

Each row of ``references`` has the digest of its image, taken where the image was in memory anyway. The digest of a run
is made of these, so that nothing is read a second time, and stretches of work, clusters and merges add up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

from ipsolve.runs.results import RunFolder

KEY = "images_read"
_MODULUS = 2**256


def images_read(run: RunFolder, image_ids: Collection[str] | None = None) -> dict[str, Any]:
    """Return ``{"images_read": {"digest": ..., "images": n}}``, empty where a row does not know its image's digest.

    The digest is the sum of the images' own, modulo 2^256, as 64 hexadecimal digits: sha256 of the id and of the
    numbers that were evaluated (:func:`ipsolve.evaluation.batch.image_digest`). Images that could not be read are not
    in it.

    Args:
        image_ids: these alone; None, all there are.
    """
    wanted = None if image_ids is None else frozenset(image_ids)
    table = run.references(["image_id", "digest"])
    total, count = 0, 0
    for name, digest in zip(table["image_id"].to_pylist(), table["digest"].to_pylist(), strict=True):
        if wanted is not None and name not in wanted:
            continue
        if digest is None:  # of a run that was begun before there were any
            return {}
        total += int(hashlib.sha256(json.dumps([name, digest]).encode()).hexdigest(), 16)
        count += 1
    return {KEY: {"digest": f"{total % _MODULUS:064x}", "images": count}} if count else {}
