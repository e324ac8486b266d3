"""What other nodes do to a run: a profile measured without it says nothing of it, a soft mask acts as in the run, a redraw keeps it."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ..judging import PROMPT, STEPS, why

ALL = -1e30
SETTINGS = {"seed": 7, "steps": STEPS, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
EMPTY = {"samples": torch.zeros(1, 8, 8, 8)}


@pytest.fixture
def freed(demo):
    """The demo model under the core's FreeU."""
    node = importlib.import_module("comfy_extras.nodes_freelunch").FreeU
    made = node.execute(demo[0], 1.1, 1.2, 0.9, 0.2).args if hasattr(node, "execute") else node().patch(demo[0], 1.1, 1.2, 0.9, 0.2)
    return made[0]


@pytest.fixture
def profiles(host):
    return host("stability.profiles")


@pytest.fixture
def watched_by(guarding, draw):
    """watched_by(model, profile, **settings) -> why the run has no verdict."""

    def run(model, profile, **more):
        clone, record = guarding.guarded(model, guarding.Guard(profile, "detect"))
        draw(clone, prompt=more.pop("prompt", PROMPT), steps=STEPS, **more)
        return why(record)

    return run


def test_a_profile_serves_runs_with_what_it_was_measured_with(profiles, watched_by, freed, demo, stored, encode, tmp_path, host):
    """FreeU moves the score of honest runs as far as a memory does."""
    assert watched_by(demo[0], stored) == ""
    assert "output_block_patch only now" in watched_by(freed, stored)
    prompts = [encode(f"a {colour} ring") for colour in ("red", "blue", "green", "yellow", "white")]
    with torch.inference_mode():
        under = profiles.calibrate(freed, prompts, encode(""), EMPTY, 1, SETTINGS)
    assert under.facts["influences"] == ["output_block_patch"] and watched_by(freed, under) == ""
    assert "output_block_patch only while it was measured" in watched_by(demo[0], under)
    host("core.files").replace(tmp_path / "x.safetensors", *profiles.as_file(under))
    kept = profiles.read_profile(tmp_path / "x.safetensors")
    assert kept.facts["influences"] == ["output_block_patch"] and watched_by(freed, kept) == ""


def test_the_profile_that_is_found_was_measured_with_the_same_nodes(host, profiles, freed, demo, encode, monkeypatch, tmp_path):
    found = host("stability.model_profile")
    monkeypatch.setattr(found.store, "paths", lambda _: {p.stem: p for p in tmp_path.glob("*.safetensors")})
    monkeypatch.setattr(
        found, "save_profile", lambda stored, name: host("core.files").replace(tmp_path / "kept.safetensors", *profiles.as_file(stored))
    )
    monkeypatch.setattr(found, "EVERYDAY", [f"a {colour} ring" for colour in ("red", "blue", "green", "yellow", "white")])
    with torch.inference_mode():
        ask = lambda model: found.profile_for(model, demo[1], encode(""), EMPTY, SETTINGS)  # noqa: E731
        assert "measured now" in ask(freed).how and "kept as kept" in ask(freed).how
        assert "measured now" in ask(demo[0]).how


NO_PICTURES = {
    "aesthetic_score", "area", "aspect_ratio", "attention_mask", "attention_mask_img_shape", "attention_mask_mt5xl", "audio_inject_scale",
    "augmentation_level", "azimuth", "concat_mask", "concat_mask_index", "conditioning_byt5small", "conditioning_llama3",
    "conditioning_lyrics", "conditioning_mt5xl", "conditioning_scale", "crop_h", "crop_w", "cross_attn", "cross_attn_controlnet",
    "cross_attn_pose", "degrade_sigma", "denoise_mask", "device", "elevation", "fps", "frame_rate", "guidance", "height", "latent_image",
    "latent_shapes", "lyrics_strength", "minimax_audio_cond_noise_aug", "minimax_token_tags", "minimax_visual_cond_noise_aug",
    "motion_bucket_id", "noise", "noise_augmentation", "noise_concat", "ofs", "pooled_output", "pose_strength", "prompt_type",
    "ref_mask_28ch", "ref_mask_flag", "reference_latents_method", "reference_strength", "seconds_start", "seconds_total", "seed",
    "t5xxl_ids", "t5xxl_weights", "target_height", "target_width", "text_input_ids", "time_conditioning", "unclip_noise_augment_merge",
    "unprocessed_ltxav_embeds", "vace_mask", "vace_strength", "width",
}  # fmt: skip
"""What the core's models read of a prompt beside: words, sizes, masks and strengths of what else is there, the run's own."""


def test_every_picture_that_a_prompt_may_hold_is_known(comfy, host):
    """All that the running ComfyUI's models read of a prompt is one or the other: a new one is looked at here."""
    text = Path(importlib.import_module("comfy.model_base").__file__).read_text()
    read = set(re.findall(r'kwargs(?:\.get\(|\[)"([a-z_0-9]+)"', text))
    assert len(read) > 50 and read <= NO_PICTURES | set(host("core.influences").HOLDING)


@pytest.mark.parametrize("carried", ["control", "reference_latents", "concat_latent_image", "clip_vision_output"])
def test_a_picture_in_a_prompt_is_no_run_from_words_alone(host, stored, carried):
    found, profiles = host("core.influences"), host("stability.profiles")
    here = found.influences({}, [{"cross_attn": 1}, {carried: object()}])
    assert here == [carried] and carried in profiles.other_influences(stored, here)
    assert found.influences({}, [{carried: None}]) == [] and profiles.other_influences(stored, []) == ""


