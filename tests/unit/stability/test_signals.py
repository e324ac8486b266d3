"""The stability method against closed forms (METHODS 4.7): profiles, detectors and scores."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from unmemorize_pack.unmemorize.stability.profile import (
    LEAST_SD,
    Profile,
    default_score,
    deviations,
    make_profile,
    paper_score,
    region_at,
    upper_spread,
)
from unmemorize_pack.unmemorize.stability.rule import Rule, severity
from unmemorize_pack.unmemorize.stability.signals import SIGNALS, revision, rms, rms_of_each, sharpness

STEPS, SHAPE = 12, (4, 4, 4)
ANGLES = torch.linspace(1.55, 0.0, STEPS + 1, dtype=torch.float64)
"""Of each level of a schedule, descending: pure noise to a picture."""


def rotated(z, prediction, angle, angle_next):
    """DDIM in VP coordinates: the noise part of z is kept, x0_hat is mixed with less of it."""
    noise = (z - math.cos(angle) * prediction) / math.sin(angle)
    return math.cos(angle_next) * prediction + math.sin(angle_next) * noise


def observed(cond, uncond, start, angles=ANGLES):
    """Signals [steps, n] of a DDIM run by the conditional denoiser, as the host observes them; and its latents."""
    alone = [name for name in SIGNALS if name != "agreement"]  # that one needs a parent
    z, before, signals, latents = start, None, {name: [] for name in alone}, [start]
    for angle, angle_next in zip(angles[:-1].tolist(), angles[1:].tolist(), strict=True):
        d_c, d_u = cond(z, angle), uncond(z, angle)
        y = rotated(z, d_c, angle, angle_next)
        nothing = torch.full((len(z),), math.nan)
        for name, values in {
            "latent": rms(y),
            "update": rms(y - z) / (angle - angle_next),
            "prediction": rms(d_c),
            "guidance": rms(d_c - d_u),
            "revision": nothing if before is None else revision(rms(d_u - before[1]), rms(d_c - before[0])),
            "sharpness": sharpness(d_c),
        }.items():
            signals[name].append(values.float())
        z, before = y, (d_c, d_u)
        latents.append(y)
    return {name: torch.stack(values) for name, values in signals.items()}, latents


def normal_data(z, angle):
    """The exact denoiser of N(0, I)."""
    return math.cos(angle) * z


def wide_data(z, angle):
    """The exact denoiser of N(0, 4 I)."""
    return 4 * math.cos(angle) / (4 * math.cos(angle) ** 2 + math.sin(angle) ** 2) * z


def noise(n, seed=0):
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def clean():
    """Profile and signals of 2000 runs on N(0, I)."""
    signals, _ = observed(normal_data, wide_data, noise(2000))
    return make_profile(ANGLES[:-1], signals), signals


# --- METHODS 4.7, 1 and 2 ----------------------------------------------------------------------------------


def test_profile_of_normal_data_is_the_closed_form(clean):
    """Test 1: DDIM multiplies z by c_i = cos(theta_i - theta_{i+1}); ||delta_i|| = (1 - c_i) prod_{j<i} c_j chi_d."""
    d = math.prod(SHAPE)
    chi_mean = math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    chi_sd = math.sqrt(d - chi_mean**2)
    covered = ANGLES[:-1] - ANGLES[1:]
    c = torch.cos(covered)
    shrunk = torch.cat([torch.ones(1), torch.cumprod(c, 0)[:-1]])
    profile, _ = clean
    want = ((1 - c) * shrunk / covered).float().flip(0)
    assert torch.allclose(profile.mean["update"], want * chi_mean / math.sqrt(d), rtol=5e-3)
    assert torch.allclose(profile.sd["update"], want * chi_sd / math.sqrt(d), rtol=0.05)
    assert torch.allclose(profile.mean["latent"], (shrunk * c).float().flip(0) * chi_mean / math.sqrt(d), rtol=5e-3)
    assert torch.equal(profile.angles, ANGLES[:-1].flip(0).float()) and profile.runs == 2000


def test_ddim_multiplies_by_the_cosine_of_the_covered_angle():
    """The formula the closed form rests on."""
    _, latents = observed(normal_data, wide_data, noise(2))
    for i in range(STEPS):
        assert torch.allclose(latents[i + 1], math.cos(ANGLES[i] - ANGLES[i + 1]) * latents[i], atol=1e-12)


def test_a_point_mass_fires_every_detector(clean):
    """Test 2: D = m. Clean runs of other seeds stay far below."""
    memory = noise(1, seed=9)
    signals, latents = observed(lambda z, angle: memory.expand_as(z), wide_data, noise(20, seed=1))
    assert torch.allclose(latents[-1], memory.expand_as(latents[-1]), atol=1e-9), "DDIM reaches m"
    others, _ = observed(normal_data, wide_data, noise(20, seed=2))
    profile, _ = clean
    angles = ANGLES[:-1]
    for variant in ({}, {"first": 3}, {"average": True}):
        assert paper_score(profile, angles, signals, **variant).min() > 10
        assert paper_score(profile, angles, others, **variant).max() < 6
    assert default_score(profile, angles, signals).min() > 10
    assert default_score(profile, angles, others).abs().max() < 6
    z = [deviations(profile, name, angles, signals[name]) for name in ("update", "prediction")]
    assert (severity(*z, Rule()) > 0).any(0).all()


# --- profiles ----------------------------------------------------------------------------------------------


def test_default_score_of_its_own_runs_is_standard(clean):
    profile, signals = clean
    scores = default_score(profile, ANGLES[:-1], signals)
    assert float(scores.median()) == pytest.approx(0.0, abs=1e-4)
    assert float(scores[scores > 0].square().mean().sqrt()) == pytest.approx(1.0, abs=1e-3)


def test_a_second_kind_of_clean_prompts_does_not_hide_memories():
    """Scores of two kinds, far apart: the limit lies above the upper kind, not above the mixture."""
    g = torch.Generator().manual_seed(3)
    drawings, photographs = torch.randn(400, generator=g), torch.randn(200, generator=g) - 12
    centre, spread = upper_spread(torch.cat([drawings, photographs]))
    assert 0.5 < spread < 1.5 and (3.5 - centre) / spread > 3 > (2.0 - centre) / spread


def some_signals(runs, steps=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {name: torch.randn(steps, runs, generator=g) for name in SIGNALS}


@pytest.mark.parametrize(("runs", "factor"), [(2, 2.0), (5, 1.4), (19, 1 + 2 / 19), (20, 1.0), (50, 1.0)])
def test_few_runs_inflate_the_deviations(runs, factor):
    signals = some_signals(runs)
    profile = make_profile(torch.tensor([1.5, 1.0, 0.6]), signals)
    for name in SIGNALS:
        assert torch.allclose(profile.sd[name].flip(0), signals[name].std(1) * factor, rtol=1e-6)
        assert torch.allclose(profile.mean[name].flip(0), signals[name].mean(1), atol=1e-6)
    scores = default_score(profile, torch.tensor([1.5, 1.0, 0.6]), signals)
    above = [float(v) for v in scores if v > 0]
    assert sum(v * v for v in above) / max(len(above), 1) == pytest.approx(1 / factor**2, rel=1e-3)


def test_equal_runs_have_a_floor_and_one_run_makes_a_profile():
    equal = {name: torch.ones(3, 4) for name in SIGNALS}
    profile = make_profile(torch.tensor([1.5, 1.0, 0.6]), equal)
    assert all((sd == LEAST_SD).all() for sd in profile.sd.values()) and profile.score_spread == LEAST_SD
    single = make_profile(torch.tensor([1.5]), some_signals(1, steps=1))
    assert single.runs == 1 and single.sd["update"].tolist() == pytest.approx([LEAST_SD])


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_calibration_run_is_refused(broken):
    signals = some_signals(5)
    signals["prediction"][1, 3] = broken
    with pytest.raises(ValueError, match="not numbers"):
        make_profile(torch.tensor([1.5, 1.0, 0.6]), signals)


def test_a_calibration_of_nothing_but_nan_is_refused():
    signals = {name: torch.full((3, 5), math.nan) for name in SIGNALS}
    with pytest.raises(ValueError, match="changed nothing"):
        make_profile(torch.tensor([1.5, 1.0, 0.6]), signals)
    with pytest.raises(ValueError, match="not numbers"):
        make_profile(torch.tensor([1.5, 1.0, 0.6]), {name: values for name, values in signals.items() if name != "agreement"})


def test_a_run_in_which_a_lora_changes_nothing_spoils_no_calibration():
    """Its agreement is no number at a step; the others' are."""
    signals = some_signals(5)
    signals["agreement"] = torch.rand(3, 5, generator=torch.Generator().manual_seed(1))
    signals["agreement"][1, 2] = math.nan
    profile = make_profile(torch.tensor([1.5, 1.0, 0.6]), signals)
    known = signals["agreement"][1][torch.arange(5) != 2]
    assert profile.agreement is not None and float(profile.mean["agreement"][1]) == pytest.approx(float(known.mean()))


