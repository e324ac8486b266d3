"""The shape of the house, read from the source: nothing is imported."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OF_THE_DEMO = ("demo/__init__.py", "demo/networks.py", "demo/pictures.py", "demo/words.py")
SHIPPED = ("__init__.py", "nodes", "host", "unmemorize", "batch", *OF_THE_DEMO)
FAMILIES = ("curvature", "stability", "lora", "neurons", "copies")
ABOVE = ("combined",)
"""What joins families: it may import all of them, and is imported by nodes alone."""
COMFYUI = {
    "comfy",
    "comfy_api",
    "comfy_extras",
    "comfy_execution",
    "folder_paths",
    "nodes",
    "server",
    "execution",
    "latent_preview",
    "node_helpers",
}
COMFYUI_FOR = {"unmemorize": set(), "demo": set(), "host": COMFYUI, "nodes": {"comfy_api"}, "batch": {"comfy", "folder_paths"}}
FORBIDDEN_CALLS = {"eval", "exec", "print", "compile", "__import__", "breakpoint"}
FORBIDDEN_MODULES = {
    "pickle",
    "subprocess",
    "requests",
    "urllib",
    "socket",
    "ctypes",
    "matplotlib",
    "cv2",
    "diffusers",
    "pandas",
    "sklearn",
    "torchaudio",
}


def shipped() -> Iterator[Path]:
    for name in SHIPPED:
        path = ROOT / name
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(level, dotted module) of every import statement of a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((node.level, name) for name in names)


def room_of(path: Path) -> str:
    """The floor a file is on: nodes, batch, host, unmemorize or demo."""
    return path.relative_to(ROOT).parts[0]


def family_of(path: Path) -> str:
    """The room of a file on its floor: a family, core, pictures, combined; "demo" for the demo's; "" for a floor's own face."""
    floor, *rest = path.relative_to(ROOT).with_suffix("").parts
    if floor == "nodes":
        return next((f for f in (*FAMILIES, *ABOVE, "demo") if rest[0].split("_")[0] == f), "" if rest[0] == "__init__" else "core")
    return "demo" if floor == "demo" or rest == ["demo"] else rest[0] if len(rest) > 1 else ""


def allowed(path: Path) -> set[tuple[str, str]]:
    """(Floor, room) of everything that a file may import: downward, and of families its own alone."""
    floor, room = room_of(path), family_of(path)
    if floor == "batch":
        return {(f, r) for f in ("batch", "host", "unmemorize") for r in (*FAMILIES, "core", "pictures", "demo", *ABOVE, "")}
    if floor == "nodes" and not room:
        return {("nodes", r) for r in (*FAMILIES, *ABOVE, "demo")}
    rooms = {*FAMILIES, "core", "pictures", "demo", *ABOVE} if room in ABOVE else {room, "core"}
    floors = {"unmemorize": ["unmemorize"], "host": ["host", "unmemorize"], "nodes": ["nodes", "host", "unmemorize"], "demo": []}[floor]
    drawing = {("unmemorize", "pictures")} if floor != "unmemorize" and room != "core" else set()
    return {(f, r) for f in floors for r in rooms} | drawing | ({("demo", "demo")} if room == "demo" else set())


def targets(path: Path) -> Iterator[Path]:
    """The modules of the pack that a file imports, wherever it does so."""
    folder = path.parent
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = folder.joinpath(*[".."] * (node.level - 1), *(node.module or "").split(".")).resolve()
            modules = [base / f"{a.name}.py" for a in node.names if (base / f"{a.name}.py").is_file()]
            yield from modules or [base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"]


SOURCES = [p for p in shipped() if p.name != "__init__.py" or p.parent != ROOT]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_and_keep_to_their_family(path):
    """nodes -> host -> unmemorize, never upward; families import core alone, what joins them is a room of its own."""
    floor = room_of(path)
    for level, module in imports(path):
        first = module.split(".")[0]
        if level == 0:
            assert first not in COMFYUI - COMFYUI_FOR[floor], f"{path}: {floor} may not import {first}"
            assert first not in FORBIDDEN_MODULES, f"{path} imports {first}"
            assert first != "unmemorize_pack", f"{path}: relative imports only"
    for target in targets(path):
        assert target.is_file(), f"{path} imports {target}"
        where = (room_of(target), family_of(target))
        assert where in allowed(path) or where == (floor, family_of(path)), f"{path} may not import {target.relative_to(ROOT)}"


def test_every_file_has_a_room():
    """No file lies on a floor itself, but the demo's host; tests are where what they test is."""
    for floor in ("host", "unmemorize"):
        assert {p.name for p in (ROOT / floor).glob("*.py")} <= {"__init__.py", "demo.py"}
        found = {p.parent.name for p in (ROOT / floor).glob("*/*.py")}
        assert {*FAMILIES, "core"} <= found <= {*FAMILIES, "core", "pictures", *ABOVE}
    rooms = {*FAMILIES, "core", "pictures", "demo", "benchmarks", "batch", *ABOVE}
    for tier in ("unit", "comfy"):
        assert {p.name for p in (ROOT / "tests" / tier).iterdir() if p.is_dir()} <= rooms | {"__pycache__"}
    assert not list((ROOT / "tests" / "unit").glob("test_*.py"))


