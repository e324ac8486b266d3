"""Nodes of the demo checkpoint: everything needed to try the pack without a download."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..host.demo import load_demo
from ..host.schema import hints

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
                    options=list(STAGES),
                    default="final",
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
    def fingerprint_inputs(cls, stage: str) -> str:
        path = LAB / STAGES.get(stage, "")
        return str(path.stat().st_mtime_ns) if path.is_file() else "missing"

    @classmethod
    def execute(cls, stage: str) -> io.NodeOutput:
        if stage not in STAGES:
            raise ValueError(f"There is no demo checkpoint {stage!r}; choose one of: {', '.join(STAGES)}.")
        return io.NodeOutput(*load_demo(LAB / STAGES[stage]))
