"""A node that audits a model on many prompts."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

from ..host.combined import prompt_files
from ..host.combined.audit import gallery, report, run
from ..host.combined.audit_row import Audit
from ..host.copies.detectors import BuiltIn
from ..host.core.prompts import prompt_list
from ..host.core.schema import hints
from .copies_check import ALIASES, Detector, References
from .inputs import sampling_inputs
from .stability_profiles import Profile

REPORTED = 200
"""Rows that the browser gets as a report; the output and the file have all of them."""


class MemorizationAudit(io.ComfyNode):
    """Prompts x seeds: what does this model give back?"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeAudit",
            display_name="Audit (copyright, overfit)",
            category="unmemorize/copies",
            description="Draws every prompt of a list with several seeds and writes a report, a row a prompt: how much its pictures agree, "
            "beyond what such prompts do anyway; what guard and map say; which references they are like. One HTML page and JSON, in the "
            "output folder; a run that was stopped carries on.",
            inputs=[
                io.Model.Input("model", tooltip="The model in question, with its LoRAs."),
                io.Clip.Input("clip", tooltip="The text encoder of that model."),
                io.Vae.Input("vae", tooltip="Decodes the pictures."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, as you sample with it."),
                io.Latent.Input("latent", tooltip="An empty latent of the size of your pictures; small ones are faster."),
                io.String.Input("prompts", multiline=True, default="", tooltip="Prompts, one a line; # begins a comment."),
                io.Combo.Input(
                    "file",
                    options=["none", *prompt_files.names()],
                    default="none",
                    tooltip="Or a file of the input folder: a prompt a line, or CSV or JSON Lines with a column caption, prompt or text.",
                ),
                io.String.Input("name", default="my-audit", tooltip="Folder of the report, in output/unmemorize/audits."),
                io.Int.Input("seeds", default=4, min=2, max=64, tooltip="Pictures of each prompt."),
                *sampling_inputs("as you generate"),
                io.Int.Input(
                    "neighbours",
                    default=8,
                    min=0,
                    max=64,
                    tooltip="Prompts with one word replaced whose agreement is subtracted; each costs as much as the prompt. Not used with "
                    "a base.",
                ),
                io.Model.Input("base", optional=True, tooltip="The model before a LoRA or a fine-tuning: its agreement is subtracted."),
                Profile.Input("profile", optional=True, tooltip="A stability profile: the guard then judges every run."),
                References.Input("references", optional=True, tooltip="From Reference Pictures: the nearest of them is named."),
                Detector.Input("detector", optional=True, tooltip="From Load Copy Detector; without it the built-in one."),
                io.Float.Input(
                    "copy_limit",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Likeness to a reference from which a picture is called a copy: the threshold that Copy Check reports. 0: only "
                    "the likeness is noted.",
                ),
                io.Clip.Input(
                    "base_clip",
                    optional=True,
                    tooltip="The base's own text encoder: its pictures are drawn with it. Without it that of the model is taken, LoRAs "
                    "included.",
                ),
            ],
            outputs=[
                io.String.Output("summary", display_name="summary", tooltip="The audit in a sentence."),
                io.String.Output("report", display_name="report", tooltip="Every prompt, the most suspicious first, as JSON."),
                io.String.Output("page", display_name="page", tooltip="Where the HTML page lies."),
            ],
            is_output_node=True,
            **hints(io.Schema, search_aliases=["batch", "report", "prompt list", "extraction", *ALIASES]),
        )

    @classmethod
    def fingerprint_inputs(cls, file: str = "none", **_: Any) -> str:
        """A changed file runs the node again."""
        return prompt_files.stamp(file)

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, negative: Any, latent: dict, prompts: str, file: str, name: str, seeds: int, seed: int,
        steps: int, cfg: float, sampler_name: str, scheduler: str, neighbours: int, copy_limit: float, base: Any = None,
        profile: Any = None, references: Any = None, detector: Any = None, base_clip: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        use = {"seed": seed, "steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler}
        texts = prompt_list(prompts) if file == "none" else prompt_files.with_those_of(file, prompts)
        used = None if references is None else detector or BuiltIn()
        audit = Audit(
            model,
            clip,
            vae,
            negative,
            latent,
            texts,
            seeds,
            use,
            name,
            neighbours,
            base,
            profile,
            references,
            used,
            copy_limit or None,
            base_clip,
        )
        done = run(audit)
        facts = report(done)
        brief = facts | {"rows": facts["rows"][:REPORTED]}
        views = {"unmemorize_report": [brief], "unmemorize_audit": [gallery(done)]}
        return io.NodeOutput(facts["summary"], json.dumps(facts, indent=1), str(done.page), ui=views)
