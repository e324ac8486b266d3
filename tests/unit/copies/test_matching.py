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
    assert max(scores) < 0.05


def test_a_part_pasted_elsewhere_is_found_and_placed():
    picture = texture(2).clone()
    picture[:, 40:104, 50:114] = REFERENCE[:, 20:84, 30:94]
    found = score(picture, REFERENCE)
    truth = torch.zeros(128, 128)
    truth[40:104, 50:114] = 1
    cells = F.interpolate(truth[None, None], (matching.CELLS,) * 2, mode="area")[0, 0] > 0.5
    copied = found.in_picture > 0.25
    assert found.score > 0.1
    assert float((copied & cells).sum() / (copied | cells).sum()) >= 0.5
    from_there = found.in_reference > 0.25
    assert bool(from_there[4:9, 5:10].float().mean() > 0.7) and float(from_there[12:].float().mean()) < 0.3


def test_an_enlarged_part_is_found():
    part = F.interpolate(REFERENCE[:, 20:101, 30:111][None], (128, 128), mode="bilinear")[0]
    assert score(part, REFERENCE).score > 0.15


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
