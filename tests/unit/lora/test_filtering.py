"""Alignment, gates and the filter of one layer: METHODS.md 5.7."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from unmemorize_pack.unmemorize.lora import alignment, filtering, gates
from unmemorize_pack.unmemorize.lora.channels import Channels, of_factors, of_kronecker, refactored
from unmemorize_pack.unmemorize.lora.gates import Settings
from unmemorize_pack.unmemorize.lora.scores import SCORES as ALL_SCORES
from unmemorize_pack.unmemorize.lora.subspace import principal_subspace
from unmemorize_pack.unmemorize.pictures import lora_spectrum

BAF = Settings(score="mean")

M, N, R = 96, 64, 4


class Layer:
    """What a score may look at; what it must not look at is not there."""

    def __init__(self, channels=None, base=None, reads_prompt=False, norm=None, rank=0):
        self.reads_prompt, self.norm, self.rank = reads_prompt, norm, rank
        if channels is not None:
            self.channels = channels
        if base is not None:
            self.base = base


def judge(channels, base, settings):
    return filtering.judge(Layer(channels, base), settings)


def score(name, channels, base, seed=0):
    return ALL_SCORES[name].of(Layer(channels, base), seed)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(m, k, seed=0):
    return torch.linalg.qr(random(m, k, seed=seed)).Q


@pytest.fixture(scope="module")
def weight():
    """W = U S V^T with a slow spectrum."""
    s = torch.arange(1, N + 1, dtype=torch.float64) ** -0.5
    return orthonormal(M, N) * s @ orthonormal(N, N, seed=1).T


@pytest.fixture(scope="module")
def base(weight):
    return principal_subspace(weight, 0.5)


def inside(basis, count, seed=0):
    """Orthonormal directions within the span of a basis."""
    return basis @ orthonormal(basis.shape[1], count, seed)


def outside(basis, count, seed=0):
    """Orthonormal directions orthogonal to the basis."""
    x = random(len(basis), count, seed=seed)
    return torch.linalg.qr(x - basis @ (basis.T @ x)).Q


def lora(u, v, sigma=(4.0, 3.0, 2.0, 1.0)):
    s = torch.tensor(sigma, dtype=torch.float64)
    return of_factors(u * s, v.T, 1.0)


def test_channels_inside_score_one_outside_below_zero(base):
    """(1) q = 1 inside both subspaces, 0 in the complements."""
    aligned = lora(inside(base.u, R), inside(base.v, R))
    left, right = alignment.alignments(aligned, base)
    assert torch.allclose(left, torch.ones(R).double(), atol=1e-6) and torch.allclose(right, torch.ones(R).double(), atol=1e-6)
    for name in ("mean", "min", "left", "right", "product"):
        assert torch.allclose(score(name, aligned, base), torch.ones(R).double(), atol=1e-6)
    foreign = lora(outside(base.u, R), outside(base.v, R))
    left, right = alignment.alignments(foreign, base)
    assert float(left.max()) < 1e-9 and float(right.max()) < 1e-9
    assert bool((score("mean", foreign, base) < 0).all())


def test_random_channels_score_zero_on_average(base):
    """(1) mean k/m, and the standard deviation that `deviations` counts in."""
    scores = torch.cat([score("mean", lora(orthonormal(M, R, seed=i), orthonormal(N, R, seed=999 - i)), base) for i in range(100)])
    expected = alignment.null_deviation(M, N, base.k)
    assert abs(float(scores.mean())) < 4 * expected / math.sqrt(len(scores))
    assert float(scores.std()) == pytest.approx(expected, rel=0.15)
    assert alignment.null_deviation(640, 640, 93) == pytest.approx(0.016, abs=5e-4)


def test_left_right_and_min(base):
    half = lora(inside(base.u, R), outside(base.v, R))
    scores = {name: score(name, half, base) for name in ("left", "right", "min", "mean", "product")}
    assert torch.allclose(scores["left"], torch.ones(R).double(), atol=1e-6) and bool((scores["right"] < 0).all())
    assert torch.equal(scores["min"], scores["right"])
    assert torch.allclose(scores["mean"], (scores["left"] + scores["right"]) / 2)
    assert bool((scores["product"] < 0).all())


def test_equal_singular_values_share_a_score(base):
    """Their vectors are arbitrary: one aligned and one foreign channel of equal size cannot be told apart."""
    u, v = torch.cat([inside(base.u, 1), outside(base.u, 1)], 1), torch.cat([inside(base.v, 1), outside(base.v, 1)], 1)
    scores = score("mean", lora(u, v, (2.0, 2.0)), base)
    assert float(scores[0]) == pytest.approx(float(scores[1]))
    u, v = torch.cat([inside(base.u, 2), outside(base.u, 2)], 1), torch.cat([inside(base.v, 2), outside(base.v, 2)], 1)
    left, _ = alignment.alignments(Channels(u, torch.tensor([3.0, 2.0, 2.0, 1.0]).double(), v), base)
    assert torch.allclose(left, torch.tensor([1.0, 0.5, 0.5, 0.0]).double(), atol=1e-6)
    for few in (0, 1):
        nothing = Channels(u[:, :few], torch.ones(few).double(), v[:, :few])
        assert len(alignment.alignments(nothing, base)[0]) == few


@pytest.mark.parametrize("settings", [replace(BAF, strength=0.0), replace(BAF, threshold=-math.inf)], ids=["strength 0", "tau -inf"])
def test_off_is_exact(base, settings):
    """(2) dW is unchanged, the singular values to the bit."""
    b, a = random(M, R), random(R, N, seed=1)
    channels = of_factors(b, a, 1.0)
    verdict = judge(channels, base, settings)
    assert not verdict.changed and torch.equal(verdict.new_sigma, channels.sigma)
    up, down = refactored(channels, verdict.new_sigma)
    assert (up @ down - b @ a).norm() <= 1e-6 * (b @ a).norm()


def test_hard_gate_keeps_all_or_nothing(base):
    """(3) A foreign LoRA is emptied, an aligned one unchanged."""
    foreign = judge(lora(outside(base.u, R), outside(base.v, R)), base, BAF)
    assert foreign.rank == 0 and torch.equal(foreign.removed, foreign.sigma)
    aligned = judge(lora(inside(base.u, R), inside(base.v, R)), base, BAF)
    assert not aligned.changed and aligned.rank == R


def test_gauge_invariance_of_the_filter(base):
    """(4) (B G, G^-1 A) is filtered to the same dW'."""
    b, a, g = random(M, R), random(R, N, seed=1), random(R, R, seed=2)
    results = []
    for one, two in ((b, a), (b @ g, torch.linalg.inv(g) @ a)):
        channels = of_factors(one, two, 0.5)
        up, down = refactored(channels, judge(channels, base, replace(BAF, threshold=0.02)).new_sigma)
        results.append(up @ down)
    assert torch.allclose(*results, atol=1e-9) and results[0].norm() < 0.5 * (b @ a).norm()


