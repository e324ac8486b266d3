"""Writes subgraphs/*.json: blueprints that ComfyUI's node library offers as nodes of their own (`nox -s workflows`)."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

from .graph import Graph, Node
from .server import ROOT
from .templates.shared import SAMPLING

FOLDER = ROOT / "subgraphs"
INPUTS, OUTPUTS = -10, -20
"""Ids of a subgraph's own ends."""
END_WIDTH, ROW = 140, 24
Socket = tuple[str, list[tuple[Node, str]]]
"""A socket of the blueprint: its name, and the inputs inside that it feeds."""
SETTINGS = {k: v for k, v in SAMPLING.items() if k != "denoise"} | {"seed": 1, "steps": 20, "cfg": 7.0}


def blueprint(g: Graph, name: str, about: str, inputs: list[Socket], outputs: list[tuple[str, Node, int]]) -> dict[str, Any]:
    """A workflow of one node, whose inside is a graph with some of its sockets led out."""
    inside = g.build(f"unmemorize-blueprint-{name}")
    nodes = {node["id"]: node for node in inside["nodes"]}
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    links = [dict(zip(keys, link, strict=True)) for link in inside["links"]]
    for node in nodes.values():
        # the front end's own order: inside a subgraph it believes a link's slot, before it looks at names
        node["inputs"].sort(key=lambda socket: "widget" in socket)
        for slot, socket in enumerate(node["inputs"]):
            if socket["link"]:
                links[socket["link"] - 1]["target_slot"] = slot
    ends: dict[str, list[dict[str, Any]]] = {"inputs": [], "outputs": []}
    outer: dict[str, list[dict[str, Any]]] = {"inputs": [], "outputs": []}

    def lead(**link: Any) -> int:
        links.append({"id": len(links) + 1, **link})
        return len(links)

    for slot, (label, targets) in enumerate(inputs):
        ids, kind, widget = [], "", {}
        for target, socket_name in targets:
            place, socket = next((i, s) for i, s in enumerate(nodes[target.id]["inputs"]) if s["name"] == socket_name)
            kind, widget = socket["type"], {"widget": {"name": label}} if "widget" in socket else {}
            ids.append(lead(origin_id=INPUTS, origin_slot=slot, target_id=target.id, target_slot=place, type=kind))
            socket["link"] = ids[-1]
        ends["inputs"].append({"id": _id(name, "in", label), "name": label, "type": kind, "linkIds": ids})
        outer["inputs"].append({"name": label, "type": kind, "link": None} | widget)
    for slot, (label, source, output) in enumerate(outputs):
        socket = nodes[source.id]["outputs"][output]
        link = lead(origin_id=source.id, origin_slot=output, target_id=OUTPUTS, target_slot=slot, type=socket["type"])
        socket["links"] = [*(socket["links"] or []), link]
        ends["outputs"].append({"id": _id(name, "out", label), "name": label, "type": socket["type"], "linkIds": [link]})
        outer["outputs"].append({"name": label, "type": socket["type"], "links": None})
    own = _id(name, "subgraph", "")
    right = max(node["pos"][0] + node["size"][0] for node in nodes.values())
    state = {"lastGroupId": 0, "lastNodeId": len(nodes), "lastLinkId": len(links), "lastRerouteId": 0}
    definition = {
        "id": own, "version": 1, "state": state, "revision": 0, "config": {}, "name": name, "description": about, "category": "unmemorize",
        "inputNode": {"id": INPUTS, "bounding": [-2 * END_WIDTH, 0, END_WIDTH, ROW * (len(inputs) + 2)]},
        "outputNode": {"id": OUTPUTS, "bounding": [right + END_WIDTH, 0, END_WIDTH, ROW * (len(outputs) + 2)]},
        **ends, "widgets": [], "nodes": list(nodes.values()), "groups": [], "links": links, "extra": {},
    }  # fmt: skip
    height = ROW * max(len(inputs), len(outputs)) + 3 * ROW
    alone = {
        "id": 1, "type": own, "pos": [0, 0], "size": [320, height], "flags": {}, "order": 0, "mode": 0, **outer, "properties": {},
        "widgets_values": [],
    }  # fmt: skip
    return {
        "id": _id(name, "workflow", ""), "revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [alone], "links": [], "groups": [],
        "definitions": {"subgraphs": [definition]}, "config": {}, "extra": {"BlueprintDescription": about}, "version": 0.4,
    }  # fmt: skip


def _id(*parts: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, "/".join(("unmemorize-blueprint", *parts))))


