"""Agreement in closed form: LoRAs whose change is common, the prompt's alone, or something between."""

from __future__ import annotations

import math

import pytest
import torch
from unmemorize_pack.unmemorize.stability.agreement import (
    KEPT,
    LEAST_LIMIT,
    LEAST_SPREAD,
    UNCALIBRATED,
    UNRELATED,
    AgreementRegion,
    agreement,
    agreement_score,
    kept_changes,
    region_of_runs,
    run_agreement,
    structure,
    with_change,
)


def denoised(seed=0, n=3):
    """Predictions of a base for a prompt and for none, and a direction for each, [n, 4, 8, 8]."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 4, 8, 8, generator=generator) for _ in range(4)]


def across(x, y):
    """x without what lies along y, by sample, both without the means of the grid."""
    x, y = structure(x).flatten(1), structure(y).flatten(1)
    return (x - (x * y).sum(1, keepdim=True) / y.square().sum(1, keepdim=True) * y).view(-1, 4, 8, 8)


def test_a_common_change_agrees_wholly():
    """D^L = D^B + s for both prompts: 1, whatever its size."""
    cond, uncond, style, _ = denoised()
    for size in (0.01, 30.0):
        assert torch.allclose(agreement(cond + size * style, uncond + size * style, cond, uncond), torch.ones(3), atol=1e-4)


def test_a_prompt_that_is_answered_with_something_unrelated_does_not_agree_at_all():
    """The prompt's alone moved: D_c^L - D_u^L across D_c^B - D_u^B: 0; the other way: -1."""
    cond, uncond, style, memory = denoised()
    stored = across(memory, cond - uncond)
    assert agreement(uncond + stored, uncond, cond, uncond).abs().max() < 1e-5
    assert agreement(uncond + style + stored, uncond + style, cond, uncond).abs().max() < 1e-5, "on top of a style as well"
    assert torch.allclose(agreement(2 * uncond - cond, uncond, cond, uncond), -torch.ones(3), atol=1e-5)