def test_energy_and_spaces_of_the_result(base):
    """(5) ||dW'||^2 = sum sigma'^2; dW' stays in the spaces of the kept channels; kept + removed = dW."""
    b, a = random(M, R), random(R, N, seed=1)
    channels = of_factors(b, a, 1.0)
    verdict = judge(channels, base, replace(BAF, gate="ratio"))
    assert verdict.rank == R // 2
    up, down = refactored(channels, verdict.new_sigma)
    assert float((up @ down).square().sum()) == pytest.approx(float(verdict.new_sigma.square().sum()))
    kept = channels.u[:, verdict.new_sigma > 0]
    assert torch.allclose(kept @ (kept.T @ up), up, atol=1e-9)
    gone = torch.matmul(*refactored(channels, verdict.removed))
    assert torch.allclose(up @ down + gone, b @ a, atol=1e-9)


def test_a_flat_base_is_reported():
    """(6) W = c Q."""
    base = principal_subspace(2 * orthonormal(M, M), 0.5)
    assert base.flat and judge(lora(orthonormal(M, R), orthonormal(M, R, seed=1)), base, BAF).flat


def test_kronecker_channels_filter_as_dense_ones(base):
    """(7) LoKr by factors = dense SVD of the whole."""
    w1, w2 = random(8, 4), random(12, 16, seed=1)
    by_factors, dense = of_kronecker(w1, w2, 1.0), torch.kron(w1, w2)
    u, s, vt = torch.linalg.svd(dense, full_matrices=False)
    results = []
    for channels in (by_factors, Channels(u[:, : len(by_factors)], s[: len(by_factors)], vt[: len(by_factors)].T)):
        results.append(torch.matmul(*refactored(channels, judge(channels, base, BAF).new_sigma)))
    assert torch.allclose(*results, atol=1e-8) and 0 < results[0].norm() < dense.norm()


