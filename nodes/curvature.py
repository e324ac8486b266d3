"""Nodes that measure where a picture is memorized."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

from ..host.core.menus import checked
from ..host.core.schema import hints
from ..host.curvature.bright_ending import bright_ending
from ..host.curvature.measuring import How, measure_map, numbers_of
from ..host.curvature.presets import WHY, chosen
from ..host.curvature.recording import RECORD_END, RECORD_START, record, recorded_map
from ..unmemorize.curvature.differences import METHODS
from .menus import ESTIMATOR, METHOD, PRESET, PROBING

Map = io.Custom("UNMEMORIZE_MAP")
Recording = io.Custom("UNMEMORIZE_RECORDING")


def measuring_inputs() -> list[Any]:
    """The widgets that say how a map is measured, the same for measuring and for calibrating."""
    return [
        io.Combo.Input(
            "method",
            options=METHOD.options,
            default=METHOD.options[0],
            tooltip="dh compares curvatures, ds squared scores (two evaluations, rougher). _0: against the empty prompt. "
            "_~: against the baseline model.",
        ),
        io.Combo.Input(
            "preset",
            options=PRESET.options,
            default=PRESET.options[0],
            tooltip="recommended: the best map for its cost. paper: sigma 0.0413, 16 random probes, gradients. "
            "custom: the five settings below; with the others they are ignored.",
        ),
        io.String.Input(
            "sigmas",
            default="1.6",
            tooltip="Noise levels, as noise over signal, separated by commas; the map is the mean over them.",
        ),
        io.Int.Input("probes", default=16, min=1, max=512, tooltip="Probes for each noise: more make a cleaner map and cost more."),
        io.Int.Input("noises", default=1, min=1, max=16, tooltip="How many different noises the map is averaged over."),
        io.Combo.Input(
            "probing",
            options=PROBING.options,
            default=PROBING.options[0],
            tooltip="structured: each probe moves a part of the latent whose places are far apart, so that they hardly disturb each "
            "other; best from as many probes as channels on. random: the paper's.",
        ),
        io.Combo.Input(
            "estimator",
            options=ESTIMATOR.options,
            default=ESTIMATOR.options[0],
            tooltip="Differences need no gradients. reverse mode differentiates through the model, where that is possible: "
            "exact, but needs several times the memory.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=False,
            tooltip="Seed of noises and probes. The same seed gives the same map.",
        ),
    ]


def settings(method: str, preset: str, sigmas: str, probes: int, noises: int, probing: str, estimator: str) -> How:
    """What those widgets say; ValueError for what is no choice."""
    symbols = METHOD.symbol(method), PRESET.symbol(preset)
    return chosen(*symbols, sigmas, probes, noises, PROBING.symbol(probing), ESTIMATOR.symbol(estimator))


class CurvatureDifferenceMap(io.ComfyNode):
    """dh or ds of a latent: how much harder the prompt pins it down than a baseline does."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeCurvatureDifferenceMap",
            display_name="Curvature Difference Map",
            category="unmemorize/curvature",
            description="Where is this picture memorized? Adds a little noise to the latent and measures, pixel by pixel, how much harder "
            "the prompt pins the picture down than the model alone does (curvature difference, arXiv 2605.26756). "
            "Needs no gradients, only a model that is sampled with a positive and a negative prompt.",
            inputs=[
                io.Model.Input("model", tooltip="The model that made the picture, with all its LoRAs."),
                io.Conditioning.Input("positive", tooltip="The prompt the picture was made with."),
                io.Latent.Input("latent", tooltip="The finished latent: a sampler's output, or a picture through VAE Encode."),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="The empty prompt: a CLIP Text Encode without text. dh_0 and ds_0 compare with it.",
                ),
                io.Model.Input(
                    "baseline",
                    optional=True,
                    lazy=True,
                    tooltip="A less-trained model of the same kind, for dh_~ and ds_~. For a LoRA: the model before the LoRA loader.",
                ),
                *measuring_inputs(),
            ],
            outputs=[
                Map.Output(
                    "map", display_name="map", tooltip="The measured map, for Heatmap Overlay and other readers. Colours are chosen there."
                ),
                io.Float.Output(
                    "score",
                    display_name="score",
                    tooltip="Mean of the map, highest of the batch: 0 = the prompt pins nothing down; a picture held whole scores "
                    "about 1 at most. Compare it only with clean pictures of the same model, measured in the same way.",
                ),
                io.String.Output("report", display_name="report", tooltip="Settings and numbers of every picture of the batch, as JSON."),
            ],
            **hints(
                io.Schema,
                search_aliases=["memorization", "where memorized", "overfit", "copyright", "regurgitation", "heatmap", "dh_0"],
                has_intermediate_output=True,
            ),
        )

    @classmethod
    def validate_inputs(
        cls, method: str | None = None, preset: str | None = None, probing: str | None = None, estimator: str | None = None
    ) -> bool | str:
        return checked((METHOD, method), (PRESET, preset), (PROBING, probing), (ESTIMATOR, estimator))

    @classmethod
    def check_lazy_status(cls, method: str, **inputs: Any) -> list[str]:
        return wanted_baseline(method, inputs)

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict,
        method: str,
        preset: str,
        sigmas: str,
        probes: int,
        noises: int,
        probing: str,
        estimator: str,
        seed: int,
        negative: Any = None,
        baseline: Any = None,
    ) -> io.NodeOutput:
        how = settings(method, preset, sigmas, probes, noises, probing, estimator)
        return _with_numbers(measure_map(model, positive, negative, latent, how, seed, baseline, WHY[PRESET.symbol(preset)]))


