"""The neuron method against closed forms and float64 oracles (METHODS 3.7)."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from unmemorize_pack.tests.waits import Waits
from unmemorize_pack.unmemorize.neurons.activity import COND, UNCOND, Activity, row_normalised_squares
from unmemorize_pack.unmemorize.neurons.masks import (
    SCORES,
    TOP_SHARE,
    Mask,
    contrast,
    count_bits,
    find_mask,
    iou_by_layer,
    iou_by_layer_and_level,
    level_masks,
    mean_of_pairs,
    merge,
    pack,
    prune,
    seen_levels,
    top_of_rows,
    union,
    unpack,
    wanda,
)

OUT, D, ROWS = 6, 24, 40


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def activity(*batches, side=COND, levels=1):
    """An activity of one layer, level after level."""
    found = Activity(levels)
    for level, z in enumerate(batches):
        found.add("layer", (side,), level, z)
    return found


def oracle(z):
    """A_j by the definition, RMS over rows."""
    return (z / z.norm(dim=1, keepdim=True)).square().mean(0).sqrt()


# --- 3.7, in its order ---------------------------------------------------------------------------------------


def test_wanda_is_the_norm_of_what_a_weight_passes_on():
    """(1) |W_ij| A_j = RMS over rows of W_ij z_hat_j, and sqrt(rows) of it is the paper's L2 norm."""
    z, weight = rand(ROWS, D), rand(OUT, D, seed=1)
    score, _ = wanda(weight, activity(z).rms("layer", (COND,))[0], torch.zeros(D))
    passed = weight[:, None] * (z / z.norm(dim=1, keepdim=True))[None]
    assert torch.allclose(score * math.sqrt(ROWS), passed.norm(dim=1), rtol=1e-12)


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 1000))
def test_squares_of_all_features_sum_to_the_rows(rows, d, seed):
    """(2)"""
    total = row_normalised_squares(rand(rows, d, seed=seed))
    assert float(total.sum()) == pytest.approx(rows, rel=1e-10)


@pytest.mark.parametrize("score", list(SCORES))
def test_equal_activations_give_an_empty_mask(score):
    """(3)"""
    both, weight = activity(rand(ROWS, D)), rand(OUT, D, seed=1)
    mask = find_mask([("layer", weight)], both, both, 0.2, sides=(COND,), score=SCORES[score])
    assert mask.weights() == 0 and mask.density() == 0


@settings(deadline=None)
@given(st.lists(st.floats(1e-3, 1e3), min_size=ROWS, max_size=ROWS), st.integers(0, 100))
def test_scaling_a_row_changes_nothing(factors, seed):
    """(4)"""
    z = rand(ROWS, D, seed=seed)
    scaled = z * torch.tensor(factors, dtype=torch.float64)[:, None]
    assert torch.allclose(row_normalised_squares(z), row_normalised_squares(scaled), rtol=1e-9)


@pytest.mark.parametrize("score", list(SCORES))
def test_a_dominant_feature_is_its_column(score):
    """(5) Memorized rows = null rows plus one dominant feature: its column, wherever its weight is not 0 and in the row's top."""
    null = rand(ROWS, D)
    memorized = null.clone()
    memorized[:, 7] += 50
    weight = rand(OUT, D, seed=1).abs() + 0.5
    weight[2, 7] = 0
    mask = find_mask([("layer", weight)], activity(memorized), activity(null), 1 / D, sides=(COND,), score=SCORES[score])
    expected = torch.zeros(OUT, D, dtype=torch.bool)
    expected[:, 7] = True
    expected[2, 7] = False
    assert torch.equal(mask.dense("layer"), expected)


