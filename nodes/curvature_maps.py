"""Nodes that read maps: colours over the picture, a threshold, its calibration."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io, ui

from ..host.core.menus import checked
from ..host.core.prompts import prompt_list
from ..host.core.sampling import samplers, schedulers
from ..host.core.schema import hints
from ..host.curvature.overlays import SMOOTHINGS, Look, overlaid
from ..host.curvature.thresholds import calibrate, split
from ..unmemorize.pictures.heatmap import COLOUR_MAPS, DEFAULT
from ..unmemorize.pictures.views import MOST_PICTURES
from .curvature import Map, measuring_inputs, settings, wanted_baseline
from .menus import ESTIMATOR, METHOD, PRESET, PROBING

Calibration = io.Custom("UNMEMORIZE_MAP_CALIBRATION")
EXAMPLE_PROMPTS = "# ordinary prompts that are surely not memorized, at least 20, one a line"


class HeatmapOverlay(io.ComfyNode):
    """A map as colours over its picture. Runs no model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeHeatmapOverlay",
            display_name="Heatmap Overlay",
            category="unmemorize/curvature",
            description="Paints a memorization map over its picture: hot = memorized, untouched = not. "
            "With a map threshold it gives a verdict. Changing colours runs no model again.",
            inputs=[
                io.Image.Input("image", tooltip="The picture, or a batch of as many pictures as the map has."),
                Map.Input("map", tooltip="From Curvature Difference Map."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Show and count only this region (white = inside). It must have the size of the picture.",
                ),
                io.Combo.Input("colour_map", options=list(COLOUR_MAPS), default=DEFAULT, tooltip="All are safe for colour-blind readers."),
                io.Float.Input(
                    "opacity",
                    default=0.85,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Opacity where the map is hottest; it fades with the heat. 0 returns the picture unchanged.",
                ),
                io.Float.Input(
                    "full_heat",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Map value shown as full heat. The same value for several pictures makes their colours comparable. "
                    "0: twice the threshold of a calibration, else each picture's own clip percentile.",
                ),
                io.Float.Input(
                    "clip",
                    default=99.0,
                    min=50.0,
                    max=100.0,
                    step=0.5,
                    tooltip="Percentile of the map that counts as full heat when full_heat is 0 and no calibration is connected, so that "
                    "single hot pixels do not darken the rest; also the peak.",
                ),
                io.Combo.Input(
                    "smooth",
                    options=list(SMOOTHINGS),
                    default="3",
                    tooltip="Width in latent pixels of a mean filter over the map; 0 = none.",
                ),
                Calibration.Input(
                    "calibration",
                    optional=True,
                    tooltip="From Load Map Threshold or Calibrate Map Threshold: gives a verdict, and colours whose middle is the "
                    "threshold.",
                ),
            ],
            outputs=[
                io.Image.Output("overlay", display_name="IMAGE", tooltip="The picture with the heat over it."),
                io.Mask.Output(
                    "heat", display_name="MASK", tooltip="The heat from 0 to 1 at the size of the picture, for inpainting and the like."
                ),
                io.Float.Output("mean", display_name="mean", tooltip="Mean of the map inside the mask; highest of the batch."),
                io.Float.Output(
                    "peak", display_name="peak", tooltip="Clip percentile of the map; highest of the batch. Use it as full_heat elsewhere."
                ),
            ],
            is_output_node=True,  # a viewer: it runs at the end of a graph too, as PreviewImage does
            **hints(io.Schema, search_aliases=["heatmap", "overlay", "memorization map", "colormap"]),
        )

    @classmethod
    def execute(
        cls,
        image: Any,
        map: dict,
        colour_map: str,
        opacity: float,
        full_heat: float,
        clip: float,
        smooth: str,
        mask: Any = None,
        calibration: dict | None = None,
    ) -> io.NodeOutput:
        found = overlaid(image, map, Look(colour_map, opacity, full_heat, clip, smooth), mask, calibration)
        preview = ui.PreviewImage(found.pictures, cls=cls).as_dict()
        seen = {"pictures": ui.PreviewImage(image[:MOST_PICTURES], cls=cls).as_dict()["images"], **found.view}
        shown = {**preview, "unmemorize_report": [found.report], "unmemorize_overlay": [seen]}
        return io.NodeOutput(found.pictures, found.heat, found.mean, found.peak, ui=shown)