def wanted_baseline(method: str, inputs: dict[str, Any]) -> list[str]:
    """Ask for a baseline that is linked but not evaluated yet (None); one that is not linked at all is absent."""
    asked = METHODS.get(METHOD.symbol(method))
    return ["baseline"] if asked is not None and asked.needs_baseline and inputs.get("baseline", ...) is None else []


class RecordScoreDifference(io.ComfyNode):
    """MODEL -> MODEL that writes down ds_0 while a sampler uses it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeRecordScoreDifference",
            display_name="Record Score Difference",
            category="unmemorize/curvature",
            description="Put it before a sampler: it notes, for every pixel, how far the prompt pulls the picture away from what the model "
            "draws without it. Costs no model evaluation, and the picture is the same to the last bit. Score Difference Map reads it.",
            inputs=[
                io.Model.Input("model", tooltip="The model, on its way to the sampler."),
                io.Float.Input(
                    "start",
                    default=RECORD_START,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="First step to record, as a share of the run (0 = first).",
                ),
                io.Float.Input(
                    "end", default=RECORD_END, min=0.0, max=1.0, step=0.05, tooltip="Last step to record, as a share of the run (1 = last)."
                ),
            ],
            outputs=[
                io.Model.Output("recorded", display_name="MODEL", tooltip="For exactly one sampler."),
                Recording.Output("recording", display_name="recording", tooltip="For Score Difference Map."),
            ],
            **hints(io.Schema, search_aliases=["score difference", "ds_0", "record while sampling", "free memorization map"]),
        )

    @classmethod
    def execute(cls, model: Any, start: float, end: float) -> io.NodeOutput:
        return io.NodeOutput(*record(model, start, end))


class ScoreDifferenceMap(io.ComfyNode):
    """The map of a recorded run."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeScoreDifferenceMap",
            display_name="Score Difference Map",
            category="unmemorize/curvature",
            description="Reads what Record Score Difference noted while the sampler ran: a map that cost nothing. Rougher than a Curvature "
            "Difference Map, and only for runs with guidance (CFG above 1).",
            inputs=[
                Recording.Input("recording", tooltip="From Record Score Difference."),
                io.Latent.Input("latent", tooltip="The finished latent of the sampler that used the recorded model."),
            ],
            outputs=[
                Map.Output("map", display_name="map", tooltip="The recorded map, for Heatmap Overlay and other readers."),
                io.Float.Output("score", display_name="score", tooltip="Mean of the map; highest of the batch."),
                io.String.Output("report", display_name="report", tooltip="Settings and numbers of every picture of the batch, as JSON."),
            ],
            **hints(io.Schema, search_aliases=["score difference", "ds_0", "free memorization map"], has_intermediate_output=True),
        )

    @classmethod
    def execute(cls, recording: dict, latent: dict) -> io.NodeOutput:
        return _with_numbers(recorded_map(recording, latent))


class BrightEndingMap(io.ComfyNode):
    """The published baseline: attention to the end token."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeBrightEndingMap",
            display_name="Bright Ending Map",
            category="unmemorize/curvature",
            description="The published baseline for localisation: how much each place looks at the end of the prompt at the last step "
            "(Bright Ending). One model evaluation. Only for U-Nets with cross-attention, such as SD1.x, SD2 and SDXL.",
            inputs=[
                io.Model.Input("model", tooltip="The model that made the picture, with all its LoRAs."),
                io.Clip.Input("clip", tooltip="The text encoder of that model."),
                io.String.Input("text", multiline=True, dynamic_prompts=True, tooltip="The prompt the picture was made with."),
                io.Latent.Input("latent", tooltip="The finished latent: a sampler's output, or a picture through VAE Encode."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Seed of the little noise added.",
                ),
            ],
            outputs=[
                Map.Output("map", display_name="map", tooltip="Attention to the end token, from 0 to 1."),
                io.Float.Output("score", display_name="score", tooltip="Mean of the map; highest of the batch."),
                io.String.Output("report", display_name="report", tooltip="Settings and numbers of every picture of the batch, as JSON."),
            ],
            **hints(io.Schema, search_aliases=["bright ending", "BE", "end token attention", "baseline"], has_intermediate_output=True),
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, text: str, latent: dict, seed: int) -> io.NodeOutput:
        return _with_numbers(bright_ending(model, clip, text, latent, seed))


def _with_numbers(result: dict[str, Any]) -> io.NodeOutput:
    """map, score, report: what every measuring node returns."""
    score, report = numbers_of(result)
    return io.NodeOutput(result, score, json.dumps(report, indent=1), ui={"unmemorize_report": [report]})
