"""Estimators of a Jacobian's diagonal against linear maps whose diagonal is known."""

from __future__ import annotations

import pytest
import torch
from unmemorize_pack.unmemorize.curvature import diagonal

ESTIMATORS = {
    "forward": lambda f, x, probes: diagonal.forward_difference(f, x, probes, 0.1),
    "central": lambda f, x, probes: diagonal.central_difference(f, x, probes, 0.1),
    "reverse": lambda f, x, probes: diagonal.reverse_mode(f, x, probes),
}


@pytest.fixture
def matrix() -> torch.Tensor:
    return torch.randn(8, 8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def channel_map(matrix: torch.Tensor):
    """x -> A x at every pixel by itself."""
    return lambda x: torch.einsum("ij,njhw->nihw", matrix.to(x), x)


@pytest.mark.parametrize(("name", "axis"), [("central", 1), ("forward", 1), ("reverse", 0)])
def test_random_probes_have_the_mean_and_variance_of_theory(matrix, name, axis):
    """Test 5: mean diag A; one probe's variance is the squared off-diagonal row (products J v) or column (J^T v)."""
    x = torch.zeros(1, 8, 1, 1, dtype=torch.float64)
    probes = diagonal.rademacher(x.shape, 6000, seed=5)
    single = torch.cat([ESTIMATORS[name](channel_map(matrix), x, [p]) for p in probes])[:, :, 0, 0]
    off_diagonal = matrix.square().sum(axis) - matrix.diagonal().square()
    assert torch.allclose(single.mean(0), matrix.diagonal(), atol=5 * (off_diagonal.max() / 6000).sqrt().item())
    assert torch.allclose(single.var(0), off_diagonal, rtol=0.12)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_diagonal_jacobian_is_exact_with_one_probe(name):
    scale = torch.linspace(-2, 2, 8, dtype=torch.float64).reshape(1, 8, 1, 1)
    x = torch.zeros(1, 8, 2, 2, dtype=torch.float64)
    got = ESTIMATORS[name](lambda y: scale * y, x, diagonal.rademacher(x.shape, 1, 0))
    assert torch.allclose(got, scale.expand_as(x), atol=1e-13)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_structured_probes_are_exact_on_channels(matrix, name):
    """Eight probes avoid everything between the eight channels of a pixel; so few random ones do not."""
    x = torch.zeros(1, 8, 6, 6, dtype=torch.float64)
    want = matrix.diagonal().reshape(1, 8, 1, 1).expand_as(x)
    assert torch.allclose(ESTIMATORS[name](channel_map(matrix), x, diagonal.structured(x.shape, 8, 0)), want, atol=1e-12)
    assert not torch.allclose(ESTIMATORS[name](channel_map(matrix), x, diagonal.rademacher(x.shape, 8, 0)), want, atol=0.1)


def test_structured_probes_are_exact_where_no_colour_repeats():
    """Four channels mixed with all eight next pixels: sixteen colours keep them apart, eight cannot."""
    weight = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = torch.zeros(1, 4, 16, 16, dtype=torch.float64)
    want = weight[:, :, 1, 1].diagonal().reshape(1, 4, 1, 1).expand_as(x)

    def blur(y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(y, weight, padding=1)

    for name in ESTIMATORS:
        assert torch.allclose(ESTIMATORS[name](blur, x, diagonal.structured(x.shape, 16, 0)), want, atol=1e-11), name
    assert not torch.allclose(ESTIMATORS["central"](blur, x, diagonal.structured(x.shape, 8, 0)), want, atol=0.1)


@pytest.mark.parametrize("count", [1, 3, 8, 11])
def test_what_is_left_is_the_coupling_within_a_colour(count):
    """Estimate - diagonal = sum over the others j of i's colour of s_i s_j J_ij, to rounding."""
    shape = (1, 4, 3, 5)
    jacobian = torch.randn(60, 60, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    got = diagonal.central_difference(
        lambda y: (y.flatten(1) @ jacobian.T).reshape(y.shape),
        torch.zeros(shape, dtype=torch.float64),
        diagonal.structured(shape, count, 3),
        0.1,
    )
    probes = torch.stack([p.flatten().double() for p in diagonal.structured(shape, count, 3)])
    colour, sign = probes.abs().argmax(0), probes.sum(0).sign()
    same = (colour[:, None] == colour[None]) & ~torch.eye(60, dtype=torch.bool)
    rest = sign * ((jacobian * same) @ sign)
    assert torch.allclose(got.flatten() - jacobian.diagonal(), rest, atol=1e-10)


@pytest.mark.parametrize(("channels", "count"), [(4, 4), (4, 11), (8, 8), (8, 12), (16, 24)])
def test_the_colouring_keeps_what_is_coupled_apart(channels, count):
    """No two channels of a pixel share a colour, nor does a channel with itself next door; neighbours share no more than by chance."""
    colours = diagonal.colouring((1, channels, 12, 12), count)[0]
    assert colours.unique().tolist() == list(range(count))
    pairs = colours[:, None] == colours[None]
    assert pairs.flatten(2).float().mean(2).sum() == channels
    by_chance = channels**2 / count
    for dy, dx in ((0, 1), (1, 0)):
        moved = colours.roll((dy, dx), (1, 2))[:, 1:, 1:]
        shared = (colours[:, None, 1:, 1:] == moved[None]).float().mean((2, 3))
        assert shared.diagonal().sum() == 0
        assert shared.sum() <= by_chance if count == channels else shared.sum() < by_chance, (dy, dx)


def test_any_number_of_channels_and_single_frames_of_video_latents():
    x = torch.zeros(1, 3, 1, 5, 7, dtype=torch.float64)
    scale = torch.rand(3, 1, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = diagonal.central_difference(lambda y: scale * y, x, diagonal.structured(x.shape, 8, 3), 0.1)
    assert torch.allclose(got[0], scale)


def test_probes_repeat_with_their_seed():
    for draw in (diagonal.rademacher, diagonal.structured):
        first, again, other = (list(draw((1, 8, 4, 4), 8, seed)) for seed in (7, 7, 8))
        assert all(torch.equal(p, q) for p, q in zip(first, again, strict=True))
        assert not all(torch.equal(p, q) for p, q in zip(first, other, strict=True))
        total = torch.stack(list(first)).float().square().mean(0)  # both kinds have mean square 1 at every coordinate
        assert torch.allclose(total, torch.ones_like(total))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_no_probe_is_an_error(name):
    with pytest.raises(ValueError, match="at least one probe"):
        ESTIMATORS[name](lambda y: y, torch.zeros(1, 1, 1, 1), [])


@pytest.mark.parametrize("estimator", [diagonal.central_difference, diagonal.forward_difference])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_step_survives_the_rounding_of_the_network(dtype, estimator):
    """States of size 2 through a network that rounds its input: the slope must still be found, at a small sigma too."""
    x = 2 + 0.1 * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    def rounding(y: torch.Tensor) -> torch.Tensor:
        return 0.5 * y.to(dtype).float()

    got = estimator(rounding, x, diagonal.rademacher(x.shape, 8, 0), diagonal.probe_step(x, 0.02, dtype))
    assert got.dtype == torch.float32
    assert got.mean().item() == pytest.approx(0.5, rel=0.03) and got.std() < 0.09


class NoBackward(torch.autograd.Function):
    """The identity, whose backward pass forgets the gradient, as a kernel without one does silently."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * 0.0


@pytest.mark.parametrize("honest", [True, False])
def test_gradients_that_a_kernel_drops_are_noticed(honest):
    """f mixes a plain path and one through the kernel; autograd sees only the plain one."""
    mix = torch.randn(48, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def f(x):
        through = x if honest else NoBackward.apply(x)
        return x + (through.flatten(1) @ mix).reshape(x.shape)

    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.enable_grad():
        assert diagonal.gradients_hold(lambda y: (f(y), f(y)), x, 0.1) is honest


@pytest.mark.parametrize("honest", [True, False])
def test_a_difference_near_zero_does_not_throw_exact_gradients_away(honest):
    """Two predictions that are equal but for rounding; and such that a kernel's dropped gradient shows against either of them."""
    mix = torch.randn(48, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64) / 7
    noise = torch.Generator().manual_seed(3)

    def pair(y):
        first = y + (y.flatten(1) @ mix).reshape(y.shape)
        through = y if honest else NoBackward.apply(y)
        gap = 0.0 if honest else 0.5
        rounding = 1e-4 * torch.randn(y.shape, generator=noise, dtype=y.dtype)
        return gap * (through.flatten(1) @ mix).reshape(y.shape) + rounding, first

    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.enable_grad():
        # the difference depends on x by nothing at all: autograd needs something to go back through
        assert diagonal.gradients_hold(lambda y: (pair(y)[0] + 0 * y, pair(y)[1]), x, 0.02) is honest


def test_each_sample_has_its_own_step():
    """In low precision the step grows with the latent: a loud neighbour in the batch must not change it."""
    quiet = torch.ones(1, 8, 4, 4)
    both = diagonal.probe_step(torch.cat([quiet, 40 * quiet]), 0.02, torch.bfloat16)
    assert both.shape == (2, 1, 1, 1) and both[1] > 10 * both[0]
    assert torch.equal(both[:1], diagonal.probe_step(quiet, 0.02, torch.bfloat16))


def test_with_a_colour_a_channel_the_channels_of_a_pixel_do_not_disturb_each_other():
    """J couples the 16 channels of each pixel strongly, pixels not at all: 16 colours are exact, 12 are not."""
    mix = torch.randn(16, 16, generator=torch.Generator().manual_seed(1))
    x = torch.zeros(1, 16, 8, 8)

    def f(y: torch.Tensor) -> torch.Tensor:
        return torch.einsum("ij,njhw->nihw", mix, y)

    errors = {}
    for count in (12, 16):
        got = diagonal.forward_difference(f, x, diagonal.structured(x.shape, count, 0), 0.1)
        errors[count] = float((got - mix.diagonal().reshape(1, 16, 1, 1)).abs().max())
    assert errors[16] < 1e-4 < 0.3 < errors[12]