@settings(deadline=None, max_examples=40)
@given(st.floats(0.001, 0.6), st.integers(1, 5), st.floats(0, 0.9), st.integers(0, 1000))
def test_densities_are_bounded(share, levels, ratio, seed):
    """(6) At most k a row and level; the union at most T k and growing with T; a higher select_ratio takes less."""
    weight = rand(OUT, D, seed=seed)
    mem = torch.stack([oracle(rand(ROWS, D, seed=seed + 1 + t)) for t in range(levels)])
    null = torch.stack([oracle(rand(ROWS, D, seed=seed + 50 + t)) for t in range(levels)])
    masks = list(level_masks(weight, mem, null, share))
    k = max(1, int(share * D))
    assert len(masks) == levels and all(int(m.sum(1).max()) <= k for m in masks)
    unions = [union(masks[: t + 1], 0.0) for t in range(levels)]
    assert int(unions[-1].sum(1).max()) <= min(D, levels * k)
    assert all(bool((b | ~a).all()) for a, b in zip(unions, unions[1:], strict=False))
    strict = union(masks, ratio)
    assert bool((unions[-1] | ~strict).all())
    assert torch.equal(strict, torch.stack(masks).sum(0) > ratio * levels)


@settings(deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 100))
def test_streaming_equals_all_rows_at_once(sizes, seed):
    """(7)"""
    z = rand(sum(sizes), D, seed=seed)
    streamed = Activity(1)
    for part in z.split(sizes):
        streamed.add("layer", (COND,), 0, part)
    assert torch.allclose(streamed.rms("layer", (COND,))[0], oracle(z), rtol=1e-12)
    assert int(streamed.rows["layer"].sum()) == len(z)


def test_pruning_is_the_masked_layer():
    """(8) Pruned output = W (1 - M) z + bias; strength between; unmasked weights keep their bits."""
    weight, bias, z = rand(OUT, D), rand(OUT, seed=1), rand(ROWS, D, seed=2)
    mask = rand(OUT, D, seed=3) > 0
    pruned = prune(weight, mask, 1.0)
    assert torch.allclose(torch.nn.functional.linear(z, pruned, bias), z @ (weight * ~mask).T + bias)
    assert torch.equal(pruned[~mask], weight[~mask]) and bool((pruned[mask] == 0).all())
    assert torch.allclose(prune(weight, mask, 0.25), weight * (1 - 0.25 * mask.double()))


@given(st.integers(1, 8))
def test_repeating_the_null_changes_nothing(n):
    """(9) n repeats scale the paper's A by sqrt(n): the RMS not at all, so one run of the null is enough."""
    z = rand(ROWS, D)
    once, often = activity(z), Activity(1)
    for _ in range(n):
        often.add("layer", (COND,), 0, z)
    assert torch.allclose(often.rms("layer", (COND,)), once.rms("layer", (COND,)), rtol=1e-12)
    assert torch.allclose(often.squares["layer"].sqrt(), math.sqrt(n) * once.squares["layer"].sqrt(), rtol=1e-12)


# --- rows, sides, precision -------------------------------------------------------------------------------------


def test_sides_are_kept_apart():
    cond, uncond = rand(ROWS, D), rand(3 * ROWS, D, seed=1)
    found = Activity(2)
    found.add("layer", (COND,), 1, cond.reshape(4, -1, D))
    found.add("layer", (UNCOND,), 1, uncond)
    assert torch.allclose(found.rms("layer", (COND,))[1], oracle(cond))
    assert torch.allclose(found.rms("layer")[1], oracle(torch.cat([cond, uncond])))
    assert found.rms("layer")[0].isnan().all()


def test_levels_without_rows_are_left_out():
    mem = Activity(3)
    for level in (0, 2):
        mem.add("layer", (COND,), level, rand(ROWS, D, seed=level))
    null, weight = Activity(3), rand(OUT, D, seed=9)
    for level in (0, 1, 2):
        null.add("layer", (COND,), level, rand(ROWS, D, seed=20 + level))
    masks = list(level_masks(weight, mem.rms("layer", (COND,)), null.rms("layer", (COND,)), 0.1))
    assert len(masks) == 2 and seen_levels(mem, null, (COND,)) == [0, 2]
    found = find_mask([("layer", weight)], mem, null, 0.1, sides=(COND,), keep_levels=True)
    assert len(found.by_level["layer"]) == len(found.level_shares["layer"]) == 2
    with pytest.raises(ValueError, match="no noise level"):
        union([], 0.0)


