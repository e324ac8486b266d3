"""Probe a LoRA for what it remembers: draw beyond it, and see which pictures many seeds agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ...unmemorize.copies.patches import at_side, likeness
from ...unmemorize.copies.probe import BEYOND, LEAST_MEMBERS, Group, beyond, extrapolated, groups_of, like_base, without_detail
from ...unmemorize.copies.probe import leaks as is_leak
from ...unmemorize.pictures.gallery import gallery
from ...unmemorize.pictures.pages import counted
from ..core.another_model import asked_meanwhile
from ..core.denoiser import without_caches
from ..core.hooks import as_function
from ..core.latents import check_single, decoded
from ..core.progress import Progress
from ..core.sampler_call import DRAWN_AGAIN
from ..core.sampling import empty_of
from ..core.seeds import later_seed
from ..core.settings import check_sampling
from .base_and_lora import check_lora

CAPTION = "caption"
"""Of the guider's prompts: what the LoRA is asked for."""
BATCH = 8
LEAST_PICTURES = 8
LEAST_OF_BASE = 8
"""Pictures of the base for each caption: the nearest of fewer says little of what it draws."""
STYLE = "without captions a style agrees with itself too: look at what is shown"
USUAL_W = 3.0
"""How far beyond the LoRA: 1 is the LoRA itself (`nox -s sweep -- leak_probe`)."""


@dataclass(frozen=True)
class Drawn:
    """Pictures as a probe keeps them: uint8 [n, h, w, 3] (none of the base's: 500 of 1024 x 1024 are a gigabyte and a half), and small ones
    [n, 3, side, side] in [0, 1] that are compared."""

    pictures: Tensor
    small: Tensor


@dataclass(frozen=True)
class Leaks:
    """What a probe found: its pictures, uint8 [n, h, w, 3], the caption of each, groups, and which of these the base does not draw."""

    pictures: Tensor
    captions: list[int]
    groups: list[Group]
    leaks: list[Group]
    like_base: Tensor
    """How like each picture is to what the base draws under its caption, [n]."""
    beyond_in_layout: list[float]
    """By how much the pictures of each group are more like each other than like the base's where all are without their detail."""

    def like_base_of(self, group: Group) -> float:
        """Mean of a group's pictures."""
        return float(self.like_base[group.members].mean())

    def is_style(self, group: Group) -> bool:
        """Is a group unlike the base's pictures in their detail alone?"""
        return group not in self.leaks and group.agreement - self.like_base_of(group) >= BEYOND

    @property
    def estimates(self) -> Tensor:
        """The central picture of every leak, of every group if there is none, the first picture if nothing agrees; [k, h, w, 3]."""
        return self.at([group.members[0] for group in self.leaks or self.groups] or [0])

    def at(self, numbers: list[int]) -> Tensor:
        """Some of the pictures, [k, h, w, 3] in [0, 1]."""
        return self.pictures[numbers].float() / 255


@dataclass(frozen=True)
class Probe:
    """What to probe with: models, prompts as CONDITIONING, a LATENT for the size, and KSampler's settings."""

    base: Any
    lora: Any
    vae: Any
    captions: list[Any]
    empty: Any
    latent: dict[str, Any]
    use: dict[str, Any]
    pictures: int
    w: float
    wanted: int
    """Groups that are looked for: about as many as the LoRA may have been trained on."""
    base_captions: list[Any] | None = None
    """The captions as the base's own text encoder has them; None: as the LoRA's."""


def probe(p: Probe) -> Leaks:
    """Draw `pictures` beyond the LoRA and as many by the base, in turn for each caption; group both. ValueError before any work."""
    check(p)
    progress = Progress((p.pictures + pictures_of_base(p.pictures, len(p.captions))) * p.use["steps"])
    theirs = drawn(p, None, progress).small
    return compared(p, drawn(p, p.w, progress), theirs)


