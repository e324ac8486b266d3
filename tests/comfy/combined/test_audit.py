"""Audit against the real ComfyUI: rows, resuming, neighbours, lists of prompts."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

USE = {"seed": 1, "steps": 3, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
EMPTY = {"samples": torch.zeros(1, 8, 8, 8)}
PROMPTS = ["a large red circle", "a small blue star", "a green cross"]


@pytest.fixture(scope="module")
def tool(comfy):
    return importlib.import_module("unmemorize_pack.host.combined.audit")


@pytest.fixture(autouse=True)
def home(comfy, tmp_path, monkeypatch):
    import folder_paths

    for name in ("input", "output", "user"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"get_{name}_directory", lambda name=name: str(tmp_path / name))
    return tmp_path


@pytest.fixture
def audit(tool, demo, encode):
    def run(prompts=PROMPTS, **changes):
        facts = {
            "model": demo[0], "clip": demo[1], "vae": demo[2], "negative": encode(""), "latent": EMPTY, "prompts": prompts, "seeds": 2,
            "use": USE, "name": "mine", "neighbours": 1,
        }  # fmt: skip
        done = tool.run(tool.Audit(**(facts | changes)))
        return done.rows, done.page

    return run


def test_a_row_a_prompt_and_a_page(audit, home):
    rows, place = audit()
    assert [r["prompt"] for r in rows] == PROMPTS and place == home / "output/unmemorize/audits/mine/index.html"
    assert all(len(r["thumbnails"]) == 2 and -1 <= r["agreement"] <= 1 and r["beyond"] is not None for r in rows)
    facts = json.loads((place.parent / "audit.json").read_text())
    assert facts["seeds"] == 2 and facts["model"]["architecture"] and "3 of 3" in place.read_text()


@pytest.fixture
def counted():
    """Calls of a model's network from now on."""
    hooks = []

    def start(model):
        calls = []
        hooks.append(model.model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(1)))
        return calls

    yield start
    for hook in hooks:
        hook.remove()


def test_a_run_that_was_stopped_carries_on(audit, tool, demo, interrupted, counted, home):
    calls = counted(demo[0])
    audit(PROMPTS[:1], name="other")
    with interrupted(demo[0], after=len(calls) + 1):
        audit()
    folder = home / "output/unmemorize/audits/mine"
    kept = (folder / "rows.jsonl").read_text()
    assert 1 <= len(kept.splitlines()) < 3 and (folder / "index.html").exists()
    with (folder / "rows.jsonl").open("a") as file:
        file.write('{"id": "cut o')
    rows, _ = audit()
    assert [r["prompt"] for r in rows] == PROMPTS
    core = importlib.import_module("unmemorize_pack.host.core.rows")
    assert len(list(core.read(folder / "rows.jsonl"))) == 3 and (folder / "rows.jsonl").read_text().startswith(kept), (
        "nothing is done again"
    )


def test_another_audit_is_not_mixed_in(audit):
    audit(["a hat"])
    with pytest.raises(ValueError, match="another model or other settings"):
        audit(["a hat"], use=USE | {"steps": 4})
    assert len(audit(["a hat", "a cat"])[0]) == 2, "more prompts are the same audit"


def test_the_base_takes_the_neighbours_place(audit, demo):
    rows, _ = audit(["a hat"], base=demo[0])
    assert rows[0]["beyond"] == pytest.approx(0.0, abs=1e-5), "the model itself as base: nothing beyond"


def test_guard_and_references_speak_in_the_row(audit, stored, tool):
    references = importlib.import_module("unmemorize_pack.host.copies.references")
    detectors = importlib.import_module("unmemorize_pack.host.copies.detectors")
    rows, _ = audit(["a hat"])
    picture = torch.rand(1, 64, 64, 3)
    rows, _ = audit(["a hat"], name="two", profile=stored, references=references.of_batch(picture), detector=detectors.BuiltIn(), limit=0.5)
    assert rows[0]["memorized"] in (True, False) and rows[0]["copies"] == 0 and rows[0]["nearest"] == "picture 0"


def test_a_prompt_that_fails_is_a_row(audit, tool, monkeypatch):
    real = tool.RowMaker._measured

    def measured(self, prompt):
        if "blue" in prompt:
            raise ValueError("broken")
        return real(self, prompt)

    monkeypatch.setattr(tool.RowMaker, "_measured", measured)
    rows, place = audit()
    assert [r.get("error") for r in rows] == [None, "broken", None] and "failed: broken" in place.read_text()


