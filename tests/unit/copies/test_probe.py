"""The leak probe in closed form: planted groups are found, chance is not, and the base's own agreement counts for nothing."""

from __future__ import annotations

import torch
from unmemorize_pack.unmemorize.copies.probe import LEAST_MEMBERS, Group, beyond, extrapolated, floors_of, groups_of, pairs_of

SAME = 0.6


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
    found = groups_of(similarity, 3, floors=0.2)
    assert {frozenset(g.members) for g in found[:3]} == {frozenset(m) for m in members}
    assert all(g.agreement > 0.85 for g in found[:3])


def test_one_group_is_not_broken_up_to_make_two():
    """Asked for more groups than there are: the planted one stays whole or is the most agreed, never a stranger's."""
    similarity, (members,) = planted([8], 30)
    found = groups_of(similarity, 4, floors=0.2)
    assert len(found) == 1 and set(found[0].members) == members and found[0].agreement > 0.85


def test_no_member_is_in_two_groups_and_none_is_a_pair():
    similarity, _ = planted([6, 6], 20, inside=0.3, seed=4)
    found = groups_of(similarity, 3)
    everyone = [i for g in found for i in g.members]
    assert len(everyone) == len(set(everyone)) and all(len(g.members) >= LEAST_MEMBERS for g in found)


def test_the_central_picture_comes_first():
    similarity = torch.zeros(8, 8)
    similarity[:3, :3] = 0.5
    similarity[1, 0] = similarity[0, 1] = similarity[1, 2] = similarity[2, 1] = 0.9
    (group,) = groups_of(similarity.fill_diagonal_(1.0), 1, floors=0.2)
    assert group.members[0] == 1 and abs(group.agreement - (0.9 + 0.9 + 0.5) / 3) < 1e-6


def test_too_few_pictures_make_no_group():
    assert groups_of(torch.ones(2, 2), 1) == []


def test_what_the_base_agrees_on_too_is_no_leak():
    own = [Group([0, 1, 2], 0.8), Group([3, 4, 5], 0.4)]
    captions = [0] * 6
    assert beyond(own, [Group([0, 1, 2], 0.5)], captions, SAME) == own[:1]
    assert beyond(own, [], captions, SAME) == own
    memory = [Group([0, 1, 2], 0.9)]
    assert beyond([Group([3, 4, 5], 0.8)], memory, [0, 0, 0, 1, 1, 1], SAME), "a memory of the other caption"
    assert not beyond([Group([3, 4, 5], 0.8)], memory, captions, SAME), "a memory of this one"
    assert not beyond([Group([3, 4, 5], 0.5)], [Group([0, 1, 2], 0.55)], [0, 0, 0, 1, 1, 1], SAME), "ordinary agreement counts for all"


def test_what_the_base_remembers_of_one_caption_acquits_no_other():
    """The base draws one picture again under the first caption, the LoRA another under the second: a leak. Under the first it is none."""
    captions = torch.arange(24) % 2

    def agreeing(caption):
        similarity, _ = planted([], 24)
        under = (captions == caption)[:, None] & (captions == caption)[None]
        return (similarity + 0.8 * under).fill_diagonal_(1.0)

    floors = floors_of(agreeing(0), captions, 0.99, SAME)
    base = groups_of(agreeing(0), 1, floors)
    (found,) = beyond(groups_of(agreeing(1), 1, floors), base, captions.tolist(), SAME)
    assert set(found.members) == set(range(1, 24, 2))
    assert beyond(groups_of(agreeing(0), 1, floors), base, captions.tolist(), SAME) == []


def test_floors_are_the_bases_own_quantile_where_it_remembers_nothing():
    similarity, _ = planted([], 24)
    floors = floors_of(similarity, torch.arange(24) % 3, 0.99, SAME)
    assert bool((floors == pairs_of(similarity).quantile(0.99)).all())
    all_same = torch.full((6, 6), 0.9).fill_diagonal_(1.0)
    assert bool((floors_of(all_same, torch.zeros(6), 0.99, SAME) == 0.9).all())
