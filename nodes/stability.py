"""Nodes that guard a sampler, and show what the guard saw."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io, ui

from ..host.core.menus import checked
from ..host.core.sampling import ksampler
from ..host.core.schema import hints
from ..host.stability.guard import guarded
from ..host.stability.methods import Guard, check
from ..host.stability.profiles import StoredProfile
from ..host.stability.records import in_short, of_batch, read_record, sample_of
from ..unmemorize.pictures.stability_chart import chart
from ..unmemorize.pictures.views import guard_view
from .inputs import sampling_inputs
from .menus import GUARD_METHOD, MODE
from .stability_profiles import Profile

Record = io.Custom("UNMEMORIZE_STABILITY_RECORD")
MODE_TOOLTIP = (
    "off: the stock sampler. detect: the same picture bit for bit, with a verdict. correct: also samples memorized pictures again, in "
    "another way; all others keep their bits."
)
METHOD_TOOLTIP = (
    "recommended: detector and correction that were best in our benchmarks. paper: the rule of arXiv 2605.22050, which edits the latent "
    "step by step."
)
PARENT_TOOLTIP = (
    "With a LoRA: the MODEL that goes into the LoRA loader. The guard then notices pictures that the LoRA gives back, without any profile, "
    "for two more predictions at each of the first steps, and one and a half runs for a picture that is suspected. Otherwise an older "
    "checkpoint, for correct alone: a model that has not stored the picture."
)
REFERENCE_TOOLTIP = (
    "For a LoRA with a trigger word: a prompt of the trigger word alone. It takes the empty prompt's place where the LoRA's changes are "
    "compared, so that the subject itself is no leak."
)
ALTERNATIVES_TOOLTIP = (
    "From Alternative Prompts, or prompts of your own that say nearly the same, combined: without a parent, correct draws the early steps "
    "again with those of them that do not call the memory up, and the later ones with your exact words."
)
PROFILE_TOOLTIP = (
    "From Load or Calibrate Stability Profile, measured on this model: finds the memories of the checkpoint. A LoRA with its parent "
    "connected is watched without one. Not needed when mode is off."
)


class KSamplerStabilityGuard(io.ComfyNode):
    """KSampler under guard."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeKSamplerStabilityGuard",
            display_name="KSampler (Stability Guard)",
            category="unmemorize/stability",
            description="KSampler that notices while sampling when the model recalls a training picture instead of drawing, and can sample "
            "that picture again in another way. What is not memorized comes out bit for bit as from KSampler.",
            inputs=[
                io.Model.Input("model", tooltip="The model, with all its LoRAs."),
                *sampling_inputs("as in KSampler"),
                io.Conditioning.Input("positive", tooltip="What you want in the picture."),
                io.Conditioning.Input("negative", tooltip="What you do not want in it."),
                io.Latent.Input("latent_image", tooltip="The latent to sample from."),
                io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="Less than 1 keeps part of latent_image."),
                io.Combo.Input("mode", options=MODE.options, default=MODE.options[0], tooltip=MODE_TOOLTIP),
                io.Combo.Input("method", options=GUARD_METHOD.options, default=GUARD_METHOD.options[0], tooltip=METHOD_TOOLTIP),
                Profile.Input("profile", optional=True, tooltip=PROFILE_TOOLTIP),
                io.Model.Input("parent", optional=True, tooltip=PARENT_TOOLTIP),
                io.Conditioning.Input("reference", optional=True, tooltip=REFERENCE_TOOLTIP),
                io.Conditioning.Input("alternatives", optional=True, tooltip=ALTERNATIVES_TOOLTIP),
            ],
            outputs=[
                io.Latent.Output("latent", display_name="LATENT", tooltip="The sampled latent, corrected where mode says so."),
                io.Boolean.Output(
                    "memorized",
                    display_name="memorized",
                    tooltip="Was a picture of the batch recognised as a memory? Of the first run, before a correction. False also for a "
                    "run that could not be judged: its score is NaN, and the report says why.",
                ),
                io.Float.Output(
                    "score",
                    display_name="score",
                    tooltip="Highest of the batch, in standard deviations of clean runs; 0 is ordinary, NaN: not judged.",
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="Scores, norms and edits of every picture as JSON, for Stability Chart."
                ),
            ],
            **hints(io.Schema, search_aliases=["ksampler", "memorization", "copy protection", "broken memories", "guard"]),
        )

    @classmethod
    def validate_inputs(cls, mode: str | None = None, method: str | None = None) -> bool | str:
        return checked((MODE, mode), (GUARD_METHOD, method))

    @classmethod
    def execute(
        cls, model: Any, seed: int, steps: int, cfg: float, sampler_name: str, scheduler: str, positive: Any, negative: Any,
        latent_image: dict, denoise: float, mode: str, method: str, profile: StoredProfile | None = None, parent: Any = None,
        reference: Any = None, alternatives: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        use = {"steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler}
        guard = Guard(profile, MODE.symbol(mode), GUARD_METHOD.symbol(method), parent, reference, alternatives, sampling=use)
        check(guard, model)
        clone, record = guarded(model, guard)
        latent = ksampler(clone, seed, use, positive, negative, latent_image, denoise)
        off = guard.mode == "off"
        return io.NodeOutput(latent, *of_batch(record.facts, off), json.dumps(record.facts), ui=views(record.facts, off=off))


def views(facts: dict[str, Any], sample: int | None = None, off: bool = False) -> dict[str, list[Any]]:
    """`ui` of a guarded run; `sample`: the one that is looked at, None: the batch. Without facts: was the guard off, or saw it nothing?"""
    report = in_short(facts, off)
    return {
        "unmemorize_report": [report],
        "unmemorize_guard": [guard_view(facts, sample) | ({} if facts else {"verdict": report["verdict"]})],
    }


class StabilityGuard(io.ComfyNode):
    """The guard as a model patch, for all other samplers."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeStabilityGuard",
            display_name="Stability Guard",
            category="unmemorize/stability",
            description="The guard of KSampler (Stability Guard) for every other sampler: KSampler Advanced, SamplerCustom, "
            "SamplerCustomAdvanced and those of other packs. Put it last before the sampler; read its record with Stability Chart.",
            inputs=[
                io.Model.Input("model", tooltip="The model, with all its LoRAs."),
                io.Combo.Input("mode", options=MODE.options, default=MODE.options[0], tooltip=MODE_TOOLTIP),
                io.Combo.Input("method", options=GUARD_METHOD.options, default=GUARD_METHOD.options[0], tooltip=METHOD_TOOLTIP),
                Profile.Input("profile", optional=True, tooltip=PROFILE_TOOLTIP),
                io.Model.Input("parent", optional=True, tooltip=PARENT_TOOLTIP),
                io.Conditioning.Input("reference", optional=True, tooltip=REFERENCE_TOOLTIP),
                io.Conditioning.Input("alternatives", optional=True, tooltip=ALTERNATIVES_TOOLTIP),
            ],
            outputs=[
                io.Model.Output("guarded", display_name="MODEL", tooltip="The model under guard, for one sampler."),
                Record.Output("record", display_name="record", tooltip="Filled while the sampler runs. For Stability Chart."),
            ],
            **hints(io.Schema, search_aliases=["memorization", "guard", "SamplerCustom", "broken memories"]),
        )

    @classmethod
    def validate_inputs(cls, mode: str | None = None, method: str | None = None) -> bool | str:
        return checked((MODE, mode), (GUARD_METHOD, method))

    @classmethod
    def execute(
        cls, model: Any, mode: str, method: str, profile: StoredProfile | None = None, parent: Any = None, reference: Any = None,
        alternatives: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        guard = Guard(profile, MODE.symbol(mode), GUARD_METHOD.symbol(method), parent, reference, alternatives)
        check(guard, model)
        return io.NodeOutput(*guarded(model, guard))


class StabilityChart(io.ComfyNode):
    """A guarded run as a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeStabilityChart",
            display_name="Stability Chart",
            category="unmemorize/stability",
            description="Draws a guarded run against the regions of clean runs, with edited steps and the verdict. Connect the report of "
            "KSampler (Stability Guard), or the record of Stability Guard with the latent its sampler made.",
            inputs=[
                io.String.Input("report", optional=True, force_input=True, tooltip="From KSampler (Stability Guard)."),
                Record.Input("record", optional=True, tooltip="From Stability Guard; connect latent too."),
                io.Latent.Input("latent", optional=True, tooltip="What the guarded sampler made: the chart then waits for it."),
                io.Int.Input("sample", default=0, min=0, max=4095, tooltip="Which picture of the batch, from 0."),
            ],
            outputs=[
                io.Image.Output("image", display_name="IMAGE", tooltip="The chart as a picture."),
                io.Boolean.Output("memorized", display_name="memorized", tooltip="True: this picture was recognised as a memory."),
                io.Float.Output("score", display_name="score", tooltip="Its score, in standard deviations of clean runs."),
                io.String.Output("text", display_name="report", tooltip="The whole record as JSON."),
            ],
            is_output_node=True,  # a viewer: it runs at the end of a graph too, as PreviewImage does
            **hints(io.Schema, search_aliases=["plot", "norms", "region", "stability"]),
        )

    @classmethod
    def execute(cls, sample: int, report: str | None = None, record: Any = None, latent: dict | None = None) -> io.NodeOutput:
        facts = read_record(report, record, latent)
        memorized, score = sample_of(facts, sample)
        picture = chart(facts, sample)
        preview = ui.PreviewImage(picture, cls=cls).as_dict()
        return io.NodeOutput(picture, memorized, score, json.dumps(facts), ui={**preview, **views(facts, sample)})
