"""Which model is this? Profiles, masks and calibrations carry the answer, so that they are not used with another.

A few values of every weight are kept as they are, not hashed: a model in another precision has them too, up to that precision's rounding,
while one that was trained on, pruned or edited anywhere has not.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any

import numpy as np
import torch

from .patches import digest_of, merged_digest
from .weights import Weights

VALUES = 8
"""Of each weight, spread over its rows and columns."""
ROUNDING = {
    "float64": (0.0, 0.0), "float32": (2.0**-24, 0.0), "float16": (2.0**-11, 2.0**-25), "bfloat16": (2.0**-8, 0.0),
    "float8_e4m3fn": (2.0**-4, 2.0**-10), "float8_e5m2": (2.0**-3, 2.0**-17),
}  # fmt: skip
"""Largest error of rounding to a precision: as a share of the value, and near zero."""
LEAST_EQUAL, LEAST_EQUAL_IN = 0.96, {"bfloat16": 0.9}
"""Of the values, in the coarser of two precisions: a model that was rounded twice has a few others (of bfloat16 made from float16 one in
sixteen, of fp8 made from bfloat16 one in fifty), one that was trained on many. A step of an fp8 number is so large that most fine-tunes
keep within it."""
BETWEEN = {"bfloat16": "float16", "float8_e4m3fn": "bfloat16", "float8_e5m2": "bfloat16"}
"""What a file may have been rounded to before it was rounded to these."""
PACKED = "packed"
PACKED_ROUNDING = (0.25, 0.2)
"""Of quantised weights, whose scales differ by kind: as a share of the value, and of the weight's largest value that was looked at."""
SAMPLING = "model_sampling"
"""What ComfyUI calls a model's schedule and kind of prediction."""
SHOWN = ("architecture", "prediction", "precision", "weights", "patches")


def identity(model: Any) -> dict[str, str]:
    """Architecture, kind of prediction, precision, a few values of every unpatched weight ("values", base64) and digests of these and of
    the applied patches, and of those among them that merge another model in ("" = none). A model that shows no weights has empty values."""
    weights = Weights(model)
    names = weights.names("diffusion_model.")
    values, precisions = _values(weights, names)
    injected = "".join(f"/{name} x{len(several)}" for name, several in sorted(getattr(model, "injections", {}).items()))
    patches = digest_of(model.patches)
    layout = "".join(f"{name}{weights.shape(name)}" for name in names if not _is_packed(weights, name))
    return {
        "architecture": type(model.model).__name__,
        "prediction": _prediction(model),
        "precision": max(precisions, key=_coarseness, default=""),
        "weights": hashlib.sha256(layout.encode() + values.tobytes()).hexdigest()[:16] if names else "",
        "layout": hashlib.sha256("".join(names).encode()).hexdigest()[:16],
        "values": base64.b64encode(values.tobytes()).decode(),
        "patches": hashlib.sha256((patches + injected).encode()).hexdigest()[:16] if injected else patches,
        "merged": merged_digest(model.patches),
    }


def _prediction(model: Any) -> str:
    """ComfyUI's name for what the checkpoint's network predicts, or of what a node (ModelSamplingDiscrete) takes it for instead."""
    name: str = model.model.model_type.name
    if not hasattr(model, "get_model_object"):
        return name
    used = _kinds(model.get_model_object(SAMPLING))
    own = model.object_patches_backup.get(SAMPLING) or getattr(model.model, SAMPLING)  # kept there while another one is in its place
    return name if used == _kinds(own) else used[0]


def _kinds(model_sampling: Any) -> list[str]:
    """Its classes that speak of the prediction and not of the schedule, which are modules."""
    several = [kind.__name__ for kind in type(model_sampling).__mro__[:-1] if not issubclass(kind, torch.nn.Module)]
    return several or [type(model_sampling).__name__]


def shown(found: dict[str, Any]) -> dict[str, Any]:
    """An identity as reports show it: without the values."""
    return {k: found[k] for k in SHOWN if k in found}


def differences(there: dict[str, str], here: dict[str, str]) -> list[str]:
    """What of two identities differs, in words; LoRAs and precision do not count, what was merged into the weights does. ValueError if
    either was noted by an older version, which looked at too little to tell models apart."""
    if not {"values", "layout", "precision"} <= set(there) or _looked_at_fewer(there, here):
        raise ValueError(
            "This was measured with an older version of Unmemorize, which looked at too few weights to tell two models apart. Measure it "
            "again, on the model that you use."
        )
    if any("merged" not in found and found["patches"] for found in (there, here)):
        raise ValueError(
            "This was measured with an older version of Unmemorize on a model with LoRAs, or with another model merged into it: it did not "
            "note which. Measure it again, on the model that you use."
        )
    words = {"architecture": "architecture", "prediction": "kind of prediction"}
    found = [f"{name} ({there.get(k)} there, {here.get(k)} here)" for k, name in words.items() if there.get(k) != here.get(k)]
    if there.get("merged", "") != here.get("merged", ""):
        found.append("what is merged into the weights")
    if not there["values"] or not here["values"]:
        return [*found, "weights (a model that shows none, such as a TensorRT engine, cannot be told from another)"]
    return found if _same_weights(there, here) else [*found, "weights"]


