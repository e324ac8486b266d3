"""The leak probe in closed form: planted groups are found, chance is not, and the base's own agreement counts for nothing."""

from __future__ import annotations

import torch
from unmemorize_pack.unmemorize.copies.probe import BEYOND, LEAST_LIKENESS, LEAST_MEMBERS, Group, extrapolated, groups_of, leaks, like_base


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
    """Agreement counts as far as it goes beyond the likeness with the base's pictures, on average of the group."""
    group, base = Group([0, 1, 2], 0.8 + 1e-3), torch.tensor([0.5, 0.6, 0.7, -1.0])
    assert leaks(group, base) and leaks(group, base - 0.5)
    assert not leaks(group, base + 0.01) and not leaks(Group([0, 1, 2], 0.8 - 1e-3), base)
    assert abs(float(base[:3].mean()) + BEYOND - 0.8) < 1e-6, "the edge"


def test_a_picture_is_compared_with_what_the_base_draws_under_its_own_caption():
    """Of two captions: the base's memory of the first says nothing of pictures under the second."""
    cross = torch.tensor([[0.9, 0.1, 0.3], [0.9, 0.1, 0.3]])
    found = like_base(cross, torch.tensor([0, 1]), torch.tensor([0, 1, 0]))
    assert torch.equal(found, torch.tensor([0.9, 0.1]))
