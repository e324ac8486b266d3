"""Does filtering by measuring take a LoRA's memories, those whose captions it was not given too, and leave its style?

On the test LoRAs of `benchmark -- lora`. Every second photograph's caption is given, and prompts that no LoRA was trained on and no picture
is judged by; half of a concept LoRA's ask for its word. LoRAs without photographs are given captions of their own scenes, which should find
nothing. Without captions every LoRA is learnt anew.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..demo.recipe.lab import far_from_memories
from ..demo.scripts import lora_set
from ..demo.scripts.generate import SETTINGS
from ..host.combined.measured_filter import Measured, MeasuredJob, filter_by_measuring
from ..unmemorize.lora.relearning import RATE, START, STEPS
from .lora import BAF, DEFAULT, STYLE_CAPTIONS, MeasuredOnce, controls, pooled
from .parts.common import ROOT, arguments, log, shared_out, write
from .parts.filtered_loras import Bench, Subject, told
from .parts.pareto import Outcome, margin

PROMPTS = 24
"""Trained scenes of the lab that are no LoRA's."""
OWN_SCENES = 4
"""Captions that a style LoRA is given."""
KEEP = 0.8
SPAN = "leaking test LoRAs: "
ABOUT = {
    "memorized_rate_before": f"{SPAN}copies of their photographs",
    "wanted_before": "all test LoRAs on held-out captions: style or subject there",
    "memorized_rate_after": f"{SPAN}learnt anew with half of the captions and prompts of the lab: copies of all photographs (aim <= .2)",
    "memorized_rate_second_after": "the same to the second judge",
    "adherence_after": "photographs' captions: shape and size asked for",
    "memorized_rate_after_given": "of them, photographs whose captions were given",
    "memorized_rate_after_other": "of them, photographs whose captions were not",
    "wanted_after": "all test LoRAs, filtered so: style or subject there (aim >= .8)",
    "wanted_before_leaking": "of the leaking ones on held-out captions: style there",
    "wanted_after_leaking": "of the leaking ones, which alone are changed",
    "wanted_after_everyday_leaking": "the same with everyday prompts",
    "wanted_after_no_captions_leaking": "the same without captions",
    "memorized_rate_after_no_captions": f"{SPAN}learnt anew from the prompts alone",
    "wanted_after_no_captions": "all test LoRAs learnt anew so: style or subject there",
    "memorized_rate_after_everyday": "with captions, and with everyday prompts, which name nothing the demo model knows",
    "wanted_after_everyday": "style or subject with those; LoRAs that leak nothing stay as they are",
    "style_loras_untouched": "share of the style and concept LoRAs in which nothing was removed, captions of their own scenes given",
    "learnt": "share of the LoRAs that were learnt anew and kept enough",
    "prompts_kept": "of what the LoRAs that were learnt anew change for the prompts, the share that is left, mean",
    "pareto_margin": "style kept beyond the most that any filter by weights keeps at no more copies, least over them (aim >= 0)",
    "pareto_margin_between": "the same, if such a filter may also be set between two settings that were measured (a straight line)",
    "evaluations": "of the model, of a LoRA that leaks: a backward pass counts as two",
}


def given(subject: Subject) -> list[str]:
    """Captions that the filter is given."""
    return [caption for caption, _, _ in subject.photos[::2]] or subject.scenes[:OWN_SCENES]


