"""Write UI-format workflows from a few lines: nodes in columns, links by name, widgets in schema order."""

from __future__ import annotations

import math
import re
import uuid
from dataclasses import dataclass, field
from typing import Any

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
PACK = "unmemorize"


@dataclass
class Node:
    """A placed node; `node["LATENT"]` or `node[0]` names one of its outputs as a link source."""

    id: int
    type: str
    pos: tuple[int, int]
    size: tuple[int, int]
    title: str | None
    inputs: dict[str, Any]
    muted: bool = False
    """Stays grey and does not run: what writes files, so that pressing Run leaves nothing in the user's folder."""
    collapsed: bool = False
    """Shown as its title alone: what every graph has, and nobody comes for."""

    def __getitem__(self, slot: int) -> tuple[Node, int]:
        return self, slot


LEAST_HEIGHT = {
    "PreviewImage": 310,
    "UnmemorizeComparePictures": 345,
    "UnmemorizeCurvatureDifferenceMap": 390,
    "UnmemorizeHeatmapOverlay": 600,
    "UnmemorizeKSamplerStabilityGuard": 590,
    "UnmemorizeStabilityGuard": 360,
    "UnmemorizeBAFFilterLoRA": 710,
    "UnmemorizeLoadLoRABAF": 760,
    "UnmemorizeCleanAppliedLoRAs": 645,
    "UnmemorizeFindMemorizedNeurons": 450,
    "UnmemorizePruneNeurons": 315,
}
"""Of nodes with a picture or a view in them, as the front end draws them."""
REPORT_LINE, BETWEEN = 45, 40
"""Height of the line with verdict and report; the title bar of the next node and a gap."""
ROOM = 1.2
"""Nodes 2.0 draws every node so much larger, where it stands: all stand further apart."""
EDGE, HEADING = 20, 80
"""Of a group around its nodes; above them are its title and the title bar of the first node."""
WINDOW, BARS = (1600, 1000), (60, 90)
"""Pixels of the browser a template is laid out for, and what the front end's bars take at its left and top."""
LEGIBLE = 0.62
"""Smallest scale at which text can be read."""
LETTER, LINE, PARAGRAPH = 7.2, 18, 8
"""Of a note's text, in pixels: mean width of a letter with the margins, height of a line, room between paragraphs."""
COLLAPSED, COLLAPSED_LETTER = 73, 5.4
"""Of a node that shows its title alone, in pixels: the width without letters, and of a letter."""
LEAST_COLLAPSED = 187
"""What Nodes 2.0 makes it at least: 225 pixels, in a graph that it has stretched 1.2 times."""
SEARCH_WORDS = re.compile(r" \([a-z, ]+\)$")
"""End of a name, which the graph does not show."""
MUTED = 2
"""LiteGraph's mode "never"."""