@pytest.mark.parametrize("path", sorted((ROOT / "nodes").glob("*.py")), ids=lambda p: p.stem)
def test_nodes_compute_nothing(path):
    """Schema, call, NodeOutput: no library that computes, no arithmetic, no loop."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {module.split(".")[0] for level, module in imports(path) if level == 0}
    assert found <= {"__future__", "json", "typing", "pathlib", "comfy_api"}
    for node in ast.walk(tree):
        assert not isinstance(node, ast.For | ast.While | ast.AugAssign), f"{path}:{node.lineno}"
        if isinstance(node, ast.BinOp):  # | joins dicts, + texts, / paths
            assert isinstance(node.op, ast.BitOr | ast.Add | ast.Div), f"{path}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", list(shipped()), ids=lambda p: str(p.relative_to(ROOT)))
def test_source_is_safe_for_the_registry(path):
    text = path.read_text(encoding="utf-8")
    text.encode("cp1252")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            assert not (isinstance(node.func, ast.Name) and name in FORBIDDEN_CALLS), f"{path}:{node.lineno} calls {name}"
            assert ast.unparse(node.func) != "torch.load", f"{path}:{node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno}: bare except"


@pytest.mark.parametrize("path", [p for p in shipped() if room_of(p) == "unmemorize"], ids=lambda p: p.name)
def test_methods_name_no_device(path):
    assert not re.search(r"""["'](cuda|mps|cpu)["']|\.(cpu|cuda)\(""", path.read_text(encoding="utf-8"))


def test_nothing_happens_at_import():
    """The root file imports nothing; modules only define, never call, at their top level (constants excepted)."""
    root = ast.parse((ROOT / "__init__.py").read_text())
    assert [type(n).__name__ for n in root.body] == ["Expr", "Assign", "AsyncFunctionDef"]
    for path in shipped():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            bare_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            assert not bare_call and not isinstance(node, ast.For | ast.While | ast.With | ast.Try), f"{path}:{node.lineno}"


def node_classes() -> dict[str, ast.ClassDef]:
    """Node id -> class, found as ComfyUI-Manager finds them: direct base, literal id in a Schema call."""
    found = {}
    for path in sorted((ROOT / "nodes").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(ast.unparse(b) in ("io.ComfyNode", "ComfyNode") for b in node.bases):
                for call in ast.walk(node):
                    if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("Schema"):
                        ids = [k.value.value for k in call.keywords if k.arg == "node_id" and isinstance(k.value, ast.Constant)]
                        assert ids, f"{node.name}: node_id must be a literal"
                        found[ids[0]] = node
    return found


def test_every_node_is_found_by_manager_and_listed():
    classes = node_classes()
    source = (ROOT / "nodes" / "__init__.py").read_text()
    listed = re.search(r"NODES.*?= \[(.*?)\]", source, re.S).group(1)
    assert sorted(c.name for c in classes.values()) == sorted(n.strip() for n in listed.split(",") if n.strip())
    assert classes and all(i.startswith("Unmemorize") for i in classes)


@pytest.mark.parametrize("node_id", sorted(node_classes()))
def test_node_is_finished(node_id):
    """A help page that begins with a picture and tables its inputs, an English locale, a bundled workflow that shows it."""
    page = ROOT / "js" / "docs" / f"{node_id}.md"
    text = page.read_text(encoding="utf-8")
    assert len(text) > 600
    first = text.split("\n")[2]
    assert first.startswith("![") and f"(pictures/{node_id}.webp)" in first, "take it with docs/help_pictures.py"
    assert 0 < (page.parent / "pictures" / f"{node_id}.webp").stat().st_size < 100_000
    named = json.loads((ROOT / "locales/en/nodeDefs.json").read_text(encoding="utf-8"))[node_id]
    before, table, _ = text.partition("\n|")
    assert table or not named.get("inputs"), "no table of inputs"
    assert len(before.split()) <= 300, "too many words before the table"
    assert any(f'"type": "{node_id}"' in w.read_text(encoding="utf-8") for w in (ROOT / "workflows").glob("*.json"))


def test_no_pictures_or_caches_are_committed_by_accident():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert not [f for f in listed if f.startswith(("out/", ".nox/", "node_modules/"))]
    assets = sum((ROOT / f).stat().st_size for f in listed if f.startswith("demo/lab/"))
    assert assets <= 25 * 2**20


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda p: p.stem)
def test_stock_nodes_keep_their_names(path):
    """People learn them by these; what a picture is, its frame says. A picture nobody is told about is none to learn from."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    assert [n["title"] for n in workflow["nodes"] if "title" in n and not n["type"].startswith("Unmemorize")] == []
    frames = [g["bounding"] for g in workflow["groups"]]
    for x, y in (n["pos"] for n in workflow["nodes"] if n["type"] == "PreviewImage"):
        assert any(left < x < left + w and top < y < top + h for left, top, w, h in frames)


def test_app_mode_shows_widgets_and_pictures_that_exist():
    """Front ends from 1.41 on; an app without a question or an answer is none."""
    apps = 0
    for path in (ROOT / "workflows").glob("*.json"):
        workflow = json.loads(path.read_text(encoding="utf-8"))
        shown = workflow["extra"].get("linearData")
        nodes = {node["id"]: node for node in workflow["nodes"]}
        if shown is None:
            continue
        apps += 1
        assert shown["inputs"] and shown["outputs"], path.stem
        for node, widget in shown["inputs"]:
            assert widget in [i["widget"]["name"] for i in nodes[node]["inputs"] if "widget" in i], f"{path.stem}: {widget}"
        assert {nodes[node]["type"] for node in shown["outputs"]} == {"PreviewImage"}, path.stem
    assert apps >= 2


@pytest.mark.parametrize("path", sorted((ROOT / "subgraphs").glob("*.json")), ids=lambda p: p.stem)
def test_blueprint_is_whole(path):
    """One node outside, named as its file; every link inside ends at sockets that know it, and every socket led out is the outer node's."""
    workflow = json.loads(path.read_text(encoding="utf-8"))
    (outer,), (inside,) = workflow["nodes"], workflow["definitions"]["subgraphs"]
    assert (outer["type"], path.stem) == (inside["id"], inside["name"])
    for side in ("inputs", "outputs"):
        assert [(s["name"], s["type"]) for s in outer[side]] == [(s["name"], s["type"]) for s in inside[side]]
    nodes = {node["id"]: node for node in inside["nodes"]}
    for link in inside["links"]:
        if link["origin_id"] == inside["inputNode"]["id"]:
            source = inside["inputs"][link["origin_slot"]]
            assert link["id"] in source["linkIds"]
        else:
            source = nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
            assert link["id"] in source["links"]
        if link["target_id"] == inside["outputNode"]["id"]:
            target = inside["outputs"][link["target_slot"]]
            assert target["linkIds"] == [link["id"]]
        else:
            target = nodes[link["target_id"]]["inputs"][link["target_slot"]]
            assert target["link"] == link["id"]
        assert source["type"] == target["type"] == link["type"]


def test_a_version_without_a_changelog_is_not_published():
    path = ROOT / ".github" / "changelog.py"
    spec = importlib.util.spec_from_file_location("changelog_of_a_version", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = "# Changelog\n\n## 0.1.10 (today)\n\n- ten\n\n## 0.1.1\n- one\n"
    assert [module.section(text, version) for version in ("0.1.10", "0.1.1", "0.1", "2.0.0")] == ["- ten", "- one", "", ""]


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda p: p.stem)
def test_no_node_of_a_workflow_lies_under_another(path):
    """With the title bar above each; of folded ones there is no more than that."""
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    boxes = [(*n["pos"], *((110, 0) if n["flags"].get("collapsed") else n["size"]), n["type"]) for n in nodes]
    for i, (x, y, width, height, kind) in enumerate(boxes):
        for left, top, w, h, other in boxes[:i]:
            apart = x >= left + w or left >= x + width or y - 30 >= top + h or top - 30 >= y + height
            assert apart, f"{kind} and {other}"
