"""Memorization Check and Clean LoRA: the same as their longer ways, and what they say."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math

import pytest
import torch
from unmemorize_pack.tests.comfy.loras import LEAKING

USE = {"seed": 1, "steps": 10, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
EMPTY = {"samples": torch.zeros(1, 8, 8, 8)}
PROMPT = "a small red circle on a gray background"
PHOTO = "photo cat-face: a large halved blue circle on a brown background"
OTHER_PHOTO = "photo coffee-cup: a small halved red triangle on a navy background"


@pytest.fixture(autouse=True)
def user(comfy, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))


@pytest.fixture
def tool(comfy, stored, monkeypatch):
    """With a profile that is at hand."""
    tool = importlib.import_module("unmemorize_pack.host.combined.check_prompt")
    own = importlib.import_module("unmemorize_pack.host.stability.model_profile")
    monkeypatch.setattr(tool, "profile_for", lambda *_: own.Found(stored, "mine", "kept as mine"))
    return tool


def test_a_check_draws_what_the_sampler_draws_and_says_what_the_guard_says(tool, demo, draw, guarding, stored):
    answer = tool.check_prompt(*demo, PROMPT, EMPTY, USE)
    latent = draw(prompt=PROMPT, steps=10)
    with torch.inference_mode():
        assert torch.equal(answer.picture, demo[2].decode(latent))
    model, record = guarding.guarded(demo[0], guarding.Guard(stored))
    draw(model, prompt=PROMPT, steps=10)
    assert answer.report["guard"]["scores"] == record.facts["scores"]
    assert answer.memorized == record.facts["memorized"][0] and answer.heatmap.shape == answer.picture.shape


def test_of_a_latent_cut_out_of_a_batch_its_own_picture_is_checked(tool, demo, encode):
    """As Latent From Batch gives it, and as KSampler draws it."""
    import nodes as stock

    cut = {**EMPTY, "batch_index": [3]}
    latent = stock.common_ksampler(demo[0], 1, 10, 2.0, "euler", "normal", encode(PROMPT), encode(""), cut)[0]["samples"]
    with torch.inference_mode():
        assert torch.equal(tool.check_prompt(*demo, PROMPT, cut, USE).picture, demo[2].decode(latent))
    several = {"samples": torch.zeros(2, 8, 8, 8), "batch_index": [3, 4]}
    assert importlib.import_module("unmemorize_pack.host.core.sampling").first_of(demo[0], several)["batch_index"] == [3]


def test_nothing_found_is_shown_without_full_heat(tool, demo, draw, encode):
    """Without a threshold the hottest place of a picture where nothing was found lies in the middle of the colours; with one that fits,
    the threshold does."""
    measuring, thresholds = (importlib.import_module(f"unmemorize_pack.host.curvature.{n}") for n in ("measuring", "thresholds"))
    with torch.inference_mode():
        latent = draw(prompt=PROMPT)
        found = measuring.measure_map(demo[0], encode(PROMPT), encode(""), {"samples": latent}, measuring.RECOMMENDED, 1)
        picture = demo[2].decode(latent)
    look = {memorized: tool.mapped(picture, found, memorized) for memorized in (True, False, None)}
    assert torch.equal(look[True].heat, look[None].heat) and torch.allclose(2 * look[False].heat, look[True].heat, atol=1e-5)
    kept = {"threshold": 10 * look[True].peak, "quantile": 0.995, "prompts": 24, "height": 8, "width": 8}
    kept |= {"settings": {k: found["settings"].get(k) for k in (*thresholds.COMPARED, "model")}}
    thresholds.save_threshold(kept, "mine")
    for memorized in (True, False):
        judged = tool.mapped(picture, found, memorized)
        assert judged.report["full_heat"] == pytest.approx(20 * look[True].peak) and judged.heat.max() < 0.1


def test_what_could_not_be_judged_is_said(tool, demo):
    answer = tool.check_prompt(*demo, PROMPT, EMPTY, USE | {"steps": 1})
    assert answer.memorized is None and answer.words.startswith("not judged")


@pytest.fixture
def few_references(tool, monkeypatch):
    """A coarse rate, for which few references are enough."""
    monkeypatch.setattr(tool, "FEWEST", 6)
    monkeypatch.setattr(tool, "RATE", 0.2)


def test_references_speak_too(tool, demo, few_references):
    references = importlib.import_module("unmemorize_pack.host.copies.references")
    picture = tool.check_prompt(*demo, PROMPT, EMPTY, USE).picture
    others = torch.rand(3, *picture.shape[1:])
    few = tool.check_prompt(*demo, PROMPT, EMPTY, USE, references.of_batch(picture))
    assert "too few references" in few.words
    many = tool.check_prompt(*demo, PROMPT, EMPTY, USE, references.of_batch(torch.cat([others, others.flip(2)])))
    assert "no copy of the references" in many.words and many.memorized is False


def test_an_unclear_likeness_is_no_clean_answer(tool, demo, few_references, monkeypatch):
    """More alike than the references among themselves, but no more than different pictures may be."""
    references, checking = (importlib.import_module(f"unmemorize_pack.host.copies.{n}") for n in ("references", "checking"))
    others = torch.rand(6, 128, 128, 3)
    monkeypatch.setattr(checking, "is_copy", lambda *_: None)
    found = tool.check_prompt(*demo, PROMPT, EMPTY, USE, references.of_batch(others))
    assert "unclear" in found.words and "too few" not in found.words
    assert found.memorized is (True if "memorized: the model knew" in found.words else None)


def test_the_check_node_and_no_prompt(nodes, tool, demo):
    node = nodes["UnmemorizeMemorizationCheck"]
    arguments = {"model": demo[0], "clip": demo[1], "vae": demo[2], "latent": EMPTY, **USE}
    heatmap, _picture, memorized, verdict, text = node.execute(prompt=PROMPT, **arguments).args
    assert json.loads(text)["verdict"] == verdict and isinstance(memorized, bool) and heatmap.ndim == 4
    with pytest.raises(ValueError, match="no prompt"):
        node.execute(prompt=" ", **arguments)


def test_a_check_runs_again_when_a_threshold_or_a_profile_is_kept(nodes, stored, demo):
    """The same graph has other colours with a threshold, and may have another verdict with a nearer profile."""
    thresholds, profiles = (importlib.import_module(f"unmemorize_pack.host.{n}") for n in ("curvature.thresholds", "stability.profiles"))
    core = importlib.import_module("unmemorize_pack.host.core.store")
    stamp = nodes["UnmemorizeMemorizationCheck"].fingerprint_inputs
    stamps = [stamp(prompt=PROMPT), stamp(prompt=PROMPT)]
    bundled = next(iter(core.bundled(thresholds.THRESHOLDS)))
    thresholds.save_threshold(thresholds.load_threshold(bundled), "mine")
    stamps.append(stamp(prompt=PROMPT))
    profiles.save_profile(stored, "mine")
    stamps.append(stamp(prompt=PROMPT))
    core.find(profiles.PROFILES, "mine").unlink()
    stamps.append(stamp(prompt=PROMPT))
    assert stamps[0] == stamps[1] and len(set(stamps[1:4])) == 3 and stamps[4] == stamps[2]


def test_clean_lora_is_the_filter_of_weights_without_a_latent(nodes, demo):
    clean = nodes["UnmemorizeCleanLoRA"].execute(model=demo[0], lora_name=LEAKING, strength=1.0, captions="").args
    plain = importlib.import_module("unmemorize_pack.host.lora.filter_file")
    files = importlib.import_module("unmemorize_pack.host.lora.lora_files")
    gates = importlib.import_module("unmemorize_pack.unmemorize.lora.gates")
    other = plain.load_filtered(files.read(LEAKING), 1.0, 1.0, plain.Job(demo[0], None, gates.Settings()))[0]
    assert set(clean[0].patches) == set(other.patches) and "by its weights alone" in clean[2]


def test_clean_lora_off_and_without_what_captions_need(nodes, demo):
    node = nodes["UnmemorizeCleanLoRA"]
    assert node.execute(model=demo[0], lora_name=LEAKING, strength=0.0, captions="").args[0] is demo[0]
    with pytest.raises(ValueError, match="text encoder"):
        node.execute(model=demo[0], lora_name=LEAKING, strength=1.0, captions=PROMPT)
    with pytest.raises(ValueError, match="empty latent"):
        node.execute(model=demo[0], lora_name=LEAKING, strength=1.0, captions=PROMPT, clip=demo[1])
    with pytest.raises(ValueError, match="empty latent"):
        node.execute(model=demo[0], lora_name=LEAKING, strength=1.0, captions="", prompts=PROMPT, clip=demo[1])


@pytest.mark.parametrize("captions", ["", PROMPT])
def test_clean_lora_asks_the_model_where_it_can(nodes, demo, monkeypatch, captions):
    """Captions or none: with a text encoder and a latent the LoRA is learnt anew, in the node's own order of inputs."""
    module = importlib.import_module("unmemorize_pack.host.combined.clean_lora")
    stock, jobs = module.filter_once, []

    def short(job):
        jobs.append(dataclasses.replace(job, use=USE | {"steps": 2}, learning_steps=2, keep=0.0))
        return stock(jobs[-1])

    monkeypatch.setattr(module, "filter_once", short)
    arguments = {"model": demo[0], "clip": demo[1], "lora_name": LEAKING, "strength": 1.0, "latent": EMPTY, "prompts": f"{PROMPT}, twice"}
    cleaned, _, verdict, text = nodes["UnmemorizeCleanLoRA"].execute(captions=captions, **arguments).args
    facts = json.loads(text)
    assert facts["verdict"] == verdict and facts["method"].startswith("learnt anew") and cleaned.patches
    assert jobs[0].captions == [c for c in [captions] if c] and jobs[0].prompts == [f"{PROMPT}, twice"]


