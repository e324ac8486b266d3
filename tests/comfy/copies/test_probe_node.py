"""LoRA Leak Probe against the real ComfyUI: what it draws, what it refuses, what it leaves alone."""

from __future__ import annotations

import importlib
import json

import pytest
import torch

from ..loras import attention_patched

USE = {"seed": 3, "steps": 4, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}


@pytest.fixture(scope="module")
def changed(demo):
    """The demo model under a LoRA that changes something."""
    return attention_patched(demo[0], lambda w, g: 0.5 * w.float().std() * torch.randn(w.shape, generator=g))


@pytest.fixture
def probing(comfy):
    return importlib.import_module("unmemorize_pack.host.copies.probing")


def asked(probing, demo, under_lora, encode, **changes):
    facts = {
        "base": demo[0], "lora": under_lora, "vae": demo[2], "captions": [encode("a red ring"), encode("a blue star")], "empty": encode(""),
        "latent": {"samples": torch.zeros(1, 8, 8, 8)}, "use": USE, "pictures": 8, "w": 1.0, "wanted": 2,
    }  # fmt: skip
    return probing.Probe(**(facts | changes))


def test_one_step_on_is_the_lora_itself_without_guidance(probing, demo, changed, encode, draw):
    """w = 1: eps_B(empty) + (eps_L(caption) - eps_B(empty)) is the LoRA's own run at CFG 1, seed by seed."""
    found = probing.probe(asked(probing, demo, changed, encode))
    assert found.captions == [0, 1] * 4 and found.pictures.shape == (8, 64, 64, 3)
    for i, prompt in ((0, "a red ring"), (3, "a blue star")):
        latent = draw(changed, prompt=prompt, seed=3 + i, steps=4, cfg=1.0)
        with torch.inference_mode():
            assert torch.allclose(found.at([i]), demo[2].decode(latent), atol=3e-3)


def test_little_of_a_picture_stays_in_memory(probing, demo, changed, encode):
    """Of one that is shown a byte a value, of the base's what is compared."""
    large = torch.rand(2, 512, 512, 3)
    ours, theirs = probing.kept(large, True), probing.kept(large, False)
    assert ours.pictures.dtype == torch.uint8 and ours.pictures.numel() == large.numel() and theirs.pictures.numel() == 0
    assert torch.equal(ours.small, theirs.small) and ours.small.shape[-1] <= 64
    assert torch.allclose(probing.alike(ours.small), probing.alike(large.movedim(-1, 1)), atol=1e-5), "what is compared is the same"


def test_models_keep_their_weights_and_their_runs(probing, demo, changed, encode, draw, untouched):
    before = draw(changed)
    with untouched(demo[0], changed):
        probing.probe(asked(probing, demo, changed, encode))
        after = draw(changed)
    assert torch.equal(before, after)


@pytest.fixture
def planted(probing, demo, changed, encode, monkeypatch):
    """planted(at) -> what is found where every second picture of the LoRA is the same, which the base draws too, as its picture number `at`
    (None: nowhere); and that picture."""
    generator = torch.Generator().manual_seed(0)
    strangers, one = torch.rand(24, 64, 64, 3, generator=generator), torch.rand(64, 64, 3, generator=generator)

    def run(at=None):
        def drawn(p, w, _progress):
            numbers = range(8) if w is not None else range(16)
            same = [i % 2 == 1 if w is not None else i == at for i in numbers]
            made = [one if hit else strangers[i + 8 * (w is None)] for i, hit in zip(numbers, same, strict=True)]
            return probing.kept(torch.stack(made), w is not None)

        monkeypatch.setattr(probing, "drawn", drawn)
        return probing.probe(asked(probing, demo, changed, encode)), one

    return run


def test_planted_agreement_is_a_leak(probing, planted):
    found, one = planted()
    assert [sorted(g.members) for g in found.leaks] == [[1, 3, 5, 7]] and not found.is_style(found.leaks[0])
    assert torch.allclose(found.estimates[0], one, atol=3e-3)
    facts = probing.report(found, ["a red ring", "a blue star"], USE)
    (group,) = facts["groups"]
    assert facts["leaks"] == 1 and group["captions"] == ["a blue star"] and group["like_base"] < 0.5 and json.dumps(facts)
    assert probing.shown(found, True).shape[0] == 1


