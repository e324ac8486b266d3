"""Copy detectors that need no download: on the lab's generations, and on synthetic copies of photographs.

Photographs are the demo's, and those of `nox -s second-photos` where they were cut (`out/photos2`, `out/photos-lab2`): with all of them
thousands of pairs of different ones. The lab: generations under strong captions that both of its judges call copies, against
generations that no memory hangs on; each by its best match among the photographs the lab was trained on. Synthetic: each photograph edited
in seven ways, against itself, and against every photograph of another source (negatives).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..demo.recipe.lab import load_lab
from ..demo.scripts.generate import Generator
from ..demo.scripts.photos import load_picture
from ..host.copies.checking import PART
from ..host.copies.detectors import BuiltIn, Detector
from .parts.common import ROOT, arguments, auc, iou, log, shared_out, write
from .parts.edits import PARTIAL, WHOLE

ABOUT = {
    "auc_builtin_lab": "copies of strong photographs against honest generations, each by its best match (aim >= .99)",
    "tpr_builtin_lab": "of those copies found at 1 % false alarms",
    "auc_builtin_whole": "whole-picture edits (mirror, tint, blur, JPEG 20, caption bar) against pairs of different photographs",
    "tpr_builtin_whole": "of whole-picture edits found at 1 % false alarms (aim >= .9)",
    "auc_builtin_partial": "partial copies (crop to 40 % of the area, a quarter pasted into another)",
    "tpr_builtin_partial": "of partial copies found at 1 % false alarms (aim >= .7)",
    "iou_builtin_partial": "copied region of partial copies: intersection over union (aim >= .5)",
    "photographs": "how many were edited",
    "different_photographs": "pairs of photographs of different sources, each counted once (at least 2,000)",
    "negative_pairs": "the same with each edit of the one against the other; what was not looked at closely counts as unlike",
    "most_alike_negative": "the most alike of them: below `least` of the detector, from which on it may say copy",
    "lab_copies": "generations that both judges of the lab call copies",
    "lab_honest": "generations of held-out prompts that neither of them does",
}
"""`_mirror`, `_tint` and so on: one kind of edit."""
FALSE_ALARMS = 0.01
FOLDERS = (ROOT / "demo" / "photographs", ROOT / "demo" / "lora-photos", ROOT / "out" / "photos2", ROOT / "out" / "photos-lab2")
STRIDE = 5
"""Of the held-out captions that honest generations are made of."""


def source(name: str) -> str:
    """What a photograph was cut from: different parts of one are no different photographs."""
    return name.split("-")[0]


def found_at(positive: Tensor, negative: Tensor) -> float:
    """Share of positives that Copy Check calls copies: above what 1 % of the negatives exceed, and at least as alike as it takes."""
    threshold = negative.quantile(1 - FALSE_ALARMS, interpolation="higher")
    return float(((positive > threshold) & (positive >= BuiltIn.least)).float().mean())


def synthetic(paths: list[Path]) -> dict[str, Any]:
    """Every edit of every photograph: found at 1 % false alarms, and where."""
    names, photos = [p.stem for p in paths], torch.stack([load_picture(p) for p in paths])
    detector = BuiltIn()
    kept = detector.prepare(photos)

    def work(part: list[int]) -> dict[int, dict[str, tuple[Tensor, float]]]:
        results = {}
        for i in part:
            log.info("%s", names[i])
            random = torch.Generator().manual_seed(i)
            others = [j for j in range(len(names)) if source(names[j]) != source(names[i])]
            other = photos[others[int(torch.randint(len(others), (), generator=random))]]
            results[i] = {kind: judged(i, *edit(photos[i], other, random)) for kind, edit in {**WHOLE, **PARTIAL}.items()}
        return results

    def judged(i: int, picture: Tensor, shown: Tensor) -> tuple[Tensor, float]:
        scores = detector.compare(detector.prepare(picture[None]), kept, lambda: None)[0]
        found = F.interpolate(detector.locate(picture, photos[i])[None, None], size=shown.shape, mode="bilinear")[0, 0] > PART
        return scores, iou(found, shown > 0.5)

    each = shared_out(work, list(range(len(names))))
    different = torch.tensor([[source(a) != source(b) for b in names] for a in names])
    # a picture pasted into another is a copy of both: its pairs are no negatives
    negative = torch.cat([found[k][0][different[i]] for i, found in each.items() for k in (*WHOLE, "crop")])
    own = {k: torch.stack([found[k][0][i] for i, found in each.items()]) for k in (*WHOLE, *PARTIAL)}
    metrics: dict[str, Any] = {"photographs": len(names), "different_photographs": int(different.sum()) // 2}
    metrics |= {"negative_pairs": len(negative), "most_alike_negative": float(negative.max())}
    for name, kinds in (("whole", WHOLE), ("partial", PARTIAL)):
        several = torch.cat([own[k] for k in kinds])
        metrics |= {f"auc_builtin_{name}": auc(several, negative), f"tpr_builtin_{name}": found_at(several, negative)}
        metrics |= {f"tpr_builtin_{k}": found_at(own[k], negative) for k in kinds}
    ious = {k: sum(found[k][1] for found in each.values()) / len(each) for k in PARTIAL}
    return metrics | {"iou_builtin_partial": sum(ious.values()) / len(ious), **{f"iou_builtin_{k}": v for k, v in ious.items()}}


def of_lab(options: Any) -> dict[str, Any]:
    """Generations of the lab by their best match among its photographs."""
    lab, model = load_lab(options.lab), Generator(options.lab / "checkpoint.safetensors")
    strong, seeds = lab.captions("MV"), list(range(300, 300 + options.seeds))
    clean = [c for c in lab.clean_scenes[::STRIDE]]
    detector = BuiltIn()
    kept = detector.prepare(torch.stack([lab.pictures[i] for i, f in enumerate(lab.facts["fixed"]) if f["group"] == "MV"]))

    def work(part: list[str]) -> dict[str, Tensor]:
        results = {}
        for caption in part:
            log.info("%s", caption)
            pictures = model.pictures(caption, seeds, **lab.facts["settings"])
            if caption in strong:
                first, second = lab.copies(pictures, lab.index(caption))
                pictures = pictures[first & second]
            else:  # a prompt near a memory brings copies too: those are not honest
                first, second = lab.copies_any(pictures)
                pictures = pictures[~(first | second)]
            results[caption] = best(detector, pictures, kept)
        return results

    found = shared_out(work, strong + clean)
    copies, honest = (torch.cat([found[c] for c in several]) for several in (strong, clean))
    judged = {"auc_builtin_lab": auc(copies, honest), "tpr_builtin_lab": found_at(copies, honest)} if len(copies) else {}
    return {"auc_builtin_lab": None, "tpr_builtin_lab": None} | judged | {"lab_copies": len(copies), "lab_honest": len(honest)}


def best(detector: Detector, pictures: Tensor, kept: Tensor) -> Tensor:
    """Best match of each of [n, 3, h, w]; none of none."""
    return detector.compare(detector.prepare(pictures), kept, lambda: None).max(1).values if len(pictures) else torch.zeros(0)


def main() -> None:
    """`nox -s benchmark -- copies`."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    paths = [p for folder in FOLDERS for p in sorted(folder.glob("*.png"))]
    metrics = of_lab(options) | synthetic(paths)
    settings = {
        "lab_seed": load_lab(options.lab).facts["seed"], "seeds": options.seeds, "false_alarms": FALSE_ALARMS,
        "folders": [folder.name for folder in FOLDERS if folder.is_dir()],
    }  # fmt: skip
    write(options.name or "copies", metrics, settings, ABOUT, options.lab, paths)
