"""Stability Profile for This Model: what is kept serves, what serves is named, what is missing is measured once."""

from __future__ import annotations

import dataclasses
import importlib
import json
from types import SimpleNamespace

import pytest
import torch

USE = {"seed": 0, "steps": 4, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
EMPTY = {"samples": torch.zeros(1, 8, 8, 8)}
WORDS = [f"a {colour} ring" for colour in ("red", "blue", "green", "yellow", "white")]


@pytest.fixture(scope="module")
def own(comfy):
    return importlib.import_module("unmemorize_pack.host.stability.model_profile")


@pytest.fixture(autouse=True)
def home(comfy, tmp_path, monkeypatch, own):
    """An empty user folder, and no bundled profile."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    store = dataclasses.replace(own.PROFILES, bundled=tmp_path / "nothing")
    for module in (own, importlib.import_module("unmemorize_pack.host.stability.profiles")):
        monkeypatch.setattr(module, "PROFILES", store)
    return tmp_path


@pytest.fixture
def find(own, demo, encode):
    def run(model=None, prompts=WORDS, latent=EMPTY, **changes):
        return own.profile_for(model or demo[0], demo[1], encode(""), latent, USE | changes, prompts)

    return run


def test_it_is_measured_once_and_kept(find, own, monkeypatch):
    first = find()
    assert first.how.startswith("measured now, 5 runs") and first.name.startswith("auto/")
    monkeypatch.setattr(own, "calibrate", lambda *_: pytest.fail("measured again"))
    again = find()
    assert again.name == first.name and again.how == f"kept as {first.name}"
    assert all(torch.equal(first.stored.profile.mean[k], v) for k, v in again.stored.profile.mean.items())


def test_the_nearest_that_serves_is_named(find):
    find(cfg=2.0)
    far = find(cfg=4.0)
    assert far.how.startswith("measured now")
    near = find(cfg=2.2, steps=5)
    assert "cfg2" in near.name and "measured with euler, normal, 4, 2" in near.how
    assert "cfg4" in find(cfg=3.5).name


def test_what_would_not_fit_is_measured_anew(find, demo, nodes):
    find()
    assert find(sampler_name="euler_ancestral").how.startswith("measured now"), "it adds noise on the way"
    assert find(latent={"samples": torch.zeros(1, 8, 12, 8)}).how.startswith("measured now"), "another size"
    changed = demo[0].clone()
    key = "diffusion_model.out.2.weight"
    changed.add_patches({key: (torch.full_like(demo[0].model.state_dict()[key], 1e-3),)})
    with_lora = find(model=changed)
    assert with_lora.how.startswith("measured now") and "+" in with_lora.name


def test_a_profile_of_one_step_serves_no_real_run(find):
    """Profiles of half and twice as many steps were measured to serve."""
    assert "measured now" in find(steps=1).how
    assert "measured now" in find(steps=6).how
    assert "kept" in find(steps=3).how and "kept" in find(steps=12).how
    assert "measured now" in find(steps=13).how


@pytest.mark.parametrize(("first", "then"), [(1.2, 1.0), (1.0, 1.2)])
def test_runs_without_guidance_have_profiles_of_their_own(find, first, then):
    """However near the scales: a guard would not judge the one by the other's."""
    find(cfg=first)
    assert find(cfg=then).how.startswith("measured now") and find(cfg=then).how.startswith("kept")


def test_a_picture_or_a_mask_to_inpaint_by_is_no_part_of_a_profile(find, own, demo, encode):
    """What is kept serves all pictures of this size."""
    mask = torch.zeros(1, 64, 64)
    mask[:, :16, :16] = 1
    found = find(latent={"samples": torch.randn(1, 8, 8, 8), "noise_mask": mask}).stored.profile
    whole = own.calibrate(demo[0], [encode(text) for text in WORDS], encode(""), EMPTY, 1, USE).profile
    assert all(torch.equal(found.mean[name], whole.mean[name]) for name in whole.mean)


def test_damaged_and_foreign_files_are_left_aside(find, home, caplog):
    folder = home / "unmemorize" / "profiles"
    folder.mkdir(parents=True)
    (folder / "broken.safetensors").write_bytes(b"nothing")
    assert find().how.startswith("measured now") and "broken" in caplog.text


def test_cancel_keeps_nothing(find, demo, home, interrupted):
    with interrupted(demo[0], after=7):
        find()
    assert not list(home.rglob("*.safetensors"))


def test_settings_are_checked_before_work(find, own, monkeypatch):
    monkeypatch.setattr(own, "calibrate", lambda *_: pytest.fail("work began"))
    with pytest.raises(ValueError, match="nobody"):
        find(scheduler="nobody")


def test_fifty_everyday_prompts_ship(own):
    assert len(own.EVERYDAY) == len(set(own.EVERYDAY)) == 50 and all(p.isascii() and len(p) > 20 for p in own.EVERYDAY)


def test_the_node_says_where_it_comes_from(nodes, demo, encode):
    node = nodes["UnmemorizeModelStabilityProfile"]
    result = node.execute(model=demo[0], clip=demo[1], negative=encode(""), latent=EMPTY, prompts="# mine\n" + "\n".join(WORDS), **USE)
    stored, name, text = result.args
    facts = json.loads(text)
    assert facts["name"] == name and facts["how"].startswith("measured now, 5 runs") and facts["prompts"] == 5 and stored.profile.runs == 5


def test_guidance_of_nothing_is_found_again(find):
    first = find(cfg=0.0)
    assert find(cfg=0.0).name == first.name


@pytest.mark.parametrize(("early", "steps", "serves"), [(16, 20, True), (40, 20, False), (16, 41, False)])
def test_what_is_served_is_what_is_judged_by(own, demo, early, steps, serves):
    """As many steps of another schedule may be twice as many where memories show; the guard would not judge by them."""
    stored = SimpleNamespace(facts={"steps": 20}, profile=SimpleNamespace(angles=torch.linspace(0.6, 1.5, early)))
    assert own._as_long(stored, demo[0], {"scheduler": "normal", "steps": steps}) == serves
