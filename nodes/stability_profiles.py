"""Nodes that measure, keep and load stability profiles."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

from ..host.core import store
from ..host.core.prompts import encoded, prompt_list
from ..host.core.schema import hints
from ..host.stability.lora_watch import calibrated
from ..host.stability.model_profile import profile_for
from ..host.stability.profiles import PROFILES, load_profile, report, save_profile
from .inputs import sampling_inputs

Profile = io.Custom("UNMEMORIZE_STABILITY_PROFILE")
PARENT_TOOLTIP = (
    "For a model with a LoRA: the MODEL that goes into the LoRA loader. The profile then knows what ordinary prompts look like under it."
)
REFERENCE_TOOLTIP = "For a LoRA with a trigger word: a prompt of the trigger word alone, as you connect it to the guard."
EXAMPLE_PROMPTS = "# ordinary prompts that are surely not memorized, 50 are good, one a line"


class CalibrateStabilityProfile(io.ComfyNode):
    """What clean runs of a model look like."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeCalibrateStabilityProfile",
            display_name="Calibrate Stability Profile",
            category="unmemorize/stability",
            description="Samples ordinary prompts once and notes the norms of every step: what a run looks like when nothing is memorized. "
            "Do it once for a model and a guidance scale, save the profile, and the guard needs nothing else.",
            inputs=[
                io.Model.Input("model", tooltip="The model to guard, as you sample it."),
                io.Clip.Input("clip", tooltip="The text encoder of that model."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, as you sample with it."),
                io.Latent.Input("latent", tooltip="An empty latent of the size of your pictures."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default=EXAMPLE_PROMPTS,
                    tooltip="Ordinary prompts, one a line; # begins a comment. 50 are good.",
                ),
                io.Int.Input("seeds", default=1, min=1, max=16, tooltip="Runs for each prompt. More prompts are better than more seeds."),
                *sampling_inputs("as you generate"),
                io.Model.Input("parent", optional=True, tooltip=PARENT_TOOLTIP),
                io.Conditioning.Input("reference", optional=True, tooltip=REFERENCE_TOOLTIP),
            ],
            outputs=[
                Profile.Output(
                    "profile", display_name="profile", tooltip="For KSampler (Stability Guard), Stability Guard and Save Stability Profile."
                ),
                io.String.Output("report", display_name="report", tooltip="What was measured, as JSON."),
            ],
            **hints(io.Schema, search_aliases=["calibrate", "memorization detector", "broken memories", "clean prompts"]),
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, negative: Any, latent: dict, prompts: str, seeds: int, seed: int, steps: int, cfg: float,
        sampler_name: str, scheduler: str, parent: Any = None, reference: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        sampling = {"seed": seed, "steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler}
        stored = calibrated(model, parent, reference, encoded(clip, prompt_list(prompts)), negative, latent, seeds, sampling)
        facts = report(stored)
        return io.NodeOutput(stored, json.dumps(facts, indent=1), ui={"unmemorize_report": [facts]})


class ModelStabilityProfile(io.ComfyNode):
    """The connected model's profile, whatever it takes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeModelStabilityProfile",
            display_name="Stability Profile for This Model",
            category="unmemorize/stability",
            description="Gives the guard what it needs to know of your model: the profile that is kept for it and these settings, or the "
            "nearest that serves. If there is none it measures one from 50 ordinary prompts, once (50 pictures' time), and keeps it.",
            inputs=[
                io.Model.Input("model", tooltip="The model to guard, with its LoRAs, as you sample it."),
                io.Clip.Input("clip", tooltip="Its text encoder; only asked if something must be measured."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, as you sample with it."),
                io.Latent.Input("latent", tooltip="An empty latent of the size of your pictures."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="",
                    tooltip="Empty: 50 everyday prompts that come with the pack. Else ordinary prompts of your own, one a line; # begins a "
                    "comment.",
                ),
                *sampling_inputs("as you generate"),
            ],
            outputs=[
                Profile.Output("profile", display_name="profile", tooltip="For KSampler (Stability Guard) and Stability Guard."),
                io.String.Output("name", display_name="name", tooltip="What it is kept as, as Load Stability Profile lists it."),
                io.String.Output("report", display_name="report", tooltip="Where it comes from and what it was measured on, as JSON."),
            ],
            **hints(io.Schema, search_aliases=["calibrate", "auto profile", "memorization detector", "guard", "own model"]),
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, negative: Any, latent: dict, prompts: str, seed: int, steps: int, cfg: float, sampler_name: str,
        scheduler: str,
    ) -> io.NodeOutput:  # fmt: skip
        use = {"seed": seed, "steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler}
        found = profile_for(model, clip, negative, latent, use, prompt_list(prompts))
        facts = {"how": found.how, "name": found.name, **report(found.stored)}
        return io.NodeOutput(found.stored, found.name, json.dumps(facts, indent=1), ui={"unmemorize_report": [facts]})


class SaveStabilityProfile(io.ComfyNode):
    """Keep a profile."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeSaveStabilityProfile",
            display_name="Save Stability Profile",
            category="unmemorize/stability",
            description="Keeps a profile in ComfyUI's user folder (unmemorize/profiles). "
            "Never overwrites: a name that is taken gets a number.",
            inputs=[
                Profile.Input("profile", tooltip="From Calibrate Stability Profile."),
                io.String.Input("name", default="my-model", tooltip="File name without suffix; a / makes a folder."),
            ],
            outputs=[io.String.Output("saved", display_name="name", tooltip="The name it got, as Load Stability Profile lists it.")],
            is_output_node=True,
            **hints(io.Schema, search_aliases=["save", "export", "stability"]),
        )

    @classmethod
    def execute(cls, profile: Any, name: str) -> io.NodeOutput:
        saved = save_profile(profile, name)
        return io.NodeOutput(saved, ui={"text": [f"saved as {saved}"]})


class LoadStabilityProfile(io.ComfyNode):
    """Use a kept profile."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeLoadStabilityProfile",
            display_name="Load Stability Profile",
            category="unmemorize/stability",
            description="A profile that Save Stability Profile kept, or the demo model's own (demo/...). It fits one model only; the guard "
            "says so if it is another one.",
            inputs=[
                io.Combo.Input(
                    "profile", options=store.names(PROFILES), tooltip="Saved profiles; demo/... come with the pack. R refreshes the list."
                )
            ],
            outputs=[
                Profile.Output("loaded", display_name="profile", tooltip="For KSampler (Stability Guard) and Stability Guard."),
                io.String.Output("report", display_name="report", tooltip="What it was measured on, as JSON."),
            ],
            **hints(io.Schema, search_aliases=["load", "stability", "guard"]),
        )

    @classmethod
    def execute(cls, profile: str) -> io.NodeOutput:
        stored = load_profile(profile)
        return io.NodeOutput(stored, json.dumps(report(stored), indent=1))

    @classmethod
    def fingerprint_inputs(cls, profile: str) -> str:
        return store.stamp(PROFILES, profile)

    @classmethod
    def validate_inputs(cls, profile: str) -> bool | str:
        return True if profile in store.names(PROFILES) else f"There is no stability profile {profile!r}. Press R to refresh the list."