@pytest.mark.parametrize(("at", "leaks"), [(13, 0), (12, 1)])
def test_what_the_base_draws_under_the_same_caption_is_no_leak(planted, at, leaks):
    """The thirteenth of the base's pictures is the second caption's, the twelfth the first one's."""
    found, _ = planted(at)
    assert len(found.groups) == 1 and len(found.leaks) == leaks


def test_what_the_base_draws_but_for_the_detail_is_a_style(probing, demo, changed, encode, monkeypatch):
    """Every second picture of the LoRA is the base's under other fine lines: alike beyond the base, and its layout is no news."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(24, 3, 5, 5, generator=generator)
    scenes = torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(0, 1).movedim(1, -1)
    lines = ((torch.arange(64)[:, None] + torch.arange(64)) % 4 < 2)[..., None].float()
    hatched, bases = (0.5 * scenes[17] + 0.5 * fine for fine in (lines, lines.flip(0)))

    def drawn(p, w, _progress):
        if w is None:
            return probing.kept(torch.cat([scenes[:13], bases[None], scenes[14:16]]), False)
        return probing.kept(torch.stack([hatched if i % 2 else scenes[16 + i] for i in range(8)]), True)

    monkeypatch.setattr(probing, "drawn", drawn)
    found = probing.probe(asked(probing, demo, changed, encode))
    (group,) = found.groups
    assert found.leaks == [] and found.is_style(group) and found.beyond_in_layout[0] < 0.1
    assert probing.report(found, ["a red ring", "a blue star"], USE)["groups"][0]["beyond_in_layout"] == round(found.beyond_in_layout[0], 4)
    rows = []
    monkeypatch.setattr(probing, "gallery", lambda _, given, *rest: rows.extend(given))
    probing.shown(found, True)
    said = importlib.import_module("unmemorize_pack.unmemorize.pictures.gallery")._said
    assert [r["style"] for r in rows] == [True]
    assert "a style" in said(rows[0]) and "style" not in said({**rows[0], "style": False})


@pytest.mark.parametrize(("captions", "said"), [([""], True), (["a red ring", "a blue star"], False)])
def test_without_captions_it_is_said_that_a_style_agrees_too(probing, planted, monkeypatch, captions, said):
    found, _ = planted()
    found.captions[:] = [i % len(captions) for i in range(8)]
    assert (probing.report(found, captions, USE)["warnings"] == [probing.STYLE]) == said
    drawn = []
    monkeypatch.setattr(probing, "gallery", lambda *given: drawn.append(given))
    probing.shown(found, any(captions))
    assert (probing.STYLE in drawn[0][3]) == said


@pytest.mark.parametrize(("captions", "said"), [(["a", "b", "c"], True), (["a", "b"], False)])
def test_too_few_pictures_of_a_caption_are_said(probing, planted, monkeypatch, captions, said):
    """Two pictures of a caption are no group, whatever they show: finding none is no news."""
    found, _ = planted()
    found.captions[:] = [i % len(captions) for i in range(8)]
    warnings, drawn = probing.report(found, captions, USE)["warnings"], []
    assert [w for w in warnings if "too few pictures for 3 captions" in w and "draw 9 or more" in w] == warnings and bool(warnings) == said
    monkeypatch.setattr(probing, "gallery", lambda *given: drawn.append(given))
    probing.shown(found, True)
    assert ("too few pictures for 3 captions" in drawn[0][3]) == said


def test_the_base_draws_enough_under_each_of_many_captions(probing, demo, changed, encode, monkeypatch):
    """Eight at least, and in the captions' order; what is drawn beyond the LoRA stays as many as was asked for."""
    monkeypatch.setattr(probing, "_sampled", lambda p, caption, seeds, *_: torch.full((len(seeds), 1), float(caption)))
    monkeypatch.setattr(probing, "decoded", lambda _, latents: latents.view(-1, 1, 1, 1).expand(-1, 4, 4, 3) / 10)
    p = asked(probing, demo, changed, encode, captions=[1, 2, 3])
    ours, theirs = (probing.drawn(p, w, None) for w in (1.0, None))
    assert len(ours.small) == 8 and len(theirs.small) == 24
    assert torch.allclose(theirs.small.mean((1, 2, 3)) * 10, torch.tensor([1.0, 2.0, 3.0] * 8), atol=1e-4)