def where_memorized(object_info: dict[str, Any]) -> dict[str, Any]:
    """Samples, and shows where the picture is memorized."""
    g = Graph(object_info)
    sampler = g.add("KSampler", (0, 0), (300, 270), **SETTINGS)
    decode = g.add("VAEDecode", (340, 0), (250, 50), samples=sampler[0])
    measured = g.add("UnmemorizeCurvatureDifferenceMap", (340, 130), (330, 390), latent=sampler[0])
    overlay = g.add("UnmemorizeHeatmapOverlay", (710, 0), (350, 560), image=decode[0], map=measured[0])
    inputs: list[Socket] = [
        ("model", [(sampler, "model"), (measured, "model")]),
        ("positive", [(sampler, "positive"), (measured, "positive")]),
        ("negative", [(sampler, "negative"), (measured, "negative")]),
        ("latent", [(sampler, "latent_image")]),
        ("vae", [(decode, "vae")]),
        ("calibration", [(overlay, "calibration")]),
        ("seed", [(sampler, "seed")]),
        ("steps", [(sampler, "steps")]),
        ("cfg", [(sampler, "cfg")]),
    ]
    outputs = [("picture", decode, 0), ("heatmap", overlay, 0), ("score", measured, 1)]
    about = "KSampler with a heatmap of its picture: hot is what the prompt pins down. Negative: an empty prompt."
    return blueprint(g, "Where is it memorized", about, inputs, outputs)


def guarded_picture(object_info: dict[str, Any]) -> dict[str, Any]:
    """Samples under guard, with the profile that belongs to the model."""
    g = Graph(object_info)
    profile = g.add("UnmemorizeModelStabilityProfile", (0, 0), (350, 420), **SETTINGS)
    guard = g.add("UnmemorizeKSamplerStabilityGuard", (400, 0), (350, 590), **SETTINGS, profile=profile[0], mode="detect")
    decode = g.add("VAEDecode", (800, 0), (250, 50), samples=guard[0])
    both = [(profile, guard)]
    inputs: list[Socket] = [
        ("model", [(node, "model") for pair in both for node in pair]),
        ("clip", [(profile, "clip")]),
        ("positive", [(guard, "positive")]),
        ("negative", [(profile, "negative"), (guard, "negative")]),
        ("latent", [(profile, "latent"), (guard, "latent_image")]),
        ("vae", [(decode, "vae")]),
        ("parent", [(guard, "parent")]),
        ("seed", [(guard, "seed")]),
        ("steps", [(profile, "steps"), (guard, "steps")]),
        ("cfg", [(profile, "cfg"), (guard, "cfg")]),
        ("mode", [(guard, "mode")]),
    ]
    outputs = [("picture", decode, 0), ("memorized", guard, 1), ("score", guard, 2), ("report", guard, 3)]
    about = "KSampler that notices memories. What is ordinary for a new model is measured once, as long as 50 pictures, and kept."
    return blueprint(g, "Picture under guard", about, inputs, outputs)


def cleaned_lora(object_info: dict[str, Any]) -> dict[str, Any]:
    """A LoRA whole and cleaned, by one picture of each."""
    g = Graph(object_info)
    names = object_info["UnmemorizeCleanLoRA"]["input"]["required"]["lora_name"][1]["options"]
    whole = g.add("UnmemorizeLoadLoRABAF", (0, 0), (350, 460), "The LoRA as it is", lora_name=names[0], filter_strength=0.0)
    clean = g.add("UnmemorizeCleanLoRA", (0, 560), (350, 320), lora_name=names[0])
    made = []
    for y, model in ((0, whole), (330, clean)):
        sampler = g.add("KSampler", (400, y), (300, 270), **SETTINGS, model=model[0])
        made.append((sampler, g.add("VAEDecode", (740, y), (250, 50), samples=sampler[0])))
    samplers = [sampler for sampler, _ in made]
    inputs: list[Socket] = [
        ("model", [(whole, "model"), (clean, "model")]),
        ("clip", [(clean, "clip")]),
        *[(name, [(s, name) for s in samplers]) for name in ("positive", "negative")],
        ("latent_image", [*((s, "latent_image") for s in samplers), (clean, "latent")]),
        ("vae", [(decode, "vae") for _, decode in made]),
        ("lora_name", [(whole, "lora_name"), (clean, "lora_name")]),
        *[(name, [(s, name) for s in samplers]) for name in ("seed", "steps", "cfg")],
    ]
    outputs = [("before", made[0][1], 0), ("after", made[1][1], 0), ("cleaned", clean, 0), ("verdict", clean, 2)]
    about = "A LoRA as it is and cleaned of what it remembers of its training pictures, by one picture of each, same prompt and seed."
    return blueprint(g, "Clean a LoRA", about, inputs, outputs)


BLUEPRINTS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (where_memorized, guarded_picture, cleaned_lora)


def write(object_info: dict[str, Any]) -> None:
    """Rewrite subgraphs/*.json."""
    FOLDER.mkdir(exist_ok=True)
    for build in BLUEPRINTS:
        made = build(object_info)
        name = made["definitions"]["subgraphs"][0]["name"]
        (FOLDER / f"{name}.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
