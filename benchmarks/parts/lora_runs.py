"""Runs of a LoRA that is watched by the model before it: how much its changes agree, who is flagged, what correction makes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...demo.recipe.lab import far_from_memories, is_card
from ...demo.scripts.generate import SETTINGS
from ...host.stability import guard as guarding
from ...host.stability.lora_watch import calibrated
from ...host.stability.profiles import StoredProfile
from ...host.stability.verdicts import LIMIT
from ...unmemorize.stability.agreement import UNCALIBRATED, AgreementRegion, agreement_score, run_agreement
from ...unmemorize.stability.profile import default_score
from .filtered_loras import Bench, Subject
from .guarding import EVERYWHERE, lent, pictures_of

SAMPLING = {"steps": SETTINGS["steps"], "cfg": SETTINGS["cfg"], "sampler_name": SETTINGS["sampler"], "scheduler": SETTINGS["scheduler"]}
CALIBRATION_SEED = 300
CALIBRATION_STRIDE = 50
ALWAYS = -1e6
"""A limit that flags every run."""


@dataclass(frozen=True)
class Watched:
    """One caption's runs under a LoRA, [n] each."""

    signals: dict[str, Tensor]
    """What could tell a copy, small = copy: the mean agreement of the run (NaN where the LoRA did nothing), in deviations of this LoRA's
    own ordinary runs, at the first step; WEN's norm and the guard's score, with the sign turned."""
    suspected_uncalibrated: Tensor
    suspected_calibrated: Tensor
    """Below the shipped limits: without a profile, and with one that was measured under this LoRA."""
    uncalibrated: Tensor
    calibrated: Tensor
    """Called memorized: below the limit, and another picture on trial."""
    copied: Tensor
    """Copies any photograph of the LoRA, to the first judge."""
    honest: Tensor
    """Copies none, and has what the LoRA is for: its style, its subject. A card's style is not looked for."""
    same_bits: Tensor
    """Has the latent of mode correct the stock sampler's bits?"""


class Case:
    """A LoRA of the set as its user loads it: MODEL under it, the model before it, the trigger alone as reference if it has one."""

    def __init__(self, bench: Bench, subject: Subject, reference: bool = True) -> None:
        self.subject, self._bench = subject, bench
        self.base = bench.generator.model
        self.generator = bench.under(subject.tensors)
        """Draws under the LoRA, its text encoder too if the LoRA changes that."""
        self.model = self.generator.model
        self.reference = self.generator.condition(subject.trigger) if reference and subject.trigger else None
        self._stored: StoredProfile | None = None

    def guard(self, mode: str, **changes: Any) -> guarding.Guard:
        """With the profile measured under this LoRA, unless changed."""
        return guarding.Guard(**{"stored": self.stored, "mode": mode, "parent": self.base, "reference": self.reference, **changes})

    @property
    def stored(self) -> StoredProfile:
        """Of trained scenes, and cards unless a word is asked for, one seed each."""
        if self._stored is None:
            facts, taken = self._bench.lab.facts, set(self.subject.scenes)
            scenes = [c for c in far_from_memories(facts, facts["scene_captions"]) if c not in taken]
            captions = [self.subject.asked(c) for c in scenes[::CALIBRATION_STRIDE]]
            captions += [] if self.subject.concept else self._bench.lab.clean_cards[::CALIBRATION_STRIDE]
            condition, latent = self.generator.condition, {"samples": torch.zeros(1, 8, 16, 16)}
            use = {"seed": CALIBRATION_SEED, **SAMPLING}
            positives = [condition(c) for c in captions]
            with torch.inference_mode():
                self._stored = calibrated(self.model, self.base, self.reference, positives, condition(""), latent, 1, use)
        return self._stored

    @property
    def region(self) -> AgreementRegion:
        """Of its ordinary runs."""
        assert self.stored.profile.agreement is not None
        return self.stored.profile.agreement

    def asked(self, caption: str) -> str:
        """As a user of the LoRA writes it."""
        return caption if is_card(caption) else self.subject.asked(caption)

    @torch.inference_mode()
    def watched(self, caption: str, seeds: list[int]) -> Watched:
        """Runs of a caption (as written to the LoRA), watched in mode detect and once more in mode correct."""
        generator = self.generator
        pictures, found = self._detected(caption, seeds, self.guard("detect"))
        observed = {k: _tensor(v) for k, v in found["observed"].items()}
        by_step, angles = observed["agreement"], torch.tensor(found["angles"][:-1])
        suspected = [agreement_score(by_step, region, LIMIT) > LIMIT for region in (UNCALIBRATED, self.region)]
        uncalibrated = torch.zeros_like(suspected[0])
        if bool(suspected[0].any()):
            uncalibrated = torch.tensor(self._detected(caption, seeds, self.guard("detect", stored=None))[1]["memorized"])
        correcting, _ = guarding.guarded(self.model, self.guard("correct"))
        latents = []
        for model in (self.model, correcting):
            with lent(generator, model):
                latents.append(generator.latents(caption, seeds))
        signals = {
            "agreement": run_agreement(by_step),
            "agreement_calibrated": -agreement_score(by_step, self.region, LIMIT),
            "agreement_first": by_step[0],
            "wen": -observed["guidance"].nanmean(0),
            "revision": -default_score(self.stored.profile, angles, observed),
        }
        copied = self.copies(pictures)
        there = [is_card(caption) or self.subject.present(p, caption) for p in pictures]
        return Watched(
            signals,
            suspected[0],
            suspected[1],
            uncalibrated,
            torch.tensor(found["memorized"]),
            copied,
            ~copied & torch.tensor(there),
            torch.tensor([bool(torch.equal(a, b)) for a, b in zip(*latents, strict=True)]),
        )

    def _detected(self, caption: str, seeds: list[int], guard: guarding.Guard) -> tuple[Tensor, dict[str, Any]]:
        """Pictures of watched runs, and what the guard made of them."""
        clone, record = guarding.guarded(self.model, guard)
        return pictures_of(self.generator, clone, caption, seeds), record.facts

    def copies(self, pictures: Tensor) -> Tensor:
        """Which of [n, 3, h, w] copy a photograph of the LoRA, to the first judge."""
        hits = [limit.holds(pictures, photo, EVERYWHERE) for _, photo, limit in self.subject.photos]
        return torch.stack(hits).any(0) if hits else torch.zeros(len(pictures), dtype=torch.bool)


def _tensor(values: list[Any]) -> Tensor:
    """[steps, n], NaN where there was nothing."""
    return torch.tensor([[float("nan") if v is None else v for v in row] for row in values])
