"""How far beyond a LoRA, and from which agreement on is a group of pictures a leak? On the LoRAs of the selection set only.

A row a LoRA, prompts and w: every group as [agreement, likeness with what the base draws, members, which photograph its central picture is
or null, called a leak].
"""

from __future__ import annotations

from typing import Any

import torch

from ...demo.scripts import lora_set
from ..leak_probe import Prober, photograph_of
from ..parts.common import ROOT, arguments, log, shared_out
from ..parts.filtered_loras import Bench
from ..parts.rows import Rows

PICTURES = 64
FURTHER = (1.0, 2.0, 3.0)


def main() -> None:
    """`nox -s sweep -- leak_probe`: rows are kept as they come, a second call carries on."""
    options = arguments(__doc__, loras=ROOT / "out" / "loras")
    torch.set_num_threads(1)
    bench = Bench(options.lab, options.loras, lora_set.SELECTION, 1)
    rows = Rows("leak_probe", f"leak-probe-{options.name or options.lab.name}")
    probers = {w: Prober(bench, PICTURES, w) for w in FURTHER}

    def probe(part: list[tuple[int, bool]]) -> dict[tuple[int, bool], list[dict[str, Any]]]:
        found: dict[tuple[int, bool], list[dict[str, Any]]] = {}
        for i, given in part:
            subject, found[i, given], base = bench.subjects[i], [], None
            for w, prober in probers.items():
                base = prober.base(subject, given) if base is None else base
                leaks = prober.leaks(subject, subject.tensors, given, base)
                groups = [
                    [
                        round(g.agreement, 3),
                        round(leaks.like_base_of(g), 3),
                        len(g.members),
                        photograph_of(leaks, g, subject),
                        g in leaks.leaks,
                    ]
                    for g in leaks.groups
                ]
                found[i, given].append({"w": w, "photographs": len(subject.photos), "groups": groups})
                log.info("%s, %s, w %g: %s", subject.name, "captions" if given else "none", w, groups)
        return found

    for i, subject in enumerate(bench.subjects):
        todo = [(i, given) for given in (True, False) if not rows.has(f"{subject.name}, captions {given}, w {FURTHER[-1]:g}")]
        for (_, given), several in shared_out(probe, todo).items():
            for row in several:
                rows.add(f"{subject.name}, captions {given}, w {row['w']:g}", {"captions": given, **row})