def _looked_at_fewer(there: dict[str, str], here: dict[str, str]) -> bool:
    """Was half as much noted of weights of the same names?"""
    return there["layout"] == here["layout"] and 0.4 < len(there["values"]) / max(len(here["values"]), 1) < 0.6


def in_another_precision(there: dict[str, str], here: dict[str, str]) -> str:
    """A warning if the same model is used in another precision than it was measured in, or ""."""
    if there["precision"] == here["precision"]:
        return ""
    return f"It was measured on the same model in another precision: {there['precision']} there, {here['precision']} here."


def check_shows_weights(found: dict[str, str]) -> None:
    """ValueError for a model whose weights cannot be seen: what is measured on it could be used with any other."""
    if not found["values"]:
        raise ValueError(
            "This model shows no weights (a TensorRT engine, or a network that computes elsewhere): what is measured on it cannot be told "
            "from what is measured on another. Use the model as ComfyUI loads it."
        )


def _values(weights: Weights, names: list[str]) -> tuple[np.ndarray, set[str]]:
    """VALUES numbers of each weight, float32 [weights * VALUES] (zeros behind smaller ones), and the precisions met."""
    found, precisions = [], set()
    for name in names:
        few = weights.few_values(name, VALUES)
        precisions.add(PACKED if _is_packed(weights, name) else str(few.dtype).removeprefix("torch."))
        found.append(torch.nn.functional.pad(few.float(), (0, VALUES - len(few))))
    by_device: dict[torch.device, list[int]] = {}
    for i, few in enumerate(found):
        by_device.setdefault(few.device, []).append(i)
    values = torch.zeros(len(found), VALUES)
    for several in by_device.values():  # one copy a device, not one a weight
        values[several] = torch.stack([found[i] for i in several]).cpu()
    return values.flatten().numpy().astype("<f4"), precisions


def _is_packed(weights: Weights, name: str) -> bool:
    return weights.dtype_name(name) not in ROUNDING


def _coarseness(precision: str) -> float:
    return ROUNDING.get(precision, PACKED_ROUNDING)[0]


def _same_weights(there: dict[str, str], here: dict[str, str]) -> bool:
    """Equal up to the rounding of both precisions, value by value, and nearly all of them equal in the coarser one."""
    if there["layout"] != here["layout"]:
        return False
    try:
        a, b = (np.frombuffer(base64.b64decode(found["values"], validate=True), "<f4").astype(np.float64) for found in (there, here))
    except (binascii.Error, ValueError):
        return False
    if a.shape != b.shape or len(a) % VALUES or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return False
    size = np.maximum(np.abs(a), np.abs(b))
    allowed = sum((_allowed(size, found["precision"]) for found in (there, here)), np.zeros_like(size))
    near = bool((np.abs(a - b) <= 1.01 * allowed).all())
    coarser = max((found["precision"] for found in (there, here)), key=_coarseness)
    least = LEAST_EQUAL_IN.get(coarser, LEAST_EQUAL)
    return near and _equal_when_rounded((a, there["precision"]), (b, here["precision"])) >= least


def _equal_when_rounded(one: tuple[np.ndarray, str], other: tuple[np.ndarray, str]) -> float:
    """Which share of two models' values is the same in the coarser of their precisions, up to what rounding to the finer one may have moved
    them; 1 where the coarser is a quantisation of its own kind."""
    (fine, finer), (coarse, coarser) = sorted((one, other), key=lambda side: _coarseness(side[1]))
    dtype = getattr(torch, coarser, None)
    counts = (fine != 0) | (coarse != 0)  # what stands behind small weights says nothing
    if coarser not in ROUNDING or not isinstance(dtype, torch.dtype) or not counts.any():
        return 1.0
    moved = np.zeros_like(fine)
    if finer != coarser:
        moved = sum((_allowed(np.abs(fine), p) for p in (finer, BETWEEN.get(coarser, "")) if p), moved)
    low, there, high = (torch.from_numpy(v[counts]).float().to(dtype).float() for v in (fine - moved, coarse, fine + moved))
    return float(((low <= there) & (there <= high)).float().mean())


def _allowed(size: np.ndarray, precision: str) -> np.ndarray:
    if precision in ROUNDING:
        relative, near_zero = ROUNDING[precision]
        return relative * size + near_zero
    relative, of_largest = PACKED_ROUNDING
    largest = size.reshape(-1, VALUES).max(1).repeat(VALUES)
    return relative * size + of_largest * largest
