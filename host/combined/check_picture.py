"""Is a picture from anywhere what a model memorized under a prompt? Its own run was not seen: the model is asked with other seeds."""

from __future__ import annotations

from typing import Any

import comfy.utils
from torch import Tensor

from ..copies.checking import coloured
from ..copies.detectors import BuiltIn, Detector
from ..copies.references import References
from ..core.latents import check_single, decoded
from ..core.progress import Progress
from ..core.prompts import encoded
from ..core.sampling import draw, first_of
from ..curvature.measuring import RECOMMENDED, measure_map
from ..stability.guard import UNWATCHED, guarded
from ..stability.methods import Guard
from ..stability.model_profile import profile_for
from ..stability.records import in_short
from .check_prompt import Answer, answer, compared_with, mapped

DRAWN = 4
"""Pictures of the prompt that the given one is compared with."""
FAR = 0x9E3779B97F4A7C15
"""Added to the seed: the picture may have been drawn with the widget's own, or the next, and would then be compared with itself."""


def check_picture(
    picture: Tensor, model: Any, clip: Any, vae: Any, prompt: str, latent: dict[str, Any], use: dict[str, Any],
    references: References | None = None, detector: Detector | None = None,
) -> Answer:  # fmt: skip
    """Draw a prompt with other seeds under guard, compare a picture [1, h, w, c] with what comes, and map it. ValueError before any work
    on what cannot be asked."""
    if not prompt.strip():
        raise ValueError("There is no prompt. Write the one that the picture may have been stored with.")
    if len(picture) != 1:
        raise ValueError(f"{len(picture)} pictures came in: one at a time is checked. Pick one, for instance with Image From Batch.")
    if not picture.isfinite().all():
        raise ValueError("The picture is broken: it holds values that are no numbers. Check what made it.")
    check_single(latent)
    positive, empty = encoded(clip, [prompt, ""])
    one = first_of(model, latent)
    profile = profile_for(model, clip, empty, one, use)
    clone, record = guarded(model, Guard(profile.stored, "detect", sampling=use))
    several = {**one, "samples": one["samples"].repeat(DRAWN, *[1] * (one["samples"].ndim - 1))}
    drawn = decoded(vae, draw(clone, positive, empty, several, use | {"seed": (use["seed"] + FAR) % 2**64}))
    picture = fitted(coloured(picture), drawn.shape[-2], drawn.shape[-3])
    how = detector or BuiltIn()
    alike = likenesses(picture, drawn, how)
    found = measure_map(model, positive, empty, {"samples": vae.encode(picture)}, RECOMMENDED, use["seed"])
    recalled, words = verdict(alike, how.least, record.facts)
    overlay = mapped(picture, found, recalled)
    facts = {
        "guard": in_short(record.facts), "profile": profile.how, "map": overlay.report, "drawn": DRAWN,
        "likeness": [round(a, 4) for a in alike], "alike_from": how.least, "detector": how.name,
    }  # fmt: skip
    return answer(picture, overlay.pictures, recalled, words, facts, compared_with(references, picture, detector))


def fitted(picture: Tensor, width: int, height: int) -> Tensor:
    """A picture [1, h, w, 3] as the model would have drawn it: its middle, in the size of its pictures."""
    if picture.shape[1:3] == (height, width):
        return picture
    return comfy.utils.common_upscale(picture.movedim(-1, 1), width, height, "area", "center").movedim(1, -1)


def likenesses(picture: Tensor, drawn: Tensor, how: Detector) -> list[float]:
    """Of a picture [1, h, w, 3] to each of [n, h, w, 3]."""
    ours, theirs = (how.prepare(p.movedim(-1, 1).float().nan_to_num(0.0)) for p in (picture, drawn))
    return how.compare(ours, theirs, Progress(1).check)[0].tolist()


def verdict(alike: list[float], least: float, guard: dict[str, Any]) -> tuple[bool | None, str]:
    """Both witnesses together: does the picture come again with other seeds, and are these runs recalled? One alone is no answer: words may
    settle nearly all of a plain picture, and a memory of the prompt may be of another picture."""
    again, most = sum(a >= least for a in alike), max(alike)
    known = [s for s, why in zip(guard["scores"], guard["not_judged"], strict=True) if not why]
    score = f"score {max(known):.1f}, memorized from {guard['limit']:g}" if known else ""
    likeness = f"{again} of {len(alike)} pictures with other seeds are this one again (likeness {most:.2f}, a copy from {least:g})"
    others = f"with other seeds come other pictures (likeness {most:.2f} at most, a copy from {least:g})"
    if any(guard["memorized"]):
        if again:
            return True, f"memorized: {likeness}, and the model knew it from the start ({score}); hot is what it recalls"
        return None, f"not judged: the prompt recalls a picture ({score}), but not this one: {others}"
    if not known:
        return None, f"not judged: {guard['not_judged'][0]}; {likeness if again else others}"
    if guard.get("unwatched"):
        return None, f"not judged: {UNWATCHED} The checkpoint's own runs are like ordinary ones ({score}); {likeness if again else others}"
    if again:
        return None, f"not judged: {likeness}, but they are drawn like ordinary ones ({score}): the words may settle so much"
    return False, f"nothing found: {others}, drawn like ordinary ones ({score})"