def test_steps_without_a_value_take_their_neighbours():
    """The first step has no revision."""
    signals = some_signals(5)
    signals["revision"][0] = math.nan
    profile = make_profile(torch.tensor([1.5, 1.0, 0.6]), signals)
    assert profile.mean["revision"][2] == profile.mean["revision"][1] == signals["revision"][1].mean()


def test_without_an_unconditional_prediction_there_is_no_default_score():
    signals = some_signals(5)
    unguided = {k: v for k, v in signals.items() if k not in ("guidance", "revision")}
    angles = torch.tensor([1.5, 1.0, 0.6])
    profile = make_profile(angles, unguided)
    assert "revision" not in profile.mean and torch.isnan(default_score(profile, angles, unguided)).all()
    guided = make_profile(angles, signals)
    assert torch.isnan(default_score(guided, angles, unguided)).all(), "an unguided run, or one of a single step"
    late = torch.tensor([0.4, 0.3, 0.2])
    assert torch.isnan(default_score(guided, late, signals)).all(), "no step in the window"


@pytest.fixture
def knots():
    """A profile of three steps with round numbers."""
    mean = {name: torch.tensor([1.0, 3.0, 7.0]) for name in SIGNALS}
    sd = {name: torch.tensor([0.1, 0.2, 0.6]) for name in SIGNALS}
    return Profile(torch.tensor([0.5, 1.0, 1.5]), mean, sd, 50, 0.0, 1.0)