@dataclass
class Graph:
    """Collects nodes, then `build` writes the JSON against a server's object_info."""

    object_info: dict[str, Any]
    nodes: list[Node] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    groups: list[tuple[str, list[Node]]] = field(default_factory=list)
    linear: dict[str, Any] = field(default_factory=dict)
    """What app mode shows, where the front end has it."""

    def add(self, type_: str, pos: tuple[int, int], size: tuple[int, int], title: str | None = None, **inputs: Any) -> Node:
        """A node; an input is a value (widget) or `node[slot]` (link)."""
        known = self._inputs_of(type_)
        unknown = set(inputs) - {name for name, _ in known}
        if unknown:
            raise ValueError(f"{type_} has no input {sorted(unknown)}")
        if title and not type_.startswith("Unmemorize"):
            raise ValueError(f"{type_} keeps its own name, so that people learn it: put {title!r} on a group around it")
        node = Node(len(self.nodes) + 1, type_, pos, size, title, inputs)
        self.nodes.append(node)
        return node

    def note(self, pos: tuple[int, int], width: int, text: str) -> None:
        """A Markdown note in the graph, as tall as its text."""
        self.notes.append(
            {
                "type": "MarkdownNote",
                "pos": list(pos),
                "size": [width, _text_height(text, width)],
                "flags": {},
                "mode": 0,
                "inputs": [],
                "outputs": [],
                "properties": {},
                "widgets_values": [text],
                "color": "#432",
                "bgcolor": "#653",
                "drawn": [width, _text_height(text, width)],
            }
        )

    def group(self, title: str, nodes: list[Node]) -> None:
        """A titled frame around nodes."""
        self.groups.append((title, nodes))

    def app(self, inputs: list[tuple[Node, str]], outputs: list[Node]) -> None:
        """For app mode: widgets to fill in, and nodes whose pictures are the answer."""
        self.linear = {"inputs": [[node.id, widget] for node, widget in inputs], "outputs": [node.id for node in outputs]}

    def _spread(self, written: list[dict[str, Any]]) -> None:
        """Make room for the views in our nodes: each its height, and what would lie under one moves down."""
        for item in written:
            if item["flags"].get("collapsed"):
                continue
            report = REPORT_LINE if item["type"].startswith("Unmemorize") else 0
            item["size"][1] = max(LEAST_HEIGHT.get(item["type"], 0), item["size"][1] + report)
            item["drawn"] = item["size"]
        placed: list[dict[str, Any]] = []
        for item in sorted(written, key=lambda i: i["pos"][1]):
            x, end = item["pos"][0], _end(item)
            for other in placed:
                beside = x >= _end(other) or other["pos"][0] >= end
                if not beside:
                    item["pos"][1] = max(item["pos"][1], other["pos"][1] + other["drawn"][1] + BETWEEN)
            placed.append(item)
        for item in written:
            item["pos"] = [round(ROOM * v) for v in item["pos"]]

    def build(self, workflow_id: str) -> dict[str, Any]:
        """The UI-format workflow, version 0.4; the same name gives the same id."""
        links: list[list[Any]] = []
        written = {node.id: self._write(node, order) for order, node in enumerate(self.nodes)}
        for node in self.nodes:
            for slot, socket in enumerate(written[node.id]["inputs"]):
                value = node.inputs.get(socket["name"])
                if not isinstance(value, tuple):
                    continue
                source, output = value
                link = len(links) + 1
                target = written[source.id]["outputs"][output]
                links.append([link, source.id, output, node.id, slot, target["type"]])
                socket["link"] = link
                target["links"] = [*(target["links"] or []), link]
        last = len(self.nodes)
        notes = [note | {"id": last + 1 + i, "order": last + i} for i, note in enumerate(self.notes)]
        self._spread([*written.values(), *notes])
        groups = [_frame(i + 1, title, [written[node.id] for node in nodes]) for i, (title, nodes) in enumerate(self.groups)]
        corners = [of(item["pos"][i] for item in (*written.values(), *notes)) for of in (min, max) for i in (0, 1)]
        # js/lib/first_view.mjs shows as much in Nodes 2.0
        extra = {"ds": _first_view([*written.values(), *notes]), "unmemorize_laid_out": corners}
        extra |= {"linearData": self.linear} if self.linear else {}
        for item in (*written.values(), *notes):
            del item["drawn"]
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, workflow_id)),  # the front end warns of any other kind of id
            "revision": 0,
            "last_node_id": last + len(notes),
            "last_link_id": len(links),
            "nodes": [*written.values(), *notes],
            "links": links,
            "groups": groups,
            "config": {},
            "extra": extra,
            "version": 0.4,
        }

    def _inputs_of(self, type_: str) -> list[tuple[str, Any]]:
        sections = self.object_info[type_]["input"]
        return [(name, spec) for kind in ("required", "optional") for name, spec in sections.get(kind, {}).items()]

    def _write(self, node: Node, order: int) -> dict[str, Any]:
        info = self.object_info[node.type]
        sockets, values = [], []
        for name, spec in self._inputs_of(node.type):
            kind = "COMBO" if isinstance(spec[0], list) else spec[0]
            options = spec[1] if len(spec) > 1 else {}
            if kind not in WIDGET_TYPES or options.get("forceInput"):
                sockets.append({"name": name, "type": kind, "link": None})
                continue
            given = node.inputs.get(name)
            sockets.append({"name": name, "type": kind, "widget": {"name": name}, "link": None})
            values.append(_default(spec, kind) if given is None or isinstance(given, tuple) else _line(spec, given))
            if options.get("control_after_generate"):
                values.append("fixed")
        outputs = [
            {"name": name, "type": "COMBO" if isinstance(type_, list) else type_, "links": None}
            for name, type_ in zip(info["output_name"], info["output"], strict=True)
        ]
        ours = node.type.startswith("Unmemorize")
        name = node.title or SEARCH_WORDS.sub("", info["display_name"] or node.type)
        folded = max(LEAST_COLLAPSED, min(node.size[0], round(COLLAPSED + COLLAPSED_LETTER * len(name)))), 0
        written: dict[str, Any] = {
            "id": node.id,
            "type": node.type,
            "pos": list(node.pos),
            "size": list(node.size),
            "flags": {"collapsed": True} if node.collapsed else {},
            "order": order,
            "mode": MUTED if node.muted else 0,
            "inputs": sockets,
            "outputs": outputs,
            "properties": {"cnr_id": PACK if ours else "comfy-core", "Node name for S&R": node.type},
            "widgets_values": values,
            "drawn": list(folded if node.collapsed else node.size),
        }
        if node.title:
            written["title"] = node.title
        return written


