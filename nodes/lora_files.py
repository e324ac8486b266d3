"""Nodes that open, show and save LoRA files."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io, ui

from ..host.core import store
from ..host.core.menus import checked
from ..host.core.schema import hints
from ..host.lora import lora_files
from ..host.lora.folder import filter_folder, folders, stamp
from ..host.lora.lora_files import LORAS
from ..unmemorize.pictures.lora_spectrum import counted, spectrum_picture
from ..unmemorize.pictures.views import spectrum_view
from .lora import ALIASES, LoRAInfo, Spectrum, filter_inputs, settings_of
from .menus import GATE, SCORE


class OpenLoRA(io.ComfyNode):
    """A LoRA file as data, not applied to anything."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        names = store.names(LORAS)
        return io.Schema(
            node_id="UnmemorizeOpenLoRA",
            display_name="Open LoRA",
            category="unmemorize/lora",
            description="Reads a LoRA file with its metadata, without applying it: for BAF Filter LoRA, and to look what a file holds.",
            inputs=[
                io.Combo.Input("lora_name", options=names, default=names[0] if names else None, tooltip="Which LoRA to open; safetensors."),
            ],
            outputs=[
                io.LoraModel.Output(
                    "lora", display_name="LORA_MODEL", tooltip="The LoRA, for BAF Filter LoRA or the stock Load LoRA Model."
                ),
                LoRAInfo.Output("info", display_name="info", tooltip="Name, hash, metadata, number type and key style."),
                io.String.Output("text", display_name="report", tooltip="The same as JSON, with what its training noted."),
            ],
            **hints(io.Schema, search_aliases=["lora metadata", "inspect lora", *ALIASES]),
        )

    @classmethod
    def fingerprint_inputs(cls, lora_name: str) -> str:
        return lora_files.stamp(lora_name)

    @classmethod
    def execute(cls, lora_name: str) -> io.NodeOutput:
        file = lora_files.read(lora_name, lora_files.cancelled)
        brief = {k: v for k, v in file.info.items() if k not in ("metadata", "filter")}
        return io.NodeOutput(file.tensors, file.info, json.dumps(file.info, indent=1), ui={"unmemorize_report": [brief]})


class LoRASpectrumPlot(io.ComfyNode):
    """What was kept, what was removed, as a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeLoRASpectrumPlot",
            display_name="LoRA Spectrum Plot",
            category="unmemorize/lora",
            description="Draws every channel of a filtered LoRA, its score against its singular value, and the energy of each block; "
            "kept, weakened and removed in colours.",
            inputs=[Spectrum.Input("spectrum", tooltip="From a node that filters LoRAs.")],
            outputs=[
                io.Image.Output("image", display_name="IMAGE", tooltip="The plot as a picture."),
                io.Int.Output("channels", display_name="channels", tooltip="How many channels the LoRA has."),
                io.Int.Output("removed_channels", display_name="removed", tooltip="How many of them were removed."),
            ],
            is_output_node=True,  # a viewer: it runs at the end of a graph too, as PreviewImage does
            **hints(io.Schema, search_aliases=["plot", "singular values", "rank", *ALIASES]),
        )

    @classmethod
    def execute(cls, spectrum: dict | None) -> io.NodeOutput:
        if not isinstance(spectrum, dict) or "layers" not in spectrum:
            raise ValueError("There is nothing to plot: the filter was off. Set filter_strength and the LoRA's strengths above 0.")
        picture = spectrum_picture(spectrum)
        channels, removed = counted(spectrum["layers"])
        report = {"channels": channels, "removed": removed}
        preview = ui.PreviewImage(picture, cls=cls).as_dict()
        shown = {"unmemorize_report": [report], "unmemorize_spectrum": [spectrum_view(spectrum)]}
        return io.NodeOutput(picture, channels, removed, ui={**preview, **shown})


class SaveFilteredLoRA(io.ComfyNode):
    """Keep a LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeSaveFilteredLoRA",
            display_name="Save Filtered LoRA",
            category="unmemorize/lora",
            description="Writes a LoRA into the loras folder under its own key names, with its metadata, what was done to it and new "
            "hashes. Never overwrites: a name that is taken gets a number.",
            inputs=[
                io.LoraModel.Input("lora", tooltip="From BAF Filter LoRA."),
                io.String.Input("name", default="filtered/my-lora", tooltip="File name without suffix; a / makes a folder."),
                LoRAInfo.Input("info", optional=True, tooltip="From BAF Filter LoRA: metadata and provenance. Not for the removed part."),
            ],
            outputs=[io.String.Output("saved", display_name="name", tooltip="The name it got, as LoRA loaders list it.")],
            is_output_node=True,
            **hints(io.Schema, search_aliases=["save lora", "export", *ALIASES]),
        )

    @classmethod
    def execute(cls, lora: dict, name: str, info: dict | None = None) -> io.NodeOutput:
        saved = lora_files.save(name, lora, info)
        return io.NodeOutput(saved, ui={"unmemorize_report": [{"saved": saved}]})


class FilterLoRAFolder(io.ComfyNode):
    """Many LoRAs, one table."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        choices = folders()
        return io.Schema(
            node_id="UnmemorizeFilterLoRAFolder",
            display_name="Filter LoRA Folder",
            category="unmemorize/lora",
            description="Filters every LoRA of a folder against one model and writes a table. Stopped and started again, it carries on: "
            "files that were already filtered in the same way are not made twice.",
            inputs=[
                io.Model.Input("model", tooltip="The model all these LoRAs were trained on."),
                io.Clip.Input("clip", optional=True, tooltip="Its text encoder, for LoRAs that change that too."),
                io.Combo.Input("folder", options=choices, default=choices[0], tooltip="A folder within loras; demo: the pack's own."),
                io.String.Input("output", default="filtered", tooltip="Folder within loras for the results; a / makes folders."),
                *filter_inputs(),
            ],
            outputs=[
                io.String.Output("table", display_name="table", tooltip="A line for each file as CSV: ranks, energy removed, problems."),
                io.Int.Output("written", display_name="written", tooltip="How many files were written in this run."),
            ],
            is_output_node=True,
            **hints(io.Schema, search_aliases=["batch", "bulk", *ALIASES]),
        )

    @classmethod
    def validate_inputs(cls, score: str | None = None, gate: str | None = None) -> bool | str:
        return checked((SCORE, score), (GATE, gate))

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: Any) -> str:
        return stamp(folder)

    @classmethod
    def execute(cls, model: Any, folder: str, output: str, text_encoder: bool, clip: Any = None, **how: Any) -> io.NodeOutput:
        table, written = filter_folder(folder, output, model, clip, settings_of(how), text_encoder)
        return io.NodeOutput(table, written, ui={"unmemorize_report": [{"table": table, "written": written}]})
