"""Nodes for the commonest wishes: one node, few widgets, an answer in words."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io, ui

from ..host.combined.check_picture import check_picture
from ..host.combined.check_prompt import check_prompt, stamp
from ..host.combined.clean_lora import clean
from ..host.core import store
from ..host.core.schema import hints
from ..host.lora import lora_files
from ..host.lora.lora_files import LORAS
from ..unmemorize.pictures.pairs import differences
from ..unmemorize.pictures.views import MOST_PICTURES
from .copies_check import References
from .inputs import sampling_inputs
from .lora import ALIASES

USE = {"seed": 0, "steps": 20, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal"}
"""For the runs of prompts and captions; they need not be yours. Guidance of 4 is enough, and burns no distilled model's pictures."""


class CleanLoRA(io.ComfyNode):
    """Load LoRA, without what it remembers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = store.names(LORAS)
        return io.Schema(
            node_id="UnmemorizeCleanLoRA",
            display_name="Clean LoRA",
            category="unmemorize/simple",
            description="Load LoRA that leaves out what the LoRA remembers of its training pictures. With a text encoder and an empty "
            "latent it learns the LoRA anew from what it does to prompts; without, it goes by the weights alone.",
            inputs=[
                io.Model.Input("model", tooltip="The model the LoRA was trained on."),
                io.Clip.Input("clip", optional=True, tooltip="Its text encoder; needed to learn anew."),
                io.Combo.Input("lora_name", options=names, default=names[0] if names else None, tooltip="Which LoRA to load and clean."),
                io.Float.Input(
                    "strength", default=1.0, min=-100.0, max=100.0, step=0.01, tooltip="How strongly it is applied, as in Load LoRA."
                ),
                io.String.Input(
                    "captions",
                    multiline=True,
                    default="",
                    tooltip="Captions that the LoRA was trained with, if you know some, one a line. If none of them leaks, nothing is "
                    "changed.",
                ),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="Prompts that you use the LoRA with, one a line; what it does for them stays. Empty: everyday prompts "
                    "that come with the pack.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="An empty latent of your pictures' size, to learn anew; without it the weights alone decide.",
                ),
            ],
            outputs=[
                io.Model.Output("cleaned", display_name="MODEL", tooltip="The model with the cleaned LoRA."),
                io.Clip.Output("cleaned_clip", display_name="CLIP", tooltip="The text encoder with the cleaned LoRA."),
                io.String.Output("verdict", display_name="verdict", tooltip="What was found and removed, in words."),
                io.String.Output("report", display_name="report", tooltip="The same with all numbers, as JSON."),
            ],
            **hints(io.Schema, search_aliases=["lora loader", "clean", "safe lora", *ALIASES]),
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, **_: Any) -> str:
        return lora_files.stamp(lora_name)

    @classmethod
    def execute(
        cls, model: Any, lora_name: str, strength: float, captions: str, prompts: str = "", clip: Any = None, latent: dict | None = None
    ) -> io.NodeOutput:
        found = clean(model, clip, lora_name, strength, captions, prompts, latent, USE)
        outputs = (found.model, found.clip, found.words, json.dumps(found.report, indent=1))
        return io.NodeOutput(*outputs, ui={"unmemorize_report": [found.report]})


class MemorizationCheck(io.ComfyNode):
    """Is the picture of this prompt a memory?"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeMemorizationCheck",
            display_name="Memorization Check (training image)",
            category="unmemorize/simple",
            description="Draws a prompt and says whether the model recalls a training picture, and where: one verdict in words, and a "
            "heatmap. A model that is new to it is measured once, which takes as long as 50 pictures.",
            inputs=[
                io.Model.Input("model", tooltip="The model, with its LoRAs."),
                io.Clip.Input("clip", tooltip="The text encoder of that model."),
                io.Vae.Input("vae", tooltip="Decodes the picture; the heatmap lies over it."),
                io.Latent.Input("latent", tooltip="An empty latent of the size of your pictures."),
                io.String.Input("prompt", multiline=True, default="", tooltip="The prompt whose picture you wonder about."),
                *sampling_inputs("as you generate"),
                References.Input(
                    "references", optional=True, tooltip="From Reference Pictures: says whether the picture is a copy of one of them."
                ),
                io.Image.Input(
                    "your_picture",
                    optional=True,
                    tooltip="A picture from anywhere: is it what the model memorized under this prompt? It is compared with four that the "
                    "model draws with other seeds, and the heatmap lies over it, cut to their shape.",
                ),
            ],
            outputs=[
                io.Image.Output("heatmap", display_name="heatmap", tooltip="The picture with what the model recalls over it."),
                io.Image.Output("picture", display_name="picture", tooltip="The picture, as KSampler draws it; of yours what was checked."),
                io.Boolean.Output("memorized", display_name="memorized", tooltip="Is it a memory? False also if that could not be judged."),
                io.String.Output("verdict", display_name="verdict", tooltip="The answer in words, and how sure it is."),
                io.String.Output("report", display_name="report", tooltip="The same with all numbers, as JSON."),
            ],
            is_output_node=True,
            **hints(
                io.Schema,
                search_aliases=["memorization", "copyright", "plagiarism", "overfit", "training image", "copy", "similarity", "heatmap"],
            ),
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        """What is kept for the model since is asked, too."""
        return stamp()

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, latent: dict, prompt: str, seed: int, steps: int, cfg: float, sampler_name: str,
        scheduler: str, references: Any = None, your_picture: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        use = {"seed": seed, "steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler}
        asked = (model, clip, vae, prompt, latent, use, references)
        found = check_prompt(*asked) if your_picture is None else check_picture(your_picture, *asked)
        preview = ui.PreviewImage(found.heatmap, cls=cls).as_dict()
        outputs = (found.heatmap, found.picture, bool(found.memorized), found.words, json.dumps(found.report, indent=1))
        return io.NodeOutput(*outputs, ui={**preview, "unmemorize_report": [found.report]})


class ComparePictures(io.ComfyNode):
    """What did a guard, a filter or a mask change in the picture?"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeComparePictures",
            display_name="Compare Pictures (before, after)",
            category="unmemorize/simple",
            description="Shows two pictures in one place: the line between before and after follows the pointer. A wide node shows both "
            "whole beside each other. Says whether anything changed at all. Runs no model.",
            inputs=[
                io.Image.Input("before", tooltip="A picture or a batch, for instance of the stock sampler."),
                io.Image.Input("after", tooltip="As many pictures, or one: for instance with guard, filtered LoRA or pruned model."),
            ],
            outputs=[
                io.Float.Output(
                    "difference", display_name="difference", tooltip="Mean difference of the colours, 0 to 1, largest of the batch; 0: the "
                    "same to the bit."
                ),
            ],
            is_output_node=True,  # a viewer: it runs at the end of a graph, as PreviewImage does
            **hints(io.Schema, search_aliases=["side by side", "before and after", "image compare", "comparer", "slider", "wipe"]),
        )  # fmt: skip

    @classmethod
    def execute(cls, before: Any, after: Any) -> io.NodeOutput:
        found = differences(before, after)
        old, new = (ui.PreviewImage(side[:MOST_PICTURES], cls=cls).as_dict()["images"] for side in (before, after))
        seen = {"before": old, "after": new, "differences": found}
        facts = {"pictures": len(found), "mean_difference": found}
        shown = {"images": [*old, *new], "unmemorize_report": [facts], "unmemorize_compare": [seen]}
        return io.NodeOutput(max((d for d in found if d is not None), default=float("nan")), ui=shown)
