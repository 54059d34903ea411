"""Names for what a method needs and what a task and a prior have, and how a request without it is refused."""

from __future__ import annotations

Traits = frozenset[str]

# what a task and a prior have; and, in the words of a refusal, what it means that a method needs it
NEEDS = {
    "linear": "needs a linear operator, {operator} is not",
    "spectral": "needs an operator with a known SVD, {operator} has none",
    "known": "needs to be told the operator, and the task is blind",
    "blind": "is for blind tasks, and the operator of this one is known",
    "noiseless": "is for noiseless measurements, noise_std is {noise_std}",
    "noisy": "is for noisy measurements, noise_std is 0",
    "latent": "needs a latent prior",
    "pixel": "needs a pixel prior",
    "image": "is for images (rgb, gray, complex), and the prior is of other signals",
    "text": "needs a prior that takes text",
    "negative_text": "needs a prior that takes a negative text",
    "flow": "needs a flow prior",
    "consistency": "needs a consistency prior, which maps a state to an image in one call",
    "bridge": "needs a bridge as its prior",
    "learned_variance": "needs a prior that has learned the variance of its steps; allowed: variance fixed",
    "adaptable": "needs a prior whose weights can be adapted to an image",
}


def refusal(needs: Traits, has: Traits, **words: object) -> str | None:
    """Return what is missing, in a line, or None; names that :data:`NEEDS` does not know are said as they are."""
    for name in (*NEEDS, *sorted(needs - NEEDS.keys())):
        if name in needs and name not in has:
            return NEEDS.get(name, f"needs: {name}").format(**words)
    return None
