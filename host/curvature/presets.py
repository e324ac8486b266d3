"""The ready-made ways of measuring, and those that a user puts together."""

from __future__ import annotations

import dataclasses

from .measuring import PAPER, RECOMMENDED, How

PRESETS: dict[str, How | None] = {"recommended": RECOMMENDED, "paper": PAPER, "custom": None}
WHY = {
    "recommended": "preset recommended: the cheapest accurate one, without gradients, so that every model allows it",
    "paper": "preset paper: the published one",
    "custom": "as chosen",
}
"""Why an estimator runs, for the report."""
PROBINGS = ("structured", "random")


def chosen(method: str, preset: str, sigmas: str, probes: int, noises: int, probing: str, estimator: str) -> How:
    """The preset's settings, or for `custom` the others. ValueError for a sigma that is no positive number."""
    if preset not in PRESETS or probing not in PROBINGS:
        raise ValueError(f"Unknown preset {preset!r} or probing {probing!r}.")
    ready = PRESETS[preset]
    if ready is not None:
        return dataclasses.replace(ready, method=method)
    try:
        levels = tuple(float(part) for part in sigmas.split(",") if part.strip())
    except ValueError:
        levels = ()
    if not levels or min(levels) <= 0:
        raise ValueError(f"sigmas = {sigmas!r} is not a list of positive numbers. Write for instance 1.6, or 0.04, 0.14, 0.35.")
    return How(method, levels, estimator, probes, probing == "structured", noises)
