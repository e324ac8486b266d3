"""One sample of a batch has what the core would have given it in the batch."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture(scope="module")
def one_sample(comfy):
    return importlib.import_module("unmemorize_pack.host.core.one_sample")


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 6])
def test_rows_are_repeated_as_the_core_repeats_them(one_sample, rows):
    repeat = importlib.import_module("comfy.utils").repeat_to_batch_size
    x = torch.arange(rows * 5.0).reshape(rows, 5)
    for i in range(4):
        assert torch.equal(one_sample.one(x, i, 4), repeat(x, 4)[i : i + 1])


def test_what_is_no_batch_stays(one_sample):
    for x in (torch.tensor(3.0), torch.arange(5.0), "text", None, 7):
        assert one_sample.one(x, 1, 4) is x
    assert one_sample.one(torch.arange(4.0), 1, 4).tolist() == [1.0]
    x = torch.zeros(2, 3)
    assert one_sample.one(x, 0, 1) is x


@pytest.mark.parametrize("shape", [(8, 8), (3, 1, 8, 8), (3, 8, 8), (1, 1, 8, 8), (2, 1, 8, 8)])
def test_a_mask_is_cut_in_the_shape_the_core_gives_it(comfy, shape):
    """It comes as nodes make it: rows of pixels or frames may stand where samples are expected."""
    restart, calls = (importlib.import_module(f"unmemorize_pack.host.{n}") for n in ("stability.restart", "core.sampler_call"))
    prepare = importlib.import_module("comfy.sampler_helpers").prepare_mask
    mask, noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 4, 8, 8)
    guider = SimpleNamespace(original_conds={})
    call = calls.RunCall(guider, noise, noise, None, torch.ones(2), mask, None, True, 0)
    whole = prepare(mask, noise.shape, mask.device)
    ready = calls.RunCall(guider, noise, noise, None, torch.ones(2), whole, None, True, 0)
    for i in range(2):
        assert torch.equal(restart._call_of_one(call, i, 2).mask, whole[i : i + 1])
        assert torch.equal(restart._call_of_one(ready, i, 2).mask, whole[i : i + 1]), "newer cores have given it this shape"


def test_two_prompts_for_four_latents(one_sample):
    """The third latent is drawn under the first prompt, with the first mask."""
    tokens, mask = torch.arange(2 * 3 * 4.0).reshape(2, 3, 4), torch.rand(2, 8, 8)
    cond = {"cross_attn": tokens, "mask": mask, "strength": 1.0, "model_conds": {"c": SimpleNamespace(cond=tokens)}}
    (cut,) = one_sample.conds_of_one({"positive": [cond]}, 2, 4)["positive"]
    assert torch.equal(cut["cross_attn"], tokens[:1]) and torch.equal(cut["mask"], mask[:1])
    assert torch.equal(cut["model_conds"]["c"].cond, tokens[:1]) and cut["strength"] == 1.0
    assert cond["cross_attn"] is tokens and cond["model_conds"]["c"].cond is tokens
