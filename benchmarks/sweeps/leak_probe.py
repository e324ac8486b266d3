"""How far beyond a LoRA, and from which agreement on is a group of pictures a leak? On the LoRAs of the selection set and the bundled ones,
whose hatching no LoRA of that set has (at the largest w alone, which the set chose).

A row a LoRA, prompts and w: every group as [agreement, likeness with what the base draws, agreement less likeness without detail, members,
which photograph its central picture is or null, called a leak].
"""

from __future__ import annotations

from typing import Any

import torch

from ...demo.scripts import lora_set
from ...host.copies.probing import Leaks
from ..leak_probe import Prober, photograph_of
from ..parts.common import ROOT, arguments, log, shared_out
from ..parts.filtered_loras import Bench, Subject, subject
from ..parts.rows import Rows

PICTURES = 64
FURTHER = (1.0, 2.0, 3.0)
BUNDLED = ("style", "leaking", "concept")


def told(leaks: Leaks, k: int, of: Subject) -> list[Any]:
    """Of a group, for its row."""
    g = leaks.groups[k]
    numbers = [round(x, 3) for x in (g.agreement, leaks.like_base_of(g), leaks.beyond_in_layout[k])]
    return [*numbers, len(g.members), photograph_of(leaks, g, of), g in leaks.leaks]


def main() -> None:
    """`nox -s sweep -- leak_probe`: rows are kept as they come, a second call carries on."""
    options = arguments(__doc__, loras=ROOT / "out" / "loras")
    torch.set_num_threads(1)
    bench = Bench(options.lab, options.loras, lora_set.SELECTION, 1)
    subjects = [*bench.subjects, *(subject(options.lab / "loras", name) for name in BUNDLED)]
    rows = Rows("leak_probe", f"leak-probe-{options.name or options.lab.name}")
    probers = {w: Prober(bench, PICTURES, w) for w in FURTHER}

    def probe(part: list[tuple[int, bool]]) -> dict[tuple[int, bool], list[dict[str, Any]]]:
        found: dict[tuple[int, bool], list[dict[str, Any]]] = {}
        for i, given in part:
            of, found[i, given], base = subjects[i], [], None
            for w, prober in probers.items() if i < len(bench.subjects) else [(FURTHER[-1], probers[FURTHER[-1]])]:
                base = prober.base(of, given) if base is None else base
                leaks = prober.leaks(of, of.tensors, given, base)
                groups = [told(leaks, k, of) for k in range(len(leaks.groups))]
                found[i, given].append({"w": w, "photographs": len(of.photos), "groups": groups})
                log.info("%s, %s, w %g: %s", of.name, "captions" if given else "none", w, groups)
        return found

    for i, of in enumerate(subjects):
        todo = [(i, given) for given in (True, False) if not rows.has(f"{of.name}, captions {given}, w {FURTHER[-1]:g}")]
        for (_, given), several in shared_out(probe, todo).items():
            for row in several:
                rows.add(f"{of.name}, captions {given}, w {row['w']:g}", {"captions": given, **row})
