"""Which epoch of a LoRA, or which strength of it, has learnt its style and remembers no picture? (our own method, no paper's)"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Epoch:
    """A LoRA at a strength: mean agreement of each caption's run (NaN: it changes nothing), its common change along the strongest one's
    (1 = as much), how many pictures copy a reference (None: there are no references), how many groups of pictures drawn beyond it agree
    on a picture that the base does not draw (None: it was not probed), and of how many pictures the references cannot tell."""

    name: str
    strength: float
    agreements: list[float]
    common: float
    copies: int | None = None
    groups: int | None = None
    unclear: int = 0

    @property
    def least(self) -> float:
        """Of the caption that agrees least; NaN if it changes nothing anywhere."""
        known = [value for value in self.agreements if not math.isnan(value)]
        return min(known) if known else math.nan

    def leaks(self, limit: float) -> bool | None:
        """Does it give a picture back, by references, or where there are none by a group of a probe, or a caption that moves it in a way of
        its own? None: that cannot be told of some picture, or it changes nothing that could tell."""
        if self.copies is not None:
            return True if self.copies else None if self.unclear else False
        if self.groups:
            return True
        return None if math.isnan(self.least) else self.least < limit


def suggestion(epochs: list[Epoch], limit: float) -> Epoch | None:
    """The one with the most of the common change among those that do not leak; None if all of them do, or change nothing."""
    sound = [e for e in epochs if e.leaks(limit) is False and e.common > 0]
    return max(sound, key=lambda e: e.common, default=None)


def in_words(epochs: list[Epoch], limit: float) -> str:
    """The answer, in a sentence."""
    best, leaking = suggestion(epochs, limit), sum(bool(e.leaks(limit)) for e in epochs)
    if best is None and any(e.unclear and not e.copies for e in epochs):
        return (
            "Nothing could be suggested: those that are not seen to leak draw pictures more like a reference than honest ones are, but no "
            "more than different pictures may be. Look at them, or write another copy_limit."
        )
    if best is None and leaking < len(epochs):
        return "Nothing could be suggested: those that do not leak change nothing with these captions. Does the LoRA belong to this model?"
    if best is None:
        return "Every one of them leaks. Train for fewer steps or with more pictures, or clean one with Filter LoRA by Measuring."
    many = f"{leaking} of {len(epochs)} leak" if leaking else "none is seen to leak"
    at = "" if best.strength == 1 else f" at strength {best.strength:g}"
    return f"{many}; of the others {best.name!r}{at} has learnt most: {best.common:.0%} of the strongest one's change for every prompt."
