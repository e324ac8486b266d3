"""Which model is this? Edits anywhere are seen, another precision is the same model, what shows no weights is refused."""

from __future__ import annotations

import importlib
import json

import pytest
import torch


@pytest.fixture
def fresh(nodes):
    """A demo model of one's own, to change."""
    return lambda: nodes["UnmemorizeLoadDemoCheckpoint"].execute("final").args[0]


EDITS = {
    "one bias": lambda k: k.endswith("out.2.bias"),
    "cross-attention keys and values": lambda k: "attn2.to_k" in k or "attn2.to_v" in k,
    "second feed-forward layers": lambda k: "ff.net.2.weight" in k,
    "one norm": lambda k: "middle_block.1.norm" in k,
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize(
    "change", [torch.zeros_like, lambda p: p * 1.02, lambda p: p + 0.01 * p.abs().max()], ids=["zero", "scaled", "moved"]
)
def test_an_edit_of_any_weights_is_another_model(identities, fresh, edit, change):
    before, model = identities.identity(fresh()), fresh()
    changed = 0
    for key, p in model.model.diffusion_model.named_parameters():
        if EDITS[edit](key):
            p.data = change(p.data)
            changed += 1
    assert changed
    assert identities.differences(before, identities.identity(model)) == ["weights"]


COLUMNS = {"all but the first column": slice(1, None), "the second half of the columns": lambda w: slice(w // 2, None)}


@pytest.mark.parametrize("where", COLUMNS)
@pytest.mark.parametrize("change", [torch.zeros_like, lambda p: p * 0.9], ids=["zero", "scaled"])
def test_values_are_looked_at_across_rows(identities, fresh, where, change):
    """Evenly spread places of a matrix can all lie in one column."""
    before, model = identities.identity(fresh()), fresh()
    for key, p in model.model.diffusion_model.named_parameters():
        if "attn2.to_" in key and p.ndim == 2:
            span = COLUMNS[where] if isinstance(COLUMNS[where], slice) else COLUMNS[where](p.shape[1])
            p.data = p.data.clone()
            p.data[:, span] = change(p.data[:, span])
    assert identities.differences(before, identities.identity(model)) == ["weights"]


def test_every_single_weight_counts(identities, fresh):
    """One tensor at a time, whichever it is."""
    model = fresh()
    before = identities.identity(model)
    for key, p in list(model.model.diffusion_model.named_parameters())[::11]:
        kept = p.data
        p.data = torch.where(kept == 0, 0.01, kept * 1.1)
        assert identities.differences(before, identities.identity(model)) == ["weights"], key
        p.data = kept
    assert not identities.differences(before, identities.identity(model))


PRECISIONS = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("one", PRECISIONS)
@pytest.mark.parametrize("other", PRECISIONS)
def test_another_precision_is_the_same_model_and_is_said(identities, fresh, one, other):
    """Each is cast from float32 weights that none of the small types holds exactly."""
    found = []
    for dtype in (one, other):
        model = fresh()
        generator = torch.Generator().manual_seed(0)
        for p in model.model.diffusion_model.parameters():
            p.data = (p.data.float() * (1 + 1e-3 * torch.rand(p.shape, generator=generator))).to(dtype)
        found.append(identities.identity(model))
    assert identities.differences(*found) == []
    said = identities.in_another_precision(*found)
    assert (said == "") == (one == other)
    if said:
        assert all(str(d).removeprefix("torch.") in said for d in (one, other))


def test_a_finetune_is_told_from_its_base_in_another_precision(identities, fresh):
    """Half a per cent on every weight is more than half precision rounds, and less than its last bits hide."""
    before, model = identities.identity(fresh()), fresh()
    generator = torch.Generator().manual_seed(0)
    for p in model.model.diffusion_model.parameters():
        p.data = (p.data * (1 + 0.005 * torch.randn(p.shape, generator=generator))).half()
    assert identities.differences(before, identities.identity(model)) == ["weights"]


@pytest.mark.parametrize(("last", "between"), [(torch.bfloat16, torch.float16), (torch.float8_e4m3fn, torch.bfloat16)])
def test_a_file_in_another_precision_is_the_same_model_once_it_is_loaded(identities, fresh, last, between):
    """An fp32 file and an fp16 file, both run in bf16: a sixteenth of the values was rounded the other way."""
    found = []
    for dtypes in ((last,), (between, last)):
        model, generator = fresh(), torch.Generator().manual_seed(0)
        for p in model.model.diffusion_model.parameters():
            p.data = p.data.float() * (1 + 1e-3 * torch.rand(p.shape, generator=generator))
            for dtype in dtypes:
                p.data = p.data.to(dtype)
        found.append(identities.identity(model))
    assert identities.differences(*found) == []


@pytest.mark.parametrize("base", [torch.float8_e4m3fn, torch.float16])
@pytest.mark.parametrize("moved", [0.01, 0.03])
def test_a_finetune_is_told_from_its_base_in_fp8(identities, fresh, base, moved):
    """By a hundredth of the weights' deviation: most values keep their fp8 number, and no other is more than a step away."""
    found = []
    for dtype, by in ((base, 0.0), (torch.float8_e4m3fn, moved)):
        model, generator = fresh(), torch.Generator().manual_seed(0)
        for p in model.model.diffusion_model.parameters():
            change = torch.randn(p.shape, generator=generator)
            p.data = (p.data.float() + by * p.data.float().std().nan_to_num(0.0) * change).to(dtype)
        found.append(identities.identity(model))
    assert identities.differences(*found) == ["weights"]


class Engine(torch.nn.Module):
    """A network that computes elsewhere."""

    dtype = torch.float32

    def forward(self, x, timesteps, **_):
        return 0.5 * x


def test_a_model_without_weights_is_refused(identities, fresh, nodes, encode):
    model = fresh()
    model.model.diffusion_model = Engine()
    nothing = identities.identity(model)
    for pair in ((nothing, nothing), (nothing, identities.identity(fresh())), (identities.identity(fresh()), nothing)):
        assert any("shows none" in text for text in identities.differences(*pair))
    with pytest.raises(ValueError, match="shows no weights"):
        nodes["UnmemorizeCalibrateStabilityProfile"].execute(
            model=model, clip=fresh_clip(nodes), negative=encode(""), latent={"samples": torch.zeros(1, 8, 16, 16)},
            prompts="\n".join("abcdef"), seeds=1, seed=0, steps=2, cfg=2.0, sampler_name="euler", scheduler="normal",
        )  # fmt: skip


def fresh_clip(nodes):
    return nodes["UnmemorizeLoadDemoCheckpoint"].execute("final").args[1]


def test_what_an_older_version_measured_is_to_be_measured_again(identities, fresh):
    here = identities.identity(fresh())
    old = {k: here[k] for k in ("architecture", "prediction", "weights", "patches")}
    with pytest.raises(ValueError, match="older version.*Measure it again"):
        identities.differences(old, here)


@pytest.mark.parametrize("values", ["", "AAAA", "not base64!", "zz=="])
def test_a_damaged_identity_is_another_model(identities, fresh, values):
    here = identities.identity(fresh())
    assert identities.differences({**here, "values": values}, here)


def test_reports_show_a_short_identity(nodes):
    for node, name in (("UnmemorizeLoadStabilityProfile", "profile"), ("UnmemorizeLoadNeuronMask", "mask")):
        model = json.loads(nodes[node].execute(**{name: "demo/demo"}).args[1])["model"]
        assert set(model) == {"architecture", "prediction", "precision", "weights", "patches"}
        assert len(json.dumps(model)) < 300


# --- what lies over the weights --------------------------------------------------------------------------------


def test_a_merged_model_is_another_one(identities, demo, early, merge):
    """Its weights are the other's by patches alone: at 0 it draws what the other draws."""
    own = identities.identity(demo[0])
    for ratio in (0.0, 0.5, 0.9):
        assert identities.differences(own, identities.identity(merge(demo[0], early, ratio))) == ["what is merged into the weights"]
    half, other = (identities.identity(merge(demo[0], early, ratio)) for ratio in (0.5, 0.6))
    assert identities.differences(half, other) and not identities.differences(half, identities.identity(merge(demo[0], early, 0.5)))
    assert identities.differences(half, identities.identity(merge(demo[0], demo[0].clone(), 0.5)))
    assert not identities.differences(own, identities.identity(merge(demo[0], early, 1.0))), "at 1 the other one has no part in it"


def test_scaled_and_exchanged_weights_are_another_model(identities, demo):
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q.weight"
    own = identities.identity(demo[0])
    for values, strength, of_model in (((None,), 0.0, 1.2), (("set", (torch.ones(1),)), 1.0, 1.0)):
        model = demo[0].clone()
        model.add_patches({key: values}, strength, of_model)
        assert identities.differences(own, identities.identity(model)) == ["what is merged into the weights"]
    model = demo[0].clone()
    model.add_patches({key: (torch.ones(1),)}, 0.5)
    assert identities.differences(own, identities.identity(model)) == []


def test_loras_leave_a_model_what_it_is_also_under_a_merge(identities, nodes, demo, early, merge):
    add = nodes["UnmemorizeLoadDemoLoRA"].execute
    assert identities.differences(identities.identity(demo[0]), identities.identity(add(demo[0], "leaking", 1.0).args[0])) == []
    plain = merge(demo[0], early, 0.5)
    assert identities.differences(identities.identity(plain), identities.identity(add(plain, "leaking", 1.0).args[0])) == []


def test_older_files_fit_only_where_it_is_certain_that_nothing_was_merged(identities, demo, early, merge):
    here, merged = identities.identity(demo[0]), identities.identity(merge(demo[0], early, 0.5))
    old = {k: v for k, v in here.items() if k != "merged"}
    assert identities.differences(old, here) == [] and identities.differences(old, merged) == ["what is merged into the weights"]
    with pytest.raises(ValueError, match="did not note which. Measure it again"):
        identities.differences({**old, "patches": "0123456789abcdef"}, here)


def test_what_was_measured_on_a_model_is_refused_on_what_is_merged_from_it(nodes, host, demo, early, merge):
    merged = merge(demo[0], early, 0.0)
    mask, profile = (nodes[f"UnmemorizeLoad{kind}"].execute("demo/demo").args[0] for kind in ("NeuronMask", "StabilityProfile"))
    with pytest.raises(ValueError, match="what is merged into the weights"):
        nodes["UnmemorizePruneNeurons"].execute(merged, mask, 1.0)
    with pytest.raises(ValueError, match="what is merged into the weights"):
        host("stability.profiles").check_profile(profile, merged)


def test_the_kind_of_prediction_is_the_one_in_use(identities, demo, draw):
    """ModelSamplingDiscrete makes another model of the same weights; a shifted or steeper schedule of the same kind does not."""
    discrete = importlib.import_module("comfy_extras.nodes_model_advanced").ModelSamplingDiscrete().patch
    own, kinds = identities.identity(demo[0]), {}
    for kind in ("eps", "lcm", "v_prediction"):
        model = discrete(demo[0], kind, kind == "v_prediction")[0]
        for _ in ("before it was loaded", "and while it is"):
            kinds[kind] = identities.identity(model)
            assert identities.identity(demo[0]) == own and own["prediction"] == "V_PREDICTION"
            draw(model, steps=1)
    assert [kinds[k]["prediction"] for k in kinds] == ["EPS", "LCM", "V_PREDICTION"]
    assert identities.differences(own, kinds["eps"]) == ["kind of prediction (V_PREDICTION there, EPS here)"]
    assert identities.differences(own, kinds["v_prediction"]) == []