def test_a_run_in_windows_is_another(watched_by, demo, stored):
    """Context windows: the model is asked for a part of the picture at a time."""
    node = importlib.import_module("comfy_extras.nodes_context_windows").ContextWindowsManualNode
    how = {"context_schedule": "standard_static", "context_stride": 1, "closed_loop": False, "fuse_method": "pyramid", "dim": 3}
    how |= {"freenoise": False} if "freenoise" in inspect.signature(node.execute).parameters else {}  # 0.33 has it, 0.3.75 not
    windows = node.execute(model=demo[0], context_length=6, context_overlap=2, **how).args[0]
    assert "context_handler only now" in watched_by(windows, stored)


def test_scaled_positions_are_a_change(demo, host):
    scaled = demo[0].clone()
    scaled.set_model_rope_options(scale_x=1.5, shift_x=0.0, scale_y=1.5, shift_y=0.0, scale_t=1.0, shift_t=0.0)
    assert [host("core.influences").influences(m.model_options, ()) for m in (demo[0], scaled)] == [[], ["rope_options"]]


def test_our_own_hooks_only_listen(host):
    found, hooks = host("core.influences"), host("core.hooks")
    ours = hooks.as_function(SimpleNamespace(listen=lambda facts: facts).listen)
    assert found.influences({"sampler_post_cfg_function": [ours]}, ()) == []
    assert found.influences({"sampler_post_cfg_function": [ours, print]}, ()) == ["sampler_post_cfg_function"]
    inside = {"patches": {"attn1_patch": []}, "patches_replace": {"attn2": {("middle", 0): print}}}
    assert found.influences({"transformer_options": inside, "model_function_wrapper": print}, ()) == ["attn2", "model_function_wrapper"]


# --- soft masks ----------------------------------------------------------------------------------------------


@pytest.fixture
def soft(demo):
    """The model under Differential Diffusion, and arguments of a run over a picture, more and more of it from left to right."""
    node = importlib.import_module("comfy_extras.nodes_differential_diffusion").DifferentialDiffusion
    model = node.execute(demo[0]).args[0] if hasattr(node, "execute") else node().apply(demo[0])[0]
    picture = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(4))
    return model, {"latent": picture, "noise_mask": torch.linspace(0.2, 1, 8).expand(1, 1, 8, 8).contiguous(), "steps": STEPS}


def near(result, stock):
    """What is kept meets the noise that the core starts from, a quarter of a percent more than it mixes in."""
    return float((result - stock).abs().mean()) < 5e-3


def test_a_run_in_phases_keeps_a_soft_mask(guarding, host, judge_parts, stored, draw, soft):
    """A restart with the model itself is the run as it was."""
    model, given = soft
    restart = host("stability.restart")
    stock = draw(model, **given)
    again = restart.Restart((restart.Phase(0.3), restart.Phase(0.6), restart.Phase(1.0)))
    again = type("Again", (restart.Restart,), {"obstacle": lambda *_: ""})(again.phases)
    clone, record = guarding.guarded(model, guarding.Guard(stored, "correct", strategy=again, limit=ALL))
    result = draw(clone, **given)
    assert record.facts["memorized"] == [True]
    assert near(result, stock)
    left, right = (stock - given["latent"]).abs().mean((0, 1, 2))[[0, -1]].tolist()
    assert left < right / 2, "the mask holds the left side"


def test_a_run_step_by_step_keeps_a_soft_mask(guarding, host, judge_parts, stored, draw, soft):
    """The paper's way, with all of its parts off."""
    model, given = soft
    rule = importlib.import_module("unmemorize_pack.unmemorize.stability.rule").Rule
    nothing = rule(tau_mild=0.0, tau_strong=0.0, rescale=False, clamp_update=False, clamp_latent=False)
    clone, found = guarding.guarded(model, guarding.Guard(stored, "correct", "paper", rule=nothing))
    assert near(draw(clone, **given), draw(model, **given))
    assert found.facts["edited_steps"]["0"] == list(range(STEPS))


# --- what a redraw keeps ---------------------------------------------------------------------------------------


def test_a_parent_draws_with_what_other_nodes_put_on_the_model(guarding, judge_parts, stored, demo, draw):
    """A reference picture's attention acts on in the redraw; a parent with nodes of its own keeps these."""
    heard: list[str] = []
    model, parent = demo[0].clone(), demo[0].clone()
    model.set_model_attn2_output_patch(lambda n, _: (heard.append("model"), n)[1])
    draw(model, steps=STEPS)
    plain = len(heard)
    for own in (False, True):
        heard.clear()
        if own:
            parent.set_model_attn2_output_patch(lambda n, _: (heard.append("parent"), n)[1])
        restart = importlib.import_module("unmemorize_pack.host.stability.restart").default_restart(parent)
        clone, record = guarding.guarded(model, guarding.Guard(stored, "correct", strategy=restart, limit=ALL))
        draw(clone, steps=STEPS)
        assert record.facts["restarted"] == [0]
        again = heard.count("parent") if own else heard.count("model") - plain
        assert again >= plain / 2, "in the redraw too"
        assert set(heard) == ({"model", "parent"} if own else {"model"})
