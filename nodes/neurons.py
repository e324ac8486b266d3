"""Nodes that find memorized neurons, silence them, and compare masks of them."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io, ui

from ..host.core.menus import checked
from ..host.core.prompts import encoded, prompt_list
from ..host.core.schema import hints
from ..host.neurons.comparing import compared
from ..host.neurons.finding import find
from ..host.neurons.layers import PLACES
from ..host.neurons.masks import StoredMask, pruned, report, view_of
from ..host.neurons.recording import record, report_of
from ..unmemorize.neurons.activity import WINDOW
from ..unmemorize.neurons.masks import TOP_SHARE
from .inputs import sampling_inputs
from .menus import NEURON_SCORE, ROWS

Activity = io.Custom("UNMEMORIZE_NEURON_ACTIVITY")
Mask = io.Custom("UNMEMORIZE_NEURON_MASK")
MOST_MASKS = 6
EXAMPLE_PROMPTS = "# ten prompts that bring back training pictures, one a line. Delete this line to record the empty prompt"
ROWS_TOOLTIP = (
    "Whose tokens count. both: those of the prompt and of the negative prompt, as in the released code. cond only: the prompt's, which "
    "are not diluted by the others."
)


def views(facts: dict[str, Any], stored: StoredMask) -> dict[str, list[Any]]:
    """`ui` of a node that has a mask."""
    return {"unmemorize_report": [facts], "unmemorize_density": [view_of(stored)]}


class RecordNeuronActivity(io.ComfyNode):
    """What neurons do under some prompts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeRecordNeuronActivity",
            display_name="Record Neuron Activity",
            category="unmemorize/neurons",
            description="Samples prompts as far as a window of noise levels goes, and notes how active each input of the feed-forward "
            "layers is: once for prompts that bring back training pictures, once for a reference. Keeps sums only, however many prompts.",
            inputs=[
                io.Model.Input("model", tooltip="The model to examine, with its LoRAs if they belong to it."),
                io.Clip.Input("clip", tooltip="The text encoder of that model."),
                io.Conditioning.Input("negative", tooltip="The negative prompt, as you sample with it; mostly the empty prompt."),
                io.Latent.Input("latent", tooltip="An empty latent of the size of your pictures. Only its first sample is used."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default=EXAMPLE_PROMPTS,
                    tooltip="Prompts, one a line; # begins a comment. An empty field records the empty prompt, the paper's reference; "
                    "comments alone are an error.",
                ),
                io.Int.Input("seeds", default=1, min=1, max=16, tooltip="Runs for each prompt, with this seed and those after it."),
                *sampling_inputs("as you generate"),
                io.Float.Input(
                    "window_end",
                    default=WINDOW,
                    min=0.0,
                    max=1000.0,
                    step=0.1,
                    round=0.0001,
                    tooltip="Lowest noise level (sigma = noise / picture) that is recorded; sampling stops there. 5.6: the first fifth of "
                    "an SD1.5 run, as published. Lower: more steps.",
                ),
                io.Combo.Input(
                    "place",
                    options=list(PLACES),
                    default="feed-forward",
                    tooltip="Which layers. feed-forward: the second linear of every block, the paper's. The others exist for few networks.",
                ),
            ],
            outputs=[
                Activity.Output("activity", display_name="activity", tooltip="For Find Memorized Neurons."),
                io.String.Output("report", display_name="report", tooltip="What was recorded, as JSON."),
            ],
            **hints(io.Schema, search_aliases=["neurons", "wanda", "activation", "memorization", "concept prune"]),
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, negative: Any, latent: dict, prompts: str, seeds: int, seed: int, steps: int, cfg: float,
        sampler_name: str, scheduler: str, window_end: float, place: str,
    ) -> io.NodeOutput:  # fmt: skip
        positives = encoded(clip, prompt_list(prompts) or [""])
        sampling = {"seed": seed, "steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler}
        stored = record(model, positives, negative, latent, seeds, sampling, place, window_end)
        facts = report_of(stored)
        return io.NodeOutput(stored, json.dumps(facts, indent=1), ui={"unmemorize_report": [facts]})


class FindMemorizedNeurons(io.ComfyNode):
    """A mask from two recordings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeFindMemorizedNeurons",
            display_name="Find Memorized Neurons",
            category="unmemorize/neurons",
            description="Compares two recordings: which weights carry more under memorized prompts than under the reference, and belong to "
            "the strongest of their row? Those make up the mask. Changing a setting here samples nothing anew.",
            inputs=[
                io.Model.Input("model", tooltip="The model that was recorded."),
                Activity.Input("memorized", tooltip="Record Neuron Activity of prompts that bring back training pictures."),
                Activity.Input("reference", tooltip="Record Neuron Activity of the empty prompt, or of ordinary prompts."),
                io.Float.Input(
                    "top_share",
                    default=TOP_SHARE,
                    min=0.0005,
                    max=0.5,
                    step=0.0005,
                    round=0.0001,
                    tooltip="Share of a row's weights that can be taken at one noise level. 0.01 as published; more silences more, and "
                    "harms other pictures sooner.",
                ),
                io.Float.Input(
                    "select_ratio",
                    default=0.0,
                    min=0.0,
                    max=0.95,
                    step=0.05,
                    round=0.001,
                    tooltip="A weight is silenced if it was taken at more than this share of the noise levels. 0: at any of them, as "
                    "published.",
                ),
                io.Combo.Input("rows", options=ROWS.options, default=ROWS.options[0], tooltip=ROWS_TOOLTIP),
                io.Combo.Input(
                    "score",
                    options=NEURON_SCORE.options,
                    default=NEURON_SCORE.options[0],
                    tooltip="wanda: weight times activity, the paper's. contrast: weight times the difference of the activities.",
                ),
                io.Boolean.Input(
                    "keep_levels",
                    default=False,
                    tooltip="Also keep what each noise level took, so that Compare Neuron Masks can show it. The mask grows accordingly.",
                ),
                Mask.Input("merge_with", optional=True, tooltip="Another mask of this model: the result silences what either does."),
            ],
            outputs=[
                Mask.Output("mask", display_name="mask", tooltip="For Prune Neurons, Compare Neuron Masks and Save Neuron Mask."),
                io.Float.Output("density", display_name="density", tooltip="Share of the examined weights that the mask silences."),
                io.String.Output("report", display_name="report", tooltip="Settings, density by layer and warnings, as JSON."),
            ],
            **hints(io.Schema, search_aliases=["neurons", "wanda", "memorization", "prune", "unlearn"]),
        )

    @classmethod
    def validate_inputs(cls, rows: str | None = None, score: str | None = None) -> bool | str:
        return checked((ROWS, rows), (NEURON_SCORE, score))

    @classmethod
    def execute(
        cls, model: Any, memorized: Any, reference: Any, top_share: float, select_ratio: float, rows: str, score: str, keep_levels: bool,
        merge_with: StoredMask | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        chosen = ROWS.symbol(rows), NEURON_SCORE.symbol(score)
        stored = find(model, memorized, reference, top_share, select_ratio, *chosen, keep_levels, merge_with)
        facts = report(stored)
        return io.NodeOutput(stored, facts["density"], json.dumps(facts, indent=1), ui=views(facts, stored))


class PruneNeurons(io.ComfyNode):
    """The mask over a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizePruneNeurons",
            display_name="Prune Neurons",
            category="unmemorize/neurons",
            description="Silences the weights of a neuron mask: W (1 - strength M). Costs nothing while sampling. Suppresses known "
            "triggers, does not delete the memory. Put it after all LoRA loaders: a later LoRA writes into the silenced weights again.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the mask was found on, after all its LoRA loaders."),
                Mask.Input("mask", tooltip="From Find Memorized Neurons or Load Neuron Mask."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    round=0.001,
                    tooltip="1: the weights are zero, as published. 0: the model as it came, bit for bit.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "pruned", display_name="MODEL", tooltip="The model with those weights silenced, for samplers or ModelSave."
                ),
                io.String.Output("report", display_name="report", tooltip="Which mask, its density by layer and warnings, as JSON."),
            ],
            **hints(io.Schema, search_aliases=["neurons", "memorization", "unlearn", "copyright", "concept prune"]),
        )

    @classmethod
    def execute(cls, model: Any, mask: StoredMask, strength: float) -> io.NodeOutput:
        clone = pruned(model, mask, strength)
        facts = {"strength": strength, **report(mask, model)}
        return io.NodeOutput(clone, json.dumps(facts, indent=1), ui=views(facts, mask))


