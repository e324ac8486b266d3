"""Nodes that filter a LoRA: by how it reads the prompt, or against its base model (BAF)."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

from ..host.core import store
from ..host.core.menus import checked
from ..host.core.schema import hints
from ..host.lora import lora_files
from ..host.lora.filter_applied import clean_applied
from ..host.lora.filter_file import Job, check_strengths, filter_lora, load_filtered
from ..host.lora.lora_files import LORAS
from ..host.lora.report import provenance, report_of, spectrum_of
from ..unmemorize.lora.gates import Settings
from ..unmemorize.pictures.views import spectrum_view
from .menus import GATE, SCORE

LoRAInfo = io.Custom("UNMEMORIZE_LORA_INFO")
Spectrum = io.Custom("UNMEMORIZE_LORA_SPECTRUM")
ALIASES = ["memorization", "overfit", "lora clean", "regurgitation", "copyright", "baf"]
REPORT_TOOLTIP = "Ranks and energy by block, and all that passed through unfiltered, as JSON."
SPECTRUM_TOOLTIP = "Every channel with its score, for LoRA Spectrum Plot."
OFF = {"unmemorize_report": [{"verdict": "off"}]}
"""`ui` of a node that filtered nothing: what it showed of the run before must not stand."""
ENERGY_TOOLTIP = "Share of the LoRA's energy (squared norm of its changes) that was removed, 0 to 1."


def filter_inputs() -> list[Any]:
    """How to filter: the same widgets in every node that does."""
    advanced = hints(io.Float.Input, advanced=True)
    return [
        io.Float.Input("filter_strength", default=1.0, min=0.0, max=1.0, step=0.01, tooltip="0 = off: the LoRA unchanged, bit for bit."),
        io.Combo.Input(
            "score",
            options=SCORE.options,
            default=SCORE.options[0],
            tooltip="What goes. cross-attention: how the LoRA reads the prompt; ours. mean, min, left, right, "
            "product: BAF, what does not follow the base. singular value, inverted, random: controls.",
            **advanced,
        ),
        io.Combo.Input(
            "gate",
            options=GATE.options,
            default=GATE.options[0],
            tooltip="hard, soft: by threshold. ratio, energy: keep the best share, of channels or of energy. scale: weaken all alike.",
            **advanced,
        ),
        io.Float.Input(
            "threshold",
            default=0.0,
            min=-1.0,
            max=1.0,
            step=0.01,
            tooltip="For hard and soft: channels with a lower score go. 0 is a random direction, 1 lies wholly in the base's subspace.",
        ),
        io.Float.Input(
            "deviations",
            default=0.0,
            min=-10.0,
            max=10.0,
            step=0.1,
            tooltip="Added to the threshold, in standard deviations of a random channel. 2 or 3 also reject random channels.",
            **advanced,
        ),
        io.Float.Input(
            "temperature", default=0.05, min=0.001, max=1.0, step=0.001, round=0.001, tooltip="Width of the soft gate's slope.", **advanced
        ),
        io.Float.Input(
            "keep", default=0.5, min=0.0, max=1.0, step=0.01, tooltip="Share that ratio and energy keep; the factor of scale.", **advanced
        ),
        io.Float.Input(
            "base_energy",
            default=0.5,
            min=0.05,
            max=0.95,
            step=0.01,
            tooltip="Share of a base layer's energy that its principal subspace holds. More makes the subspace larger and blunter.",
            **advanced,
        ),
        io.Boolean.Input(
            "restore_norm",
            default=False,
            tooltip="Bring each layer back to its old strength. It can make what memory is left louder.",
            **advanced,
        ),
        io.Boolean.Input("text_encoder", default=True, tooltip="Filter the text encoder's layers too; needs the CLIP.", **advanced),
        io.Int.Input(
            "control_seed",
            default=0,
            min=0,
            max=0xFFFFFFFF,
            control_after_generate=False,
            tooltip="For the random control only: another choice of channels.",
            **hints(io.Int.Input, advanced=True),
        ),
    ]


def settings_of(given: dict[str, Any]) -> Settings:
    """The widgets of `filter_inputs` as settings, checked."""
    names = {"filter_strength": "strength", "base_energy": "energy", "control_seed": "seed"}
    symbols = {"score": SCORE.symbol(given["score"]), "gate": GATE.symbol(given["gate"])}
    settings = Settings(**{names.get(k, k): v for k, v in (given | symbols).items() if k != "text_encoder"})
    settings.check()
    return settings


def shown(report: dict[str, Any]) -> dict[str, Any]:
    """What the front end shows of a report: no long lists."""
    passed = {reason: len(keys) for reason, keys in report["passed_through"].items()}
    return {k: v for k, v in report.items() if k != "blocks"} | {"passed_through": passed}


def views(report: dict[str, Any], spectrum: dict[str, Any]) -> dict[str, list[Any]]:
    """`ui` of a node that filtered."""
    return {"unmemorize_report": [shown(report)], "unmemorize_spectrum": [spectrum_view(spectrum)]}


class LoadLoRABAF(io.ComfyNode):
    """LoraLoader with a filter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        strength = {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01}
        names = store.names(LORAS)
        return io.Schema(
            node_id="UnmemorizeLoadLoRABAF",
            display_name="Load LoRA (BAF Filtered)",
            category="unmemorize/lora",
            description="Load LoRA that first removes what can call up memorized pictures. By default that is how the LoRA reads the "
            "prompt: copies become rarer, part of the style stays, a word that it taught is lost. BAF (arXiv 2605.10439), an experimental "
            "reconstruction, and controls are among the scores. Look at the result.",
            inputs=[
                io.Model.Input("model", tooltip="The model the LoRA was trained on."),
                io.Clip.Input("clip", optional=True, tooltip="Its text encoder. Without it only the model is changed."),
                io.Combo.Input("lora_name", options=names, default=names[0] if names else None, tooltip="Which LoRA to load and filter."),
                io.Float.Input("strength_model", **strength, tooltip="How strongly the model is changed, as in Load LoRA."),
                io.Float.Input("strength_clip", **strength, tooltip="How strongly the text encoder is changed, as in Load LoRA."),
                *filter_inputs(),
            ],
            outputs=[
                io.Model.Output("patched_model", display_name="MODEL", tooltip="The model with the filtered LoRA."),
                io.Clip.Output("patched_clip", display_name="CLIP", tooltip="The text encoder with the filtered LoRA."),
                io.Float.Output("energy_removed", display_name="energy_removed", tooltip=ENERGY_TOOLTIP),
                Spectrum.Output("spectrum", display_name="spectrum", tooltip=SPECTRUM_TOOLTIP),
                io.String.Output("report", display_name="report", tooltip=REPORT_TOOLTIP),
            ],
            **hints(io.Schema, search_aliases=["lora loader", *ALIASES]),
        )

    @classmethod
    def validate_inputs(cls, score: str | None = None, gate: str | None = None) -> bool | str:
        return checked((SCORE, score), (GATE, gate))

    @classmethod
    def fingerprint_inputs(cls, lora_name: str, **_: Any) -> str:
        return lora_files.stamp(lora_name)

    @classmethod
    def execute(
        cls, model: Any, lora_name: str, strength_model: float, strength_clip: float, text_encoder: bool, clip: Any = None, **how: Any
    ) -> io.NodeOutput:
        settings = settings_of(how)
        check_strengths(strength_model, strength_clip)
        if strength_model == 0 and strength_clip == 0:
            return io.NodeOutput(model, clip, 0.0, None, "{}", ui=OFF)
        file = lora_files.read(lora_name, lora_files.cancelled)
        job = Job(model, clip, settings, text_encoder)
        patched, patched_clip, result = load_filtered(file, strength_model, strength_clip, job)
        if result is None:
            return io.NodeOutput(patched, patched_clip, 0.0, None, "{}", ui=OFF)
        report, spectrum = report_of(result, job), spectrum_of(result, job, lora_name)
        outputs = (patched, patched_clip, report["energy_removed"], spectrum, json.dumps(report, indent=1))
        return io.NodeOutput(*outputs, ui=views(report, spectrum))


