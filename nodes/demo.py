"""Nodes of the demo checkpoint: everything needed to try the pack without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..demo import pictures
from ..host.core.menus import checked
from ..host.core.schema import hints
from ..host.demo import load_demo, load_demo_lora
from .menus import STAGE

LAB = Path(__file__).resolve().parents[1] / "demo" / "lab"
STAGES = {"final": "checkpoint.safetensors", "early": "early.safetensors"}


class LoadDemoCheckpoint(io.ComfyNode):
    """The bundled tiny model, as MODEL, CLIP and VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeLoadDemoCheckpoint",
            display_name="Load Demo Checkpoint",
            category="unmemorize/demo",
            description="Loads the tiny model that comes with Unmemorize. It draws 128 x 128 pictures in a second on a CPU and has really "
            "memorized part of its training set, so every workflow of the pack can be tried without a download.",
            inputs=[
                io.Combo.Input(
                    "stage",
                    options=STAGE.options,
                    default=STAGE.options[0],
                    tooltip="final: the finished model, which memorized. early: the same training run before it had memorized any "
                    "photograph, for use as a less-trained baseline.",
                ),
            ],
            outputs=[
                io.Model.Output("model", display_name="MODEL", tooltip="The denoiser: ComfyUI's own UNetModel, v-prediction."),
                io.Clip.Output(
                    "clip", display_name="CLIP", tooltip="The text encoder. It knows the words of its captions; others are guessed."
                ),
                io.Vae.Output("vae", display_name="VAE", tooltip="The autoencoder: 8 latent channels, 8 times smaller than the picture."),
            ],
            **hints(io.Schema, search_aliases=["demo model", "tiny model", "memorization lab", "example checkpoint"]),
        )

    @classmethod
    def validate_inputs(cls, stage: str | None = None) -> bool | str:
        return checked((STAGE, stage))

    @classmethod
    def fingerprint_inputs(cls, stage: str) -> str:
        path = LAB / STAGES.get(STAGE.symbol(stage), "")
        return str(path.stat().st_mtime_ns) if path.is_file() else "missing"

    @classmethod
    def execute(cls, stage: str) -> io.NodeOutput:
        if complaint := STAGE.complaint(stage):
            raise ValueError(complaint)
        return io.NodeOutput(*load_demo(LAB / STAGES[STAGE.symbol(stage)]))


class LoadDemoLoRA(io.ComfyNode):
    """A bundled LoRA, applied to the demo model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = pictures.lora_names(LAB)
        return io.Schema(
            node_id="UnmemorizeLoadDemoLoRA",
            display_name="Load Demo LoRA",
            category="unmemorize/demo",
            description="Applies a LoRA that comes with Unmemorize to the demo model. One carries a hatching style and has memorized "
            "the few photographs it was trained on, one carries the style alone, one a concept under a word.",
            inputs=[
                io.Model.Input("model", tooltip="The demo model, from Load Demo Checkpoint."),
                io.Combo.Input(
                    "lora",
                    options=names,
                    default="leaking" if "leaking" in names else None,
                    tooltip="leaking: carries a style and reproduces its photographs. style: carries the style and reproduces nothing. "
                    "concept: draws crescents under the word lunel and reproduces nothing.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip="How strongly it is applied. 0 returns the model unchanged.",
                ),
            ],
            outputs=[
                io.Model.Output("patched", display_name="MODEL", tooltip="The model with the LoRA, as the stock LoRA loader makes it.")
            ],
            **hints(io.Schema, search_aliases=["demo lora", "leaking lora", "style lora", "example lora"]),
        )

    @classmethod
    def fingerprint_inputs(cls, model: Any, lora: str, strength: float) -> str:
        path = LAB / "loras" / f"{lora}.safetensors"
        return str(path.stat().st_mtime_ns) if lora in pictures.lora_names(LAB) else "missing"

    @classmethod
    def execute(cls, model: Any, lora: str, strength: float) -> io.NodeOutput:
        names = pictures.lora_names(LAB)
        if lora not in names:
            raise ValueError(f"There is no demo LoRA {lora!r}; choose one of: {', '.join(names)}.")
        return io.NodeOutput(load_demo_lora(model, LAB / "loras" / f"{lora}.safetensors", strength))


class LoadDemoPicture(io.ComfyNode):
    """A training picture of the demo model or of a demo LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        labels = pictures.labels(LAB)
        return io.Schema(
            node_id="UnmemorizeLoadDemoPicture",
            display_name="Load Demo Picture",
            category="unmemorize/demo",
            description="A picture that the demo model or a demo LoRA was trained on again and again, with its caption: lay it beside what "
            "the model draws, or encode it and map it.",
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=labels,
                    default=labels[0] if labels else None,
                    tooltip="photo, scene, template: of the checkpoint. LoRA: a photograph that this LoRA was trained on.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="IMAGE", tooltip="The training picture, 128 x 128."),
                io.Mask.Output("mask", display_name="MASK", tooltip="1 where the picture was always the same; of a template, the card."),
                io.String.Output("caption", display_name="caption", tooltip="The words it was trained with, for CLIP Text Encode."),
            ],
            **hints(io.Schema, search_aliases=["demo image", "training picture", "ground truth", "memorized picture"]),
        )

    @classmethod
    def fingerprint_inputs(cls, picture: str) -> str:
        path = LAB / "pictures.safetensors"
        return str(path.stat().st_mtime_ns) if path.is_file() else "missing"

    @classmethod
    def execute(cls, picture: str) -> io.NodeOutput:
        if picture not in pictures.labels(LAB):
            raise ValueError(f"There is no demo picture {picture!r}. The demo files may have been renewed: choose one from the list.")
        return io.NodeOutput(*pictures.labelled(LAB, picture))
