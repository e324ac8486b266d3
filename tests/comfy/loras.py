"""What the tests of LoRA nodes share: widgets, the demo LoRA, its layers."""

from __future__ import annotations

import torch
from torch import Tensor

HOW = {
    "filter_strength": 1.0, "score": "mean", "gate": "hard", "threshold": 0.0, "deviations": 0.0, "temperature": 0.05, "keep": 0.5,
    "base_energy": 0.5, "restore_norm": False, "text_encoder": True, "control_seed": 0,
}  # fmt: skip
LEAKING = "demo/leaking"
LAYERS = 77
"""Of that file: 60 of attention and feed-forward, 17 convolutions."""
PROMPT_LAYERS = 15
"""Of them: how cross-attention reads the prompt."""


def dense(tensors: dict[str, Tensor], name: str) -> Tensor | float:
    """dW of a kohya layer as a matrix, convolutions too; zero if it is not there."""
    if f"{name}.lora_up.weight" not in tensors:
        return 0.0
    up, down, alpha = (tensors[f"{name}.{part}"].float() for part in ("lora_up.weight", "lora_down.weight", "alpha"))
    return float(alpha) / len(down) * up.flatten(1) @ down.flatten(1)


def layer_names(tensors: dict[str, Tensor]) -> list[str]:
    """Of kohya's keys."""
    return sorted({k.split(".")[0] for k in tensors})


def attention_patched(model, change):
    """MODEL under a patch of every attention's output, `change(weight, generator)` of each."""
    generator = torch.Generator().manual_seed(5)
    names = [k for k in model.model.state_dict() if k.startswith("diffusion_model.") and k.endswith("attn2.to_out.0.weight")]
    clone = model.clone()
    clone.add_patches({k: (change(model.model.state_dict()[k].cpu(), generator),) for k in names})
    return clone
