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
Q = "diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
K = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k"
"""Two layers of a tiny SD1.5, 128 x 128 and 128 x 64."""


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


def kohya(key: str) -> str:
    return "lora_unet_" + key.removeprefix("diffusion_model.").replace(".", "_")


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(
    key: str, shape: tuple[int, int], rank: int = 8, alpha: float | None = 4.0, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, torch.Tensor]:  # fmt: skip
    """A LoRA of one layer, as kohya spells it."""
    up, down = randn(shape[0], rank, seed=seed) / 10, randn(rank, shape[1], seed=seed + 1) / 10
    made = {"lora_up.weight": up, "lora_down.weight": down} | ({} if alpha is None else {"alpha": torch.tensor(alpha)})
    return {f"{kohya(key)}.{part}": t.to(dtype) for part, t in made.items()}