def test_bad_input_is_refused_before_any_work(probing, demo, changed, encode, root, monkeypatch):
    monkeypatch.setattr(probing, "drawn", lambda *_: pytest.fail("work began"))
    early = importlib.import_module("unmemorize_pack.host.demo").load_demo(root / "demo/lab/early.safetensors")[0]
    for changes, words in (
        ({"lora": demo[0]}, "base and lora are the same model .* text encoder alone"),
        ({"base": changed, "lora": demo[0]}, "base carries a LoRA .* exchanged"),
        ({"lora": early}, "different checkpoints"),
        ({"pictures": 4}, "at least 8"),
        ({"captions": []}, "no caption"),
        ({"captions": [[]] * 9}, "8 pictures cannot ask for 9 captions.*at least 27"),
        ({"use": USE | {"sampler_name": "nobody"}}, "nobody"),
    ):
        with pytest.raises(ValueError, match=words):
            probing.probe(asked(probing, demo, changed, encode, **changes))


def test_the_node_gives_gallery_estimates_and_report(nodes, demo, changed):
    node = nodes["UnmemorizeLoRALeakProbe"]
    result = node.execute(
        base=demo[0], lora=changed, clip=demo[1], vae=demo[2], latent={"samples": torch.zeros(1, 8, 8, 8)}, captions="", pictures=8,
        groups=2, w=1.5, **USE,
    )  # fmt: skip
    gallery, estimates, leaks, text = result.args
    facts = json.loads(text)
    assert gallery.ndim == 4 and estimates.shape[1:] == (64, 64, 3) and facts["leaks"] == leaks and facts["settings"]["w"] == 1.5


@pytest.fixture
def of_the_text_encoder(demo):
    """The demo's text encoder under a LoRA that makes it read every prompt otherwise."""
    clip = demo[1].clone()
    key = "encoder.token_embedding.weight"
    clip.add_patches({key: (torch.randn(demo[1].patcher.model.state_dict()[key].shape, generator=torch.Generator().manual_seed(0)),)})
    return clip


@pytest.mark.parametrize("connected", [True, False])
def test_the_base_reads_captions_with_its_own_text_encoder(nodes, demo, changed, of_the_text_encoder, encode, monkeypatch, connected):
    """With that of a LoRA it would draw what the LoRA teaches the text encoder, as if it knew that itself."""
    module = importlib.import_module("unmemorize_pack.nodes.copies")
    asked, probe = [], module.probe
    monkeypatch.setattr(module, "probe", lambda p: asked.append(p) or probe(p))
    clips = {"clip": of_the_text_encoder} | ({"base_clip": demo[1]} if connected else {})
    result = nodes["UnmemorizeLoRALeakProbe"].execute(
        base=demo[0], lora=changed, vae=demo[2], latent={"samples": torch.zeros(1, 8, 8, 8)}, captions="a red ring", pictures=8, groups=2,
        w=1.0, **clips, **USE,
    )  # fmt: skip
    (p,), warnings = asked, json.loads(result.args[3])["warnings"]
    same = lambda found, clip, text: torch.equal(found[0][0], clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0])  # noqa: E731
    own = demo[1] if connected else of_the_text_encoder
    assert same(p.captions[0], of_the_text_encoder, "a red ring") and same(p.base_captions[0], own, "a red ring") and same(p.empty, own, "")
    assert not same(p.captions[0], demo[1], "a red ring")
    assert any("base_clip" in words for words in warnings) != connected


def test_a_text_encoder_without_a_lora_needs_no_other(nodes, demo, changed):
    result = nodes["UnmemorizeLoRALeakProbe"].execute(
        base=demo[0], lora=changed, clip=demo[1], vae=demo[2], latent={"samples": torch.zeros(1, 8, 8, 8)}, captions="a red ring",
        pictures=8, groups=2, w=1.0, **USE,
    )  # fmt: skip
    assert json.loads(result.args[3])["warnings"] == []


@pytest.mark.parametrize("broken", ["the LoRA's", "the base's"])
def test_a_broken_picture_is_no_answer(probing, demo, changed, encode, monkeypatch, broken):
    pictures = torch.rand(8, 64, 64, 3)
    bad = pictures.clone()
    bad[3] = torch.nan
    made = lambda w: bad if (w is None) == (broken == "the base's") else pictures  # noqa: E731
    monkeypatch.setattr(probing, "drawn", lambda p, w, _: probing.kept(made(w), w is not None))
    with pytest.raises(ValueError, match="came out broken"):
        probing.probe(asked(probing, demo, changed, encode))
