"""Nodes that ask whether pictures are copies, and what a LoRA remembers."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io, ui

from ..host.copies.base_and_lora import LENT, has_a_lora
from ..host.copies.probing import USUAL_W, Probe, probe, report, shown
from ..host.core.prompts import encoded, prompt_list
from ..host.core.schema import hints
from .inputs import sampling_inputs

PICTURES_TOOLTIP = "How many are drawn, and as many by the base. 64 and more are good."
GROUPS_TOOLTIP = "How many groups are looked for: about as many pictures as the LoRA may have been trained on."


class LoRALeakProbe(io.ComfyNode):
    """What does a LoRA remember?"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeLoRALeakProbe",
            display_name="LoRA Leak Probe",
            category="unmemorize/copies",
            description="Draws what the LoRA adds to its base, further than the LoRA goes itself, with many seeds, and shows the pictures "
            "that several seeds agree on: close to what it was trained on, if it remembers that. Needs no training data.",
            inputs=[
                io.Model.Input("base", tooltip="The MODEL that goes into the LoRA loader."),
                io.Model.Input("lora", tooltip="The MODEL that comes out of it."),
                io.Clip.Input("clip", tooltip="The text encoder that you use with the LoRA."),
                io.Vae.Input("vae", tooltip="Decodes the pictures."),
                io.Latent.Input("latent", tooltip="An empty latent of the size of your pictures; small ones are faster."),
                io.String.Input(
                    "captions",
                    multiline=True,
                    default="",
                    tooltip="Captions or trigger words that the LoRA may have been trained with, one a line; # begins a comment. Empty: "
                    "without any caption, which finds less.",
                ),
                io.Int.Input("pictures", default=64, min=8, max=2000, tooltip=PICTURES_TOOLTIP),
                io.Int.Input("groups", default=8, min=1, max=200, tooltip=GROUPS_TOOLTIP),
                io.Float.Input(
                    "w", default=USUAL_W, min=0.0, max=20.0, step=0.1,
                    tooltip="How far: 1 is the LoRA itself, more goes on in its direction. Too much, and pictures fall apart.",
                ),
                *sampling_inputs("for the probe; cfg for the base's pictures"),
                io.Clip.Input(
                    "base_clip",
                    optional=True,
                    tooltip="The text encoder that goes into the LoRA loader: the base's pictures are drawn with it. Needed where the LoRA "
                    "changes the text encoder, whose leaks are hidden without it.",
                ),
            ],
            outputs=[
                io.Image.Output("gallery", display_name="gallery", tooltip="The groups as one picture, the most agreed first."),
                io.Image.Output(
                    "estimates", display_name="estimates", tooltip="The central picture of every leak; if there is none, of every group."
                ),
                io.Int.Output("leaks", display_name="leaks", tooltip="Groups of pictures that agree, and that the base does not draw."),
                io.String.Output("text", display_name="report", tooltip="Groups, agreement, settings as JSON."),
            ],
            is_output_node=True,
            **hints(io.Schema, search_aliases=["lora leak", "extract training images", "overfit lora", "memorization", "privacy"]),
        )  # fmt: skip

    @classmethod
    def execute(
        cls, base: Any, lora: Any, clip: Any, vae: Any, latent: dict, captions: str, pictures: int, groups: int, w: float, seed: int,
        steps: int, cfg: float, sampler_name: str, scheduler: str, base_clip: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        use = {"seed": seed, "steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler}
        texts = prompt_list(captions) or [""]
        own = clip if base_clip is None else base_clip
        (empty,) = encoded(own, [""])
        leaks = probe(Probe(base, lora, vae, encoded(clip, texts), empty, latent, use, pictures, w, groups, encoded(own, texts)))
        remarks = [LENT] if base_clip is None and has_a_lora(clip) else []
        facts, picture = report(leaks, texts, use | {"w": w}, remarks), shown(leaks, any(texts))
        preview = ui.PreviewImage(picture, cls=cls).as_dict()
        return io.NodeOutput(
            picture, leaks.estimates, len(leaks.leaks), json.dumps(facts, indent=1), ui={**preview, "unmemorize_report": [facts]}
        )
