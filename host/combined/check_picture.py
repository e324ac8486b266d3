"""Is a picture from anywhere what a model memorized under a prompt? Its own run was not seen: the model is asked with other seeds."""

from __future__ import annotations

import math
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
from ..stability.guard import guarded
from ..stability.methods import Guard
from ..stability.model_profile import profile_for
from ..stability.records import in_short
from .check_prompt import Answer, answer, asked_of, compared_with, mapped, what_was_not_watched

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
    asked = asked_of(references, detector)
    profile = profile_for(model, clip, empty, one, use)
    clone, record = guarded(model, Guard(profile.stored, "detect", sampling=use))
    several = {k: v for k, v in one.items() if k != "batch_index"}  # of its own noise: there would be one picture, four times
    several["samples"] = one["samples"].repeat(DRAWN, *[1] * (one["samples"].ndim - 1))
    drawn = decoded(vae, draw(clone, positive, empty, several, use | {"seed": (use["seed"] + FAR) % 2**64}))
    picture = fitted(coloured(picture), drawn.shape[-2], drawn.shape[-3])
    how = detector or BuiltIn()
    alike = likenesses(picture, drawn, how)
    found = measure_map(model, positive, empty, {"samples": vae.encode(picture)}, RECOMMENDED, use["seed"])
    recalled, words = verdict(alike, how.least, record.facts, what_was_not_watched(record.facts, clip))
    overlay = mapped(picture, found, recalled)
    facts = {
        "guard": in_short(record.facts), "profile": profile.how, "map": overlay.report, "drawn": DRAWN,
        "likeness": [None if math.isnan(a) else round(a, 4) for a in alike], "alike_from": how.least, "detector": how.name,
    }  # fmt: skip
    return answer(picture, overlay.pictures, recalled, words, facts, compared_with(asked, picture))


def fitted(picture: Tensor, width: int, height: int) -> Tensor:
    """A picture [1, h, w, 3] as the model would have drawn it: its middle, in the size of its pictures."""
    if picture.shape[1:3] == (height, width):
        return picture
    return comfy.utils.common_upscale(picture.movedim(-1, 1), width, height, "area", "center").movedim(1, -1)


def likenesses(picture: Tensor, drawn: Tensor, how: Detector) -> list[float]:
    """Of a picture [1, h, w, 3] to each of [n, h, w, 3]; NaN for those that are broken."""
    ours, theirs = (how.prepare(p.movedim(-1, 1).float().nan_to_num(0.0, 0.0, 0.0)) for p in (picture, drawn))
    sound = drawn.flatten(1).isfinite().all(1).tolist()
    found = how.compare(ours, theirs, Progress(1).check)[0].tolist()
    return [alike if fine else math.nan for alike, fine in zip(found, sound, strict=True)]


def verdict(alike: list[float], least: float, guard: dict[str, Any], unwatched: str = "") -> tuple[bool | None, str]:
    """Both witnesses of one run: is the picture that it drew this one again, and was it recalled? One alone is no answer: words may settle
    nearly all of a plain picture, and a memory of the prompt may be of another picture. Nothing was found only if every run was judged,
    by both, and watched whole (`unwatched`: why not)."""
    again = [i for i, a in enumerate(alike) if a >= least]
    recalled = [i for i, memorized in enumerate(guard["memorized"]) if memorized]
    others = f"with other seeds come other pictures ({_likeness(alike, least, ' at most')})"
    likeness = f"{len(again)} of {len(alike)} pictures with other seeds are this one again ({_likeness(alike, least)})"
    seen = likeness if again else others
    both = [i for i in again if i in recalled]
    if both:
        return True, f"memorized: {likeness}, and the model knew it from the start ({_score(guard, both)}); hot is what it recalls"
    if recalled and again:
        return None, f"not judged: a picture is recalled ({_score(guard, recalled)}), but not where this one is drawn; {likeness}"
    missing = _missing(alike, guard["not_judged"])
    if missing:
        return None, f"not judged: {missing}; {seen}"
    if recalled:
        return None, f"not judged: the prompt recalls a picture ({_score(guard, recalled)}), but not this one: {others}"
    score = _score(guard, list(range(len(alike))))
    if unwatched:
        return None, f"not judged: {unwatched} The checkpoint's own runs are like ordinary ones ({score}); {seen}"
    if again:
        return None, f"not judged: {likeness}, but they are drawn like ordinary ones ({score}): the words may settle so much"
    return False, f"nothing found: {others}, drawn like ordinary ones ({score})"


def _likeness(alike: list[float], least: float, word: str = "") -> str:
    """Of the most alike of those that are not broken."""
    sound = [a for a in alike if not math.isnan(a)]
    return f"likeness {max(sound):.2f}{word}, a copy from {least:g}" if sound else "no likeness is known"


def _score(guard: dict[str, Any], runs: list[int]) -> str:
    """The highest of some runs, all of which were judged."""
    return f"score {max(guard['scores'][i] for i in runs):.1f}, memorized from {guard['limit']:g}"


def _missing(alike: list[float], not_judged: list[str]) -> str:
    """Why some runs have no verdict, or ""."""
    broken, reasons = sum(map(math.isnan, alike)), [why for why in not_judged if why]
    if broken:
        return (
            f"{broken} of {len(alike)} pictures with other seeds came out broken: the VAE decoded values that are no numbers. Start "
            "ComfyUI with --fp32-vae, or use another VAE"
        )
    some = f"{len(reasons)} of {len(not_judged)} runs could not be judged: " if 0 < len(reasons) < len(not_judged) else ""
    return f"{some}{reasons[0]}" if reasons else ""
