"""`nox -s demo`: run bundled workflows on a real ComfyUI and explain the pictures on one page, out/report.html.

What is wanted in a minute is run by default; `-- all` runs every workflow, `-- 08 15` those whose names begin so.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..pictures import labelled, read_facts
from ..recipe.judge import Criterion
from ..recipe.lab import LAB, Lab, load_lab
from . import page
from .lower import lower
from .server import ROOT, Server, running
from .shown import PAIR, in_order, pictures_of, previews_of, read_png, save_pictures, source, thumbnail, write_png

OUT = ROOT / "out"
STORY = ("01-", "02-", "06-", "09-", "20-", "22-")
"""Find, see, prevent, remove: what one minute shows."""

log = logging.getLogger("demo.report")


def where_rows(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], lab: Lab) -> list[dict[str, Any]]:
    """One row for each heatmap of workflow 01: caption, pictures, score, whether it is a copy."""
    rows = []
    for node_id in sorted((i for i, n in prompt.items() if n["class_type"] == "UnmemorizeHeatmapOverlay"), key=int):
        image, curvature = source(prompt, node_id, "image"), source(prompt, node_id, "map")
        caption = prompt[source(prompt, curvature, "positive")]["inputs"]["text"]
        (preview,) = previews_of(prompt, image)
        picture = server.picture(outputs[preview]["images"][0])
        fixed, report = lab.index(caption), outputs[node_id]["unmemorize_report"][0]
        copied = lab.copied(read_png(picture))
        rows.append({
            "caption": caption, "picture": picture, "overlay": server.picture(outputs[node_id]["images"][0]),
            "training": None if fixed is None else write_png(lab.pictures[fixed]), "copied": copied is not None,
            "score": outputs[curvature]["unmemorize_report"][0]["scores"][0],
            **{k: report[k] for k in ("full_heat", "thresholds", "verdict")},
        })  # fmt: skip
    return rows


def lora_photograph(prompt: dict[str, Any]) -> tuple[str, Tensor]:
    """Caption and picture [3, SIDE, SIDE] of the photograph that a workflow took from a demo LoRA's training set."""
    label = next(n["inputs"]["picture"] for n in prompt.values() if n["class_type"] == "UnmemorizeLoadDemoPicture")
    return label.split(": ", 1)[1], labelled(LAB, label)[0][0].movedim(-1, 0)


def lora_copies(prompt: dict[str, Any], drawn: list[bytes]) -> list[bool]:
    """Which pictures copy that photograph of the demo LoRA *leaking*, by the LoRA's own criterion."""
    caption, fixed = lora_photograph(prompt)
    (facts,) = [i for i in read_facts(LAB / "loras" / "leaking.json")["items"] if i["caption"] == caption and i["group"] == "photo"]
    limits = Criterion(facts["max_distance"], facts["min_correlation"], facts["min_patches"])
    return [bool(limits.holds(read_png(p)[None], fixed, torch.ones_like(fixed[:1]))) for p in drawn]


def lora_pictures(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], lab: Lab) -> dict[str, Any]:
    """What workflow 02 showed: the LoRA's training photograph, then for its caption and for a scene what three models drew."""
    previews = [i for i in sorted(prompt, key=int) if prompt[i]["class_type"] == "PreviewImage"]
    training, *drawn = [server.picture(outputs[i]["images"][0]) for i in previews]
    texts = [n["inputs"]["text"] for n in prompt.values() if n["class_type"] == "CLIPTextEncode"]
    scene = next(t for t in texts if isinstance(t, str) and t)
    caption, _picture = lora_photograph(prompt)
    return {"training": training, "caption": caption, "scene": scene, "drawn": drawn, "copied": lora_copies(prompt, drawn)}


def guard_rows(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], lab: Lab) -> list[dict[str, Any]]:
    """One row for each guarded sampler of workflow 06: caption, stock and guarded picture, chart, verdict, copies."""
    return guarded(server, prompt, outputs, lambda drawn: [lab.copied(read_png(p)) is not None for p in drawn])


def lora_guard_rows(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], lab: Lab) -> list[dict[str, Any]]:
    """The same of workflow 22; copies are those of the LoRA's photograph."""
    return guarded(server, prompt, outputs, partial(lora_copies, prompt))