def test_levels_count_where_every_layer_was_seen():
    """Bits take all that a layer has; what single levels took is kept of those that all layers have, so that columns mean one level."""
    mem, null = Activity(3), Activity(3)
    for layer, levels in (("one", (0, 1, 2)), ("two", (0, 2))):
        for level in levels:
            for side in (mem, null):
                side.add(layer, (COND,), level, rand(ROWS, D, seed=level + (10 if side is null else 0)))
    weights = {layer: rand(OUT, D, seed=9 + i) for i, layer in enumerate(("one", "two"))}
    found = find_mask(weights.items(), mem, null, 0.1, sides=(COND,), keep_levels=True)
    assert seen_levels(mem, null, (COND,)) == [0, 2] and {len(v) for v in found.by_level.values()} == {2}
    alone = level_masks(weights["one"], mem.rms("one", (COND,)), null.rms("one", (COND,)), 0.1)
    assert torch.equal(found.dense("one"), union(alone, 0.0))


def test_rows_of_zeros_are_harmless():
    z = torch.cat([torch.zeros(5, D, dtype=torch.float64), rand(ROWS, D)])
    assert torch.allclose(row_normalised_squares(z), row_normalised_squares(z[5:]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_summed_in_float32(dtype):
    """The squares of large fp16 activations overflow fp16; sums of many rows lose digits in it."""
    z = (rand(4096, D) * 300).to(dtype)
    found = row_normalised_squares(z)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), row_normalised_squares(z.double()), rtol=1e-5)


def test_memory_does_not_grow_with_rows():
    found = Activity(2)
    for seed in range(20):
        found.add("layer", (seed % 2,), seed % 2, rand(seed + 1, D, seed=seed))
    assert found.squares["layer"].shape == (2, 2, D) and found.rows["layer"].shape == (2, 2)


def test_an_activity_of_the_last_features_leaves_the_first_alone():
    """Layers whose input is [attention, feed-forward]: the whole top lies in the feed-forward part, ranked as if alone."""
    weight = rand(OUT, D + 5)
    mem, null = [activity(rand(ROWS, D, seed=s)) for s in (1, 2)]
    whole = find_mask([("layer", weight)], mem, null, 0.2, sides=(COND,)).dense("layer")
    alone = find_mask([("layer", weight[:, 5:])], mem, null, 0.2, sides=(COND,)).dense("layer")
    assert not whole[:, :5].any() and torch.equal(whole[:, 5:], alone) and whole.any()


# --- top k --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.floats(0.0, 1.0), st.integers(0, 1000))
def test_top_of_rows_takes_k_and_breaks_ties_by_lowest_index(d, share, seed):
    score = torch.randint(0, 4, (5, d), generator=torch.Generator().manual_seed(seed)).double()
    k = max(1, int(share * d))
    expected = torch.zeros(5, d, dtype=torch.bool)
    expected.scatter_(1, score.sort(dim=1, descending=True, stable=True).indices[:, :k], True)
    assert torch.equal(top_of_rows(score, share), expected)


@pytest.mark.parametrize(("d", "k"), [(1280, 12), (2560, 25), (5120, 51), (8, 1)])
def test_k_of_the_papers_layers(d, k):
    assert int(top_of_rows(rand(1, d), TOP_SHARE).sum()) == k


def test_what_must_be_exceeded_is_exceeded_strictly():
    weight = torch.tensor([[3.0, 2.0, 1.0]])
    mem, null = torch.tensor([[1.0, 1.0, 1.0]]), torch.tensor([[1.0, 0.5, 2.0]])
    (mask,) = level_masks(weight, mem, null, 1.0)
    assert mask.tolist() == [[False, True, False]]