@pytest.mark.parametrize(
    ("angle", "mean", "sd"),
    [
        (0.5, 1.0, 0.1),
        (1.0, 3.0, 0.2),
        (1.5, 7.0, 0.6),
        (0.75, 2.0, 0.15),
        (1.4, 6.2, 0.52),
        (0.0, 1.0, 0.1),
        (-1.0, 1.0, 0.1),
        (1.57, 7, 0.6),
    ],
)
def test_regions_between_and_beyond_the_knots(knots, angle, mean, sd):
    assert region_at(knots, "update", angle) == pytest.approx((mean, sd), rel=1e-5)


def test_a_profile_of_a_single_step_serves_every_angle():
    profile = Profile(torch.tensor([1.2]), {"update": torch.tensor([2.0])}, {"update": torch.tensor([0.5])}, 5, 0.0, 1.0)
    for angle in (0.0, 1.2, 1.5):
        assert region_at(profile, "update", angle) == (2.0, 0.5)


@settings(deadline=None)
@given(angle=st.floats(0.0, 1.57), name=st.sampled_from(SIGNALS))
def test_regions_stay_within_their_neighbours(angle, name):
    profile = make_profile(torch.tensor([1.5, 1.1, 0.7, 0.2]), some_signals(6, steps=4))
    mean, sd = region_at(profile, name, angle)
    assert profile.mean[name].min() - 1e-5 <= mean <= profile.mean[name].max() + 1e-5
    assert profile.sd[name].min() - 1e-5 <= sd <= profile.sd[name].max() + 1e-5


def test_a_profile_serves_other_step_counts():
    """Half the steps: updates are measured by radian, so that their lengths are nearly those of the finer run."""
    levels = torch.linspace(1.55, 0.0, 49, dtype=torch.float64)
    fine, coarse = (make_profile(angles[:-1], observed(wide_data, normal_data, noise(200), angles)[0]) for angles in (levels, levels[::2]))
    for name in ("update", "prediction", "guidance", "sharpness"):
        for angle, want in zip(coarse.angles[1:].tolist(), coarse.mean[name][1:].tolist(), strict=True):
            assert region_at(fine, name, angle)[0] == pytest.approx(want, rel=0.2, abs=0.05), name


# --- scores ------------------------------------------------------------------------------------------------


def test_scores_are_those_of_loops(knots):
    angles = torch.tensor([1.5, 1.2, 0.9, 0.3])
    signals = some_signals(3, steps=4, seed=4)
    signals["revision"][0] = math.nan
    for i in range(3):
        z = [abs((float(signals["update"][t, i]) - region(knots, angles[t])[0]) / region(knots, angles[t])[1]) for t in range(4)]
        assert float(paper_score(knots, angles, signals)[i]) == pytest.approx(max(z), rel=1e-4)
        assert float(paper_score(knots, angles, signals, first=2)[i]) == pytest.approx(max(z[:2]), rel=1e-4)
        assert float(paper_score(knots, angles, signals, average=True)[i]) == pytest.approx(sum(z) / 4, rel=1e-4)
        revised = [(float(signals["revision"][t, i]) - region(knots, angles[t])[0]) / region(knots, angles[t])[1] for t in (1, 2)]
        sharp = (float(signals["sharpness"][0, i]) - 7.0) / 0.6
        shifted = dataclasses.replace(knots, score_centre=2.0, score_spread=4.0)
        want = (sum(revised) / 2 + sharp - 2.0) / 4.0
        assert float(default_score(shifted, angles, signals)[i]) == pytest.approx(want, rel=1e-4)
        want = (revised[0] + sharp - 2.0) / 4.0
        assert float(default_score(shifted, angles, signals, first=2)[i]) == pytest.approx(want, rel=1e-4)