def guarded(
    server: Server, prompt: dict[str, Any], outputs: dict[str, Any], copies: Callable[[list[bytes]], list[bool]]
) -> list[dict[str, Any]]:
    """One row for each guarded sampler whose chart and pair of pictures a workflow showed; `copies` says which pictures are some."""
    rows = []
    for chart in sorted((i for i, n in prompt.items() if n["class_type"] == "UnmemorizeStabilityChart"), key=int):
        sampler = source(prompt, chart, "report")
        (pair,) = (
            i for i, n in prompt.items()
            if n["class_type"] == PAIR and source(prompt, source(prompt, i, "after"), "samples") == sampler
        )  # fmt: skip
        text = prompt[source(prompt, sampler, "positive")]["inputs"]["text"]
        pictures = pictures_of(server, prompt, outputs, pair)
        rows.append({
            "caption": text if isinstance(text, str) else lora_photograph(prompt)[0],
            "chart": server.picture(outputs[chart]["images"][0]), "drawn": pictures, "copied": copies(pictures),
            "verdict": outputs[chart]["unmemorize_report"][0]["verdict"],
        })  # fmt: skip
    return rows


def filter_pictures(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], lab: Lab) -> dict[str, Any]:
    """What workflow 08 showed: the training photograph, two captions by the LoRA whole and filtered."""
    training, *drawn = in_order(server, prompt, outputs, "PreviewImage", PAIR)
    return {"training": training, "drawn": drawn, "copied": lora_copies(prompt, drawn)}


def plot_of(kind: str) -> Callable[[Server, dict[str, Any], dict[str, Any], Lab], bytes]:
    """Reads the one plot of a kind that a workflow showed."""

    def read(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], lab: Lab) -> bytes:
        (plot,) = in_order(server, prompt, outputs, kind)
        return plot

    return read


def prune_pictures(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], lab: Lab) -> dict[str, Any]:
    """What workflow 09 showed: a memorized photograph and a scene, stock and pruned each."""
    drawn = in_order(server, prompt, outputs, "PreviewImage", PAIR)
    strength = next(n["inputs"]["strength"] for n in prompt.values() if n["class_type"] == "UnmemorizePruneNeurons")
    return {"drawn": drawn, "copied": [lab.copied(read_png(p)) is not None for p in drawn], "strength": strength}


SECTIONS: dict[str, Callable[[Server, dict[str, Any], dict[str, Any], Lab], Any]] = {
    "01-": where_rows, "02-": lora_pictures, "06-": guard_rows, "08-": filter_pictures, "09-": prune_pictures,
    "19-": plot_of("UnmemorizeLoRASpectrumPlot"), "20-": plot_of("UnmemorizeCompareNeuronMasks"), "22-": lora_guard_rows,
}  # fmt: skip
"""Workflow -> what the page shows of it."""


def main() -> None:
    """Write out/pictures/ and out/report.html."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=STORY, help="beginnings of workflows' names, or `all`")
    wanted = parser.parse_args().names
    files = sorted((ROOT / "workflows").glob("*.json"))
    chosen = files if "all" in wanted else [f for f in files if f.stem.startswith(tuple(wanted))]
    if not chosen:
        parser.error(f"no workflow begins with {' or '.join(wanted)}; there are {', '.join(f.stem for f in files)}")
    shutil.rmtree(OUT / "pictures", ignore_errors=True)
    started = time.monotonic()
    log.info("starting ComfyUI")
    with running() as server:
        facts = {"comfyui": server.get_json("/system_stats")["system"]["comfyui_version"], "boot_seconds": time.monotonic() - started}
        text = write(server, files, chosen, OUT / "pictures", facts)
    (OUT / "report.html").write_text(text, encoding="utf-8")
    log.info("done in %.0f s: open %s", time.monotonic() - started, (OUT / "report.html").relative_to(ROOT))


def write(server: Server, files: list[Path], chosen: list[Path], pictures: Path, facts: dict[str, Any]) -> str:
    """Run the `chosen` of all workflow `files`; their pictures go to a folder, what they mean to the page that is returned."""
    pictures.mkdir(parents=True)
    lab, info, started = load_lab(), server.object_info(), time.monotonic()
    shown: dict[str, Any] = {}
    for path in chosen:
        log.info("running %s", path.stem)
        prompt = lower(json.loads(path.read_text(encoding="utf-8")), info)
        begun = time.monotonic()
        outputs = server.run(prompt)
        facts[path.stem] = time.monotonic() - begun
        save_pictures(pictures, path.stem, prompt, outputs, server)
        if path.stem[:3] in SECTIONS:
            shown[path.stem[:2]] = SECTIONS[path.stem[:3]](server, prompt, outputs, lab)
        thumbnail(server, prompt, outputs, pictures / f"{path.stem}.jpg")
    facts["total_seconds"] = facts["boot_seconds"] + time.monotonic() - started
    return page.render(shown, {f.stem: sheet_of(f, pictures) for f in files}, (LAB / "sheet.jpg").read_bytes(), lab.facts, facts)


def sheet_of(workflow: Path, pictures: Path) -> bytes:
    """The .jpg of a workflow: as drawn now, or else as it comes with the pack."""
    now = pictures / f"{workflow.stem}.jpg"
    return (now if now.is_file() else workflow.with_suffix(".jpg")).read_bytes()
