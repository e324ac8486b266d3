"""Audits: rows, pages, lists of prompts, and what is carried on."""

from __future__ import annotations

import dataclasses
import importlib
import json

import pytest
import torch

from ..auditing import EMPTY, PROMPTS, USE


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


def test_a_run_that_was_stopped_carries_on(audit, audits, demo, interrupted, counted, home):
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


def test_a_prompt_that_fails_is_a_row(audit, audits, monkeypatch):
    real = audits.RowMaker._measured

    def measured(self, prompt):
        if "blue" in prompt:
            raise ValueError("broken")
        return real(self, prompt)

    monkeypatch.setattr(audits.RowMaker, "_measured", measured)
    rows, place = audit()
    assert [r.get("error") for r in rows] == [None, "broken", None] and "failed: broken" in place.read_text()


def test_a_prompt_that_failed_is_tried_again(audit, audits, monkeypatch, home):
    """What mends it, ComfyUI started with --fp32-vae for one, is no setting of the audit."""
    real, tried = audits.RowMaker._measured, []

    def measured(self, prompt):
        tried.append(prompt)
        if "blue" in prompt and len(tried) <= 3:
            raise ValueError("broken")
        return real(self, prompt)

    monkeypatch.setattr(audits.RowMaker, "_measured", measured)
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


def test_comments_alone_are_no_error_where_a_file_has_prompts(nodes, demo, encode, home):
    (home / "input/list.txt").write_text("a cat\n")
    facts = {
        "model": demo[0], "clip": demo[1], "vae": demo[2], "negative": encode(""), "latent": EMPTY, "name": "node", "seeds": 2,
        "neighbours": 0, "copy_limit": 0.0,
    }  # fmt: skip
    node = nodes["UnmemorizeAudit"]
    text = node.execute(prompts="# a hat\n # a dog", file="list.txt", **facts, **USE).args[1]
    assert [row["prompt"] for row in json.loads(text)["rows"]] == ["a cat"]
    with pytest.raises(ValueError, match="they are comments"):
        node.execute(prompts="# a hat", file="none", **facts, **USE)


def test_the_view_counts_prompts_that_it_does_not_show(audits, home):
    def gallery(*several):
        rows = [{"id": f"{word} {i}", "prompt": word, "agreement": 0.5} | facts for word, n, facts in several for i in range(n)]
        return audits.gallery(audits.Audited(rows, audits.folder_of("many") / "index.html", {}))

    failed = gallery(("clean", 1000, {"memorized": False}), ("failed", 400, {"agreement": None, "error": "broken"}))
    assert failed["counts"] == {"nothing found": 1000, "failed": 400} and failed["count"] == 1400
    assert [r["prompt"] for r in failed["rows"]] == ["failed"] * 400 + ["clean"] * 600
    assert gallery(("found", 1500, {"memorized": True}))["counts"] == {"memorized": 1500}


@pytest.mark.parametrize("changes", [{"start_percent": 0.9, "end_percent": 1.0}, {"strength": 0.2, "area": (4, 4, 0, 0)}])
def test_when_and_where_the_negative_prompt_holds_is_the_audits(audit, encode, changes):
    audit(["a hat"])
    with pytest.raises(ValueError, match=r"settings \(negative differ"):
        audit(["a hat"], negative=[[tensor, {**facts, **changes}] for tensor, facts in encode("")])


def test_what_cannot_be_looked_into_on_a_prompt_is_never_taken_for_the_same(audit, encode):
    negative = [[tensor, {**facts, "hint": (i for i in range(3))}] for tensor, facts in encode("")]
    audit(["a hat"], negative=negative)
    with pytest.raises(ValueError, match="negative"):
        audit(["a hat"], negative=negative)


def test_another_profile_of_the_same_settings_is_another_audit(audit, stored):
    """Measured on other prompts: its facts are the same."""
    other = dataclasses.replace(stored.profile, mean={k: v + 1 for k, v in stored.profile.mean.items()})
    audit(["a hat"], profile=stored)
    audit(["a hat"], profile=dataclasses.replace(stored))
    with pytest.raises(ValueError, match=r"settings \(profile \(content\) differ"):
        audit(["a hat"], profile=dataclasses.replace(stored, profile=other))


def test_the_size_is_that_of_the_pictures(audit, audits, demo, home, monkeypatch):
    """ComfyUI 0.33's empty latents have another size than the model draws."""
    module = importlib.import_module("unmemorize_pack.host.core.sampling")
    monkeypatch.setattr(module.comfy.sample, "fix_empty_latent_channels", lambda _model, samples, **more: samples[..., :4, :6])
    audit(["a hat"], neighbours=0)
    assert json.loads((home / "output/unmemorize/audits/mine/audit.json").read_text())["size"] == [8, 4, 6]


@pytest.mark.parametrize("other", ["negative", "clip", "model"])
def test_other_words_encoder_or_options_are_another_audit(audit, demo, encode, other):
    clip, model = demo[1].clone(), demo[0].clone()
    key = next(k for k in clip.cond_stage_model.state_dict() if k.endswith("weight"))
    clip.add_patches({key: (torch.ones_like(clip.cond_stage_model.state_dict()[key]),)})
    model.set_model_sampler_pre_cfg_function(lambda facts: facts["conds_out"])
    audit(["a hat"])
    with pytest.raises(ValueError, match="another model or other settings"):
        audit(["a hat"], **{other: {"negative": encode("blurred"), "clip": clip, "model": model}[other]})


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


def test_the_last_seed_goes_on_with_the_first(audit):
    (row,), _ = audit(["a red ring"], seeds=5, neighbours=0, use=USE | {"seed": 2**64 - 1, "steps": 2})
    assert "error" not in row and len(row["thumbnails"]) == 5


def test_another_vae_is_another_audit(audit, audits, demo):
    """Pictures, and so their agreement, are the VAE's."""
    content = audits._content_of_vae

    class Other:
        first_stage_model = torch.nn.Linear(2, 2)

    assert content(demo[2]) == content(demo[2]) != content(Other())