def test_a_prompt_that_failed_is_tried_again(audit, tool, monkeypatch, home):
    """What mends it, ComfyUI started with --fp32-vae for one, is no setting of the audit."""
    real, tried = tool.RowMaker._measured, []

    def measured(self, prompt):
        tried.append(prompt)
        if "blue" in prompt and len(tried) <= 3:
            raise ValueError("broken")
        return real(self, prompt)

    monkeypatch.setattr(tool.RowMaker, "_measured", measured)
    audit()
    rows, place = audit()
    assert tried[3:] == [PROMPTS[1]] and not any("error" in r for r in rows) and "broken" not in place.read_text()
    audit()
    assert len(tried) == 4, "now it is known"


@pytest.mark.parametrize("name", ["", "..", "../../x", "/etc/x"])
def test_names_that_lead_elsewhere_are_refused(audit, name):
    with pytest.raises(ValueError, match="name of an audit"):
        audit(name=name)


def test_lists_of_prompts_load_as_they_are(comfy, home):
    files = importlib.import_module("unmemorize_pack.host.combined.prompt_files")
    folder = home / "input"
    (folder / "a.txt").write_text("# mine\na hat\n\na cat\na hat\n")
    (folder / "b.csv").write_text('index,Caption\n0,"a hat, red"\n1,a cat\n')
    (folder / "c.jsonl").write_text('{"url": "x", "caption": "a hat"}\n{"caption": "a cat"}\n')
    (folder / "d.json").write_text('["a hat", "a cat"]')
    assert files.names() == ["a.txt", "b.csv", "c.jsonl", "d.json"]
    assert [files.read(n) for n in files.names()] == [["a hat", "a cat"], ["a hat, red", "a cat"], ["a hat", "a cat"], ["a hat", "a cat"]]
    (folder / "e.csv").write_text("index,url\n0,x\n")
    (folder / "f.jsonl").write_text("{broken\n")
    (folder / "g.txt").write_text("# nothing\n")
    for name, words in (
        ("e.csv", "no column"),
        ("f.jsonl", "no JSON Lines"),
        ("g.txt", "no prompt"),
        ("../user", "no file"),
        ("x", "no file"),
    ):
        with pytest.raises(ValueError, match=words):
            files.read(name)


def test_the_node_writes_and_reports(nodes, demo, encode, home):
    (home / "input/list.txt").write_text("a cat\n")
    result = nodes["UnmemorizeAudit"].execute(
        model=demo[0], clip=demo[1], vae=demo[2], negative=encode(""), latent=EMPTY, prompts="a hat", file="list.txt", name="node", seeds=2,
        neighbours=0, copy_limit=0.0, **USE,
    )  # fmt: skip
    summary, text, place = result.args
    facts = json.loads(text)
    assert len(facts["rows"]) == 2 and summary == "2 not judged" and place.endswith("index.html") and "thumbnails" not in facts["rows"][0]
    assert facts["rows"][0]["beyond"] is None, "nothing to compare with, and that is said"


def test_the_view_counts_prompts_that_it_does_not_show(tool, home):
    def gallery(*several):
        rows = [{"id": f"{word} {i}", "prompt": word, "agreement": 0.5} | facts for word, n, facts in several for i in range(n)]
        return tool.gallery(tool.Audited(rows, tool.folder_of("many") / "index.html", {}))

    failed = gallery(("clean", 1000, {"memorized": False}), ("failed", 400, {"agreement": None, "error": "broken"}))
    assert failed["counts"] == {"nothing found": 1000, "failed": 400} and failed["count"] == 1400
    assert [r["prompt"] for r in failed["rows"]] == ["failed"] * 400 + ["clean"] * 600
    assert gallery(("found", 1500, {"memorized": True}))["counts"] == {"memorized": 1500}


@pytest.mark.parametrize("other", ["negative", "clip", "model"])
def test_other_words_encoder_or_options_are_another_audit(audit, demo, encode, other):
    clip, model = demo[1].clone(), demo[0].clone()
    key = next(k for k in clip.cond_stage_model.state_dict() if k.endswith("weight"))
    clip.add_patches({key: (torch.ones_like(clip.cond_stage_model.state_dict()[key]),)})
    model.set_model_sampler_pre_cfg_function(lambda facts: facts["conds_out"])
    audit(["a hat"])
    with pytest.raises(ValueError, match="another model or other settings"):
        audit(["a hat"], **{other: {"negative": encode("blurred"), "clip": clip, "model": model}[other]})


def test_a_broken_picture_is_said_and_not_judged(audit, demo, tool, monkeypatch):
    class Broken:
        def decode(self, latent):
            return torch.full((len(latent), 64, 64, 3), torch.nan)

    rows, place = audit(["a hat"], vae=Broken())
    assert "came out broken" in rows[0]["error"] and "came out broken" in place.read_text()


