"""Nodes that show where a picture is memorized."""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.nn.functional as F
from comfy_api.latest import io, ui

from ..host.curvature import measure_map
from ..host.schema import hints
from ..unmemorize import heatmap
from ..unmemorize.maps import check_map, mean_inside, per_channel, scores

Map = io.Custom("UNMEMORIZE_MAP")


class CurvatureDifferenceMap(io.ComfyNode):
    """dh_0 of a latent: curvature of the prompted model minus that of the unprompted one."""

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
                    tooltip="The empty prompt: a CLIP Text Encode without text. The map is the difference between the two prompts.",
                ),
                io.Float.Input(
                    "sigma",
                    default=0.2,
                    min=0.01,
                    max=20.0,
                    step=0.01,
                    tooltip="Noise level at which the map is measured, as noise over signal. "
                    "On the demo model, 0.1 to 0.8 localise equally well.",
                ),
                io.Int.Input(
                    "probes",
                    default=4,
                    min=1,
                    max=64,
                    tooltip="Random probes for each noise. More probes make a smoother map; each costs 4 model evaluations.",
                ),
                io.Int.Input(
                    "noises",
                    default=4,
                    min=1,
                    max=16,
                    tooltip="How many different noises the map is averaged over. Each uses its own probes.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=False,
                    tooltip="Seed of noises and probes. The same seed gives the same map.",
                ),
            ],
            outputs=[
                Map.Output(
                    "map", display_name="map", tooltip="The measured map, for Heatmap Overlay and other readers. Colours are chosen there."
                ),
                io.Float.Output(
                    "score",
                    display_name="score",
                    tooltip="Mean of the map, from 0 (the prompt pins nothing down) to 1. Highest of the batch. "
                    "Compare it only with clean pictures of the same model, measured with the same sigma, probes and noises.",
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
    def execute(
        cls, model: Any, positive: Any, latent: dict, sigma: float, probes: int, noises: int, seed: int, negative: Any = None
    ) -> io.NodeOutput:
        result = measure_map(model, positive, negative, latent, sigma, probes, noises, seed)
        numbers = scores(result)
        report = {**result["settings"], "scores": [round(v, 6) for v in numbers.tolist()]}
        text = json.dumps(report, indent=1)
        return io.NodeOutput(result, float(numbers.max()), text, ui={"unmemorize_report": [report]})


class HeatmapOverlay(io.ComfyNode):
    """A map as colours over its picture. Runs no model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeHeatmapOverlay",
            display_name="Heatmap Overlay",
            category="unmemorize/curvature",
            description="Paints a memorization map over its picture: hot = memorized, untouched = not. "
            "Changing colours runs no model again.",
            inputs=[
                io.Image.Input("image", tooltip="The picture, or a batch of as many pictures as the map has."),
                Map.Input("map", tooltip="From Curvature Difference Map."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Show and count only this region (white = inside). It must have the size of the picture.",
                ),
                io.Combo.Input(
                    "colour_map", options=list(heatmap.COLOUR_MAPS), default="inferno", tooltip="All are safe for colour-blind readers."
                ),
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
                    max=1.0,
                    step=0.01,
                    tooltip="Map value shown as full heat. The same value for several pictures makes their colours comparable. "
                    "0: each picture's own clip percentile.",
                ),
                io.Float.Input(
                    "clip",
                    default=99.0,
                    min=50.0,
                    max=100.0,
                    step=0.5,
                    tooltip="Percentile of the map that counts as full heat when full_heat is 0, "
                    "so that single hot pixels do not darken the rest.",
                ),
                io.Combo.Input(
                    "smooth",
                    options=["0", "3", "7", "13"],
                    default="3",
                    tooltip="Width in latent pixels of a mean filter over the map; 0 = none.",
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
        image: torch.Tensor,
        map: dict,
        colour_map: str,
        opacity: float,
        full_heat: float,
        clip: float,
        smooth: str,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        check_map(map, image.shape)
        if smooth not in ("0", "3", "7", "13"):
            raise ValueError(f"smooth = {smooth!r} is not one of 0, 3, 7, 13.")
        if not (0 <= opacity <= 1 and 0 <= clip <= 100 and full_heat >= 0):
            raise ValueError(f"Out of range: opacity {opacity} (0 to 1), clip {clip} (0 to 100) or full_heat {full_heat} (0 or more).")
        height, width = image.shape[1:3]
        inside = _inside(mask, image)
        values = per_channel(map)
        region = map["region"] * (F.interpolate(inside[:, None], values.shape[1:], mode="area")[:, 0] > 0.5)
        peaks = torch.stack([heatmap.percentile(v[r > 0], clip) for v, r in zip(values, region, strict=True)])
        shown = heatmap.heat(heatmap.smooth(values, int(smooth)), full_heat or peaks[:, None, None])
        hot = (heatmap.enlarge(shown, height, width) * inside).to(image.device)
        picture = heatmap.overlay(image, hot, colour_map, opacity)
        mean, peak = float(mean_inside(values, region).max()), float(peaks.max())
        report = {"mean": mean, "peak": peak, "full_heat": full_heat or peak}
        preview = ui.PreviewImage(picture, cls=cls).as_dict()
        return io.NodeOutput(picture, hot, mean, peak, ui={**preview, "unmemorize_report": [report]})


def _inside(mask: torch.Tensor | None, image: torch.Tensor) -> torch.Tensor:
    """Region of interest as [n, h, w], all ones without a mask."""
    if mask is None:
        return torch.ones(image.shape[:3])
    mask = mask if mask.ndim == 3 else mask[None]
    if mask.shape[1:] != image.shape[1:3] or mask.shape[0] not in (1, image.shape[0]):
        raise ValueError(
            f"The mask is {mask.shape[0]} x {mask.shape[2]} x {mask.shape[1]} (number x width x height), but the picture is "
            f"{image.shape[0]} x {image.shape[2]} x {image.shape[1]}. Give it the picture's size, or leave it unconnected."
        )
    return mask.float().cpu().expand(image.shape[:3])
