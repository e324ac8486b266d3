"""The demo checkpoint as ComfyUI's own MODEL, CLIP and VAE objects."""

from __future__ import annotations

import copy
import json
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.latent_formats import LatentFormat
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_patcher import ModelPatcher
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..demo import words
from ..demo.networks import DOWNSCALE, LATENT_CHANNELS, LATENT_SCALE, UNET, Autoencoder, TextEncoder
from .core.files import reason
from .core.settings import check_range

PREFIX_UNET, PREFIX_TEXT, PREFIX_AUTOENCODER = "model.diffusion_model.", "cond_stage_model.", "first_stage_model."
"""Key prefixes of a full SD checkpoint, used by the demo's files too."""


class DemoLatent(LatentFormat):
    """8 channels at an eighth of the picture's side; already standardised by the autoencoder."""

    latent_channels = LATENT_CHANNELS
    scale_factor = 1.0


class DemoModelConfig(comfy.supported_models_base.BASE):
    """SD1.x in miniature: v-prediction under SD's scaled-linear schedule."""

    unet_config = UNET
    unet_extra_config: dict[str, Any] = {}
    latent_format = DemoLatent

    def model_type(self, state_dict: dict[str, Tensor], prefix: str = "") -> comfy.model_base.ModelType:
        return comfy.model_base.ModelType.V_PREDICTION

    def inpaint_model(self) -> bool:
        # the base class takes any model with more than four input channels for an inpainting model
        return False


def build_unet() -> UNetModel:
    """ComfyUI's own UNetModel as the demo checkpoint has it, weights not yet set (used by the recipe)."""
    return UNetModel(**copy.deepcopy(UNET), operations=comfy.ops.disable_weight_init)


def noise_levels() -> Tensor:
    """The 1000 sigmas of SD's scaled-linear schedule, as the core computes them."""
    return comfy.model_sampling.ModelSamplingDiscrete().sigmas


def load_demo(path: Path) -> tuple[ModelPatcher, comfy.sd.CLIP, DemoVAE]:
    """MODEL, CLIP and VAE of a demo checkpoint file (format: demo/README.md).

    A file without an autoencoder shares that of `checkpoint.safetensors` beside it.
    Raises FileNotFoundError or ValueError with what to do about it.
    """
    tensors, facts = _read(path)
    if not _part(tensors, PREFIX_AUTOENCODER):
        tensors = _read(path.with_name("checkpoint.safetensors"))[0] | tensors
    return _load_model(tensors, facts["latent_rgb"]), _load_clip(tensors, facts["vocabulary"]), _load_vae(tensors)


def load_demo_lora(model: ModelPatcher, path: Path, strength: float) -> ModelPatcher:
    """MODEL with a LoRA file applied as the stock LoraLoaderModelOnly does; at strength 0 the model itself."""
    check_range("strength", strength)
    if strength == 0:
        return model
    if not isinstance(model.model.model_config, DemoModelConfig):
        raise ValueError("The demo LoRAs belong to the demo model: connect Load Demo Checkpoint. For other models use Load LoRA.")
    return comfy.sd.load_lora_for_models(model, None, comfy.utils.load_torch_file(str(path), safe_load=True), strength, 0)[0]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"The demo file {path.name!r} is missing. It comes with the pack: reinstall "
            "Unmemorize, or in a clone train it anew with `nox -s train-demo -- --out demo/lab`."
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    except SafetensorError as error:
        raise ValueError(f"{path.name!r} is damaged ({reason(error)}). Reinstall Unmemorize.") from error
    if "unmemorize_demo" not in metadata:
        raise ValueError(f"{path.name!r} is not a demo checkpoint of Unmemorize (its metadata lacks `unmemorize_demo`).")
    return tensors, json.loads(metadata["unmemorize_demo"])


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _load_model(tensors: dict[str, Tensor], latent_rgb: list[list[float]]) -> ModelPatcher:
    weights = _part(tensors, PREFIX_UNET)
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    config = DemoModelConfig(copy.deepcopy(UNET))
    config.latent_format.latent_rgb_factors = latent_rgb[:-1]
    config.latent_format.latent_rgb_factors_bias = latent_rgb[-1]
    parameters = sum(w.numel() for w in weights.values())
    dtype = comfy.model_management.unet_dtype(model_params=parameters, supported_dtypes=config.supported_inference_dtypes)
    manual_cast = comfy.model_management.unet_manual_cast(dtype, load_device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, manual_cast)
    model = config.get_model(weights, "", device=offload_device)
    model.diffusion_model.load_state_dict({k: w.to(dtype) for k, w in weights.items()}, strict=True)
    return ModelPatcher(model, load_device=load_device, offload_device=offload_device)


