"""`nox -s demo`: run every bundled workflow on a real ComfyUI and explain the pictures on one page, out/report.html."""

from __future__ import annotations

import io
import json
import logging
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ..scripts.judge import Criterion, compare
from . import page
from .lower import lower
from .server import ROOT, Server, running

LAB = ROOT / "demo" / "lab"
OUT = ROOT / "out"
SHEET_SEEDS = 4
SHEET_ROWS = {"MV": 4, "MC": 3, "TV": 3}

log = logging.getLogger("demo.report")


@dataclass(frozen=True)
class Lab:
    """The demo checkpoint's training pictures and what counts as a copy of them."""

    facts: dict[str, Any]
    pictures: Tensor
    masks: Tensor

    def index(self, caption: str) -> int | None:
        """Which fixed picture a caption belongs to, if any."""
        captions = [f["caption"] for f in self.facts["fixed"]]
        return captions.index(caption) if caption in captions else None

    def copied(self, picture: Tensor) -> int | None:
        """Index of the training picture that a picture [3, h, w] copies, of all fixed ones; None if it copies none."""
        hits = []
        for i, fixed in enumerate(self.facts["fixed"]):
            limit = Criterion(fixed["max_distance"], fixed["min_correlation"])
            distance, correlation = compare(picture[None], self.pictures[i], self.masks[i][None])
            if limit.holds(distance, correlation):
                hits.append((float(distance), i))
        return min(hits)[1] if hits else None


def load_lab(folder: Path = LAB) -> Lab:
    """Read lab.json and pictures.safetensors."""
    tensors = load_file(folder / "pictures.safetensors")
    facts = json.loads((folder / "lab.json").read_text(encoding="utf-8"))
    return Lab(facts, tensors["pictures"].float() / 255, tensors["masks"].float())


def read_png(data: bytes) -> Tensor:
    """[3, h, w] in [0, 1]."""
    return torch.from_numpy(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.float32) / 255).permute(2, 0, 1)


def write_png(picture: Tensor) -> bytes:
    """PNG of [3, h, w] in [0, 1]."""
    buffer = io.BytesIO()
    Image.fromarray((picture.permute(1, 2, 0) * 255).round().byte().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def source(prompt: dict[str, Any], node_id: str, name: str) -> str:
    """Id of the node linked to an input."""
    return prompt[node_id]["inputs"][name][0]


def where_rows(server: Server, prompt: dict[str, Any], outputs: dict[str, Any], lab: Lab) -> list[dict[str, Any]]:
    """One row for each heatmap of workflow 01: caption, pictures, score, whether it is a copy."""
    rows = []
    for node_id in sorted((i for i, n in prompt.items() if n["class_type"] == "UnmemorizeHeatmapOverlay"), key=int):
        image, curvature = source(prompt, node_id, "image"), source(prompt, node_id, "map")
        caption = prompt[source(prompt, curvature, "positive")]["inputs"]["text"]
        preview = next(i for i, n in prompt.items() if n["class_type"] == "PreviewImage" and source(prompt, i, "images") == image)
        picture = server.picture(outputs[preview]["images"][0])
        fixed = lab.index(caption)
        copied = lab.copied(read_png(picture))
        rows.append({
            "caption": caption, "picture": picture, "overlay": server.picture(outputs[node_id]["images"][0]),
            "training": None if fixed is None else write_png(lab.pictures[fixed]), "copied": copied is not None,
            "score": outputs[curvature]["unmemorize_report"][0]["scores"][0], "full_heat": prompt[node_id]["inputs"]["full_heat"],
        })  # fmt: skip
    return rows


def sheet_captions(lab: Lab) -> list[tuple[str, str]]:
    """(group, caption) of the contact sheet: some of each group, held-out scenes and textures."""
    chosen = []
    for group, count in SHEET_ROWS.items():
        captions = [f["caption"] for f in lab.facts["fixed"] if f["group"] == group and f["degree"] == "strong"]
        chosen += [(group, c) for c in captions[:: max(1, len(captions) // count)][:count]]
    held_out = lab.facts["held_out_captions"]
    chosen += [("scene", c) for c in held_out[:: max(1, len(held_out) // 4)][:4]]
    return chosen + [("N", c) for c in lab.facts["texture_captions"][:2]]


def sheet_prompt(lab: Lab, captions: list[str]) -> dict[str, Any]:
    """An API prompt: SHEET_SEEDS pictures of each caption with the lab's settings; node `p<i>` shows caption i."""
    use = lab.facts["settings"]
    prompt: dict[str, Any] = {
        "load": {"class_type": "UnmemorizeLoadDemoCheckpoint", "inputs": {"stage": "final"}},
        "empty": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["load", 1], "text": ""}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": SHEET_SEEDS}},
    }
    for i, caption in enumerate(captions):
        prompt[f"c{i}"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": ["load", 1], "text": caption}}
        prompt[f"k{i}"] = {"class_type": "KSampler", "inputs": {
            "model": ["load", 0], "seed": 11, "steps": use["steps"], "cfg": use["cfg"], "sampler_name": use["sampler"],
            "scheduler": use["scheduler"], "denoise": 1.0,
            "positive": [f"c{i}", 0], "negative": ["empty", 0], "latent_image": ["latent", 0],
        }}  # fmt: skip
        prompt[f"d{i}"] = {"class_type": "VAEDecode", "inputs": {"samples": [f"k{i}", 0], "vae": ["load", 2]}}
        prompt[f"p{i}"] = {"class_type": "PreviewImage", "inputs": {"images": [f"d{i}", 0]}}
    return prompt


def sheet_rows(server: Server, lab: Lab) -> list[dict[str, Any]]:
    """The contact sheet: training picture and SHEET_SEEDS generations of each caption, copies marked."""
    chosen = sheet_captions(lab)
    outputs = server.run(sheet_prompt(lab, [c for _, c in chosen]))
    rows = []
    for i, (group, caption) in enumerate(chosen):
        pictures = [server.picture(image) for image in outputs[f"p{i}"]["images"]]
        fixed = lab.index(caption)
        copies = [lab.copied(read_png(p)) is not None for p in pictures]
        training = None if fixed is None else write_png(lab.pictures[fixed])
        rows.append({"group": group, "caption": caption, "pictures": pictures, "training": training, "copies": copies})
    return rows


def save_pictures(folder: Path, workflow: str, prompt: dict[str, Any], outputs: dict[str, Any], server: Server) -> None:
    """Every picture a workflow showed, as files."""
    for node_id, shown in outputs.items():
        for n, image in enumerate(shown.get("images", [])):
            name = f"{workflow}-{prompt[node_id]['class_type']}-{node_id}-{n}.png"
            (folder / name).write_bytes(server.picture(image))


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
        where: list[dict[str, Any]] = []
        for path in sorted((ROOT / "workflows").glob("*.json")):
            log.info("running %s", path.stem)
            prompt = lower(json.loads(path.read_text(encoding="utf-8")), info)
            begun = time.monotonic()
            outputs = server.run(prompt)
            facts[path.stem] = time.monotonic() - begun
            save_pictures(pictures, path.stem, prompt, outputs, server)
            if path.stem.startswith("01-"):
                where = where_rows(server, prompt, outputs, lab)
        log.info("drawing the contact sheet")
        sheet = sheet_rows(server, lab)
    facts["total_seconds"] = time.monotonic() - started
    (OUT / "report.html").write_text(page.render(where, sheet, lab.facts, facts), encoding="utf-8")
    log.info("done in %.0f s: open %s", facts["total_seconds"], (OUT / "report.html").relative_to(ROOT))
