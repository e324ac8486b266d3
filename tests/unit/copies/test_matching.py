"""Built-in copy detector in closed form: whole and partial copies of textures, where they are, and what is none."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from unmemorize_pack.unmemorize.copies import matching


def texture(seed, side=128):
    """Soft noise of several scales: detail everywhere, no two alike."""
    generator = torch.Generator().manual_seed(seed)
    several = [F.interpolate(torch.rand(1, 3, s, s, generator=generator), (side, side), mode="bicubic") for s in (8, 16, 32)]
    return (sum(several)[0] / 3).clamp(0, 1)


def score(picture, reference):
    found = matching.match(matching.searched(picture), matching.references(reference[None]))
    place = (float(found.scale), bool(found.mirrored), int(found.top), int(found.left))
    return matching.looked_at(picture, reference, *place)


REFERENCE = texture(1)


def tinted(p):
    return (p * torch.tensor([0.8, 0.6, 0.4])[:, None, None] + 0.1).clamp(0, 1)


def blurred(p):
    return F.avg_pool2d(F.pad(p[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]


@pytest.mark.parametrize(
    ("edit", "least"),
    [(lambda p: p, 0.95), (lambda p: p.flip(-1), 0.9), (tinted, 0.8), (lambda p: 1 - 0.5 * (1 - p), 0.9), (blurred, 0.6)],
    ids=["itself", "mirror", "tint", "brighter", "blur"],
)
def test_whole_copies_score_high_and_are_everywhere(edit, least):
    found = score(edit(REFERENCE), REFERENCE)
    assert found.score >= least and float((found.in_picture > 0.25).float().mean()) > 0.7


def test_other_textures_score_low():
    scores = [score(texture(k), REFERENCE).score for k in range(10, 22)]
    assert max(scores) < 0.2


def test_a_part_pasted_elsewhere_is_found_and_placed():
    picture = texture(2).clone()
    picture[:, 40:104, 50:114] = REFERENCE[:, 20:84, 30:94]
    found = score(picture, REFERENCE)
    truth = torch.zeros(128, 128)
    truth[40:104, 50:114] = 1
    cells = F.interpolate(truth[None, None], (matching.CELLS,) * 2, mode="area")[0, 0] > 0.5
    copied = found.in_picture > 0.25
    assert found.score > 0.65, "a part is as surely a copy as the whole"
    assert float((copied & cells).sum() / (copied | cells).sum()) >= 0.5
    from_there = found.in_reference > 0.25
    assert bool(from_there[4:9, 5:10].float().mean() > 0.7) and float(from_there[12:].float().mean()) < 0.3


def test_a_mirrored_part_is_told_where_it_lies_in_the_reference():
    """The left half of a reference, mirrored: it lies on the left of the reference, on the right of the picture."""
    picture = texture(2)
    picture[:, :, 64:] = REFERENCE[:, :, :64].flip(-1)
    found = score(picture, REFERENCE)
    left, right = (found.in_reference[:, part].mean() for part in (slice(0, 7), slice(9, 16)))
    assert float(left) > 0.5 > 0.2 > float(right)
    left, right = (found.in_picture[:, part].mean() for part in (slice(0, 7), slice(9, 16)))
    assert float(right) > 0.5 > 0.2 > float(left)


def test_an_enlarged_part_is_found():
    part = F.interpolate(REFERENCE[:, 20:101, 30:111][None], (128, 128), mode="bilinear")[0]
    assert score(part, REFERENCE).score > 0.65


def test_one_block_counts_and_as_many_single_patches_do_not():
    """A quarter of the patches the same: as a block, and on a grid of every second one."""
    weights = torch.ones(matching.ACROSS**2)
    block, single = torch.zeros(matching.ACROSS, matching.ACROSS), torch.zeros(matching.ACROSS, matching.ACROSS)
    block[:6, 3:9], single[::2, ::2] = 1.0, 1.0
    assert int(block.sum()) == int(single.sum()) == 36
    assert matching._score(block, weights) == pytest.approx(1.0) and matching._score(single, weights) < 0.4
    few = torch.zeros_like(block)
    few[:3, :3] = 1.0
    assert matching._score(few, weights) == pytest.approx(9 / (matching.NEEDED * matching.ACROSS**2)), "too small to be sure"
    said = torch.zeros(matching.ACROSS, matching.ACROSS)
    said[0, 0] = said[10, 10] = 1.0
    assert matching._score(torch.ones_like(block), said.flatten()) < 0.2, "corners of what is nearly empty are no copy"


def test_correlations_are_those_of_the_definition():
    """Every patch against every shift, the mean and the slopes taken out of both."""
    reference, part = torch.rand(96, 96), torch.rand(104, 104)
    wanted, axis = matching._wanted(reference), torch.linspace(-1, 1, 16)
    design = torch.stack([torch.ones(256), axis.repeat(16), axis.repeat_interleave(16)], 1)
    found = matching._correlations(part, wanted)
    for dy, dx, row, column in ((0, 0, 0, 0), (4, 4, 10, 10), (8, 3, 2, 7)):
        y, x = 8 * row, 8 * column
        several = [p.reshape(-1, 1) for p in (reference[y : y + 16, x : x + 16], part[y + dy : y + dy + 16, x + dx : x + dx + 16])]
        ours, theirs = (p - design @ torch.linalg.lstsq(design, p).solution for p in several)
        expected = (ours * theirs).mean() / (ours.square().mean().sqrt() * theirs.square().mean().sqrt() + matching.NOISE**2)
        assert float(found[dy, dx, row * matching.ACROSS + column]) == pytest.approx(float(expected), abs=1e-4)


def test_bright_flat_places_correlate_with_nothing():
    """Rounding of large equal numbers is no spread."""
    part = 0.97 + 1e-6 * torch.rand(104, 104)
    found = matching._correlations(part, matching._wanted(REFERENCE.mean(0)[:96, :96]))
    assert float(found.abs().max()) < 0.05


def test_flat_and_striped_pictures_are_no_copies_of_each_other():
    ramp = torch.linspace(0, 1, 128).expand(3, 128, 128)
    edge = (ramp > 0.5).float()
    assert score(torch.full((3, 128, 128), 0.4), REFERENCE).score < 0.02
    assert score(REFERENCE, torch.full((3, 128, 128), 0.4)).score < 0.02
    assert score(edge, ramp).score < 0.02
    assert score(edge.transpose(1, 2), edge).score < 0.02, "an edge matches any edge: the aperture problem"


def test_another_shape_or_size_does_not_matter():
    wide = F.interpolate(REFERENCE[None], (300, 500), mode="bilinear")[0]
    assert score(wide, REFERENCE).score > 0.7


def test_patches_about_their_mean_and_slope_in_closed_form():
    """The running sums say what each patch says alone, also on a bright flat place."""
    picture = texture(3, 40)[0]
    picture[:, 20:] = 0.9 + 1e-4 * picture[:, 20:]
    patch = matching.FINE_PATCH
    alone = F.unfold(picture[None, None].double(), patch)[0].T
    plane = matching._plane_of(patch).double()
    wanted = (alone - (alone @ plane.T) @ plane).square().mean(-1).sqrt()
    found = matching._spread_about_planes(picture)
    torch.testing.assert_close(found.flatten(), wanted, atol=1e-9, rtol=1e-6)


def test_what_is_usual_in_closed_form():
    several, places = torch.randn(7, 5), torch.randn(300, 5)
    torch.testing.assert_close(matching.usually(several, places), (several @ places.T).square().mean(1).sqrt(), atol=1e-5, rtol=1e-5)


def test_what_is_found_everywhere_is_no_copy():
    """A picture of one small tile: each patch fits at every repeat, and says nothing of where a reference might lie."""
    tile = texture(7, 16)
    wall = tile.repeat(1, 8, 8)
    found = matching.match(matching.searched(wall), matching.references(wall[None].roll(5, -1)))
    own = matching.match(matching.searched(REFERENCE), matching.references(REFERENCE[None]))
    assert float(found.score) < 0.5 < float(own.score)
