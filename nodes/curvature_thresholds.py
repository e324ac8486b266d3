"""Nodes that keep and load map thresholds."""

from __future__ import annotations

import json

from comfy_api.latest import io

from ..host.core import store
from ..host.core.schema import hints
from ..host.curvature.thresholds import THRESHOLDS, load_threshold, report_of, save_threshold
from .curvature_maps import Calibration


class SaveMapThreshold(io.ComfyNode):
    """Keep a calibration."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeSaveMapThreshold",
            display_name="Save Map Threshold",
            category="unmemorize/curvature",
            description="Keeps a map threshold in ComfyUI's user folder (unmemorize/thresholds), so that it is measured once for a model. "
            "Never overwrites: a name that is taken gets a number.",
            inputs=[
                Calibration.Input("calibration", tooltip="From Calibrate Map Threshold."),
                io.String.Input("name", default="my-model", tooltip="File name without suffix; a / makes a folder."),
            ],
            outputs=[io.String.Output("saved", display_name="name", tooltip="The name it got, as Load Map Threshold lists it.")],
            is_output_node=True,
            **hints(io.Schema, search_aliases=["save", "export", "calibration"]),
        )

    @classmethod
    def execute(cls, calibration: dict, name: str) -> io.NodeOutput:
        saved = save_threshold(calibration, name)
        return io.NodeOutput(saved, ui={"text": [f"saved as {saved}"]})


class LoadMapThreshold(io.ComfyNode):
    """Use a kept calibration."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeLoadMapThreshold",
            display_name="Load Map Threshold",
            category="unmemorize/curvature",
            description="A threshold that Save Map Threshold kept, or the demo model's own (demo/...). It fits one model, one size and one "
            "way of measuring; who reads it says so if they differ.",
            inputs=[
                io.Combo.Input(
                    "threshold",
                    options=store.names(THRESHOLDS),
                    tooltip="Saved thresholds; demo/... come with the pack. R refreshes the list.",
                )
            ],
            outputs=[
                Calibration.Output("loaded", display_name="calibration", tooltip="For Heatmap Overlay and Map Threshold."),
                io.String.Output("report", display_name="report", tooltip="What it was measured on, as JSON."),
            ],
            **hints(io.Schema, search_aliases=["load", "calibration", "map threshold"]),
        )

    @classmethod
    def execute(cls, threshold: str) -> io.NodeOutput:
        calibration = load_threshold(threshold)
        return io.NodeOutput(calibration, json.dumps(report_of(calibration), indent=1))

    @classmethod
    def fingerprint_inputs(cls, threshold: str) -> str:
        return f"{threshold}/{load_threshold(threshold)}"

    @classmethod
    def validate_inputs(cls, threshold: str) -> bool | str:
        return True if threshold in store.names(THRESHOLDS) else f"There is no map threshold {threshold!r}. Press R to refresh the list."
