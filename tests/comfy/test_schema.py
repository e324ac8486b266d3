"""Schemas: complete, stable, and the same in the locale files."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest

KEPT = ("min", "max", "step", "default", "options", "multiline", "forceInput")
CORE_OWNED = ("sampler_name", "scheduler")
"""Their options belong to the running ComfyUI and differ between its versions."""
FILES = ("lora_name", "folder")
"""Their options and defaults are the files that are there."""
LANGUAGES = ("en", "zh", "ja", "ko", "ru", "fr", "es")
SNAPSHOT = Path(__file__).resolve().parents[1] / "data" / "object_info.json"


def snapshot_of(node: Any) -> dict[str, Any]:
    """What a saved workflow depends on: ids, types, order, defaults, ranges, display names."""
    schema = node.define_schema()
    inputs = []
    for item in schema.inputs or []:
        facts = item.as_dict()
        if item.id in CORE_OWNED + FILES:
            facts.pop("options")
        if item.id in FILES:
            facts.pop("default")
        inputs.append({"id": item.id, "type": item.get_io_type(), "optional": item.optional} | {k: facts[k] for k in KEPT if k in facts})
    outputs = [{"id": o.id, "type": o.get_io_type(), "display_name": o.display_name} for o in schema.outputs or []]
    return {"display_name": schema.display_name, "category": schema.category, "inputs": inputs, "outputs": outputs}


def test_schema_snapshot(nodes, request):
    """Inputs may be appended; removing, renaming or reordering breaks saved workflows."""
    now = {node_id: snapshot_of(node) for node_id, node in sorted(nodes.items())}
    if request.config.getoption("--update-snapshots"):
        SNAPSHOT.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    assert now == json.loads(SNAPSHOT.read_text(encoding="utf-8")), "if intended: nox -s tests -- tests/comfy --update-snapshots"


def test_every_input_and_output_has_a_tooltip(nodes):
    for node_id, node in nodes.items():
        schema = node.define_schema()
        assert schema.description, node_id
        for item in [*(schema.inputs or []), *(schema.outputs or [])]:
            assert item.tooltip and len(item.tooltip) > 20, f"{node_id}.{item.id}"
            assert item.tooltip.endswith("."), f"{node_id}.{item.id}"
        ids = [i.id for i in [*(schema.inputs or []), *(schema.outputs or [])]]
        assert len(ids) == len(set(ids)), f"{node_id}: ComfyUI 0.3.75 refuses an id used for an input and an output"
        assert all(o.display_name for o in schema.outputs or []), node_id


def test_hints_drop_only_what_the_running_core_lacks(nodes, monkeypatch):
    """A misspelt hint would vanish silently: a core that knows them all may drop nothing."""
    io = importlib.import_module("comfy_api.latest").io
    dropped: set[str] = set()
    schema_module = importlib.import_module("unmemorize_pack.host.core.schema")
    original = schema_module.hints

    def recording(target: Any, **wanted: Any) -> dict[str, Any]:
        kept = original(target, **wanted)
        dropped.update(set(wanted) - set(kept))
        return kept

    for node in nodes.values():
        monkeypatch.setattr(inspect.getmodule(node), "hints", recording)
        node.define_schema()
    unknown = {"search_aliases", "has_intermediate_output"} - set(inspect.signature(io.Schema).parameters)
    unknown |= {"advanced"} - set(inspect.signature(io.Float.Input).parameters)
    assert dropped <= unknown


def english_of(node: Any) -> dict[str, Any]:
    """The English locale entry, derived from the schema."""
    schema = node.define_schema()
    inputs = {i.id: {"name": i.display_name or i.id, "tooltip": i.tooltip} for i in schema.inputs or []}
    outputs = {str(n): {"name": o.display_name, "tooltip": o.tooltip} for n, o in enumerate(schema.outputs or [])}
    return {"display_name": schema.display_name, "description": schema.description, "inputs": inputs, "outputs": outputs}


@pytest.mark.parametrize("language", LANGUAGES)
def test_locale_matches_the_schema(nodes, root, language, request):
    if language == "en" and request.config.getoption("--update-snapshots"):
        derived = {node_id: english_of(node) for node_id, node in sorted(nodes.items())}
        (root / "locales/en/nodeDefs.json").write_text(json.dumps(derived, indent=1) + "\n", encoding="utf-8")
    texts = json.loads((root / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert set(texts) == set(nodes)
    for node_id, node in nodes.items():
        schema, text = node.define_schema(), texts[node_id]
        assert set(text["inputs"]) == {i.id for i in schema.inputs or []}, node_id
        assert set(text["outputs"]) == {str(i) for i in range(len(schema.outputs or []))}, node_id
        english = english_of(node)
        if language == "en":
            assert text == english, node_id
        else:
            assert_translated(text, english, node_id)


def assert_translated(text: dict[str, Any], english: dict[str, Any], node_id: str) -> None:
    """Nothing is empty, and what explains is not left in English."""
    assert text["display_name"] and text["description"] not in ("", english["description"]), node_id
    for part in ("inputs", "outputs"):
        for name, words in text[part].items():
            assert words["name"] and words["tooltip"], (node_id, name)
            assert words["tooltip"] != english[part][name]["tooltip"], (node_id, name)


@pytest.mark.parametrize(
    ("menu", "table"),
    [
        ("METHOD", "unmemorize.curvature.differences.METHODS"), ("SCORE", "unmemorize.lora.scores.SCORES"),
        ("GATE", "unmemorize.lora.gates.GATES"), ("ROWS", "unmemorize.neurons.activity.SIDES"),
        ("NEURON_SCORE", "unmemorize.neurons.masks.SCORES"), ("PRESET", "host.curvature.presets.PRESETS"),
        ("PROBING", "host.curvature.presets.PROBINGS"), ("ESTIMATOR", "host.curvature.measuring.ESTIMATORS"),
        ("MODE", "host.stability.methods.MODES"), ("GUARD_METHOD", "host.stability.methods.METHODS"), ("STAGE", "nodes.demo.STAGES"),
    ],
)  # fmt: skip
def test_a_menu_in_words_names_every_choice(nodes, menu, table):
    """In the code's order, so that the default is the same."""
    module, name = table.rsplit(".", 1)
    choices = getattr(importlib.import_module(f"unmemorize_pack.{module}"), name)
    words = getattr(importlib.import_module("unmemorize_pack.nodes.menus"), menu)
    assert list(words.words) == list(choices)
    assert [words.symbol(line) for line in words.options] == list(choices) == [words.symbol(symbol) for symbol in choices]


