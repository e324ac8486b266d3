"""What is done with a damaged file, for each kind of file: everything a graph would do with it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
import torch

from ...unmemorize.lora.gates import GATES
from ...unmemorize.lora.scores import SCORES
from . import mutations

LAB = Path(__file__).resolve().parents[2] / "demo" / "lab"


@dataclass(frozen=True)
class Bench:
    """The nodes, the demo model, and a folder of its own for every kind of file."""

    nodes: dict[str, Any]
    home: Path
    model: Any
    clip: Any
    words: Any
    empty: Any

    def run(self, node: str, **inputs: Any) -> tuple[Any, ...]:
        """A node's outputs; what it shows must be JSON."""
        output = self.nodes[f"Unmemorize{node}"].execute(**inputs)
        if getattr(output, "ui", None):
            json.dumps(output.ui if isinstance(output.ui, dict) else output.ui.as_dict(), allow_nan=False)
        return output.args


class Wrong(Exception):
    """A node took a damaged file and gave something that nobody can use."""


def finite(tensors: Any) -> None:
    """`Wrong` if a tensor that is passed on holds a value that is no number."""
    for name, t in tensors.items():
        if t.is_floating_point() and not torch.isfinite(t.float()).all():
            raise Wrong(f"{name[:40]!a} has values that are not numbers")


def lora(bench: Bench, name: str, dice: random.Random) -> None:
    """Opened, filtered, saved; loaded at once into the model."""
    how = {
        "filter_strength": dice.choice((0.0, 0.5, 1.0)), "score": dice.choice(tuple(SCORES)), "gate": dice.choice(tuple(GATES)),
        "threshold": 0.0, "deviations": 0.0, "temperature": 0.05, "keep": 0.5, "base_energy": 0.5, "restore_norm": dice.random() < 0.5,
        "text_encoder": dice.random() < 0.5, "control_seed": 0,
    }  # fmt: skip
    tensors, info, *_ = bench.run("OpenLoRA", lora_name=f"{name}.safetensors")
    kept, removed, described, *_ = bench.run("BAFFilterLoRA", lora=tensors, model=bench.model, clip=bench.clip, info=info, **how)
    finite({k: t for k, t in kept.items() if tensors.get(k) is not t})
    finite({k: t for k, t in removed.items() if tensors.get(k) is not t})
    if kept:
        bench.run("SaveFilteredLoRA", lora=kept, name="fuzz-out", info=described)
    bench.run(
        "LoadLoRABAF", model=bench.model, clip=bench.clip, lora_name=f"{name}.safetensors", strength_model=1.0, strength_clip=1.0, **how
    )


def guarded(bench: Bench, stored: Any, mode: str, method: str) -> tuple[Any, ...]:
    """A short run under guard."""
    given = {"model": bench.model, "seed": 1, "steps": 4, "cfg": float(stored.facts["cfg"]), "sampler_name": "euler", "scheduler": "normal"}
    given |= {"positive": bench.words, "negative": bench.empty, "latent_image": {"samples": torch.zeros(1, 8, 8, 8)}, "denoise": 1.0}
    return bench.run("KSamplerStabilityGuard", **given, mode=mode, method=method, profile=stored)


def guarded_report(bench: Bench, stored: Any) -> str:
    """A good report."""
    return str(guarded(bench, stored, "detect", "recommended")[3])


def profile(bench: Bench, name: str, dice: random.Random) -> None:
    """Loaded, guarding a run, drawn, saved."""
    (stored, *_) = bench.run("LoadStabilityProfile", profile=name)
    latent, memorized, score, report = guarded(bench, stored, *dice.choice((("detect", "recommended"), ("correct", "paper"))))
    finite({"latent": latent["samples"]})
    if math.isnan(score) and (memorized or not json.loads(report)["not_judged"][0]):
        raise Wrong("a score that is no number, without a word")
    bench.run("StabilityChart", sample=0, report=report)
    bench.run("SaveStabilityProfile", profile=stored, name="fuzz-out")


def mask(bench: Bench, name: str, dice: random.Random) -> None:
    """Loaded, laid over the model, compared, saved."""
    (found, *_) = bench.run("LoadNeuronMask", mask=name)
    bench.run("PruneNeurons", model=bench.model, mask=found, strength=1.0)
    bench.run("CompareNeuronMasks", mask_1=found, mask_2=found, names="a, b")
    bench.run("SaveNeuronMask", mask=found, name="fuzz-out")


@dataclass(frozen=True)
class Target:
    """A kind of file: good ones, where the nodes look for it, what is done with it."""

    good: list[bytes]
    folder: Path
    use: Callable[[Bench, str, random.Random], None]


def targets(home: Path) -> dict[str, Target]:
    """By name; the folders of ComfyUI are below `home` from now on."""
    folder_paths.set_user_directory(str(home / "user"))
    folder_paths.folder_names_and_paths["loras"] = ([str(home / "loras")], {".safetensors"})
    found = {
        "lora": Target([(LAB / f"loras/{n}.safetensors").read_bytes() for n in ("leaking", "style")], home / "loras", lora),
        "profile": Target([(LAB / "profiles/demo.safetensors").read_bytes()], home / "user/unmemorize/profiles", profile),
        "mask": Target([(LAB / "masks/demo.safetensors").read_bytes()], home / "user/unmemorize/masks", mask),
    }
    for target in found.values():
        target.folder.mkdir(parents=True, exist_ok=True)
    return found


def report(bench: Bench, good: str, dice: random.Random) -> None:
    """A guard's report with places changed, drawn."""
    changed = json.loads(good)
    for _ in range(dice.choice((1, 1, 2, 4))):
        changed = mutations.changed_json(changed, dice)
    bench.run("StabilityChart", sample=0, report=json.dumps(changed))