CLIP_NAME = "l"
"""Tokens are kept under the encoder's name, as the core's tokenizers do."""


class DemoTokenizer:
    """Words -> ids, with ComfyUI's (emphasis:1.2) syntax; long prompts become several windows."""

    def __init__(self, vocabulary: list[str], embedding_directory: Any = None, tokenizer_data: Any = None) -> None:
        self._ids = words.index_vocabulary(vocabulary)
        self.inv_vocab = {i: f"{word}</w>" for word, i in self._ids.items()}
        """Id -> token, as the core's tokenizers name them."""

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, list[list[tuple]]]:
        parsed = comfy.sd1_clip.token_weights(comfy.sd1_clip.escape_important(text), 1.0)
        weighted = [
            (words.word_id(word, self._ids), weight, position)
            for position, (word, weight) in enumerate(
                (word, weight) for part, weight in parsed for word in words.words(comfy.sd1_clip.unescape_important(part))
            )
        ]
        room = words.CONTEXT_LENGTH - 2
        windows = [weighted[i : i + room] for i in range(0, len(weighted), room)] or [[]]
        full = [
            [(words.BOS, 1.0, 0), *((i, w, p + 1) for i, w, p in window), *[(words.EOS, 1.0, 0)] * (room + 1 - len(window))]
            for window in windows
        ]
        return {CLIP_NAME: full if return_word_ids else [[entry[:2] for entry in window] for window in full]}

    def untokenize(self, token_weight_pair: list[tuple]) -> list[tuple]:
        names = {i: w for w, i in self._ids.items()} | {words.BOS: "<bos>", words.EOS: "<eos>"}
        return [(pair, names.get(pair[0], "<unknown>")) for pair in token_weight_pair]

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class DemoTextModel(torch.nn.Module, comfy.sd1_clip.ClipTokenWeightEncoder):
    """The demo's text encoder behind the interface that `comfy.sd.CLIP` expects."""

    special_tokens = {"start": words.BOS, "end": words.EOS, "pad": words.EOS}

    def __init__(self, table_size: int, device: Any = None, dtype: Any = None, model_options: Any = None) -> None:
        super().__init__()
        self.encoder = TextEncoder(comfy.ops.manual_cast, table_size, words.CONTEXT_LENGTH).to(device=device, dtype=torch.float32)
        self.dtypes = {torch.float32}
        self.execution_device: torch.device | None = None

    def get_input_embeddings(self) -> torch.nn.Module:
        """As the core's text encoders offer it."""
        return self.encoder.token_embedding

    def set_clip_options(self, options: dict[str, Any]) -> None:
        self.execution_device = options.get("execution_device", self.execution_device)

    def reset_clip_options(self) -> None:
        self.execution_device = None

    def encode_token_weights(self, token_weight_pairs: dict[str, list]) -> tuple:
        return super().encode_token_weights(token_weight_pairs[CLIP_NAME])

    def encode(self, tokens: list[list[int]]) -> tuple[Tensor, Tensor]:
        device = self.execution_device or self.encoder.token_embedding.weight.device
        ids = torch.tensor(tokens, device=device)
        hidden = self.encoder(ids)
        end = (ids == words.EOS).int().argmax(dim=1)
        return hidden, hidden[torch.arange(len(ids), device=device), end]

    def load_sd(self, state_dict: dict[str, Tensor]) -> tuple[list[str], list[str]]:
        result = self.encoder.load_state_dict(state_dict, strict=True)
        return result.missing_keys, result.unexpected_keys