def test_clean_lora_goes_by_the_weights_where_learning_keeps_too_little(nodes, demo, monkeypatch):
    """It never loads the LoRA that leaks, and says why in its own words."""
    module = importlib.import_module("unmemorize_pack.host.combined.clean_lora")
    measuring = importlib.import_module("unmemorize_pack.host.combined.measured_filter")
    few = measuring.Measured({}, {}, {}, 1.0, [0.0], 0.13, reached=0.31)
    monkeypatch.setattr(module, "filter_once", lambda _: few)
    arguments = {"model": demo[0], "lora_name": LEAKING, "strength": 1.0, "captions": PROMPT}
    cleaned, _, verdict, _ = nodes["UnmemorizeCleanLoRA"].execute(clip=demo[1], latent=EMPTY, **arguments).args
    plain = nodes["UnmemorizeCleanLoRA"].execute(**arguments | {"captions": ""}).args[0]
    assert set(cleaned.patches) == set(plain.patches)
    assert "by its weights alone" in verdict and "kept 31%" in verdict and "Nothing was removed" not in verdict


@pytest.fixture
def pictured(tool, monkeypatch):
    """The check of a given picture, with a profile that is at hand."""
    pictured = importlib.import_module("unmemorize_pack.host.combined.check_picture")
    monkeypatch.setattr(pictured, "profile_for", tool.profile_for)
    return pictured