def test_contrast_ranks_differences_not_sizes():
    weight = torch.ones(1, 3)
    mem, null = torch.tensor([[0.9, 0.3, 0.1]]), torch.tensor([[0.89, 0.1, 0.1]])
    (by_wanda,) = level_masks(weight, mem, null, 0.34)
    (by_contrast,) = level_masks(weight, mem, null, 0.34, contrast)
    assert by_wanda.tolist() == [[True, False, False]] and by_contrast.tolist() == [[False, True, False]]


# --- packed masks ---------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 1000))
def test_packing_is_lossless_and_counts_bits(d, out, seed):
    mask = torch.rand(2, out, d, generator=torch.Generator().manual_seed(seed)) > 0.5
    packed = pack(mask)
    assert packed.dtype == torch.uint8 and packed.shape == (2, out, math.ceil(d / 8))
    assert torch.equal(unpack(packed, d), mask)
    assert torch.equal(count_bits(packed), mask.sum((1, 2)))


def mask_of(dense, **levels):
    return Mask({"a": pack(dense)}, {"a": tuple(dense.shape)}, {k: pack(v) for k, v in levels.items()})


def test_density_and_merge():
    first, second = torch.zeros(4, 10, dtype=torch.bool), torch.zeros(4, 10, dtype=torch.bool)
    first[0], second[:, 0] = True, True
    both = merge([mask_of(first), mask_of(second)])
    assert torch.equal(both.dense("a"), first | second)
    assert both.weights() == 13 and both.density() == 13 / 40 and both.density_by_layer() == {"a": 13 / 40}
    with pytest.raises(ValueError, match="same layers"):
        merge([mask_of(first), mask_of(torch.zeros(4, 11, dtype=torch.bool))])


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 4), st.floats(0, 1), st.integers(0, 1000))
def test_iou_is_set_arithmetic(n, density, seed):
    generator = torch.Generator().manual_seed(seed)
    dense = [torch.rand(3, 11, generator=generator) < density for _ in range(n)]
    matrix = iou_by_layer([mask_of(m) for m in dense])["a"]
    for i, a in enumerate(dense):
        for j, b in enumerate(dense):
            whole = int((a | b).sum())
            assert float(matrix[i, j]) == pytest.approx(int((a & b).sum()) / whole if whole else 0.0)
    pairs = [float(matrix[i, j]) for i in range(n) for j in range(i + 1, n)]
    assert mean_of_pairs(matrix) == pytest.approx(sum(pairs) / len(pairs))


def test_iou_by_level_needs_kept_levels():
    full, none = torch.ones(3, 8, dtype=torch.bool), torch.zeros(3, 8, dtype=torch.bool)
    half = torch.arange(8).repeat(3, 1) < 4
    a = mask_of(full, a=torch.stack([full, full, none]))
    b = mask_of(full, a=torch.stack([full, half, none]))
    assert iou_by_layer_and_level([a, b])["a"].tolist() == [1.0, 0.5, 0.0]
    assert iou_by_layer_and_level([a, mask_of(full)]) == {}


def test_kept_levels_make_up_the_union():
    mem, null = [activity(*(rand(ROWS, D, seed=s + t) for t in range(3)), levels=3) for s in (0, 30)]
    mask = find_mask([("layer", rand(OUT, D, seed=9))], mem, null, 0.1, sides=(COND,), keep_levels=True)
    levels = unpack(mask.by_level["layer"], D)
    assert levels.shape == (3, OUT, D) and torch.equal(levels.any(0), mask.dense("layer"))