def region(profile, angle):
    """Linear between knots at .5, 1, 1.5, by hand."""
    a = min(max(float(angle), 0.5), 1.5)
    i = min(int((a - 0.5) / 0.5), 1)
    w = (a - 0.5) / 0.5 - i
    return tuple(float(t["update"][i]) * (1 - w) + float(t["update"][i + 1]) * w for t in (profile.mean, profile.sd))


def test_a_broken_sample_has_no_score_and_harms_no_neighbour(knots):
    """NaN passes through: never flagged, and the others are judged as without it."""
    angles = torch.tensor([1.5, 1.0, 0.6])
    signals = some_signals(3)
    alone = {name: values[:, :2].clone() for name, values in signals.items()}
    for values in signals.values():
        values[:, 2] = math.nan
    for score in (default_score, paper_score):
        found = score(knots, angles, signals)
        assert torch.isnan(found).tolist() == [False, False, True]
        assert torch.equal(found[:2], score(knots, angles, alone))
        signals["revision"][2, 0] = math.nan
        found, single = (score(knots, angles, {k: v[:, :n] for k, v in signals.items()}) for n in (3, 1))
        assert torch.equal(found[:1], single), "a run that breaks later has what it had until then"
    z = [deviations(knots, name, angles, signals[name]) for name in ("update", "prediction")]
    assert (severity(*z, Rule())[:, 2] == 0).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_batch_of_two_is_two_of_one(seed):
    """Test 7, for everything that looks at a batch."""
    g = torch.Generator().manual_seed(seed)
    x, before, other, other_before = (torch.randn(2, 3, 5, 6, generator=g) for _ in range(4))
    inside = torch.randint(0, 2, (2, 1, 5, 6), generator=g).float()
    for r in (None, inside):
        parts = [None, None] if r is None else [r[:1], r[1:]]
        for f in (rms, sharpness):
            assert torch.equal(f(x, r), torch.cat([f(x[:1], parts[0]), f(x[1:], parts[1])]))
        both = rms_of_each(torch.stack([x - before, other - other_before]), r)
        assert torch.equal(both, torch.stack([rms(x - before, r), rms(other - other_before, r)]))


# --- norms -------------------------------------------------------------------------------------------------


def test_norms_and_sharpness_in_a_region_are_those_of_loops():
    g = torch.Generator().manual_seed(3)
    x = torch.randn(2, 2, 4, 5, generator=g)
    inside = (torch.rand(2, 1, 4, 5, generator=g) > 0.3).float()
    for i in range(2):
        squares, across, down = [], [], []
        for c in range(2):
            for h in range(4):
                for w in range(5):
                    here = inside[i, 0, h, w] > 0
                    if here:
                        squares.append(float(x[i, c, h, w]) ** 2)
                    if here and w + 1 < 5 and inside[i, 0, h, w + 1] > 0:
                        across.append(float(x[i, c, h, w + 1] - x[i, c, h, w]) ** 2)
                    if here and h + 1 < 4 and inside[i, 0, h + 1, w] > 0:
                        down.append(float(x[i, c, h + 1, w] - x[i, c, h, w]) ** 2)
        assert float(rms(x, inside)[i]) == pytest.approx(math.sqrt(sum(squares) / len(squares)), rel=1e-5)
        want = 0.5 * math.log((sum(across) / len(across) + sum(down) / len(down)) / 2)
        assert float(sharpness(x, inside)[i]) == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("everywhere", [None, torch.ones(2, 1, 4, 4)])
def test_norms_of_known_pictures(everywhere):
    ramp = torch.arange(4.0).repeat(2, 3, 4, 1)
    assert rms(2 * torch.ones(2, 3, 4, 4), everywhere).tolist() == [2.0, 2.0]
    assert sharpness(ramp, everywhere).tolist() == pytest.approx([0.5 * math.log(0.5)] * 2, rel=1e-5)
    assert sharpness(torch.ones(2, 3, 4, 4), everywhere).isfinite().all(), "a flat picture has a logarithm too"


def test_an_empty_region_has_no_norm():
    assert rms(torch.ones(1, 3, 4, 4), torch.zeros(1, 1, 4, 4)).tolist() == [0.0]


def test_revision_is_large_for_what_is_known_from_the_start():
    g = torch.Generator().manual_seed(1)
    u, before = torch.randn(1, 3, 4, 4, generator=g), torch.randn(1, 3, 4, 4, generator=g)
    memory = torch.randn(1, 3, 4, 4, generator=g)
    change = rms(u - before)
    assert float(revision(change, rms(memory - memory))) > 15
    assert float(revision(change, rms(2 * (u - before)))) == pytest.approx(-math.log(2), rel=1e-5)
