"""The paper's rule against closed forms (METHODS 4.7, 4 to 8): who is edited, and what an edit does."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from unmemorize_pack.unmemorize.stability.profile import Profile
from unmemorize_pack.unmemorize.stability.rule import (
    Rule,
    active,
    clamp_norm,
    corrected,
    reflected_norm,
    renoised,
    renormalised_guidance,
    severity,
)
from unmemorize_pack.unmemorize.stability.signals import SIGNALS, rms

ANGLE, NEXT = 1.1, 0.9
STRONG, MILD = torch.tensor([2]), torch.tensor([1])
ONLY_RESCALE = Rule(clamp_update=False, clamp_latent=False)


def profile_of(**regions: tuple[float, float]) -> Profile:
    """A profile that is the same at every angle; signals that are not given are never left."""
    regions = {name: (0.0, 1e6) for name in SIGNALS} | regions
    parts = [{name: torch.tensor([region[k]] * 2) for name, region in regions.items()} for k in (0, 1)]
    return Profile(torch.tensor([0.0, 1.6]), *parts, 50, 0.0, 1.0)


def pictures(n=1, seed=0):
    """Prediction, noise and latent of a step, VP coordinates."""
    g = torch.Generator().manual_seed(seed)
    prediction, eps = (torch.randn(n, 3, 4, 4, generator=g, dtype=torch.float64) for _ in range(2))
    z = math.cos(ANGLE) * prediction + math.sin(ANGLE) * eps
    y = math.cos(NEXT) * prediction + math.sin(NEXT) * eps
    return prediction, eps, z, y


# --- what an edit does -------------------------------------------------------------------------------------


@pytest.mark.parametrize("grade", [MILD, STRONG])
def test_the_prediction_gets_its_mean_norm_with_the_noise_unchanged(grade):
    """Test 4: y = a' x0' + b' eps, ||x0'|| = mu exactly."""
    prediction, eps, z, y = pictures()
    edited = corrected(z, y, prediction, ANGLE, NEXT, grade, profile_of(prediction=(0.4, 0.01)), ONLY_RESCALE)
    x0 = (edited - math.sin(NEXT) * eps) / math.cos(NEXT)
    assert float(rms(x0)) == pytest.approx(0.4, rel=1e-6)
    assert torch.allclose(x0 / x0.norm(), prediction / prediction.norm(), atol=1e-6)


def test_the_region_of_an_inpainting_run_counts_alone():
    """Norms are taken where the picture is generated."""
    prediction, eps, z, y = pictures()
    inside = torch.zeros(1, 1, 4, 4)
    inside[..., :2] = 1
    edited = corrected(z, y, prediction, ANGLE, NEXT, STRONG, profile_of(prediction=(0.4, 0.01)), ONLY_RESCALE, inside)
    x0 = (edited - math.sin(NEXT) * eps) / math.cos(NEXT)
    assert float(rms(x0, inside)) == pytest.approx(0.4, rel=1e-6) != float(rms(x0))
    latent = corrected(z, y, prediction, ANGLE, NEXT, STRONG, profile_of(latent=(0.4, 0.0)), Rule(rescale=False), inside)
    assert float(rms(latent, inside)) == pytest.approx(0.4, rel=1e-6)
    moved = corrected(z, y, prediction, ANGLE, NEXT, STRONG, profile_of(update=(0.3, 0.0)), Rule(rescale=False, clamp_latent=False), inside)
    assert float(rms(moved - z, inside)) == pytest.approx(0.3 * (ANGLE - NEXT), rel=1e-5)


@pytest.mark.parametrize(("mean", "sd"), [(2.0, 0.1), (0.05, 0.01), (0.05, 0.1)])
def test_the_latent_ends_inside_its_region(mean, sd):
    """Test 5: after part 3 ||y|| is inside, whatever the others did; lower bounds are floored at 0."""
    prediction, _, z, y = pictures()
    profile = profile_of(prediction=(3.0, 0.1), update=(9.0, 0.1), latent=(mean, sd))
    edited = corrected(z, y, prediction, ANGLE, NEXT, STRONG, profile, Rule())
    assert max(mean - 3 * sd, 0) - 1e-6 <= float(rms(edited)) <= mean + 3 * sd + 1e-6
    looser = corrected(z, y, prediction, ANGLE, NEXT, STRONG, profile, Rule(gamma=1.0))
    assert mean - sd - 1e-6 <= float(rms(looser)) <= mean + sd + 1e-6


@pytest.mark.parametrize(("mean", "wanted"), [(9.0, 8.7), (0.05, 0.35)])
def test_only_strong_cases_have_their_update_clamped(mean, wanted):
    """Part 2, in units of the angle the step covers."""
    prediction, _, z, y = pictures()
    profile, rule = profile_of(update=(mean, 0.1)), Rule(rescale=False, clamp_latent=False)
    strong = corrected(z, y, prediction, ANGLE, NEXT, STRONG, profile, rule)
    assert float(rms(strong - z)) == pytest.approx(wanted * (ANGLE - NEXT), rel=1e-5)
    direction = (strong - z) / (strong - z).norm()
    assert torch.allclose(direction, (y - z) / (y - z).norm(), atol=1e-6)
    assert torch.equal(corrected(z, y, prediction, ANGLE, NEXT, MILD, profile, rule), y)


def test_reflecting_takes_the_place_of_clamping():
    """R1': strong cases only."""
    prediction, _, z, y = pictures()
    norm = float(rms(y - z)) / (ANGLE - NEXT)
    rule = Rule(rescale=False, clamp_latent=False, reflect=True)
    edited = corrected(z, y, prediction, ANGLE, NEXT, STRONG, profile_of(update=(0.8 * norm, 1e-3)), rule)
    assert float(rms(edited - z)) == pytest.approx(0.6 * norm * (ANGLE - NEXT), rel=1e-4)
    assert torch.equal(corrected(z, y, prediction, ANGLE, NEXT, MILD, profile_of(update=(0.1, 1e-3)), rule), y)