class CompareNeuronMasks(io.ComfyNode):
    """How alike are masks?"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        more = [
            Mask.Input(f"mask_{i}", optional=True, tooltip="Another neuron mask of the same layers, if there is one.")
            for i in range(3, MOST_MASKS + 1)
        ]
        return io.Schema(
            node_id="UnmemorizeCompareNeuronMasks",
            display_name="Compare Neuron Masks",
            category="unmemorize/neurons",
            description="Intersection over union of each two masks, as a matrix, and by layer and noise level. If masks of different "
            "memorized prompts overlap more than masks of ordinary prompts do, memories share neurons. Compare with the latter, always.",
            inputs=[
                Mask.Input("mask_1", tooltip="A neuron mask, from Find Memorized Neurons or Load Neuron Mask."),
                Mask.Input("mask_2", tooltip="Another neuron mask of the same layers."),
                *more,
                io.String.Input("names", default="", tooltip="Names of the masks in the picture, separated by commas. Empty: 1, 2, 3."),
            ],
            outputs=[
                io.Image.Output(
                    "plot",
                    display_name="IMAGE",
                    tooltip="The matrix, and IoU by layer; by noise level too if all masks were found with keep_levels.",
                ),
                io.Float.Output("mean_iou", display_name="mean IoU", tooltip="Mean over layers and over pairs of different masks."),
                io.String.Output("report", display_name="report", tooltip="The matrix, IoU by layer and densities, as JSON."),
            ],
            is_output_node=True,  # a viewer: it runs at the end of a graph too, as PreviewImage does
            **hints(io.Schema, search_aliases=["iou", "overlap", "neurons", "jaccard"]),
        )

    @classmethod
    def execute(cls, mask_1: Any, mask_2: Any, names: str, **more: Any) -> io.NodeOutput:
        found = compared([mask_1, mask_2, *(more[k] for k in sorted(more) if more[k] is not None)], names)
        preview = ui.PreviewImage(found.picture, cls=cls).as_dict()
        shown = {**preview, "unmemorize_report": [found.report], "unmemorize_density": [found.view]}
        return io.NodeOutput(found.picture, found.mean, json.dumps(found.report, indent=1), ui=shown)