def _load_clip(tensors: dict[str, Tensor], vocabulary: list[str]) -> comfy.sd.CLIP:
    weights = {k: v.float() for k, v in _part(tensors, PREFIX_TEXT).items()}
    target = comfy.supported_models_base.ClipTarget(
        partial(DemoTokenizer, vocabulary), partial(DemoTextModel, words.table_size(vocabulary))
    )
    clip = comfy.sd.CLIP(target, parameters=sum(w.numel() for w in weights.values()))
    clip.load_sd(weights)
    return clip


class DemoVAE:
    """The demo's autoencoder with the methods that the stock VAE nodes call."""

    latent_channels = LATENT_CHANNELS
    downscale_ratio = DOWNSCALE
    upscale_ratio = DOWNSCALE
    latent_dim = 2

    def __init__(self, autoencoder: Autoencoder) -> None:
        self.first_stage_model = autoencoder
        self.device = comfy.model_management.vae_device()
        self.output_device = comfy.model_management.intermediate_device()
        self.vae_dtype = torch.float32
        offload_device = comfy.model_management.vae_offload_device()
        self.patcher = ModelPatcher(autoencoder, load_device=self.device, offload_device=offload_device)

    def decode(self, samples_in: Tensor, vae_options: Any = None) -> Tensor:
        """Latents [b, 8, h, w] -> pictures [b, 8h, 8w, 3] in [0, 1]."""
        if samples_in.ndim != 4 or samples_in.shape[1] != LATENT_CHANNELS:
            raise ValueError(
                f"The demo VAE decodes latents of {LATENT_CHANNELS} channels, this one has the shape {tuple(samples_in.shape)}. "
                "Use the VAE that belongs to the model which made the latent."
            )
        comfy.model_management.load_models_gpu([self.patcher])
        pictures = [self.first_stage_model.decode(z[None].to(self.device, self.vae_dtype)) for z in samples_in]
        return (torch.cat(pictures) / 2 + 0.5).clamp(0, 1).movedim(1, -1).to(self.output_device)

    def encode(self, pixel_samples: Tensor) -> Tensor:
        """Pictures [b, h, w, 3] in [0, 1] -> latents [b, 8, h/8, w/8]; odd edges are cropped as by ComfyUI."""
        _, h, w, _ = pixel_samples.shape
        h8, w8 = h // DOWNSCALE * DOWNSCALE, w // DOWNSCALE * DOWNSCALE
        top, left = (h - h8) // 2, (w - w8) // 2
        cropped = pixel_samples[:, top : top + h8, left : left + w8, :3].movedim(-1, 1) * 2 - 1
        comfy.model_management.load_models_gpu([self.patcher])
        latents = [self.first_stage_model.encode(p[None].to(self.device, self.vae_dtype)) for p in cropped]
        return torch.cat(latents).to(self.output_device)

    def decode_tiled(self, samples: Tensor, *_: Any, **__: Any) -> Tensor:
        """Pictures this small need no tiles."""
        return self.decode(samples)

    def encode_tiled(self, pixel_samples: Tensor, *_: Any, **__: Any) -> Tensor:
        """Pictures this small need no tiles."""
        return self.encode(pixel_samples)

    def spacial_compression_decode(self) -> int:
        return DOWNSCALE

    def spacial_compression_encode(self) -> int:
        return DOWNSCALE

    def temporal_compression_decode(self) -> None:
        return None

    def throw_exception_if_invalid(self) -> None:
        return None

    def get_sd(self) -> dict[str, Tensor]:
        return self.first_stage_model.state_dict()


def _load_vae(tensors: dict[str, Tensor]) -> DemoVAE:
    autoencoder = Autoencoder(comfy.ops.manual_cast, LATENT_SCALE)
    autoencoder.load_state_dict({k: v.float() for k, v in _part(tensors, PREFIX_AUTOENCODER).items()}, strict=True)
    return DemoVAE(autoencoder.train(False))