def facts_of(score, memorized, reason=""):
    """Of two runs: the second is the one that may be a memory."""
    return {"scores": [None if reason else 0.1, score], "memorized": [False, memorized], "not_judged": [reason, reason], "limit": 3.0}


ONE_LOST = {"scores": [0.1, None], "memorized": [False, False], "not_judged": ["", "too few steps"], "limit": 3.0}


@pytest.mark.parametrize(
    ("alike", "guard", "expected", "said"),
    [
        ([0.2, 0.9], facts_of(9.0, True), True, "memorized: 1 of 2 pictures with other seeds are this one again"),
        ([0.9, 0.2], facts_of(9.0, True), None, "is recalled (score 9.0, memorized from 3), but not where this one is drawn; 1 of 2"),
        ([0.9, 0.8], facts_of(9.0, True) | {"memorized": [True, False], "scores": [4.0, 0.2]}, True, "from the start (score 4.0,"),
        ([0.3, 0.2], ONE_LOST, None, "not judged: 1 of 2 runs could not be judged: too few steps; with other seeds"),
        ([math.nan, 0.2], facts_of(1.0, False), None, "not judged: 1 of 2 pictures with other seeds came out broken: the VAE"),
        ([math.nan, math.nan], facts_of(9.0, True), None, "no likeness is known"),
        ([math.nan, 0.9], facts_of(9.0, True), True, "memorized: 1 of 2"),
        ([0.3, 0.2], facts_of(9.0, True), None, "recalls a picture (score 9.0, memorized from 3), but not this one"),
        ([0.9, 0.9], facts_of(1.0, False), None, "the words may settle so much"),
        ([0.3, 0.2], facts_of(1.0, False), False, "nothing found: with other seeds come other pictures"),
        ([0.9, 0.9], facts_of(None, False, "too few steps"), None, "not judged: too few steps; 2 of 2"),
        ([0.1, 0.2], facts_of(None, False, "too few steps"), None, "not judged: too few steps; with other seeds"),
    ],
)
def test_a_given_picture_needs_both_witnesses(pictured, alike, guard, expected, said):
    """That it comes again, and that the model knew it: one alone is no answer."""
    memorized, words = pictured.verdict(alike, 0.7, guard)
    assert memorized is expected and said in words


