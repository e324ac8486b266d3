"""A live ComfyUI with the pack: what a user gets over HTTP."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
FOLDER = "any-folder_name"


@pytest.fixture(scope="session")
def info(server):
    return server.object_info()


@pytest.fixture(scope="session")
def lowered(info):
    """API prompt of a bundled workflow."""
    from unmemorize_pack.demo.live.lower import lower

    return lambda path: lower(json.loads(path.read_text(encoding="utf-8")), info)


def test_pack_loads_under_any_folder_name_without_a_warning(server, info):
    ours = [name for name in info if name.startswith("Unmemorize")]
    snapshot = json.loads((ROOT / "tests/data/object_info.json").read_text())
    assert sorted(ours) == sorted(snapshot)
    # old versions print no level: every line that names the pack must be the one of its import time, or a template listing
    start = server.log_file.read_text().split("To see the GUI go to")[0]
    # the clone may be called as the pack is: its own path is no mention of the pack
    lines = [line for line in start.replace(str(ROOT), "").splitlines() if FOLDER in line or "nmemorize" in line]
    folders = "Base directory|user directory|output directory|temp directory|input directory|database"
    harmless = re.compile(rf"\d+\.\d+ seconds: \S*{FOLDER}$|- {FOLDER}$|whitelist|{folders}", re.I)
    assert [line for line in lines if not harmless.search(line)] == []
    assert "IMPORT FAILED" not in "\n".join(lines)


LIGHT = {"steps": 10, "pictures": 8, "learning_steps": 4}
"""Settings of nodes -> their most here; in the browser every workflow runs as it is. An audit is left as it is: it carries on
where the browser's ended."""


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_bundled_workflow_runs(server, lowered, path):
    """Lowered, accepted without node_errors, run to the end; each of our nodes that shows something did."""
    prompt = lowered(path)
    audits = any(node["class_type"] == "UnmemorizeAudit" for node in prompt.values())
    for node in prompt.values():
        if not audits:
            node["inputs"] |= {name: min(node["inputs"][name], most) for name, most in LIGHT.items() if name in node["inputs"]}
        if node["class_type"] == "UnmemorizeCleanLoRA":
            node["inputs"] = {**node["inputs"], "captions": "", "prompts": ""}
            del node["inputs"]["latent"]
    outputs = server.run(prompt)
    for node_id, node in prompt.items():
        if node["class_type"].startswith("UnmemorizeHeatmapOverlay"):
            (image,) = outputs[node_id]["images"]
            assert server.picture(image).startswith(b"\x89PNG")
            # the demo model's finest cross-attention has settled on the first two tokens: Bright Ending sees nothing there
            blind = prompt[node["inputs"]["map"][0]]["class_type"] == "UnmemorizeBrightEndingMap"
            assert outputs[node_id]["unmemorize_report"][0]["peak"] > 0 or blind


def test_blueprints_are_offered(server):
    """In the node library, with what is in them."""
    offered = {entry["name"]: key for key, entry in server.get_json("/global_subgraphs").items() if FOLDER in entry["info"]["node_pack"]}
    files = {path.stem: path for path in (ROOT / "subgraphs").glob("*.json")}
    assert set(offered) == set(files) and len(files) == 3
    for name, key in offered.items():
        assert json.loads(server.get_json(f"/global_subgraphs/{key}")["data"]) == json.loads(files[name].read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_bundled_workflow_is_listed_with_its_thumbnail(server, path):
    assert path.stem in server.get_json("/api/workflow_templates")[FOLDER]
    served = json.loads(server.get(f"/api/workflow_templates/{FOLDER}/{path.stem}.json"))
    assert served == json.loads(path.read_text(encoding="utf-8"))
    assert server.get(f"/api/workflow_templates/{FOLDER}/{path.stem}.jpg").startswith(b"\xff\xd8")


def test_help_pages_are_served(server):
    for page in (ROOT / "js/docs").glob("*.md"):
        assert server.get(f"/extensions/{FOLDER}/docs/{page.name}").decode() == page.read_text(encoding="utf-8")


def test_locale_is_merged(server):
    names = server.get_json("/api/i18n")["en"]["nodeDefs"]
    assert names["UnmemorizeHeatmapOverlay"]["display_name"] == "Heatmap Overlay"


def test_second_run_comes_from_the_cache_and_colours_rerun_no_model(server, lowered):
    """Another colour map executes the overlay alone."""
    prompt = lowered(ROOT / "workflows" / "01-where-is-it-memorized.json")
    server.run(prompt)
    for node in prompt.values():
        if node["class_type"] == "UnmemorizeHeatmapOverlay":
            node["inputs"]["colour_map"] = "viridis"
    prompt_id = server.queue(prompt)
    deadline = time.monotonic() + 120
    while prompt_id not in (history := server.get_json(f"/history/{prompt_id}")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    messages = history[prompt_id]["status"]["messages"]
    cached = {n for kind, data in messages if kind == "execution_cached" for n in data["nodes"]}
    rerun = {node["class_type"] for node_id, node in prompt.items() if node_id not in cached}
    assert rerun <= {"UnmemorizeHeatmapOverlay", "PreviewImage", "PreviewAny", "SaveImage"}
    assert "UnmemorizeHeatmapOverlay" in rerun


def test_error_reaches_the_user_in_plain_words(server, lowered):
    """The dialog shows the exception's text: no negative prompt."""
    from unmemorize_pack.demo.live.server import WorkflowFailed

    prompt = lowered(ROOT / "workflows" / "01-where-is-it-memorized.json")
    for node in prompt.values():
        if node["class_type"] == "UnmemorizeCurvatureDifferenceMap":
            node["inputs"].pop("negative")
    with pytest.raises(WorkflowFailed, match="UnmemorizeCurvatureDifferenceMap: .*CLIP Text Encode without text"):
        server.run(prompt)