def test_scaling_and_rotation_change_no_score(base, weight):
    """(10) Scores are the same for any scale of W and dW, and when both are turned together."""
    b, a = random(M, R), random(R, N, seed=1)
    before = score("mean", of_factors(b, a, 1.0), base)
    turned = orthonormal(M, M, seed=5), orthonormal(N, N, seed=6)
    after = score("mean", of_factors(turned[0] @ b, a @ turned[1].T, 7.0), principal_subspace(3 * turned[0] @ weight @ turned[1].T, 0.5))
    assert torch.allclose(before, after, atol=1e-8)


# --- gates --------------------------------------------------------------------------------------------------

SCORES = torch.tensor([0.5, -0.2, 0.1, 0.0], dtype=torch.float64)
SIGMA = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)


def gated(**changes):
    return gates.gate(SCORES, SIGMA, Settings(score="mean", **changes), 0.05, changes.pop("of_the_file", None)).tolist()


def test_gates():
    assert gated() == [1, 0, 1, 0]
    assert gated(threshold=0.2) == [1, 0, 0, 0]
    assert gated(deviations=3) == [1, 0, 0, 0]
    assert gated(gate="ratio", keep=0.5) == [1, 0, 1, 0]
    assert gated(gate="ratio", keep=0.0) == [0, 0, 0, 0] and gated(gate="ratio", keep=1.0) == [1, 1, 1, 1]
    assert gated(gate="energy", keep=0.5) == [1, 0, 0, 0] and gated(gate="energy", keep=0.6) == [1, 0, 1, 0]
    assert gated(gate="scale", keep=0.3) == [0.3] * 4
    soft = gated(gate="soft", temperature=0.1)
    assert soft == pytest.approx([1 / (1 + math.exp(-s / 0.1)) for s in SCORES.tolist()])


def test_ratio_of_the_whole_file_pools_energy():
    """Big channels of one layer count against those of another."""
    first, second = (SCORES, SIGMA), (SCORES - 0.3, 10 * SIGMA)
    total = 101 * float(SIGMA.square().sum())
    for share in (0.1, 0.5, 0.9):
        threshold = gates.threshold_of_file([first, second], share)
        kept = sum(float(s[a >= threshold].square().sum()) for a, s in (first, second))
        less = sum(float(s[a > threshold].square().sum()) for a, s in (first, second))
        assert kept >= share * total > less
    assert gates.threshold_of_file([], 0.5) == 0 and gates.threshold_of_file([first], 0.0) == math.inf
    g = gates.gate(SCORES, SIGMA, Settings(gate="ratio of the file"), 0.05, 0.1)
    assert g.tolist() == [1, 0, 1, 0]
    with pytest.raises(ValueError, match="all layers"):
        gates.gate(SCORES, SIGMA, Settings(gate="ratio of the file"), 0.05)


def test_strength_and_norm():
    g = torch.tensor([1.0, 0.0, 0.5, 0.0], dtype=torch.float64)
    assert gates.new_sigma(SIGMA, g, Settings(strength=0.5)).tolist() == [4, 1.5, 1.5, 0.5]
    restored = gates.new_sigma(SIGMA, g, Settings(score="mean", restore_norm=True))
    assert float(restored.norm()) == pytest.approx(float(SIGMA.norm()))
    assert gates.new_sigma(SIGMA, torch.zeros(4).double(), Settings(score="mean", restore_norm=True)).tolist() == [0, 0, 0, 0]
    assert torch.equal(gates.new_sigma(SIGMA, g, Settings(restore_norm=True)), SIGMA * g), "a layer judged as one stays as weak"