def test_a_given_picture_is_compared_mapped_and_never_with_itself(pictured, nodes, demo, encode, draw):
    """Drawn with the node's own seed, it is one of the model's, and still not the one it is compared with."""
    latent = draw(prompt=PROMPT, steps=10)
    with torch.inference_mode():
        picture = demo[2].decode(latent)
    alike = pictured.check_picture(picture, *demo, PROMPT, EMPTY, USE).report["likeness"]
    assert len(alike) == pictured.DRAWN and max(alike) < 0.99
    arguments = {"model": demo[0], "clip": demo[1], "vae": demo[2], "latent": EMPTY, "prompt": PROMPT, **USE}
    larger = torch.nn.functional.interpolate(picture.movedim(-1, 1), scale_factor=(2, 3)).movedim(1, -1)
    heatmap, shown, memorized, verdict, text = nodes["UnmemorizeMemorizationCheck"].execute(**arguments, your_picture=larger).args
    assert heatmap.shape == shown.shape == picture.shape and not torch.equal(heatmap, shown)
    assert json.loads(text)["verdict"] == verdict and isinstance(memorized, bool)
    for bad, why in ((torch.cat([picture, picture]), "2 pictures came in"), (picture * torch.nan, "no numbers")):
        with pytest.raises(ValueError, match=why):
            pictured.check_picture(bad, *demo, PROMPT, EMPTY, USE)


def test_a_memory_comes_again_and_its_picture_is_called_so(pictured, demo, nodes, monkeypatch, guarding):
    """The training photograph itself, which no run of this graph has drawn."""
    store = importlib.import_module("unmemorize_pack.host.stability.profiles")
    own = importlib.import_module("unmemorize_pack.host.stability.model_profile")
    monkeypatch.setattr(pictured, "profile_for", lambda *_: own.Found(store.load_profile("demo/demo"), "demo", "kept"))
    picture, _, caption = nodes["UnmemorizeLoadDemoPicture"].execute(PHOTO).args
    use, full = USE | {"steps": 20, "cfg": 3.0}, {"samples": torch.zeros(1, 8, 16, 16)}
    found = pictured.check_picture(picture, *demo, caption, full, use)
    assert found.memorized is True and "memorized: 4 of 4" in found.words
    other = nodes["UnmemorizeLoadDemoPicture"].execute(OTHER_PHOTO).args[0]
    assert pictured.check_picture(other, *demo, caption, full, use).memorized is None


def test_pictures_that_a_vae_breaks_are_not_judged(pictured, demo, wide, monkeypatch):
    """As half precision does it to some: nothing is like a picture that holds no numbers."""
    own = importlib.import_module("unmemorize_pack.host.stability.model_profile")
    monkeypatch.setattr(pictured, "profile_for", lambda *_: own.Found(wide, "mine", "kept as mine"))

    class Broken:
        def decode(self, latent):
            return demo[2].decode(latent) * math.nan

        def encode(self, picture):
            return demo[2].encode(picture)

    picture = torch.rand(1, 64, 64, 3)
    found = pictured.check_picture(picture, demo[0], demo[1], Broken(), PROMPT, EMPTY, USE)
    assert found.memorized is None and "4 of 4 pictures with other seeds came out broken" in found.words
    assert found.report["likeness"] == [None] * 4 and json.dumps(found.report, allow_nan=False)
    assert pictured.check_picture(picture, *demo, PROMPT, EMPTY, USE).memorized is False


def test_the_pictures_it_is_compared_with_are_four(pictured, demo, monkeypatch):
    """Also of a latent that was cut out of a batch, which knows its own noise."""
    drawn = []
    monkeypatch.setattr(pictured, "likenesses", lambda _, several, how: drawn.append(several) or [0.0] * len(several))
    pictured.check_picture(torch.rand(1, 64, 64, 3), *demo, PROMPT, {**EMPTY, "batch_index": [3]}, USE)
    assert all(not torch.equal(drawn[0][i], drawn[0][k]) for i in range(4) for k in range(i))


