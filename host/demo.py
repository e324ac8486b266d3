import comfy.model_sampling
import comfy.ops
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor

from ..demo.networks import UNET_CONFIG


def build_unet() -> UNetModel:
    """ComfyUI's own UNetModel with the demo's configuration, weights not yet set (used by the recipe)."""
    return UNetModel(**UNET_CONFIG, operations=comfy.ops.disable_weight_init)


def noise_levels() -> Tensor:
    """The 1000 sigmas of SD's scaled-linear schedule, as the core computes them."""
    return comfy.model_sampling.ModelSamplingDiscrete().sigmas
