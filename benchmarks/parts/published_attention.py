"""GUARD (ICML'26) as published (METHODS.md, 6): cross-attention is turned away from the tokens that draw it most."""

from __future__ import annotations

import math
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...host.core.another_model import asked
from ...unmemorize.neurons.activity import COND

TELLING, KEPT = 0.1, 0.3
"""Tokens whose largest logit lies so many deviations above the other tokens' keep so much of their logits."""
ATTENUATED_SCALE, REPELLED = 7.5, 2.0
"""Guidance of SD's, by what is attenuated and away from what is not."""
PLACES = ("input", "middle")
"""Of the network: its way down, and the middle."""


def attenuated(query: Tensor, keys: Tensor, values: Tensor, options: dict[str, Any]) -> Tensor:
    """Cross-attention [rows, queries, heads * d] whose telling tokens have less of a logit, in the prompt's own rows."""
    heads, rows = options["n_heads"], len(query) // len(options["cond_or_uncond"])
    split = keys.unflatten(2, (heads, -1))
    logits = torch.einsum("bqhd,bkhd->bhqk", query.unflatten(2, (heads, -1)).float(), split.float()) / math.sqrt(split.shape[-1])
    largest = logits.amax(2)[..., 1:]  # without BOS
    z = (largest - largest.mean(-1, keepdim=True)) / largest.std(-1, keepdim=True).clamp_min(1e-8)
    factor = torch.where(z > TELLING, KEPT, 1.0)
    factor = torch.cat([torch.ones_like(factor[..., :1]), factor], -1)  # [rows, heads, tokens]
    own = torch.tensor([side == COND for side in options["cond_or_uncond"]]).repeat_interleave(rows)
    factor = torch.where(own[:, None, None].to(factor.device), factor, 1.0)
    # a logit is linear in its key
    return optimized_attention(query, (split * factor.transpose(1, 2)[..., None].to(split)).flatten(2), values, heads)


def guard(model: Any) -> Any:
    """MODEL -> MODEL: eps_u + w (eps_att - eps_u) - (w 2 / 7.5) cos(pi i / 2N) (eps_c - eps_u) at step i of N; three evaluations a step."""
    clone, plain = model.clone(), model
    for name, _ in model.model.diffusion_model.named_modules():
        block, _, rest = name.partition("_block")
        if block in PLACES and name.endswith("attn2"):
            number = int(rest.split(".")[1]) if block == "input" else 1
            clone.set_model_attn2_replace(attenuated, block, number)

    def guide(facts: dict[str, Any]) -> Tensor:
        own = asked(plain, [facts["cond"], None], facts)[0]
        schedule = facts["model_options"]["transformer_options"]["sample_sigmas"]
        step = int((schedule - facts["sigma"].reshape(-1)[0]).abs().argmin())
        scale, uncond = facts["cond_scale"], facts["uncond_denoised"]
        away = scale * REPELLED / ATTENUATED_SCALE * math.cos(math.pi * step / (2 * (len(schedule) - 1)))
        return uncond + scale * (facts["cond_denoised"] - uncond) - away * (own - uncond)

    clone.set_model_sampler_post_cfg_function(guide, disable_cfg1_optimization=True)
    return clone