class MapThreshold(io.ComfyNode):
    """A map as yes or no."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeMapThreshold",
            display_name="Map Threshold",
            category="unmemorize/curvature",
            description="Which part of the picture is memorized, yes or no? With a calibration: hotter than 99.5 % of the pixels of clean "
            "pictures. Without: Otsu's threshold, which splits every map in two, memorized or not, and is flagged as uncalibrated.",
            inputs=[
                Map.Input("map", tooltip="From any node that measures a map."),
                Calibration.Input("calibration", optional=True, tooltip="From Calibrate Map Threshold: same model, same settings."),
                io.Image.Input("image", optional=True, tooltip="The picture: the mask then has its size instead of the latent's."),
            ],
            outputs=[
                io.Mask.Output("mask", display_name="MASK", tooltip="1 where memorized. For inpainting and the like."),
                io.Float.Output(
                    "area", display_name="area", tooltip="Share of the generated pixels above the threshold; largest of the batch."
                ),
                io.Boolean.Output("calibrated", display_name="calibrated", tooltip="False: Otsu's threshold, no verdict at all."),
                io.String.Output("report", display_name="report", tooltip="Threshold and area of every picture, as JSON."),
            ],
            **hints(io.Schema, search_aliases=["segment", "binarize", "memorized mask", "otsu"], has_intermediate_output=True),
        )

    @classmethod
    def execute(cls, map: dict, calibration: dict | None = None, image: Any = None) -> io.NodeOutput:
        found = split(map, calibration, image)
        text = json.dumps(found.report, indent=1)
        return io.NodeOutput(found.mask, found.area, calibration is not None, text, ui={"unmemorize_report": [found.report]})


class CalibrateMapThreshold(io.ComfyNode):
    """A threshold from clean prompts of the same model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeCalibrateMapThreshold",
            display_name="Calibrate Map Threshold",
            category="unmemorize/curvature",
            description="Draws a picture of each clean prompt, maps it, and takes the value that 99.5 % of all their pixels stay below. "
            "Do it once for a model, a size and a way of measuring; the result is kept while nothing of that changes.",
            inputs=[
                io.Model.Input("model", tooltip="The model whose maps will be judged."),
                io.Clip.Input("clip", tooltip="The text encoder of that model."),
                io.Latent.Input("latent", tooltip="An empty latent of the size of your pictures."),
                io.Model.Input("baseline", optional=True, lazy=True, tooltip="The same baseline as in the map, for dh_~ and ds_~."),
                io.String.Input(
                    "prompts", multiline=True, default=EXAMPLE_PROMPTS, tooltip="At least 20 prompts, one a line; # begins a comment."
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps, as you generate."),
                io.Float.Input("cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance, as you generate."),
                io.Combo.Input("sampler_name", options=samplers(), default="euler", tooltip="Sampler, as you generate."),
                io.Combo.Input("scheduler", options=schedulers(), default="normal", tooltip="Scheduler, as you generate."),
                *measuring_inputs(),
            ],
            outputs=[
                Calibration.Output(
                    "calibration", display_name="calibration", tooltip="For Heatmap Overlay, Map Threshold and Save Map Threshold."
                ),
                io.Float.Output(
                    "threshold", display_name="threshold", tooltip="The value itself; also a good full_heat for Heatmap Overlay."
                ),
            ],
            **hints(io.Schema, search_aliases=["calibrate", "clean prompts", "threshold"]),
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
        clip: Any,
        latent: dict,
        prompts: str,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        method: str,
        preset: str,
        sigmas: str,
        probes: int,
        noises: int,
        probing: str,
        estimator: str,
        seed: int,
        baseline: Any = None,
    ) -> io.NodeOutput:
        how = settings(method, preset, sigmas, probes, noises, probing, estimator)
        sampling = {"steps": steps, "cfg": cfg, "sampler_name": sampler_name, "scheduler": scheduler, "seed": seed}
        found = calibrate(model, clip, latent, prompt_list(prompts), how, sampling, baseline)
        return io.NodeOutput(found, found["threshold"])