def test_compare_pictures_shows_both_and_measures(nodes, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_temp_directory", lambda: str(tmp_path))
    before = torch.rand(10, 16, 16, 3)
    # of a large batch the first pictures, and all that was measured: the one that changed may be among the others
    done = nodes["UnmemorizeComparePictures"].execute(before=before, after=before[:1])
    (view,), (facts,) = done.ui["unmemorize_compare"], done.ui["unmemorize_report"]
    assert (len(view["before"]), len(view["after"]), len(view["differences"])) == (8, 1, 10) and facts["pictures"] == 10
    assert view["differences"][0] == 0.0 and done.args[0] == max(facts["mean_difference"]) > 0.1
    assert all((tmp_path / shown["subfolder"] / shown["filename"]).is_file() for shown in done.ui["images"])
    assert math.isnan(nodes["UnmemorizeComparePictures"].execute(before=before[:1], after=torch.rand(1, 8, 8, 3)).args[0])


def test_a_lora_that_was_not_watched_is_not_judged(tool, pictured, demo, wide, monkeypatch):
    """Its copies look like ordinary runs without the model before it."""
    own = importlib.import_module("unmemorize_pack.host.stability.model_profile")
    key = "diffusion_model.out.2.weight"
    model = demo[0].clone()
    model.add_patches({key: (torch.full_like(demo[0].model.state_dict()[key], 1e-3),)})
    for module in (tool, pictured):
        monkeypatch.setattr(module, "profile_for", lambda *_: own.Found(wide, "mine", "kept as mine"))
    plain, patched = (tool.check_prompt(m, *demo[1:], PROMPT, EMPTY, USE) for m in (demo[0], model))
    assert plain.memorized is False and patched.memorized is None and "was not watched" in patched.words
    given = pictured.check_picture(torch.rand(1, 64, 64, 3), model, *demo[1:], PROMPT, EMPTY, USE)
    assert given.memorized is None and "was not watched" in given.words


def test_a_lora_of_the_text_encoder_was_not_watched(tool, pictured, demo, wide, monkeypatch):
    """A loader with strength_model 0 leaves the MODEL as it is."""
    own = importlib.import_module("unmemorize_pack.host.stability.model_profile")
    clip, key = demo[1].clone(), "encoder.token_embedding.weight"
    clip.add_patches({key: (torch.full_like(demo[1].patcher.model.state_dict()[key], 1e-3),)})
    for module in (tool, pictured):
        monkeypatch.setattr(module, "profile_for", lambda *_: own.Found(wide, "mine", "kept as mine"))
    found = tool.check_prompt(demo[0], clip, demo[2], PROMPT, EMPTY, USE)
    given = pictured.check_picture(torch.rand(1, 64, 64, 3), demo[0], clip, demo[2], PROMPT, EMPTY, USE)
    assert found.memorized is given.memorized is None and all("to the text encoder was not watched" in a.words for a in (found, given))


def test_references_of_one_picture_name_the_nearest_and_are_no_error(tool, pictured, demo, wide, monkeypatch):
    """They are calibrated before anything is drawn, and have no honest pairs."""
    own = importlib.import_module("unmemorize_pack.host.stability.model_profile")
    references = importlib.import_module("unmemorize_pack.host.copies.references")
    for module in (tool, pictured):
        monkeypatch.setattr(module, "profile_for", lambda *_: own.Found(wide, "mine", "kept as mine"))
    one = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    edits = references.of_batch(torch.cat([one * (1 - 0.004 * i) for i in range(tool.FEWEST)]))
    for found in (
        tool.check_prompt(*demo, PROMPT, EMPTY, USE, edits),
        pictured.check_picture(torch.rand(1, 64, 64, 3), *demo, PROMPT, EMPTY, USE, edits),
    ):
        assert found.memorized is False and "no verdict by likeness" in found.words and "nearest reference" in found.words
    for module in (tool, pictured):
        monkeypatch.setattr(module, "draw", lambda *_: pytest.fail("drawn before the references were looked at"))
        monkeypatch.setattr(module, "asked_of", lambda *_: (_ for _ in ()).throw(ValueError("bad references")))
    with pytest.raises(ValueError, match="bad references"):
        tool.check_prompt(*demo, PROMPT, EMPTY, USE, edits)


def test_a_vae_of_videos_gives_its_one_frame_and_videos_are_refused(tool, demo):
    latents = importlib.import_module("unmemorize_pack.host.core.latents")

    class Frames:
        def decode(self, latent):
            return demo[2].decode(latent)[:, None]

    latent = torch.randn(2, 8, 8, 8)
    with torch.inference_mode():
        assert torch.equal(latents.decoded(Frames(), latent), demo[2].decode(latent))
    with pytest.raises(ValueError, match="not video or audio"):
        tool.check_prompt(*demo, PROMPT, {"samples": torch.zeros(1, 8, 5, 8, 8)}, USE)
    latents.check_single({"samples": torch.zeros(1, 8, 1, 8, 8)})