def test_a_guard_that_could_not_judge_is_no_clean_answer(audit, stored, tool):
    """This sampler chooses its own steps."""
    rows, _ = audit(["a hat"], profile=stored, use=USE | {"sampler_name": "dpm_fast", "steps": 4})
    assert rows[0]["memorized"] is None and rows[0]["not_judged"]
    assert importlib.import_module("unmemorize_pack.unmemorize.copies.audit").verdict(rows[0]) == "not judged"


def test_prompts_that_a_table_would_cut_are_refused(comfy, home):
    files = importlib.import_module("unmemorize_pack.host.combined.prompt_files")
    folder = home / "input"
    (folder / "lines.csv").write_text('caption\n"a red\ncar"\n')
    assert files.read("lines.csv") == ["a red\ncar"]
    (folder / "semicolons.csv").write_text('\ufeffCaption;URL;type\na cat, on a mat;http://a/b,c;x\n"a; b";y;z\n', encoding="utf-8")
    assert files.read("semicolons.csv") == ["a cat, on a mat", "a; b"]
    (folder / "separator.jsonl").write_text(json.dumps({"caption": "a\u2028hat"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert files.read("separator.jsonl") == ["a\u2028hat"]
    (folder / "several.jsonl").write_text('{"captions": ["a hat", "a cat"]}\n{"captions": null}\n')
    assert files.read("several.jsonl") == ["a hat", "a cat"]
    (folder / "commas.csv").write_text("caption\na cat, on a mat\n")
    (folder / "numbers.jsonl").write_text('{"caption": 3}\n')
    (folder / "open.csv").write_text('caption\n"' + "a" * 200_000)
    (folder / "long.txt").write_text("a" * 5000)
    for name, words in (("commas.csv", "quotes"), ("numbers.jsonl", "no text"), ("open.csv", "no table"), ("long.txt", "5000 letters")):
        with pytest.raises(ValueError, match=words):
            files.read(name)


def test_a_changed_list_runs_the_node_again(nodes, home):
    node = nodes["UnmemorizeAudit"]
    (home / "input/list.txt").write_text("a cat\n")
    before = node.fingerprint_inputs(file="list.txt", seed=1)
    (home / "input/list.txt").write_text("a cat and a hat\n")
    assert node.fingerprint_inputs(file="list.txt", seed=1) != before and node.fingerprint_inputs(file="../x") == "missing"


@pytest.fixture
def changed(demo):
    """The demo model under a patch of its cross-attention, as a LoRA is one."""
    model, generator = demo[0].clone(), torch.Generator().manual_seed(5)
    weights = demo[0].model.state_dict()
    keys = [k for k in weights if k.startswith("diffusion_model.") and k.endswith("attn2.to_out.0.weight")]
    model.add_patches({k: (0.5 * weights[k].float().std() * torch.randn(weights[k].shape, generator=generator),) for k in keys})
    return model


def test_a_lora_is_watched_where_the_base_is_the_model_before_it_and_else_not_judged(audit, demo, changed, wide, tool):
    short = {"use": USE | {"steps": 5}, "neighbours": 0}
    (alone,), _ = audit(["a red ring"], model=changed, profile=wide, name="alone", **short)
    assert alone["memorized"] is None and "was not watched" in alone["not_judged"]
    (both,), _ = audit(["a red ring"], model=changed, profile=wide, base=demo[0], name="both", **short)
    assert "was not watched" not in both.get("not_judged", "") and both["guard_score"] is not None
    (lora,), _ = audit(["a red ring"], model=changed, base=demo[0], name="lora", **short)
    assert "guard_score" in lora, "no profile is needed to watch a LoRA"
    watching = importlib.import_module("unmemorize_pack.host.combined.audit_row").watching
    facts = {"clip": None, "vae": None, "negative": None, "latent": EMPTY, "prompts": ["a"], "seeds": 2, "use": USE, "name": "x"}
    assert watching(tool.Audit(model=demo[0], base=changed, **facts)) is None, "the base has a LoRA of its own"


def test_the_last_seed_goes_on_with_the_first(audit):
    (row,), _ = audit(["a red ring"], seeds=5, neighbours=0, use=USE | {"seed": 2**64 - 1, "steps": 2})
    assert "error" not in row and len(row["thumbnails"]) == 5


def test_another_vae_is_another_audit(audit, tool, demo):
    """Pictures, and so their agreement, are the VAE's."""
    content = tool._content_of_vae

    class Other:
        first_stage_model = torch.nn.Linear(2, 2)

    assert content(demo[2]) == content(demo[2]) != content(Other())