def prompts_of(bench: Bench) -> list[str]:
    """Trained scenes of the lab that no LoRA of the set was trained on."""
    taken = {c for s in bench.subjects for c in s.scenes}
    several = [c for c in far_from_memories(bench.lab.facts, bench.lab.facts["scene_captions"]) if c not in taken]
    return several[:: max(1, len(several) // PROMPTS)][:PROMPTS]


def filtered(bench: Bench, prompts: list[str], captions: bool = True, leaking: bool = False) -> dict[int, Measured]:
    """Every test LoRA, or the leaking ones alone, by measuring; with captions, or without any."""
    use = {"seed": 5, "steps": 20, "cfg": SETTINGS["cfg"], "sampler_name": "euler", "scheduler": "normal"}
    latent = {"samples": torch.zeros(1, 8, 16, 16)}

    def work(part: list[int]) -> dict[int, Measured]:
        found = {}
        for i in part:
            subject, generator = bench.subjects[i], bench.generator
            with torch.inference_mode():
                asked = [subject.asked(p) if k % 2 else p for k, p in enumerate(prompts)]
                word = subject.trigger if subject.concept else ""
                job = MeasuredJob(
                    subject.tensors, generator.model, generator.clip, given(subject) if captions else [], asked, word, latent, use, KEEP
                )
                found[i] = filter_by_measuring(job)
            log.info("%s: learnt %s, kept %.3f", subject.name, found[i].learnt, found[i].prompts_kept)
        return found

    return shared_out(work, [i for i, s in enumerate(bench.subjects) if s.photos or not leaking])


def main() -> None:
    """`nox -s benchmark -- lora-measured`."""
    options = arguments(__doc__, seeds=4, loras=ROOT / "out" / "loras")
    torch.set_num_threads(1)
    bench = Bench(options.lab, options.loras, lora_set.TEST, STYLE_CAPTIONS)
    seeds = list(range(900, 900 + options.seeds))
    prompts = prompts_of(bench)

    def outcome(name: str, versions: list[dict[str, Tensor]]) -> Outcome:
        found = bench.outcome(versions, [0.0] * len(versions), seeds)
        told(name, found)
        return found

    before = outcome("unfiltered", [s.tensors for s in bench.subjects])
    metrics: dict[str, Any] = {"memorized_rate_before": pooled(before.copied), "wanted_before": pooled(before.styled)}
    metrics |= {"memorized_rate_second_before": pooled(before.second), "adherence_before": pooled(before.obeyed)}
    leaking = [bool(s.photos) for s in bench.subjects]
    settings = {
        "lab_seed": bench.lab.facts["seed"], "seeds": options.seeds, "learning_steps": STEPS, "rate": RATE, "start": START, "keep": KEEP,
        "prompts": len(prompts),
    }  # fmt: skip
    files = [options.loras / f"{s.name}.safetensors" for s in bench.subjects]
    for suffix, used, captions in (("", prompts, True), ("_everyday", [], True), ("_no_captions", prompts, False)):
        found = filtered(bench, used, captions, leaking=suffix == "_everyday")
        after = outcome(f"filtered{suffix}", [found[i].kept if i in found else s.tensors for i, s in enumerate(bench.subjects)])
        metrics[f"memorized_rate_after{suffix}"], metrics[f"wanted_after{suffix}"] = pooled(after.copied), pooled(after.styled)
        metrics |= {f"memorized_rate_second_after{suffix}": pooled(after.second), f"adherence_after{suffix}": pooled(after.obeyed)}
        for name, rates in (("before", before.styled), (f"after{suffix}", after.styled)):
            metrics[f"wanted_{name}_leaking"] = pooled([r for r, leaks in zip(rates, leaking, strict=True) if leaks])
        learnt = [m for m in found.values() if m.learnt]
        metrics[f"prompts_kept{suffix}"] = sum(m.prompts_kept for m in learnt) / len(learnt) if learnt else None
        metrics[f"learnt{suffix}"] = len(learnt) / len(found)
        if not suffix:
            metrics["memorized_rate_after_given"] = pooled([rates[::2] for rates in after.copied])
            metrics["memorized_rate_after_other"] = pooled([rates[1::2] for rates in after.copied])
            metrics["style_loras_untouched"] = untouched(bench, found)
            metrics["evaluations"] = sum(m.evaluations for m in learnt) / len(learnt) if learnt else None
            ours = after
        write(options.name or "lora_measured", metrics, settings, ABOUT, options.lab, files)  # each way takes a quarter of an hour
    write(options.name or "lora_measured", metrics | margins(bench, seeds, before, ours), settings, ABOUT, options.lab, files)


def margins(bench: Bench, seeds: list[int], before: Outcome, ours: Outcome) -> dict[str, Any]:
    """Over everything that looks at weights alone: the filters by scores, and the controls of `benchmark -- lora`."""
    known = MeasuredOnce(bench, seeds)
    base = known.versions([{} for _ in bench.subjects], [1.0] * len(bench.subjects))
    rivals = {n: [before, *(o for _, o in several), base] for n, several in controls(bench, known).items()}
    rivals |= {"cross_attention": [before, known.of(DEFAULT), base], "baf": [before, known.of(BAF), base]}
    least, by_rival = margin(ours, rivals)
    found: dict[str, Any] = {f"margin_over_{n.replace(' ', '_').lower()}": m for n, m in by_rival.items()}
    return found | {"pareto_margin": least, "pareto_margin_between": margin(ours, rivals, between=True)[0]}


def untouched(bench: Bench, found: dict[int, Measured]) -> float | None:
    """Share of the LoRAs without photographs in which nothing was removed."""
    several = [not m.learnt for i, m in found.items() if not bench.subjects[i].photos]
    return sum(several) / len(several) if several else None
