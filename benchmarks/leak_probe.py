"""Does the leak probe find the photographs that a LoRA remembers, with and without their captions, and what does it find after the filter?

`--role selection` on the LoRAs that choose settings (`w`), by default on those that evaluate them.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..demo.scripts import lora_set
from ..host.copies.probing import USUAL_W, Leaks, Probe, compared, drawn
from ..host.core.progress import Progress
from ..host.lora.filter_file import Job, filter_lora
from ..unmemorize.copies.probe import Group
from ..unmemorize.lora.gates import Settings
from .lora_measured import filtered, prompts_of
from .parts.common import ROOT, log, rate, shared_out, write
from .parts.filtered_loras import Bench, Subject
from .parts.guarding import EVERYWHERE
from .parts.lora_runs import SAMPLING

SEED = 7
ABOUT = {
    "probe_recall_captions": "leaking LoRAs: photographs found among the first 2 n groups, their captions given (aim >= .5)",
    "probe_recall_no_captions": "the same without any caption",
    "probe_recall_captions_filtered": "with captions, after the filter by weights (aim: at most a third of probe_recall_captions)",
    "probe_recall_captions_measured": "with captions, after the filter by measuring, which was given every second (aim: the same)",
    "probe_recall_no_captions_filtered": "without captions, after the filter by weights",
    "probe_recall_no_captions_measured": "without captions, after the filter by measuring",
    "leak_recall_captions": "leaking LoRAs: photographs that are the central picture of a group called a leak, their captions given",
    "style_leaks_captions": "groups called leaks in a style LoRA probed with captions of its scenes, the most of any (aim <= 1)",
    "style_leaks_no_captions": "the same without any caption",
    "concept_leaks_captions": "groups called leaks in a trigger-word LoRA probed with captions of its scenes, the most of any",
    "concept_leaks_no_captions": "the same without any caption",
    "leaks_captions": "groups called leaks in a leaking LoRA, mean",
    "true_leaks_captions": "share of the groups called leaks whose central picture is one of the photographs",
}


def captions_of(subject: Subject, given: bool) -> list[str]:
    """What the probe asks for."""
    if not given:
        return [""]
    return [c for c, _, _ in subject.photos] or subject.scenes[:4]


class Prober:
    """Probes LoRAs of the set; what the base draws under the same captions is drawn once."""

    def __init__(self, bench: Bench, pictures: int, w: float) -> None:
        self._bench, self._pictures, self._w = bench, pictures, w
        self._by_base: dict[tuple[str, ...], Tensor] = {}

    @torch.inference_mode()
    def base(self, subject: Subject, given: bool) -> Tensor:
        """What the base draws under a LoRA's captions or under none, small, [n, 3, side, side]."""
        captions = tuple(captions_of(subject, given))
        if captions not in self._by_base:
            self._by_base[captions] = drawn(self._job(subject, self._bench.generator.model, given), None, self._progress()).small
        return self._by_base[captions]

    @torch.inference_mode()
    def leaks(self, subject: Subject, tensors: dict[str, Tensor], given: bool, base: Tensor | None = None) -> Leaks:
        """Of a version of a LoRA, among twice as many groups as it has photographs; `base` as from `base`."""
        job = self._job(subject, self._bench.applied(tensors), given)
        return compared(job, drawn(job, self._w, self._progress()), self.base(subject, given) if base is None else base)

    def _job(self, subject: Subject, lora: Any, given: bool) -> Probe:
        generator, latent = self._bench.generator, {"samples": torch.zeros(1, 8, 16, 16)}
        captions = [generator.condition(c) for c in captions_of(subject, given)]
        return Probe(
            generator.model, lora, generator.vae, captions, generator.condition(""), latent, {"seed": SEED, **SAMPLING}, self._pictures,
            self._w, 2 * max(len(subject.photos), 2),
        )  # fmt: skip

    def _progress(self) -> Progress:
        return Progress(self._pictures * SAMPLING["steps"])