def pictures_of_base(pictures: int, captions: int) -> int:
    """How many the base draws where so many are drawn beyond the LoRA."""
    return max(pictures, LEAST_OF_BASE * captions)


def check(p: Probe) -> None:
    """ValueError if there is nothing to probe."""
    check_sampling(p.use)
    check_single(p.latent)
    if not p.captions:
        raise ValueError("There is no caption: write some, one a line, or an empty prompt to probe without captions.")
    check_pictures(p.pictures, len(p.captions))
    check_lora(p.lora, p.base)


def check_pictures(count: int, captions: int) -> None:
    """ValueError if so many pictures say nothing, or some of the captions would not be asked for at all."""
    if count < LEAST_PICTURES:
        raise ValueError(f"{count} pictures are too few to agree: at least {LEAST_PICTURES} are needed, 100 and more are good.")
    if count < captions:
        raise ValueError(
            f"{count} pictures cannot ask for {captions} captions: some would have none. Draw at least {LEAST_MEMBERS * captions}, "
            f"{LEAST_MEMBERS} a caption, or write fewer captions."
        )


def too_few(pictures: int, captions: int) -> str:
    """A warning if captions have fewer pictures than agree in a group, or ""."""
    if pictures >= LEAST_MEMBERS * captions:
        return ""
    return (
        f"too few pictures for {captions} captions: {LEAST_MEMBERS} of one caption must agree, so draw {LEAST_MEMBERS * captions} or more"
    )