class BAFFilterLoRA(io.ComfyNode):
    """A LoRA in two parts: what is kept, what is removed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeBAFFilterLoRA",
            display_name="BAF Filter LoRA",
            category="unmemorize/lora",
            description="Splits a LoRA in two that add up to it. By default what it changed in how the prompt is read is removed; BAF "
            "(arXiv 2605.10439), an experimental reconstruction, and controls are among the scores. Apply the removed part alone to see "
            "what it holds.",
            inputs=[
                io.LoraModel.Input("lora", tooltip="From Open LoRA, or a LoRA that was just trained."),
                io.Model.Input("model", tooltip="The model the LoRA was trained on; patches on it do not count."),
                io.Clip.Input("clip", optional=True, tooltip="Its text encoder, for LoRAs that change that too."),
                LoRAInfo.Input("info", optional=True, tooltip="From Open LoRA: carried on, with a note of what was done."),
                *filter_inputs(),
            ],
            outputs=[
                io.LoraModel.Output(
                    "filtered", display_name="filtered", tooltip="The kept part, for Load LoRA Model or Save Filtered LoRA."
                ),
                io.LoraModel.Output(
                    "removed", display_name="removed", tooltip="The removed part, for Load LoRA Model, to see what it draws."
                ),
                LoRAInfo.Output("filtered_info", display_name="info", tooltip="Of the filtered part, for Save Filtered LoRA."),
                io.Float.Output("energy_removed", display_name="energy_removed", tooltip=ENERGY_TOOLTIP),
                Spectrum.Output("spectrum", display_name="spectrum", tooltip=SPECTRUM_TOOLTIP),
                io.String.Output("report", display_name="report", tooltip=REPORT_TOOLTIP),
            ],
            **hints(io.Schema, search_aliases=ALIASES, has_intermediate_output=True),
        )

    @classmethod
    def validate_inputs(cls, score: str | None = None, gate: str | None = None) -> bool | str:
        return checked((SCORE, score), (GATE, gate))

    @classmethod
    def execute(cls, lora: dict, model: Any, text_encoder: bool, clip: Any = None, info: dict | None = None, **how: Any) -> io.NodeOutput:
        job = Job(model, clip, settings_of(how), text_encoder)
        lora = lora_files.check_model(lora)
        if job.settings.strength == 0:
            return io.NodeOutput(lora, {}, info, 0.0, None, "{}", ui=OFF)
        result = filter_lora(lora, job)
        report = report_of(result, job)
        described = {**(info or {}), **lora_files.describe(result.kept or lora), "filter": provenance(info, job)}
        spectrum = spectrum_of(result, job, (info or {}).get("name", "LoRA"))
        outputs = (result.kept, result.removed, described, report["energy_removed"], spectrum, json.dumps(report, indent=1))
        return io.NodeOutput(*outputs, ui=views(report, spectrum))


class CleanAppliedLoRAs(io.ComfyNode):
    """The filter as MODEL -> MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeCleanAppliedLoRAs",
            display_name="Clean Applied LoRAs (BAF)",
            category="unmemorize/lora",
            description="Filters the LoRAs that a model already carries, whichever loaders put them there: put it behind the last one. "
            "The text encoder is left as it is. By default how they read the prompt goes; BAF (arXiv 2605.10439), an experimental "
            "reconstruction, is among the scores.",
            inputs=[
                io.Model.Input("model", tooltip="A model with LoRAs on it."),
                *[i for i in filter_inputs() if i.id != "text_encoder"],
            ],
            outputs=[
                io.Model.Output("cleaned", display_name="MODEL", tooltip="The model with its LoRAs filtered."),
                io.Float.Output("energy_removed", display_name="energy_removed", tooltip=ENERGY_TOOLTIP),
                Spectrum.Output("spectrum", display_name="spectrum", tooltip=SPECTRUM_TOOLTIP),
                io.String.Output("report", display_name="report", tooltip=REPORT_TOOLTIP),
            ],
            **hints(io.Schema, search_aliases=ALIASES, has_intermediate_output=True),
        )

    @classmethod
    def validate_inputs(cls, score: str | None = None, gate: str | None = None) -> bool | str:
        return checked((SCORE, score), (GATE, gate))

    @classmethod
    def execute(cls, model: Any, **how: Any) -> io.NodeOutput:
        settings = settings_of(how)
        if settings.strength == 0:
            return io.NodeOutput(model, 0.0, None, "{}", ui=OFF)
        cleaned, result = clean_applied(model, settings)
        job = Job(model, None, settings)
        report, spectrum = report_of(result, job), spectrum_of(result, job, "applied LoRAs")
        outputs = (cleaned, report["energy_removed"], spectrum, json.dumps(report, indent=1))
        return io.NodeOutput(*outputs, ui=views(report, spectrum))