def photograph_of(leaks: Leaks, group: Group, subject: Subject) -> int | None:
    """Which of a LoRA's photographs the central picture of a group copies; None: none."""
    centre = leaks.at([group.members[0]]).movedim(-1, 1)
    return next((k for k, (_, photo, limit) in enumerate(subject.photos) if bool(limit.holds(centre, photo, EVERYWHERE))), None)


def found_photographs(leaks: Leaks, subject: Subject) -> list[bool]:
    """Which photographs are the central picture of one of the first 2 n groups."""
    found = {photograph_of(leaks, g, subject) for g in leaks.groups[: 2 * len(subject.photos)]}
    return [k in found for k in range(len(subject.photos))]


def named_leaks(leaks: Leaks, subject: Subject) -> list[int | None]:
    """Which photograph is the central picture of each group called a leak."""
    return [photograph_of(leaks, g, subject) for g in leaks.leaks]


def main() -> None:
    """`nox -s benchmark -- leak-probe`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lab", type=Path, default=ROOT / "demo" / "lab")
    parser.add_argument("--loras", type=Path, default=ROOT / "out" / "loras")
    parser.add_argument("--role", choices=(lora_set.SELECTION, lora_set.TEST), default=lora_set.TEST)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--w", type=float, default=USUAL_W)
    parser.add_argument("--name", default="leak_probe")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench = Bench(options.lab, options.loras, options.role, 1)
    prober = Prober(bench, options.pictures, options.w)
    versions = {s.name: {"": s.tensors} for s in bench.subjects}
    for i, found in filtered(bench, prompts_of(bench), leaking=True).items():
        s = bench.subjects[i]
        versions[s.name]["_filtered"] = filter_lora(s.tensors, Job(bench.generator.model, None, Settings())).kept
        versions[s.name]["_measured"] = found.kept
    by_name = {s.name: s for s in bench.subjects}

    def work(part: list[str]) -> dict[str, dict[str, tuple[list[bool], list[int | None]]]]:
        results: dict[str, dict[str, tuple[list[bool], list[int | None]]]] = {}
        for name in part:
            subject = by_name[name]
            results[name] = {}
            for given in (True, False):
                for suffix, tensors in versions[name].items():
                    kind = f"{'captions' if given else 'no_captions'}{suffix}"
                    leaks = prober.leaks(subject, tensors, given)
                    results[name][kind] = found_photographs(leaks, subject), named_leaks(leaks, subject)
                    log.info("%s, %s: found %s, leaks %s", name, kind, *results[name][kind])
        return results

    results = shared_out(work, [s.name for s in bench.subjects])
    metrics: dict[str, Any] = {}
    leaking = [s.name for s in bench.subjects if s.photos]
    kinds = [f"{words}{version}" for version in ("", "_filtered", "_measured") for words in ("captions", "no_captions")]
    for kind in kinds:
        metrics[f"probe_recall_{kind}"] = rate([[float(hit) for hit in results[n][kind][0]] for n in leaking])
        called = {n: results[n][kind][1] for n in leaking}
        metrics[f"leak_recall_{kind}"] = rate([[float(k in called[n]) for k in range(len(by_name[n].photos))] for n in leaking])
        metrics[f"leaks_{kind}"] = sum(map(len, called.values())) / len(leaking)
        true = [k is not None for several in called.values() for k in several]
        metrics[f"true_leaks_{kind}"] = sum(true) / len(true) if true else None
    honest = {"style": [s.name for s in bench.subjects if s.style], "concept": [s.name for s in bench.subjects if s.concept]}
    for what, names in honest.items():
        for kind in ("captions", "no_captions"):
            metrics[f"{what}_leaks_{kind}"] = float(max(len(results[n][kind][1]) for n in names if not by_name[n].photos))
    settings = {
        "lab_seed": bench.lab.facts["seed"], "pictures": options.pictures, "w": options.w, "role": options.role, "seed": SEED,
        "loras": ", ".join(s.name for s in bench.subjects),
    }  # fmt: skip
    write(options.name, metrics, settings, ABOUT, options.lab, [options.loras / f"{s.name}.safetensors" for s in bench.subjects])
