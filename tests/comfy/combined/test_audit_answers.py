"""What a row of an audit says: bases, text encoders, guards, references, what is broken."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

from ..auditing import EMPTY, USE


def test_the_base_takes_the_neighbours_place(audit, demo, changed):
    """What it agrees on is taken away: a LoRA that changes nothing goes nowhere beyond."""
    model, key = demo[0].clone(), "diffusion_model.out.2.weight"
    model.add_patches({key: (torch.zeros_like(demo[0].model.state_dict()[key]),)})
    rows, _ = audit(["a hat"], model=model, base=demo[0], neighbours=0)
    assert rows[0]["beyond"] == pytest.approx(0.0, abs=1e-5)


def with_a_lora(clip):
    """A text encoder that reads every word as another."""
    under, key = clip.clone(), "encoder.token_embedding.weight"
    under.add_patches({key: (torch.randn(clip.patcher.model.state_dict()[key].shape, generator=torch.Generator().manual_seed(0)),)})
    return under


def test_a_base_that_is_the_model_or_the_one_under_the_lora_is_refused_before_any_work(audit, demo, changed, home):
    """Nothing would be beyond it, and every row would be clean."""
    for model, base, words in ((demo[0], demo[0], "same model"), (demo[0], changed, "exchanged"), (changed, changed, "same model")):
        with pytest.raises(ValueError, match=words):
            audit(["a hat"], model=model, base=base)
    with pytest.raises(ValueError, match="as base_clip"):
        audit(["a hat"], clip=with_a_lora(demo[1]), base=demo[0])
    assert not (home / "output/unmemorize/audits/mine").exists()


def test_the_base_reads_prompts_with_its_own_text_encoder(audit, audits, demo, encode, monkeypatch, home):
    """A LoRA of the text encoder alone leaves the MODEL the same; with its encoder the base would draw the same pictures."""
    module = importlib.import_module("unmemorize_pack.host.combined.audit_row")
    drawn, draw = [], module.draw
    monkeypatch.setattr(module, "draw", lambda model, positive, *more: drawn.append(positive) or draw(model, positive, *more))
    under = with_a_lora(demo[1])
    (row,), place = audit(["a hat"], clip=under, base=demo[0], base_clip=demo[1])
    ours, theirs = ((c.encode_from_tokens_scheduled(c.tokenize("a hat"))[0][0]) for c in (under, demo[1]))
    assert [torch.equal(p[0][0], ours) for p in drawn] == [True, False] and torch.equal(drawn[1][0][0], theirs)
    assert row["beyond"] is not None and "may be hidden" not in place.read_text()
    with pytest.raises(ValueError, match="base_clip"):
        audit(["a hat"], clip=under, base=demo[0], base_clip=with_a_lora(under))


def test_a_text_encoder_that_the_base_borrows_is_said(audit, demo, changed):
    _, place = audit(["a hat"], model=changed, clip=with_a_lora(demo[1]), base=demo[0], neighbours=0)
    assert "may be hidden" in place.read_text()


def test_a_lora_of_the_text_encoder_is_not_watched(audit, demo, wide):
    short = {"use": USE | {"steps": 5}, "neighbours": 0, "profile": wide}
    (plain,), _ = audit(["a red ring"], name="plain", **short)
    (under,), _ = audit(["a red ring"], name="under", clip=with_a_lora(demo[1]), **short)
    assert plain["memorized"] is False and under["memorized"] is None and "text encoder was not watched" in under["not_judged"]


def test_guard_and_references_speak_in_the_row(audit, stored, audits):
    references = importlib.import_module("unmemorize_pack.host.copies.references")
    detectors = importlib.import_module("unmemorize_pack.host.copies.detectors")
    rows, _ = audit(["a hat"])
    picture = torch.rand(1, 64, 64, 3)
    rows, _ = audit(["a hat"], name="two", profile=stored, references=references.of_batch(picture), detector=detectors.BuiltIn(), limit=0.5)
    assert rows[0]["memorized"] in (True, False) and rows[0]["copies"] == 0 and rows[0]["nearest"] == "picture 0"


def test_a_broken_picture_is_said_and_not_judged(audit, demo, audits, monkeypatch):
    class Broken:
        def decode(self, latent):
            return torch.full((len(latent), 64, 64, 3), torch.nan)

    rows, place = audit(["a hat"], vae=Broken())
    assert "came out broken" in rows[0]["error"] and "came out broken" in place.read_text()


class Breaking:
    """A VAE whose decoded batches after the first are broken, in one picture of them or in all."""

    def __init__(self, vae, pictures):
        self._vae, self._pictures, self._count = vae, pictures, 0

    def decode(self, latent):
        found = self._vae.decode(latent)
        self._count += 1
        found[: self._pictures if self._count > 1 else 0] = torch.nan
        return found

    def __getattr__(self, name):
        return getattr(self._vae, name)


@pytest.mark.parametrize(("broken", "known"), [(1, True), (3, False)])
def test_broken_pictures_of_neighbours_are_left_out_and_the_files_stay_json(audit, demo, home, broken, known):
    """Two of three still agree with each other; of none nothing is known."""
    (row,), place = audit(["a red ring"], vae=Breaking(demo[2], broken), seeds=3)
    assert (row["beyond"] is not None) == known and row["agreement"] is not None
    assert row["left_out"].startswith(f"{broken} broken pictures")

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    for text in (place.with_name("report.json").read_text(), place.with_name("rows.jsonl").read_text()):
        json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("likeness", "limit", "copies", "verdict"),
    [(0.5, 0.45, None, "not judged"), (0.5, 0.55, 0, "nothing found"), (0.9, 0.45, 2, "copied"), (0.72, 0.75, 0, "nothing found")],
)
def test_a_copy_is_what_copy_check_calls_one(audit, monkeypatch, likeness, limit, copies, verdict):
    """Above the threshold that it reports, and as alike as no different pictures are; between the two it is unclear."""
    references = importlib.import_module("unmemorize_pack.host.copies.references")
    detector = importlib.import_module("unmemorize_pack.host.copies.detectors").BuiltIn()
    monkeypatch.setattr(detector, "compare", lambda ours, theirs, tick: torch.full((len(ours), len(theirs)), likeness))
    (row,), _ = audit(["a hat"], neighbours=0, references=references.of_batch(torch.rand(1, 64, 64, 3)), detector=detector, limit=limit)
    assert row["copies"] == copies and (row.get("unclear") == 2) == (copies is None)
    assert importlib.import_module("unmemorize_pack.unmemorize.copies.audit").verdict(row) == verdict


def test_a_guard_that_could_not_judge_is_no_clean_answer(audit, stored, audits):
    """This sampler chooses its own steps."""
    rows, _ = audit(["a hat"], profile=stored, use=USE | {"sampler_name": "dpm_fast", "steps": 4})
    assert rows[0]["memorized"] is None and rows[0]["not_judged"]
    assert importlib.import_module("unmemorize_pack.unmemorize.copies.audit").verdict(rows[0]) == "not judged"


def test_a_lora_is_watched_where_the_base_is_the_model_before_it_and_else_not_judged(audit, demo, changed, wide, audits):
    short = {"use": USE | {"steps": 5}, "neighbours": 0}
    (alone,), _ = audit(["a red ring"], model=changed, profile=wide, name="alone", **short)
    assert alone["memorized"] is None and "was not watched" in alone["not_judged"]
    (both,), _ = audit(["a red ring"], model=changed, profile=wide, base=demo[0], name="both", **short)
    assert "was not watched" not in both.get("not_judged", "") and both["guard_score"] is not None
    (lora,), _ = audit(["a red ring"], model=changed, base=demo[0], name="lora", **short)
    assert "guard_score" in lora, "no profile is needed to watch a LoRA"
    watching = importlib.import_module("unmemorize_pack.host.combined.audit_row").watching
    facts = {"clip": None, "vae": None, "negative": None, "latent": EMPTY, "prompts": ["a"], "seeds": 2, "use": USE, "name": "x"}
    key, other = "diffusion_model.out.2.weight", demo[0].clone()
    other.add_patches({key: (torch.full_like(demo[0].model.state_dict()[key], 1e-3),)})
    mixed = audits.Audit(model=other, base=changed, **facts)
    audits.check(mixed)
    assert watching(mixed) is None, "the base has a LoRA of its own"