def test_a_change_across_what_the_words_mean_lowers_it_by_its_share():
    """g + m with m across g and as long: cos = 1 / sqrt 2."""
    cond, uncond, _, memory = denoised()
    g = structure(cond - uncond)
    m = across(memory, g)
    m = m * (g.flatten(1).norm(dim=1) / m.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    assert agreement(cond + m, uncond, cond, uncond).tolist() == pytest.approx([1 / math.sqrt(2)] * 3, abs=1e-4)


def test_tones_do_not_count():
    """A colour of the prompt's alone, the same in every part of a picture or in each of the grid's parts, changes nothing."""
    cond, uncond, _, _ = denoised()
    tone = torch.randn(3, 4, 4, 4).repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert torch.allclose(agreement(cond + 5 * tone, uncond, cond, uncond), torch.ones(3), atol=1e-4)
    assert structure(tone).abs().max() < 1e-6


@pytest.mark.parametrize("shape", [(2, 4, 1, 1), (2, 4, 3, 5), (1, 16, 2, 7, 9), (2, 8, 6, 130)])
def test_latents_of_any_shape_have_structure_or_none(shape):
    """Video, audio, sides that no grid divides: as large as it came, and each part's mean is nearly gone."""
    x = torch.randn(shape, dtype=torch.float16)
    assert structure(x).shape == x.shape and structure(x).dtype == torch.float32
    assert structure(torch.ones(shape)).abs().max() < 1e-6


def test_what_does_not_count_does_not_count():
    cond, uncond, _, memory = denoised()
    region = torch.zeros(3, 1, 8, 8)
    region[..., :4] = 1
    spoiled = torch.where(region > 0, cond, 5 * memory)
    assert torch.allclose(agreement(spoiled + 0.1 * cond, uncond + 0.1 * cond, cond, uncond, region), torch.ones(3), atol=1e-4)
    assert agreement(spoiled, uncond, cond, uncond).max() < 0.9


def test_a_lora_that_does_nothing_has_no_agreement():
    """No change, or one of rounding, or a prompt that adds nothing: not a number, never 'clean'; other samples keep theirs."""
    cond, uncond, style, _ = denoised()
    style[1] *= 1e-6
    assert agreement(cond + style, uncond, cond, uncond).isnan().tolist() == [False, True, False]
    assert agreement(cond, uncond, cond, uncond).isnan().all()
    assert agreement(uncond + style, uncond + style, uncond, uncond).isnan().all()


def test_steps_without_a_value_are_left_out_of_a_runs_mean():
    by_step = torch.tensor([[math.nan, math.nan], [0.2, math.nan], [0.4, math.nan]])
    assert run_agreement(by_step)[0] == pytest.approx(0.3) and run_agreement(by_step)[1].isnan()


def test_the_limit_lies_as_many_deviations_from_ordinary_runs_as_from_unrelated_directions():
    region = AgreementRegion(0.8, 0.1)
    assert (region.centre - region.limit) / region.spread == pytest.approx(region.limit / UNRELATED)
    assert AgreementRegion(0.3, 0.4).limit == LEAST_LIMIT, "ordinary runs that scatter widely hide no copy"
    at = torch.tensor([[region.centre, region.limit, 0.0]])
    score = agreement_score(at, region, 3.0)
    assert score.tolist()[:2] == pytest.approx([0.0, 3.0]) and score[2] > 3
    assert UNCALIBRATED.limit == pytest.approx(LEAST_LIMIT, abs=0.01)


def test_the_region_of_ordinary_runs_is_their_median_and_what_lies_below():
    """Runs far above the median widen nothing; a set of equal runs keeps the least spread."""
    runs = torch.tensor([[0.7, 0.8, 0.9, 0.95, 0.99]])
    region = region_of_runs(runs)
    assert region.centre == pytest.approx(0.9) and region.spread == pytest.approx(math.sqrt((0.2**2 + 0.1**2) / 2))
    assert region_of_runs(torch.full((4, 6), 0.9)).spread == LEAST_SPREAD


def test_ordinary_runs_that_hardly_agree_tell_nothing():
    """A trigger word without its reference: nothing could be told from a memory."""
    assert not region_of_runs(torch.tensor([[0.05, 0.1, 0.12, 0.3, -0.1]])).tells
    assert region_of_runs(torch.tensor([[0.3, 0.4, 0.5]])).tells and UNCALIBRATED.tells
    with pytest.raises(ValueError, match="changed nothing"):
        region_of_runs(torch.full((4, 2), math.nan))


def test_the_leak_is_left_out_and_the_common_change_kept():
    """D_c^L = D_c^B + s + m, D_u^L = D_u^B + s, guidance w: what is kept is the guided base plus s, with nothing of m."""
    cond, uncond, style, _ = denoised()
    guided = uncond + 2.0 * (cond - uncond)
    assert torch.allclose(with_change(guided, style, style, 2.0), guided + style, atol=1e-5)


def test_what_a_trigger_word_adds_is_guided_as_the_lora_guides_it():
    """D_c^L = D_c^B + t + m, D_r^L = D_r^B + t, D_u^L = D_u^B: the LoRA's own guided prediction without its leak m."""
    cond, uncond, trigger, _ = denoised()
    guided, under_the_lora = uncond + 2.0 * (cond - uncond), uncond + 2.0 * (cond + trigger - uncond)
    assert torch.allclose(with_change(guided, trigger, torch.zeros_like(trigger), 2.0), under_the_lora, atol=1e-5)


def test_a_change_is_kept_where_the_prompt_asks_for_the_same():
    """Of three samples one agrees, one does not, and of one nothing can be said: nothing is left out of the first and the last."""
    own, common = torch.ones(3, 2, 4, 4), torch.full((3, 2, 4, 4), 5.0)
    kept = kept_changes(torch.tensor([0.5, 0.1, math.nan]), 0.21, own, common)
    assert kept[:, 0, 0, 0].tolist() == [1, 5, 1]


def test_a_step_that_agrees_is_the_loras_own():
    """D_c^L and D_u^L are any changes: what is kept whole gives the LoRA's guided prediction."""
    cond, uncond, of_prompt, of_negative = denoised()
    under = (uncond + of_negative) + 2.0 * (cond + of_prompt - uncond - of_negative)
    assert torch.allclose(with_change(uncond + 2.0 * (cond - uncond), of_prompt, of_negative, 2.0), under, atol=1e-5)
    assert UNCALIBRATED.keeps == pytest.approx(0.21) and UNCALIBRATED.limit < UNCALIBRATED.keeps < UNCALIBRATED.centre


def test_what_a_trial_keeps_is_what_no_copy_agrees_on():
    """Where ordinary runs scatter little the limit lies high: copies scatter about 0 all the same, what agrees is the LoRA's own."""
    for centre, spread in ((0.9, 0.02), (0.8, 0.03), (0.5, 0.1), (0.42, 0.13)):
        region = AgreementRegion(centre, spread)
        assert LEAST_LIMIT <= region.keeps <= KEPT and (centre / 2 > KEPT or region.keeps >= centre / 2)
    assert AgreementRegion(0.9, 0.02).keeps == KEPT < AgreementRegion(0.9, 0.02).limit, "a run that agrees everywhere so far is no memory"
