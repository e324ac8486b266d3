"""Nodes that keep and load neuron masks."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io

from ..host.core import store
from ..host.core.schema import hints
from ..host.neurons.masks import MASKS, load_mask, report, save_mask
from .neurons import Mask


class SaveNeuronMask(io.ComfyNode):
    """Keep a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeSaveNeuronMask",
            display_name="Save Neuron Mask",
            category="unmemorize/neurons",
            description="Keeps a neuron mask in ComfyUI's user folder (unmemorize/masks). Never overwrites: a name that is taken gets a "
            "number. A mask holds no weights: eight of them are a byte, and only its own model can use it.",
            inputs=[
                Mask.Input("mask", tooltip="From Find Memorized Neurons."),
                io.String.Input("name", default="my-model", tooltip="File name without suffix; a / makes a folder."),
            ],
            outputs=[io.String.Output("saved", display_name="name", tooltip="The name it got, as Load Neuron Mask lists it.")],
            is_output_node=True,
            **hints(io.Schema, search_aliases=["save", "export", "neurons"]),
        )

    @classmethod
    def execute(cls, mask: Any, name: str) -> io.NodeOutput:
        saved = save_mask(mask, name)
        return io.NodeOutput(saved, ui={"text": [f"saved as {saved}"]})


class LoadNeuronMask(io.ComfyNode):
    """Use a kept mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeLoadNeuronMask",
            display_name="Load Neuron Mask",
            category="unmemorize/neurons",
            description="A mask that Save Neuron Mask kept, or the demo model's own (demo/...). It fits one model only; Prune Neurons says "
            "so if it is another one.",
            inputs=[
                io.Combo.Input(
                    "mask", options=store.names(MASKS), tooltip="Saved masks; demo/... come with the pack. R refreshes the list."
                )
            ],
            outputs=[
                Mask.Output("loaded", display_name="mask", tooltip="For Prune Neurons and Compare Neuron Masks."),
                io.String.Output("report", display_name="report", tooltip="How it was found, and its density by layer, as JSON."),
            ],
            **hints(io.Schema, search_aliases=["load", "neurons", "prune"]),
        )

    @classmethod
    def execute(cls, mask: str) -> io.NodeOutput:
        stored = load_mask(mask)
        return io.NodeOutput(stored, json.dumps(report(stored), indent=1))

    @classmethod
    def fingerprint_inputs(cls, mask: str) -> str:
        return store.stamp(MASKS, mask)

    @classmethod
    def validate_inputs(cls, mask: str) -> bool | str:
        return True if mask in store.names(MASKS) else f"There is no neuron mask {mask!r}. Press R to refresh the list."
