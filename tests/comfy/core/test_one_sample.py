"""A sample cut out of a batch gets what the core would have given it, wherever that lies."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture(scope="module")
def cut(comfy):
    return importlib.import_module("unmemorize_pack.host.core.one_sample")


@pytest.fixture(scope="module")
def conds(comfy):
    return importlib.import_module("comfy.conds")


def rows(count: int, *shape: int) -> torch.Tensor:
    """Row k holds the number k."""
    return torch.arange(float(count)).reshape(count, *[1] * len(shape)).expand(count, *shape).clone()


@pytest.mark.parametrize("n", [2, 3, 4, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7])
def test_every_part_is_expanded_as_the_core_does_it(cut, conds, n, count):
    """Tensors at the top, in lists, dicts and model conds: row i of what process_cond makes of them."""
    x = rows(count, 3, 2)
    expected = conds.CONDRegular(x).process_cond(n).cond
    cond = {
        "cross_attn": x,
        "reference_latents": [x, x + 10],
        "some_pack": {"inner": {"deep": x}, "pair": (x, "text", 3)},
        "model_conds": {
            "c_crossattn": conds.CONDCrossAttn(x), "y": conds.CONDRegular(x), "ref": conds.CONDList([x, x + 10]),
            "frames": conds.CONDConstant(x),
        },
        "strength": 0.5, "area": (8, 8, 0, 0), "uuid": "text", "timestep_start": None,
    }  # fmt: skip
    for i in range(n):
        (got,) = cut.conds_of_one({"positive": [cond]}, i, n)["positive"]
        want = expected[i : i + 1]
        assert torch.equal(got["cross_attn"], want)
        assert [torch.equal(g, want + k) for k, g in zip((0, 10), got["reference_latents"], strict=True)] == [True, True]
        assert torch.equal(got["some_pack"]["inner"]["deep"], want) and torch.equal(got["some_pack"]["pair"][0], want)
        assert got["some_pack"]["pair"][1:] == ("text", 3)
        inner = got["model_conds"]
        assert torch.equal(inner["c_crossattn"].cond, want) and torch.equal(inner["y"].cond, want)
        assert torch.equal(inner["ref"].cond[1], want + 10)
        assert torch.equal(inner["frames"].cond, x), "a constant belongs to the whole batch"
        assert {k: got[k] for k in ("strength", "area", "uuid", "timestep_start")} == {
            k: cond[k] for k in ("strength", "area", "uuid", "timestep_start")
        }
    assert torch.equal(cond["cross_attn"], rows(count, 3, 2)), "the originals stay"


@pytest.fixture(scope="module")
def hinted(comfy):
    """hinted(hints, previous, extra) -> a ControlNet that notes the hint it would use for a batch."""
    controlnet = importlib.import_module("comfy.controlnet")

    class Hinted(controlnet.ControlBase):
        def used(self, batch: int) -> list[float]:
            return controlnet.broadcast_image_to(self.cond_hint_original, batch, 1)[:, 0, 0, 0].tolist()

    def make(count: int, previous: object = None, extra: int = 0) -> Hinted:
        made = Hinted()
        made.set_cond_hint(rows(count, 3, 8, 8), extra_concat=[rows(extra, 1, 8, 8)] if extra else [])
        made.cond_hint = rows(count, 3, 8, 8)
        made.set_previous_controlnet(previous)
        return made

    return make


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_a_controlnet_gives_each_sample_its_own_hint(cut, hinted, n, count):
    control = hinted(count, previous=hinted(n), extra=2)
    expected = control.used(n)
    expected = expected * n if len(expected) == 1 else expected
    for i in range(n):
        got = cut.conds_of_one({"positive": [{"control": control}]}, i, n)["positive"][0]["control"]
        assert got is not control and got.used(1) == [expected[i]]
        assert got.previous_controlnet.used(1) == [float(i)]
        assert got.cond_hint is None and len(got.extra_concat_orig[0]) == 1
    assert len(control.cond_hint_original) == count and control.cond_hint is not None and len(control.extra_concat_orig[0]) == 2


def test_gligen_boxes_and_mixed_embeddings_stay_whole(cut):
    boxes = ("position", SimpleNamespace(model=None), [(rows(1, 8), 4, 4, 0, 0)])
    output = SimpleNamespace(image_embeds=rows(3, 8))
    cond = {"gligen": boxes, "unclip_conditioning": [{"clip_vision_output": output, "strength": 1.0}]}
    got = cut.conds_of_one({"positive": [cond]}, 1, 3)["positive"][0]
    assert torch.equal(got["gligen"][2][0][0], rows(1, 8)) and got["gligen"][2][0][1:] == (4, 4, 0, 0)
    assert got["unclip_conditioning"] is cond["unclip_conditioning"], "the core mixes all of them for every sample"


def test_what_cannot_be_cut_is_refused(cut, hinted):
    odd = SimpleNamespace(tensor=rows(4, 3))
    with pytest.raises(ValueError, match="'pack_thing'.*Sample one picture at a time"):
        cut.conds_of_one({"positive": [{"pack_thing": odd}]}, 1, 4)
    control = hinted(4)
    control.weights_by_latent = rows(4, 3)
    with pytest.raises(ValueError, match="weights_by_latent"):
        cut.conds_of_one({"positive": [{"control": control}]}, 1, 4)
    assert cut.conds_of_one({"positive": [{"pack_thing": odd}]}, 0, 1)["positive"][0]["pack_thing"] is odd, "one picture is whole"


@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
def test_rows_are_repeated_as_the_core_repeats_them(cut, count):
    repeat = importlib.import_module("comfy.utils").repeat_to_batch_size
    x = torch.arange(count * 5.0).reshape(count, 5)
    for i in range(4):
        assert torch.equal(cut.one(x, i, 4), repeat(x, 4)[i : i + 1])


def test_what_is_no_batch_stays(cut):
    for x in (torch.tensor(3.0), torch.arange(5.0), "text", None, 7):
        assert cut.one(x, 1, 4) is x
    assert cut.one(torch.arange(4.0), 1, 4).tolist() == [1.0]
    x = torch.zeros(2, 3)
    assert cut.one(x, 0, 1) is x


@pytest.mark.parametrize("shape", [(8, 8), (3, 1, 8, 8), (3, 8, 8), (1, 1, 8, 8), (2, 1, 8, 8)])
def test_a_mask_is_cut_in_the_shape_the_core_gives_it(comfy, shape):
    """It comes as nodes make it: rows of pixels or frames may stand where samples are expected."""
    one_sample, calls = (importlib.import_module(f"unmemorize_pack.host.{n}") for n in ("core.one_sample", "core.sampler_call"))
    prepare = importlib.import_module("comfy.sampler_helpers").prepare_mask
    mask, noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 4, 8, 8)
    guider = SimpleNamespace(original_conds={})
    call = calls.RunCall(guider, noise, noise, None, torch.ones(2), mask, None, True, 0)
    whole = prepare(mask, noise.shape, mask.device)
    ready = calls.RunCall(guider, noise, noise, None, torch.ones(2), whole, None, True, 0)
    for i in range(2):
        assert torch.equal(one_sample.call_of_one(call, i, 2).mask, whole[i : i + 1])
        assert torch.equal(one_sample.call_of_one(ready, i, 2).mask, whole[i : i + 1]), "newer cores have given it this shape"


def test_two_prompts_for_four_latents(cut):
    """The third latent is drawn under the first prompt, with the first mask."""
    tokens, mask = torch.arange(2 * 3 * 4.0).reshape(2, 3, 4), torch.rand(2, 8, 8)
    cond = {"cross_attn": tokens, "mask": mask, "strength": 1.0, "model_conds": {"c": SimpleNamespace(cond=tokens)}}
    (got,) = cut.conds_of_one({"positive": [cond]}, 2, 4)["positive"]
    assert torch.equal(got["cross_attn"], tokens[:1]) and torch.equal(got["mask"], mask[:1])
    assert torch.equal(got["model_conds"]["c"].cond, tokens[:1]) and got["strength"] == 1.0
    assert cond["cross_attn"] is tokens and cond["model_conds"]["c"].cond is tokens