@pytest.mark.parametrize("block", [1, D, 2 * D + 1, 5 * D, 10**9])
@pytest.mark.parametrize("keep_levels", [False, True])
def test_blocks_of_rows_make_the_same_mask(monkeypatch, block, keep_levels):
    """Rows are ranked alone, so that a layer may be scored a few of them at a time: bits, levels and shares are those of the whole."""
    masks = importlib.import_module("unmemorize_pack.unmemorize.neurons.masks")
    mem = activity(*(rand(ROWS, D, seed=s) for s in (1, 2, 3)), levels=3)
    null = activity(*(rand(ROWS, D, seed=s) for s in (4, 5, 6)), levels=3)
    weight = rand(OUT, D, seed=7)
    whole = find_mask([("layer", weight)], mem, null, 0.2, 0.4, sides=(COND,), keep_levels=keep_levels)
    monkeypatch.setattr(masks, "BLOCK", block)
    parts = find_mask([("layer", weight)], mem, null, 0.2, 0.4, sides=(COND,), keep_levels=keep_levels)
    assert torch.equal(whole.bits["layer"], parts.bits["layer"]) and whole.level_shares["layer"] == pytest.approx(
        parts.level_shares["layer"]
    )
    assert set(whole.by_level) == set(parts.by_level) == ({"layer"} if keep_levels else set())
    if keep_levels:
        assert torch.equal(whole.by_level["layer"], parts.by_level["layer"])


def test_a_convolution_is_the_linear_layer_of_its_patches():
    """Entries [out, in, 3, 3] score as |W| times the activity of their input channel; a linear layer of repeated channels is the same."""
    weight, mem, null = rand(6, 4, 3, 3, seed=3), activity(rand(30, 4, seed=1)), activity(rand(30, 4, seed=2))
    found = find_mask([("layer", weight)], mem, null, 0.2, sides=(COND,))
    size = {name: a.rms("layer", (COND,))[0] for name, a in (("mem", mem), ("null", null))}
    scores = {name: weight.abs() * a[None, :, None, None] for name, a in size.items()}
    flat = scores["mem"].flatten(1)
    expected = (flat >= flat.topk(7, dim=1).values[:, -1:]) & (scores["mem"] > scores["null"]).flatten(1)
    assert found.shapes["layer"] == (6, 36) and torch.equal(found.dense("layer"), expected) and expected.any()


def test_a_mask_in_place_is_the_same_without_a_second_weight(monkeypatch):
    """Bit by bit, also what is no number where nothing is silenced; by blocks, none of them larger than BLOCK."""
    masks = importlib.import_module("unmemorize_pack.unmemorize.neurons.masks")
    monkeypatch.setattr(masks, "BLOCK", 5 * D)
    mask = rand(33, D, seed=2) > 1
    weight = rand(33, D).half()
    weight[0, 0] = -0.0
    wanted, bits = [prune(weight, mask, s) for s in (1.0, 0.3)], pack(mask)
    for strength, expected in zip((1.0, 0.3), wanted, strict=True):
        given = weight.clone()
        with Waits() as seen:
            found = masks.prune_in_place(given, bits, strength)
        assert found is given and torch.equal(found.view(torch.int16), expected.view(torch.int16))
        assert seen.largest <= 5 * D < weight.numel() and seen.waits == 0
    with torch.inference_mode(False), torch.enable_grad():  # as ComfyUI loads a model that is to be trained on
        given = torch.nn.Parameter(weight.float().clone()).clone()
        assert torch.equal(masks.prune_in_place(given, bits, 1.0), prune(weight.float(), mask, 1.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_layer_is_recorded_in_few_operations_however_many_sides(dtype):
    found, z = Activity(2), rand(2 * ROWS, D).to(dtype).reshape(2, ROWS, D)
    found.add("layer", (UNCOND, COND), 1, z)
    with Waits() as seen:
        found.add("layer", (UNCOND, COND), 1, z)
    assert seen.launches <= 8 and seen.waits == 0
    assert torch.allclose(found.rms("layer", (COND,))[1].double(), oracle(z[1].double()), rtol=1e-3)
    assert torch.allclose(found.rms("layer", (UNCOND,))[1].double(), oracle(z[0].double()), rtol=1e-3)
    assert torch.equal(z, rand(2 * ROWS, D).to(dtype).reshape(2, ROWS, D)), "what enters a layer stays as it is"