def compared(p: Probe, ours: Drawn, theirs: Tensor) -> Leaks:
    """Groups of what was drawn beyond the LoRA, and which of them are unlike what the base drew, small [n, 3, side, side]. ValueError if a
    picture is broken: groups would say nothing."""
    if not (ours.small.isfinite().all() and theirs.isfinite().all()):
        raise ValueError(
            f"A picture came out broken (values that are no numbers), so nothing can be judged. w = {p.w:g} may be too large, or the VAE "
            "overflows: try a smaller w, or start ComfyUI with --fp32-vae."
        )
    captions, captions_of_base = (torch.arange(n) % len(p.captions) for n in (p.pictures, len(theirs)))

    def compare(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Likeness of all pairs of `first`, and of each with the nearest of `second` under its caption."""
        return alike(first), like_base(torch.cat([likeness(part, second) for part in first.split(BATCH)]), captions, captions_of_base)

    whole, layout = compare(ours.small, theirs), compare(without_detail(ours.small), without_detail(theirs))
    groups = groups_of(whole[0], p.wanted)
    in_layout = [beyond(group, *layout) for group in groups]
    found = [group for group, far in zip(groups, in_layout, strict=True) if is_leak(beyond(group, *whole), far)]
    return Leaks(ours.pictures, captions.tolist(), groups, found, whole[1], in_layout)


def alike(pictures: Tensor) -> Tensor:
    """Likeness of all pairs of pictures [n, 3, h, w], symmetric [n, n]."""
    found = torch.cat([likeness(pictures, part) for part in pictures.split(BATCH)], 1)
    return ((found + found.T) / 2).fill_diagonal_(1.0)


def drawn(p: Probe, w: float | None, progress: Progress) -> Drawn:
    """Pictures with seeds from use["seed"] on, caption after caption; `w` None: by the base under the captions, guided."""
    made: list[Drawn] = []
    where: list[int] = []
    count = pictures_of_base(p.pictures, len(p.captions)) if w is None else p.pictures
    for c in range(len(p.captions)):
        numbers = list(range(c, count, len(p.captions)))
        for start in range(0, len(numbers), BATCH):
            part = numbers[start : start + BATCH]
            caption = p.captions[c] if w is not None or p.base_captions is None else p.base_captions[c]
            latents = _sampled(p, caption, [later_seed(p.use["seed"], i) for i in part], w, progress)
            made.append(kept(decoded(p.vae, latents), w is not None))
            where += part
    order = torch.tensor(where).argsort()
    pictures = torch.cat([m.pictures for m in made])
    return Drawn(pictures if w is None else pictures[order], torch.cat([m.small for m in made])[order])


def kept(pictures: Tensor, shown: bool) -> Drawn:
    """What a probe keeps of pictures [n, h, w, 3] in [0, 1]; `shown`: will some of them be?"""
    three = pictures[..., :3].float()
    whole = (three.nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8).cpu() if shown else torch.zeros(0, dtype=torch.uint8)
    return Drawn(whole, at_side(three.movedim(-1, 1)).cpu())


def _sampled(p: Probe, caption: Any, seeds: list[int], w: float | None, progress: Progress) -> Tensor:
    """Latents of some seeds of one caption."""
    empty = empty_of(p.base, p.latent)
    noise = torch.cat([comfy.sample.prepare_noise(empty, seed) for seed in seeds])
    latent = comfy.utils.repeat_to_batch_size(empty, len(seeds))
    base = without_caches(p.base)
    guider = comfy.samplers.CFGGuider(base)
    guider.model_options = {**base.model_options, DRAWN_AGAIN: True}
    if w is None:
        guider.set_conds(caption, p.empty)
        guider.set_cfg(p.use["cfg"])
    else:
        guider.inner_set_conds({"positive": p.empty, CAPTION: caption})
        guider.set_cfg(1.0)

        def further(facts: dict[str, Any]) -> Tensor:
            lent = asked_meanwhile(p.lora, p.base, [guider.conds[CAPTION]], facts)[0]
            return extrapolated(facts["denoised"], lent.to(facts["denoised"]), w)

        guider.model_options = comfy.model_patcher.set_model_options_post_cfg_function(guider.model_options, as_function(further))
    model_sampling = p.base.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(model_sampling, p.use["scheduler"], p.use["steps"])
    sampler = comfy.samplers.sampler_object(p.use["sampler_name"])
    with torch.inference_mode():
        return guider.sample(
            noise, latent, sampler, sigmas, callback=lambda *_: progress.advance(len(seeds)), disable_pbar=True, seed=seeds[0]
        )


def report(leaks: Leaks, captions: list[str], use: dict[str, Any], remarks: Sequence[str] = ()) -> dict[str, Any]:
    """What was found and with which settings, and `remarks` on what was asked; JSON-able."""
    rows = [
        {
            "leak": group in leaks.leaks, "agreement": round(group.agreement, 4), "like_base": round(leaks.like_base_of(group), 4),
            "beyond_in_layout": round(far, 4), "members": group.members,
            "captions": sorted({captions[leaks.captions[i]] for i in group.members}),
        }
        for group, far in zip(leaks.groups, leaks.beyond_in_layout, strict=True)
    ]  # fmt: skip
    few = too_few(len(leaks.pictures), len(captions))
    warnings = [*remarks, *([few] if few else []), *([STYLE] if rows and not any(captions) else [])]
    return {
        "leaks": len(leaks.leaks), "groups": rows, "pictures": len(leaks.pictures), "detector": "patches", "settings": use,
        "warnings": warnings,
    }  # fmt: skip


def shown(leaks: Leaks, captioned: bool) -> Tensor:
    """The groups as one picture, IMAGE [1, h, w, 3]; `captioned`: were there captions?"""
    rows = [
        {
            "members": g.members,
            "agreement": g.agreement,
            "like_base": leaks.like_base_of(g),
            "leak": g in leaks.leaks,
            "style": leaks.is_style(g),
        }
        for g in leaks.groups
    ]
    title = counted(len(leaks.leaks), "leak") if leaks.leaks else "no leak found"
    plain = "what seeds agree on and the base does not draw" if captioned or not rows else STYLE
    words = too_few(len(leaks.pictures), len(set(leaks.captions))) or plain
    return gallery(leaks.pictures, rows, title, f"of {len(leaks.pictures)} pictures: {words}")