def _end(item: dict[str, Any]) -> float:
    """The right edge of a placed node before all stand further apart; of a folded one after, since it does not grow."""
    return item["pos"][0] + item["drawn"][0] / (ROOM if item["flags"].get("collapsed") else 1)


def _text_height(text: str, width: int) -> int:
    """Of a Markdown note: paragraphs and list items wrap, and have room around them."""
    letters = width / LETTER
    blocks = [b for b in re.split(r"\n\s*\n|\n(?=- |\d+\. |\|)", text.strip()) if not b.startswith("|-")]
    return round(sum(LINE * math.ceil(len(b) / letters) + PARAGRAPH for b in blocks)) + HEADING


def _first_view(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """Where a template opens: whole if its text can be read then, else its beginning."""
    left, top = (min(n["pos"][i] for n in nodes) for i in (0, 1))
    right, bottom = (max(n["pos"][i] + n["drawn"][i] for n in nodes) for i in (0, 1))
    room = [WINDOW[i] - BARS[i] for i in (0, 1)]
    scale = round(max(LEGIBLE, min(1.0, room[0] / (right - left + 2 * EDGE), room[1] / (bottom - top + HEADING + EDGE))), 3)
    return {"scale": scale, "offset": [round(BARS[0] / scale - left + EDGE), round(BARS[1] / scale - top + HEADING)]}


def _frame(number: int, title: str, inside: list[dict[str, Any]]) -> dict[str, Any]:
    """The group around placed nodes."""
    left, top = (min(n["pos"][i] for n in inside) for i in (0, 1))
    right, bottom = (max(n["pos"][i] + n["drawn"][i] for n in inside) for i in (0, 1))
    bounding = [left - EDGE, top - HEADING, right - left + 2 * EDGE, bottom - top + HEADING + EDGE]
    return {"id": number, "title": title, "bounding": bounding, "color": "#88b8dd", "font_size": 24, "flags": {}}


def _line(spec: Any, given: Any) -> Any:
    """A menu's line of which the symbol is given; anything else as it is."""
    lines = spec[0] if isinstance(spec[0], list) else spec[1].get("options", []) if len(spec) > 1 else []
    return next((line for line in lines if str(line).endswith(f" ({given})")), given)


def _default(spec: Any, kind: str) -> Any:
    options = spec[1] if len(spec) > 1 else {}
    if "default" in options:
        return options["default"]
    if kind == "COMBO":
        choices = spec[0] if isinstance(spec[0], list) else options["options"]
        return choices[0]
    return {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}[kind]
