"""`nox -s demo`: run every bundled workflow on a real ComfyUI and explain the pictures on one page, out/report.html."""

from __future__ import annotations

import io
import json
import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..pictures import as_tensor, read_facts
from ..recipe.judge import Criterion
from ..recipe.lab import LAB, Lab, load_lab
from . import page
from .lower import lower
from .server import ROOT, Server, running

OUT = ROOT / "out"
SIDE = 128
"""Of the demo model's pictures, in pixels."""
PAIR = "UnmemorizeComparePictures"

log = logging.getLogger("demo.report")


def read_png(data: bytes) -> Tensor:
    """[3, SIDE, SIDE] in [0, 1]: templates show pictures enlarged, each pixel doubled."""
    return as_tensor(Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))


def write_png(picture: Tensor) -> bytes:
    """PNG of [3, h, w] in [0, 1]."""
    buffer = io.BytesIO()
    Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def source(prompt: dict[str, Any], node_id: str, name: str) -> str:
    """Id of the node linked to an input."""
    return prompt[node_id]["inputs"][name][0]


def previews_of(prompt: dict[str, Any], image: str) -> list[str]:
    """Nodes that show a node's picture, as it is or enlarged."""
    large = [i for i, n in prompt.items() if n["class_type"] == "ImageScaleBy" and source(prompt, i, "image") == image]
    return [i for i, n in prompt.items() if n["class_type"] == "PreviewImage" and source(prompt, i, "images") in (image, *large)]


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


def lora_copies(training: bytes, caption: str, drawn: list[bytes]) -> list[bool]:
    """Which pictures copy a training photograph of the demo LoRA *leaking*, by the LoRA's own criterion."""
    (facts,) = [i for i in read_facts(LAB / "loras" / "leaking.json")["items"] if i["caption"] == caption and i["group"] == "photo"]
    limits, fixed = Criterion(facts["max_distance"], facts["min_correlation"], facts["min_patches"]), read_png(training)
    return [bool(limits.holds(read_png(p)[None], fixed, torch.ones_like(fixed[:1]))) for p in drawn]


def lora_pictures(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], lab: Lab) -> dict[str, Any]:
    """What workflow 02 showed: the LoRA's training photograph, then for its caption and for a scene what three models drew."""
    previews = [i for i in sorted(prompt, key=int) if prompt[i]["class_type"] == "PreviewImage"]
    training, *drawn = [server.picture(outputs[i]["images"][0]) for i in previews]
    label = next(n["inputs"]["picture"] for n in prompt.values() if n["class_type"] == "UnmemorizeLoadDemoPicture")
    texts = [n["inputs"]["text"] for n in prompt.values() if n["class_type"] == "CLIPTextEncode"]
    scene = next(t for t in texts if isinstance(t, str) and t)
    caption = label.split(": ", 1)[1]
    return {"training": training, "caption": caption, "scene": scene, "drawn": drawn, "copied": lora_copies(training, caption, drawn)}


def guard_rows(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], lab: Lab) -> list[dict[str, Any]]:
    """One row for each guarded sampler of workflow 06: caption, stock and guarded picture, chart, verdict, copies."""

    rows = []
    for chart in sorted((i for i, n in prompt.items() if n["class_type"] == "UnmemorizeStabilityChart"), key=int):
        guarded = source(prompt, chart, "report")
        text = source(prompt, guarded, "positive")
        (pair,) = (
            i for i, n in prompt.items()
            if n["class_type"] == PAIR and source(prompt, source(prompt, i, "after"), "samples") == guarded
        )  # fmt: skip
        pictures = dict(zip(("stock", "guarded"), pictures_of(server, prompt, outputs, pair), strict=True))
        rows.append({
            "caption": prompt[text]["inputs"]["text"], "chart": server.picture(outputs[chart]["images"][0]), **pictures,
            "verdict": outputs[chart]["unmemorize_report"][0]["verdict"],
            "copied": {k: lab.copied(read_png(p)) is not None for k, p in pictures.items()},
        })  # fmt: skip
    return rows


def pictures_of(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], node_id: str) -> list[bytes]:
    """The first picture a node showed; of two that it compares, both."""
    shown = outputs[node_id].get("images", [])
    return [server.picture(i) for i in (shown if prompt[node_id]["class_type"] == PAIR else shown[:1])]


def in_order(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], *kinds: str) -> list[bytes]:
    """The pictures of every node of these kinds that showed any, as the workflow's author placed them."""
    found = (i for i in sorted(outputs, key=int) if prompt[i]["class_type"] in kinds)
    return [picture for i in found for picture in pictures_of(server, prompt, outputs, i)]


def filter_pictures(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], lab: Lab) -> dict[str, Any]:
    """What workflow 08 showed: the training photograph, two captions by the LoRA whole and filtered."""
    training, *drawn = in_order(server, prompt, outputs, "PreviewImage", PAIR)
    label = next(n["inputs"]["picture"] for n in prompt.values() if n["class_type"] == "UnmemorizeLoadDemoPicture")
    return {"training": training, "drawn": drawn, "copied": lora_copies(training, label.split(": ", 1)[1], drawn)}


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


def save_pictures(folder: Path, workflow: str, prompt: dict[str, Any], outputs: dict[str, Any], server: Server) -> None:
    """Every picture a workflow showed, as files."""
    for node_id, shown in outputs.items():
        for n, image in enumerate(shown.get("images", [])):
            name = f"{workflow}-{prompt[node_id]['class_type']}-{node_id}-{n}.png"
            (folder / name).write_bytes(server.picture(image))


SECTIONS: dict[str, Callable[[Server, dict[str, Any], dict[str, Any], Lab], Any]] = {
    "01-": where_rows, "02-": lora_pictures, "06-": guard_rows, "08-": filter_pictures, "09-": prune_pictures,
    "19-": plot_of("UnmemorizeLoRASpectrumPlot"), "20-": plot_of("UnmemorizeCompareNeuronMasks"),
}  # fmt: skip
"""Workflow -> what the page shows of it."""


def main() -> None:
    """Write out/pictures/*.png and out/report.html."""
    pictures = OUT / "pictures"
    shutil.rmtree(pictures, ignore_errors=True)
    pictures.mkdir(parents=True)
    lab = load_lab()
    started = time.monotonic()
    log.info("starting ComfyUI")
    with running() as server:
        facts = {"comfyui": server.get_json("/system_stats")["system"]["comfyui_version"], "boot_seconds": time.monotonic() - started}
        info = server.object_info()
        shown: dict[str, Any] = {}
        for path in sorted((ROOT / "workflows").glob("*.json")):
            log.info("running %s", path.stem)
            prompt = lower(json.loads(path.read_text(encoding="utf-8")), info)
            begun = time.monotonic()
            outputs = server.run(prompt)
            facts[path.stem] = time.monotonic() - begun
            save_pictures(pictures, path.stem, prompt, outputs, server)
            if path.stem[:3] in SECTIONS:
                shown[path.stem[:2]] = SECTIONS[path.stem[:3]](server, prompt, outputs, lab)
    facts["total_seconds"] = time.monotonic() - started
    (OUT / "report.html").write_text(page.render(shown, (LAB / "sheet.jpg").read_bytes(), lab.facts, facts), encoding="utf-8")
    log.info("done in %.0f s: open %s", facts["total_seconds"], (OUT / "report.html").relative_to(ROOT))
