"""Which signal tells a LoRA's copies from its other pictures, and at which steps? On the LoRAs of the selection set only."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import comfy.sample
import comfy.sampler_helpers
import comfy.samplers
import torch
import torch.nn.functional as F
from torch import Tensor

from ...demo.scripts import lora_set
from ...demo.scripts.generate import SETTINGS
from ...host.core.predictions import Point, predict_along
from ...host.core.sampler_call import RunCall
from ...unmemorize.stability.agreement import structure
from ..parts.common import ROOT, arguments, auc, log, shared_out
from ..parts.filtered_loras import Bench
from ..parts.lora_runs import Case
from ..parts.rows import Rows

CAPTIONS, CARDS = 12, 6
SEEDS = (950, 951, 952, 953)
STEPS = 10
"""Of twenty, from the first."""
WINDOWS = ((0, 1), (0, 2), (0, 3), (0, 4), (0, 5), (0, 7), (0, 10), (4, 10))

Predictions = tuple[Tensor, Tensor, Tensor, Tensor]
"""D_c and D_u with the LoRA, D_c and D_u without it, [n, c, h, w] each."""


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a.flatten(1), b.flatten(1))


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


def _share(p: Predictions) -> Tensor:
    common, own = p[1] - p[3], p[0] - p[1] - p[2] + p[3]
    return _norm(common) / (_norm(common) + _norm(own))


SIGNALS: dict[str, Callable[[Predictions], Tensor]] = {
    "changes of both predictions (cosine)": lambda p: _cosine(p[0] - p[2], p[1] - p[3]),
    "share of the common change": _share,
    "prompt's direction (cosine)": lambda p: _cosine(p[0] - p[1], p[2] - p[3]),
    "prompt's direction without tones (cosine)": lambda p: _cosine(structure(p[0] - p[1]), structure(p[2] - p[3])),
    "norm of guidance (WEN)": lambda p: -_norm(p[0] - p[1]),
}
"""Small = a copy."""


def predictions(bench: Bench, case: Case, caption: str, seeds: tuple[int, ...]) -> tuple[Tensor, list[Predictions]]:
    """Pictures of a caption under a LoRA, and what both models predict at the first steps of their runs."""
    generator = bench.generator
    positive, negative = generator.condition(caption), generator.condition("")
    points: list[Point] = []

    def see(facts: dict[str, Any]) -> Tensor:
        points.append(Point(facts["input"].clone(), float(facts["sigma"][0])))
        return facts["denoised"]

    heard = case.model.clone()
    heard.set_model_sampler_post_cfg_function(see)
    guider = comfy.samplers.CFGGuider(heard)
    guider.set_conds(positive, negative)
    guider.set_cfg(SETTINGS["cfg"])
    sigmas = comfy.samplers.calculate_sigmas(heard.get_model_object("model_sampling"), SETTINGS["scheduler"], SETTINGS["steps"])
    sampler, empty = comfy.samplers.sampler_object(SETTINGS["sampler"]), torch.zeros(len(seeds), 8, 16, 16)
    noise = torch.cat([comfy.sample.prepare_noise(empty[:1], seed) for seed in seeds])
    done = guider.sample(noise, empty, sampler, sigmas, callback=None, disable_pbar=True, seed=seeds[0])
    call = RunCall(guider, noise, empty, sampler, sigmas, None, None, True, seeds[0])
    other = comfy.sampler_helpers.convert_cond(case.reference or negative)
    sides: list[list[list[Tensor]]] = []
    for model in (case.model, case.base):
        found: list[list[Tensor]] = []
        prompt = comfy.sampler_helpers.convert_cond(positive)
        predict_along(model, prompt, other, call, points[:STEPS], lambda _k, d, found=found: found.append(d))
        sides.append(found)
    pictures = generator.vae.decode(done).movedim(-1, 1)
    return pictures, [(c, u, b, v) for (c, u), (b, v) in zip(*sides, strict=True)]


def measured(bench: Bench) -> dict[tuple[str, str], dict[str, list[Tensor]]]:
    """(LoRA, copy or other) -> signal -> [steps, n] of each caption."""
    cards = [*bench.lab.facts["held_out_card_captions"], *bench.lab.clean_cards[3::16]][:CARDS]
    cases = [Case(bench, s) for s in bench.subjects]
    work: list[tuple[int, str, tuple[int, ...]]] = [
        (i, caption, SEEDS) for i, case in enumerate(cases) for caption, _, _ in case.subject.photos
    ]
    work += [(i, case.asked(c), SEEDS[:2]) for i, case in enumerate(cases) for c in bench.captions]
    work += [(i, c, SEEDS[:2]) for i, case in enumerate(cases) if not case.subject.concept for c in cards]

    def look(part: list[tuple[int, str, tuple[int, ...]]]) -> dict[tuple[int, str, tuple[int, ...]], Any]:
        found = {}
        for i, caption, seeds in part:
            with torch.inference_mode():
                pictures, at = predictions(bench, cases[i], caption, seeds)
                signals = {name: torch.stack([of(p) for p in at]) for name, of in SIGNALS.items()}
            found[i, caption, seeds] = cases[i].copies(pictures), signals
        return found

    found: dict[tuple[str, str], dict[str, list[Tensor]]] = {}
    for (i, caption, _), (copied, signals) in shared_out(look, work).items():
        photo = caption in {c for c, _, _ in cases[i].subject.photos}
        rows = found.setdefault((cases[i].subject.name, "copy" if photo else "other"), {})
        for name, values in signals.items():
            rows.setdefault(name, []).append(values[:, copied == photo])
    return found


def main() -> None:
    """`nox -s sweep -- agreement`."""
    options = arguments(__doc__, loras=ROOT / "out" / "loras")
    torch.set_num_threads(1)
    bench = Bench(options.lab, options.loras, lora_set.SELECTION, CAPTIONS)
    rows = Rows("agreement", f"agreement-{options.name or options.lab.name}")
    found = measured(bench)
    for name, (first, end) in itertools.product(SIGNALS, WINDOWS):
        values = {key: torch.cat([v[first:end].mean(0) for v in several[name]]) for key, several in found.items()}
        others = torch.cat([v for (_, kind), v in values.items() if kind == "other"])
        copies = {lora: v for (lora, kind), v in values.items() if kind == "copy"}
        facts = {"auc": round(auc(-torch.cat(list(copies.values())), -others), 4)}
        facts |= {f"auc_{lora}": round(auc(-v, -others), 4) for lora, v in copies.items()}
        rows.add(f"{name}, steps {first + 1} to {end}", facts)
        log.info("%s, steps %d to %d: %s", name, first + 1, end, facts)
