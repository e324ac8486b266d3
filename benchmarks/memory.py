"""Memory that must not grow: thousands of reference pictures, and an audit of hundreds of prompts.

What is measured is this process's resident memory from a tenth of the work on: by then everything is loaded that stays anyway.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import folder_paths
import psutil
import torch
import torch.nn.functional as F
from PIL import Image

from ..batch.tools import DEMO, Base
from ..host.combined import audit
from ..host.copies import checking, references
from ..host.copies.detectors import BuiltIn
from ..host.copies.pictures import listed
from ..host.core.prompts import encoded
from .parts.common import ROOT, log, write

REFERENCES, PROMPTS, SEEDS, SIDE = 10_000, 500, 4, 128
USE = {"seed": 0, "steps": 2, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
"""Of the audit: what it draws does not matter here."""
COARSE, QUALITY = 8, 90
EVERY, MEBI = 20, 2**20
FOLDER = "many"
LAB = ROOT / "demo" / "lab"
ABOUT = {
    "references": "different reference pictures in a folder",
    "kept_mib": "what the built-in detector keeps of all of them",
    "listing_growth_mib": "memory that listing and checking their files took, after the first tenth",
    "features_growth_mib": "the same while the detector looked at them, without what it keeps",
    "compare_growth_mib": "memory that comparing a picture with all of them took, at most",
    "seconds_a_reference": "to list a reference and look at it the first time",
    "seconds_a_comparison": "to compare a picture with one of them",
    "audited_prompts": "prompts of the audit, with four seeds each",
    "audit_growth_kib": "memory that a prompt of the audit took, after the first tenth: its row with small pictures, for the page",
}


class Memory:
    """Resident memory of this process while something is done so many times."""

    def __init__(self, total: int) -> None:
        self.after = max(1, total // 10)
        self.count, self.early, self.most = 0, self._now(), 0

    def _now(self) -> int:
        return psutil.Process().memory_info().rss

    def tick(self) -> None:
        """One more is done."""
        self.count += 1
        if self.count == self.after:
            self.early = self.most = self._now()
        elif self.count > self.after and self.count % EVERY == 0:
            self.most = max(self.most, self._now())

    def growth(self) -> int:
        """Bytes, from a tenth on to the most."""
        return max(self.most, self._now()) - self.early


def use_folders(home: Path) -> None:
    """ComfyUI's input, output and user folder for this process."""
    choices = {
        "input": folder_paths.set_input_directory,
        "output": folder_paths.set_output_directory,
        "user": folder_paths.set_user_directory,
    }
    for name, choose in choices.items():
        (home / name).mkdir(parents=True)
        choose(str(home / name))


def made(folder: Path, count: int, side: int) -> None:
    """Different pictures as files."""
    folder.mkdir(parents=True)
    for i in range(count):
        rough = torch.rand(1, 3, COARSE, COARSE, generator=torch.Generator().manual_seed(i))
        picture = F.interpolate(rough, size=(side, side), mode="bicubic").clamp(0, 1)[0].movedim(0, -1)
        Image.fromarray((picture * 255).byte().numpy()).save(folder / f"{i:06d}.jpg", quality=QUALITY)


def of_references(count: int, side: int) -> dict[str, float]:
    """List a folder of pictures, look at all of them, compare one."""
    made(Path(folder_paths.get_input_directory()) / FOLDER, count, side)
    log.info("%d pictures are written", count)
    how, began = BuiltIn(), time.monotonic()
    listing = Memory(count)
    known = references.of_listed(listed(FOLDER), FOLDER, listing.tick)
    listing_grew, looking = listing.growth(), Memory(count)
    kept = references.features(known, how, looking.tick)
    looked = time.monotonic() - began
    kept_later = kept.nbytes * (1 - looking.after / count)
    grown = looking.growth() - kept_later
    log.info("%d are looked at", len(known.names))
    one = known.picture(0).movedim(0, -1)[None]
    before, comparing, began = psutil.Process().memory_info().rss, Memory(1), time.monotonic()
    found = checking.check(one, known, how, None, False, 0.05)
    if found.nearest != [0]:
        raise RuntimeError("a picture is not its own nearest reference")
    return {
        "references": len(known.names), "kept_mib": kept.nbytes / MEBI, "listing_growth_mib": listing_grew / MEBI,
        "features_growth_mib": grown / MEBI,
        "compare_growth_mib": (max(comparing.most, psutil.Process().memory_info().rss) - before) / MEBI,
        "seconds_a_reference": looked / count, "seconds_a_comparison": (time.monotonic() - began) / count,
    }  # fmt: skip


def of_audit(count: int, side: int) -> dict[str, float]:
    """Audit ordinary prompts of the demo model."""
    base = Base(DEMO)
    prompts = list(dict.fromkeys(json.loads((LAB / "lab.json").read_text())["scene_captions"]))[:count]
    (negative,) = encoded(base.clip, [""])
    latent = base.latent({"width": side, "height": side})
    watch = Memory(len(prompts))
    decode = base.vae.decode

    def watched(samples: torch.Tensor) -> Any:
        watch.tick()  # once a prompt: its seeds are decoded together
        return decode(samples)

    base.vae.decode = watched  # type: ignore[method-assign]
    asked = audit.Audit(base.model, base.clip, base.vae, negative, latent, prompts, SEEDS, USE, "memory", neighbours=0)
    rows = audit.run(asked).rows
    if len(rows) != len(prompts) or any("error" in row for row in rows):
        raise RuntimeError("a prompt of the audit failed")
    after = len(prompts) - watch.after
    return {"audited_prompts": len(rows), "audit_growth_kib": watch.growth() / 1024 / max(1, after)}


def main() -> None:
    """`nox -s benchmark -- memory [--references N] [--prompts N]`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--references", type=int, default=REFERENCES)
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    parser.add_argument("--name", default="memory")
    o = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home, torch.inference_mode():
        use_folders(Path(home))
        metrics = of_references(o.references, SIDE)
        log.info("%s", metrics)
        metrics |= of_audit(o.prompts, SIDE)
    write(o.name, metrics, {"side": SIDE, "seeds": SEEDS, **USE}, ABOUT, LAB)