def test_a_rule_without_parts_edits_nothing():
    prediction, _, z, y = pictures()
    tight = profile_of(**{name: (0.01, 1e-5) for name in SIGNALS})
    nothing = Rule(rescale=False, clamp_update=False, clamp_latent=False)
    assert torch.equal(corrected(z, y, prediction, ANGLE, NEXT, STRONG, tight, nothing), y)


@pytest.mark.parametrize("rule", [Rule(), Rule(reflect=True)])
def test_a_batch_is_edited_as_its_samples_alone(rule):
    """Test 7: a mild and a strong sample side by side."""
    prediction, _, z, y = pictures(n=2)
    tight = profile_of(prediction=(0.4, 0.01), update=(0.3, 0.01), latent=(0.6, 0.01))
    grade = torch.tensor([1, 2])
    both = corrected(z, y, prediction, ANGLE, NEXT, grade, tight, rule)
    for i in range(2):
        s = slice(i, i + 1)
        assert torch.equal(both[s], corrected(z[s], y[s], prediction[s], ANGLE, NEXT, grade[s], tight, rule))


def test_renoising_mixes_exactly():
    """R3: cos x0' + sin noise, ||x0'|| = mu."""
    prediction, eps, _, _ = pictures(n=2)
    found = renoised(prediction, eps, NEXT, profile_of(prediction=(0.4, 0.01)))
    x0 = (found - math.sin(NEXT) * eps) / math.cos(NEXT)
    assert rms(x0).tolist() == pytest.approx([0.4, 0.4], rel=1e-6)
    assert torch.allclose(x0[1] / x0[1].norm(), prediction[1] / prediction[1].norm(), atol=1e-6)


def test_guidance_gets_the_mean_norm_and_keeps_its_direction():
    """R2."""
    cond, uncond, _, _ = pictures(n=2)
    found = renormalised_guidance(cond, uncond, 0.7)
    assert rms(found).tolist() == pytest.approx([0.7, 0.7], rel=1e-6)
    assert torch.allclose(found[0] / found[0].norm(), (cond - uncond)[0] / (cond - uncond)[0].norm(), atol=1e-6)


# --- norms -------------------------------------------------------------------------------------------------

positive = st.floats(0.01, 10.0)


@settings(deadline=None)
@given(low=st.floats(-5.0, 5.0), width=positive, size=positive, seed=st.integers(0, 99))
def test_clamping_a_norm(low, width, size, seed):
    """Test 5: inside afterwards, idempotent, the direction stays; the identity inside, to the bit."""
    x = size * torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(seed))
    high = max(low, 0.0) + width
    once = clamp_norm(x, low, high)
    norms = rms(once)
    assert (norms >= max(low, 0.0) * (1 - 1e-5)).all() and (norms <= high * (1 + 1e-5)).all()
    assert torch.allclose(clamp_norm(once, low, high), once, rtol=1e-6)
    for i in range(3):
        if low < float(rms(x)[i]) < high:
            assert torch.equal(once[i], x[i])
        assert torch.allclose(once[i] / once[i].norm(), x[i] / x[i].norm(), atol=1e-5)


@settings(deadline=None)
@given(mean=positive, size=positive)
def test_mirroring_a_norm(mean, size):
    """2 mu - ||x||, never below zero; twice is the identity where nothing was cut off."""
    x = size * torch.randn(1, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    norm = float(rms(x))
    mirrored = reflected_norm(x, mean)
    assert float(rms(mirrored)) == pytest.approx(max(2 * mean - norm, 0.0), rel=1e-4, abs=1e-5)
    assume(2 * mean - norm > 1e-3)
    assert torch.allclose(reflected_norm(mirrored, mean), x, rtol=1e-2)


# --- who is edited -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("z_update", "z_prediction", "grade"),
    [(3.1, 3.1, 1), (-3.1, -3.1, 1), (2.9, 50.0, 0), (50.0, 2.9, 0), (3.1, 14.1, 2), (3.1, -14.1, 2), (50.0, 13.9, 1), (math.nan, 50.0, 0)],
)
def test_severity_needs_both_signals_on_either_side(z_update, z_prediction, grade):
    assert severity(torch.tensor([z_update]), torch.tensor([z_prediction]), Rule()).tolist() == [grade]


@settings(deadline=None)
@given(steps=st.integers(1, 60), share=st.floats(0.0, 1.0))
def test_mild_cases_are_edited_early_only(steps, share):
    """Test 8: never at t >= k = round(share steps); strong ones may be at every step."""
    rule, far = Rule(mild_until=share), torch.tensor([9.0, -9.0, 9.0, 1.0])
    for t in range(steps):
        acts = active(torch.tensor([1, 2, 0, 2]), far, t, steps, rule).tolist()
        assert acts == [t < round(share * steps), True, False, False]
    assert round(Rule().mild_until * 50) == 10