def test_controls(base):
    b, a = random(M, R), random(R, N, seed=1)
    channels = of_factors(b, a, 1.0)
    assert torch.equal(score("inverted", channels, base), -score("mean", channels, base))
    assert torch.equal(score("singular value", channels, base), channels.sigma), "so that a whole file's compare"
    chance = score("random", channels, base, 3)
    assert torch.equal(chance, score("random", channels, base, 3))
    assert not torch.equal(chance, score("random", channels, base, 4))


@pytest.mark.parametrize(
    "changes", [{"score": "x"}, {"gate": "x"}, {"energy": 1.0}, {"keep": 2.0}, {"strength": -0.1}, {"temperature": 0.0}]
)
def test_settings_are_checked(changes):
    with pytest.raises(ValueError, match="none of|Out of range"):
        Settings(**changes).check()
    Settings().check()


# --- by layer -----------------------------------------------------------------------------------------------


def test_layers_that_read_the_prompt_go_and_the_others_stay():
    """By default; strength weakens. Neither a base nor channels take part: the layer has none."""
    gone, stays = (filtering.judge(Layer(reads_prompt=reads, norm=torch.tensor([3.0]), rank=R), Settings()) for reads in (True, False))
    assert gone.rank == 0 and gone.rank_before == R and torch.equal(gone.removed, gone.sigma)
    assert not stays.changed and stays.rank == R and stays.new_sigma.tolist() == [3.0]
    half = filtering.judge(Layer(reads_prompt=True, norm=torch.tensor([3.0]), rank=R), Settings(strength=0.5))
    assert half.new_sigma.tolist() == [1.5] and half.rank == R
    with pytest.raises(AttributeError):
        filtering.judge(Layer(reads_prompt=True, norm=torch.tensor([3.0])), BAF)


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.9, 1.0])
@pytest.mark.parametrize("gate", ["hard", "soft"])
def test_no_threshold_moves_what_is_judged_as_a_whole(gate, threshold):
    """A score that is a yes or a no lets nothing lie in between: at 1 the whole LoRA would go."""
    how = Settings(gate=gate, threshold=threshold, deviations=3.0)
    gone, stays = (filtering.judge(Layer(reads_prompt=reads, norm=torch.tensor([3.0]), rank=R), how) for reads in (True, False))
    assert float(gone.new_sigma) < 1e-6 < 2.99999 < float(stays.new_sigma)


@pytest.mark.parametrize("gate", [g for g in gates.GATES if not gates.GATES[g].by_file])
def test_a_gate_that_ranks_channels_asks_for_them_whatever_the_score(gate):
    """Channels that all score the same are then taken in the order of their singular values."""
    channels = lora(orthonormal(M, R), orthonormal(N, R, seed=1), (4.0, 3.0, 2.0, 1.0))
    layer = Layer(channels, reads_prompt=True, norm=channels.sigma.norm().reshape(1), rank=R)
    verdict = filtering.judge(layer, Settings(gate=gate, keep=0.5))
    assert verdict.whole != gates.GATES[gate].ranks
    expected = {"hard": 0, "soft": R, "ratio": 2, "energy": 1, "scale": R}
    assert verdict.rank == expected[gate] and verdict.rank_before == R


def test_the_plot_gives_each_layer_a_row_where_the_layer_decides():
    """Heights do not hang on the scores then; of every other score they do."""

    def picture(score, *values):
        sizes = [torch.full((n,), 10.0**n) for n in (1, 2, 3)]
        layers = [
            {"block": "a", "scores": v * torch.ones(len(s)), "sigma": s, "new_sigma": s, "stands_for": 1}
            for v, s in zip(values, sizes, strict=True)
        ]
        assert lora_spectrum.by_row(layers).tolist() == [1, 2, 2, 3, 3, 3]
        spectrum = {"name": "x", "score": score, "by_layer": ALL_SCORES[score].whole, "unit": "channel", "layers": layers}
        return lora_spectrum.spectrum_picture(spectrum)

    for score, same in (("cross-attention", True), ("mean", False)):
        assert torch.equal(picture(score, -1.0, 1.0, 1.0), picture(score, -1.0, -1.0, 1.0)) == same