WORDED = {
    "UnmemorizeCurvatureDifferenceMap": ("method", "preset", "probing", "estimator"),
    "UnmemorizeCalibrateMapThreshold": ("method", "preset", "probing", "estimator"),
    "UnmemorizeKSamplerStabilityGuard": ("mode", "method"), "UnmemorizeStabilityGuard": ("mode", "method"),
    "UnmemorizeLoadDemoCheckpoint": ("stage",),
    "UnmemorizeLoadLoRABAF": ("score", "gate"), "UnmemorizeBAFFilterLoRA": ("score", "gate"),
    "UnmemorizeCleanAppliedLoRAs": ("score", "gate"), "UnmemorizeFilterLoRAFolder": ("score", "gate"),
    "UnmemorizeFindMemorizedNeurons": ("rows", "score"),
}  # fmt: skip


def test_old_names_are_taken_beside_the_words(nodes):
    """Newer cores compare a choice with the menu, unless the node says that it does so itself."""
    found = set()
    for node_id, node in nodes.items():
        worded = tuple(
            i.id for i in node.define_schema().inputs or [] if any(str(o).endswith(")") for o in getattr(i, "options", None) or [])
        )
        if not worded:
            continue
        found.add(node_id)
        assert worded == WORDED[node_id]
        assert set(worded) <= set(inspect.signature(node.validate_inputs).parameters)
        for item in node.define_schema().inputs:
            for line in item.options if item.id in worded else ():
                for given in (line, line[line.rindex("(") + 1 : -1], None):
                    assert node.validate_inputs(**{item.id: given}) is True
            if item.id in worded:
                said = node.validate_inputs(**{item.id: "../x"})
                assert isinstance(said, str) and item.options[0] in said
    assert found == set(WORDED)
