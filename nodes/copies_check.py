"""Nodes that compare pictures with references: is this a copy, of which, and where?"""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io, ui

from ..host.copies import checking, pictures, references, sscd
from ..host.copies.detectors import BuiltIn, of_clip_vision
from ..host.core.progress import Progress
from ..host.core.schema import hints

References = io.Custom("UNMEMORIZE_REFERENCES")
Detector = io.Custom("UNMEMORIZE_COPY_DETECTOR")
ALIASES = ["copy", "plagiarism", "copyright", "similarity", "training image", "duplicate", "memorization"]
BUILT_IN = "built in"


class ReferencePictures(io.ComfyNode):
    """Pictures that others may be copies of."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeReferencePictures",
            display_name="Reference Pictures",
            category="unmemorize/copies",
            description="The pictures that yours may be copies of: a folder inside ComfyUI's input folder, pictures from the graph, or "
            "both. Each is looked at once and remembered by its content.",
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=["none", *pictures.folders()],
                    default="none",
                    tooltip="A folder inside ComfyUI's input folder, with all folders in it. R refreshes the list.",
                ),
                io.Image.Input("images", optional=True, tooltip="Pictures of the graph, beside those of the folder or instead of them."),
            ],
            outputs=[
                References.Output("references", display_name="references", tooltip="For Copy Check and Audit."),
                io.Int.Output("count", display_name="count", tooltip="How many different pictures there are."),
                io.String.Output("report", display_name="report", tooltip="What was left out and why, as JSON."),
            ],
            **hints(io.Schema, search_aliases=["dataset", "training set", *ALIASES]),
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, **_: Any) -> str:
        return pictures.stamp(folder) if folder != "none" else ""

    @classmethod
    def execute(cls, folder: str, images: Any = None) -> io.NodeOutput:
        found = references.gathered(None if folder == "none" else folder, images, lambda count: Progress(max(count, 1)).advance)
        facts = {"pictures": len(found.names), "left_out": found.left_out}
        return io.NodeOutput(found, len(found.names), json.dumps(facts, indent=1), ui={"unmemorize_report": [facts]})


class LoadCopyDetector(io.ComfyNode):
    """How pictures are compared."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeLoadCopyDetector",
            display_name="Load Copy Detector",
            category="unmemorize/copies",
            description="How Copy Check compares: built in, which needs no download and says where; any CLIP Vision model (DINOv2 is the "
            "best of them); or SSCD, whose weights you put into the clip_vision folder.",
            inputs=[
                io.Combo.Input(
                    "detector",
                    options=[BUILT_IN, *sscd.names()],
                    default=BUILT_IN,
                    tooltip="built in, or a file of SSCD weights (sscd_....torchvision.pt or safetensors) in the clip_vision folder.",
                ),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="A model from Load CLIP Vision: it is then used instead."),
            ],
            outputs=[Detector.Output("loaded", display_name="detector", tooltip="For Copy Check and Audit.")],
            **hints(io.Schema, search_aliases=["sscd", "dinov2", "clip vision", *ALIASES]),
        )

    @classmethod
    def execute(cls, detector: str, clip_vision: Any = None) -> io.NodeOutput:
        if clip_vision is not None:
            return io.NodeOutput(of_clip_vision(clip_vision))
        return io.NodeOutput(BuiltIn() if detector == BUILT_IN else sscd.load(detector))


class CopyCheck(io.ComfyNode):
    """Is this a copy, of which picture, and where?"""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="UnmemorizeCopyCheck",
            display_name="Copy Check (plagiarism, similarity)",
            category="unmemorize/copies",
            description="Compares pictures with references and sorts them: copies and others. The answer is calibrated: it says how many "
            "honest pictures are as much like their nearest reference. A gate, too: what hangs on an empty output does not run.",
            inputs=[
                io.Image.Input("images", tooltip="The pictures in question."),
                References.Input("references", tooltip="From Reference Pictures."),
                Detector.Input("detector", optional=True, tooltip="From Load Copy Detector; without it the built-in one."),
                io.Image.Input(
                    "honest",
                    optional=True,
                    tooltip="Pictures that are no copies, best of the same model under other prompts: 49 for a false-alarm rate of 2 %, 99 "
                    "for 1 %.",
                ),
                io.Combo.Input(
                    "calibrate",
                    options=["honest pictures", "references among themselves", "not at all"],
                    default="references among themselves",
                    tooltip="What the likeness is compared with. Connected honest pictures are always used; references among "
                    "themselves may be more alike than pictures of a model are.",
                ),
                io.Float.Input(
                    "false_alarms",
                    default=0.02,
                    min=0.0001,
                    max=0.5,
                    step=0.001,
                    round=0.0001,
                    tooltip="Share of honest pictures that may be called copies. 0.01 needs 99 honest pictures.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "accepted", display_name="accepted", tooltip="Pictures that are no copies. If there are none, nothing behind it runs."
                ),
                io.Image.Output("rejected", display_name="rejected", tooltip="Copies. If there are none, nothing behind it runs."),
                io.Image.Output("nearest", display_name="nearest", tooltip="The nearest reference of every picture."),
                io.Mask.Output("mask", display_name="MASK", tooltip="The copied part of every picture."),
                io.Float.Output(
                    "score",
                    display_name="score",
                    tooltip="Percentile of the most copied picture among honest ones, 0 to 1; its bare likeness if uncalibrated.",
                ),
                io.Boolean.Output("copied", display_name="copied", tooltip="Is any picture a copy? False also if that could not be told."),
                io.String.Output(
                    "rejected_indices", display_name="rejected indices", tooltip="Of the copies, counted from 0, with commas."
                ),
                io.String.Output("text", display_name="report", tooltip="Every picture with its nearest reference, as JSON."),
            ],
            is_output_node=True,
            **hints(io.Schema, search_aliases=["gate", "reject", "image similarity", *ALIASES]),
        )

    @classmethod
    def execute(
        cls, images: Any, references: Any, calibrate: str, false_alarms: float, detector: Any = None,
        honest: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        how, among = detector or BuiltIn(), honest is None and calibrate == "references among themselves"
        checked = checking.check(images, references, how, honest, among, false_alarms)
        facts = checking.report(checked, references, how, false_alarms)
        preview = ui.PreviewImage(checking.shown(checked, images, references), cls=cls).as_dict()
        return io.NodeOutput(
            *checking.sorted_out(checked, images), checking.nearest_pictures(checked, references, tuple(images.shape[1:3])), checked.masks,
            checking.highest(checked), bool(facts["rejected"]), checking.rejected(checked), json.dumps(facts, indent=1),
            ui={**preview, "unmemorize_report": [facts]},
        )  # fmt: skip
