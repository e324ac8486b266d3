"""The leak probe in closed form: planted groups are found, chance is not, and the base's own agreement counts for nothing."""

from __future__ import annotations

import torch
from unmemorize_pack.unmemorize.copies.patches import likeness
from unmemorize_pack.unmemorize.copies.probe import (
    BEYOND,
    BEYOND_IN_LAYOUT,
    DETAIL,
    LEAST_LIKENESS,
    LEAST_MEMBERS,
    Group,
    beyond,
    extrapolated,
    groups_of,
    leaks,
    like_base,
    without_detail,
)


def planted(sizes, others, inside=0.9, seed=0):
    """Similarity of pictures of which groups of these sizes agree, and the members of each."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(sizes) + others
    noise = 0.1 * torch.rand(n, n, generator=generator)
    similarity, members, start = (noise + noise.T) / 2, [], 0
    order = torch.randperm(n, generator=generator)
    for size in sizes:
        members.append(set(order[start : start + size].tolist()))
        start += size
    for several in members:
        for i in several:
            for j in several:
                similarity[i, j] += inside
    return similarity.fill_diagonal_(1.0), members


def test_extrapolation_passes_through_both_models():
    """w = 0 is the base, 1 the LoRA, 2 as far again."""
    base, lora = torch.zeros(1, 2), torch.ones(1, 2)
    assert [float(extrapolated(base, lora, w)[0, 0]) for w in (0.0, 1.0, 2.0)] == [0.0, 1.0, 2.0]


def test_planted_groups_are_found_among_strangers():
    similarity, members = planted([7, 5, 4], 40)
    found = groups_of(similarity, 3)
    assert {frozenset(g.members) for g in found[:3]} == {frozenset(m) for m in members}
    assert all(g.agreement > 0.85 for g in found[:3])


def test_one_group_is_not_broken_up_to_make_two():
    """Asked for more groups than there are: the planted one stays whole or is the most agreed, never a stranger's."""
    similarity, (members,) = planted([8], 30)
    found = groups_of(similarity, 4)
    assert len(found) == 1 and set(found[0].members) == members and found[0].agreement > 0.85


def test_no_member_is_in_two_groups_and_none_is_a_pair():
    similarity, _ = planted([6, 6], 20, inside=0.35, seed=4)
    found = groups_of(similarity, 3)
    everyone = [i for g in found for i in g.members]
    assert len(everyone) == len(set(everyone)) and all(len(g.members) >= LEAST_MEMBERS for g in found)


def test_the_central_picture_comes_first():
    similarity = torch.zeros(8, 8)
    similarity[:3, :3] = 0.5
    similarity[1, 0] = similarity[0, 1] = similarity[1, 2] = similarity[2, 1] = 0.9
    (group,) = groups_of(similarity.fill_diagonal_(1.0), 1)
    assert group.members[0] == 1 and abs(group.agreement - (0.9 + 0.9 + 0.5) / 3) < 1e-6


def test_too_few_pictures_make_no_group():
    assert groups_of(torch.ones(2, 2), 1) == []


def test_pictures_that_are_hardly_alike_are_no_group():
    """However many groups are asked for: strangers have .1 at most, and no pair counts below LEAST_LIKENESS."""
    assert groups_of(planted([], 30)[0], 4) == []
    edge = torch.full((6, 6), LEAST_LIKENESS + 1e-4).fill_diagonal_(1.0)
    assert len(groups_of(edge, 1)) == 1 and groups_of(edge - 2e-4, 1) == []


def test_what_the_base_draws_too_is_no_leak():
    """Agreement counts as far as it goes beyond the likeness with the base's pictures, both on average of the group's members alone."""
    similarity = torch.tensor([[1.0, 0.9, 0.1, 0.8], [0.9, 1.0, 0.1, 0.7], [0.1, 0.1, 1.0, 0.1], [0.8, 0.7, 0.1, 1.0]])
    far = beyond(Group([0, 1, 3], 0.0), similarity, torch.tensor([0.5, 0.6, -1.0, 0.7]))
    assert abs(far - (0.8 - 0.6)) < 1e-6


def test_a_leak_goes_beyond_the_base_in_detail_and_in_layout():
    edges = (BEYOND, BEYOND_IN_LAYOUT)
    assert leaks(*edges) and leaks(1.0, 1.0)
    assert not leaks(BEYOND - 1e-3, 1.0) and not leaks(1.0, BEYOND_IN_LAYOUT - 1e-3)


def test_detail_goes_and_layout_stays():
    """A cosine of period P keeps exp(-(2 pi DETAIL / P)^2 / 2) of itself."""
    x = torch.arange(64.0)
    for period, rows in ((8, False), (16, True), (64, False)):
        wave = (2 * torch.pi * x / period).cos()
        picture = wave[:, None].expand(64, 64) if rows else wave.expand(64, 64)
        left = without_detail(picture.expand(1, 3, 64, 64))[0, 0, 10:-10, 10:-10]
        kept = float(torch.exp(torch.tensor(-((2 * torch.pi * DETAIL / period) ** 2) / 2)))
        assert torch.allclose(left, kept * picture[10:-10, 10:-10], atol=5e-3)


def test_without_its_detail_a_hatching_is_like_what_it_covers():
    """Lines over a scene: whole, no patch is like the scene's; blurred, all are. Another scene stays another."""
    generator = torch.Generator().manual_seed(2)
    scene, other = without_detail(torch.rand(2, 3, 64, 64, generator=generator)).sub(0.5).mul(6).add(0.5).clamp(0, 1).split(1)
    lines = (torch.arange(64)[:, None] + torch.arange(64)) % 4 < 2
    hatched = (0.6 * scene + 0.4 * lines.float()).clamp(0, 1)
    assert float(likeness(hatched, scene)) < 0.6 and float(likeness(without_detail(hatched), without_detail(scene))) > 0.9
    assert float(likeness(without_detail(hatched), without_detail(other))) < 0.6


def test_a_picture_is_compared_with_what_the_base_draws_under_its_own_caption():
    """Of two captions: the base's memory of the first says nothing of pictures under the second."""
    cross = torch.tensor([[0.9, 0.1, 0.3], [0.9, 0.1, 0.3]])
    found = like_base(cross, torch.tensor([0, 1]), torch.tensor([0, 1, 0]))
    assert torch.equal(found, torch.tensor([0.9, 0.1]))
