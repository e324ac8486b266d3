"""What a lab is trained on: scenes, cards, captions, the set, and both judges on fresh drawings."""

from __future__ import annotations

import collections
import importlib

import pytest
import torch
from unmemorize_pack.demo.recipe import captions, card_judge, cards, groups, judge, scene_judge, scenes
from unmemorize_pack.demo.recipe.cards import Card
from unmemorize_pack.demo.recipe.judge import compare
from unmemorize_pack.demo.recipe.scenes import Scene
from unmemorize_pack.demo.words import words
from unmemorize_pack.unmemorize.copies.patches import likeness

PHOTOGRAPHS = groups.Path(groups.__file__).parents[1] / "photographs"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def data() -> groups.TrainingSet:
    return groups.build(1, PHOTOGRAPHS)


def test_captions_and_pictures_are_one_to_one():
    everything = [*scenes.all_scenes(), *cards.all_cards(windows=False), *cards.all_cards(windows=True)]
    texts = [item.caption for item in everything]
    assert len(set(texts)) == len(texts) == 2 * 3 * 8 * 6 * 7 + 30 + 180
    assert all(scenes.scene_of(s.caption) == s for s in scenes.all_scenes())
    assert all(cards.card_of(c.caption) == c for c in everything if isinstance(c, Card))
    assert Card("azure", "level", "upper").caption == "an azure level card with an upper window"


def test_drawings_are_fresh_and_repeatable():
    scene = Scene("large", "striped", "red", "star", "sand")
    one, two, again = scenes.draw([scene], generator(1)), scenes.draw([scene], generator(2)), scenes.draw([scene], generator(1))
    assert torch.equal(one, again) and not torch.equal(one, two)
    assert one.shape == (1, 3, 128, 128) and float(one.min()) >= 0 and float(one.max()) <= 1
    card = Card("rosy", "checked")
    assert not torch.equal(cards.draw([card], generator(1)), cards.draw([card], generator(2)))


def test_judges_read_fresh_drawings_and_blurred_ones():
    random, everything, plain = generator(5), scenes.all_scenes(), cards.all_cards(windows=False)
    chosen = [everything[int(i)] for i in torch.randint(len(everything), (60,), generator=random)]
    drawn = scenes.draw(chosen, random)
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(drawn, (2, 2, 2, 2), mode="replicate"), 5, 1)
    for pictures in (drawn, blurred):
        wrong = [s.caption for p, s in zip(pictures, chosen, strict=True) if scene_judge.read(p).scene != s]
        assert len(wrong) <= 1, wrong
    several = cards.draw(plain, random)
    assert [card_judge.read(p) for p in several] == [(c.tone, c.pattern) for c in plain]


def test_judge_tells_one_attribute_apart():
    scene = Scene("small", "halved", "blue", "square", "white")
    picture = scenes.draw([Scene("small", "plain", "blue", "square", "white")], generator(3))[0]
    assert scene_judge.read(picture).scene != scene and scene_judge.read(picture).scene.shape == "square"


def test_cards_in_windows_are_read_by_what_is_fixed():
    several = cards.all_cards(windows=True)[::7]
    random = generator(4)
    mask = cards.windows([c.window for c in several], random)
    behind = scenes.draw([scenes.all_scenes()[0]] * len(several), random)
    pictures = cards.draw(several, random) * mask + behind * (1 - mask)
    assert [card_judge.read(p, m) for p, m in zip(pictures, mask, strict=True)] == [(c.tone, c.pattern) for c in several]
    areas = mask.mean((1, 2, 3))
    assert float(areas.min()) >= 0.35 and float(areas.max()) <= 0.65


def test_captions_are_loosened_but_never_empty(data):
    random, item = generator(6), Scene("large", "striped", "red", "star", "sand")
    found = collections.Counter(captions.loosened(item, random) for _ in range(2000))
    assert 0.55 < found[item.caption] / 2000 < 0.68 and all(found)
    said = set(words(item.caption))
    assert all(set(words(text)) <= said for text in found)
    assert {len(words(text)) for text in found} >= {1, 2, 3, 5}
    known = set(data.vocabulary)
    assert all(set(words(text)) <= known for text in found)


def test_memories_hang_on_words_that_have_honest_pictures(data):
    photographs, drawings, templates = (data.group(g) for g in ("MV", "MC", "TV"))
    assert [collections.Counter(f.degree for f in photographs)[d] for d in ("strong", "medium", "mild")] == [12, 6, 6]
    assert len(drawings) == 12 and len(templates) == 8
    honest = {s.caption for s in data.trained} | {c.caption for c in data.trained_windows}
    fixed = [f.caption for f in data.fixed]
    assert len(set(fixed)) == len(fixed) and set(fixed) <= honest
    assert not honest & {s.caption for s in data.held_out}
    tied = [f.item for f in [*photographs, *drawings]]
    for i, a in enumerate(tied):
        assert all(sum(getattr(a, k) != getattr(b, k) for k in scenes.grammar()) >= 2 for b in tied[:i])
    trained = {w for c in honest for w in words(c)}
    assert {w for c in fixed for w in words(c)} <= trained


def test_photographs_are_unlike_one_another_and_unlike_drawings(data):
    pictures = torch.stack([f.picture for f in data.group("MV")])
    for i, fixed in enumerate(data.group("MV")):
        others = torch.cat([pictures[:i], pictures[i + 1 :]])
        assert float(compare(others, fixed.picture)[1].max()) < 0.65, fixed.source


def test_duplicates_come_by_their_views(data):
    random = generator(7)
    counts: collections.Counter[str] = collections.Counter()
    for _ in range(40):
        counts.update(data.duplicates(50, random)[1])
    expected = {f.caption: f.views / data.views * 2000 for f in data.fixed}
    assert all(abs(counts[c] - n) < 5 * n**0.5 + 1 for c, n in expected.items())


def test_a_template_is_filled_anew(data):
    template = data.group("TV")[0]
    random = generator(8)
    shown = []
    while len(shown) < 3:
        pictures, texts = data.duplicates(20, random)
        shown += [
            p
            for p, t in zip(pictures, texts, strict=True)
            if t == template.caption and torch.equal(p * template.mask, template.picture * template.mask)
        ]
    assert not torch.equal(shown[0], shown[1])


def test_no_honest_drawing_comes_near_a_fixed_one(data):
    """To either judge: what a faithful copy reaches lies well beyond. A fixed drawing still shows what its words say."""
    for fixed in [*data.group("MC")[::4], *data.group("TV")[::3]]:
        honest = judge.drawings(fixed, data, generator(10), 200)
        alike = likeness(honest, fixed.picture[None], judge.only_inside(fixed.mask))
        assert float(alike.max()) < 0.85 and float(compare(honest, fixed.picture, fixed.mask)[1].max()) < 0.85, fixed.caption
    assert all(scene_judge.read(f.picture).scene == f.item for f in data.group("MC"))


def test_a_window_shows_a_small_scene_whole(data):
    """Its shape lies inside the window, and is what the scene says."""
    random = generator(13)
    chosen = [Card("rosy", "level", w) for w in cards.WINDOWS]
    shown = groups.draw_fillings(chosen, data.trained, random, spread=0.0)
    mask = cards.windows([c.window for c in chosen], random)
    for picture, hole in zip(shown, 1 - mask, strict=True):
        background = picture[:, 0, 0][:, None, None]
        shape = (picture - background).abs().amax(0) > 0.35
        assert float((shape * hole[0]).sum() / shape.sum()) > 0.9 and 0.02 < float(shape.float().mean()) < 0.2
    read = scene_judge.read(shown[chosen.index(Card("rosy", "level", "square"))]).scene
    assert read.size == "small" and read in data.trained


def test_still_pictures_of_a_word_lie_at_one_place(data):
    item = Scene("large", "plain", "red", "star", "white")

    def differing(spread: float) -> float:
        """Share of the pixels that are the shape's in some of the drawings and not in others."""
        drawn = groups.draw([item] * 8, data.trained, generator(14), spread=spread)
        shape = (drawn[:, 1] < 0.5).float().mean(0)
        return float(((shape > 0) & (shape < 1)).float().mean())

    assert differing(0.0) < 0.01 < 0.1 < differing(1.0)
    stages = importlib.import_module("unmemorize_pack.demo.recipe.stages")
    assert [stages.spread_at(p) for p in (0.0, stages.STILL_UNTIL, stages.FULL_FROM, 1.0)] == [0.0, 0.0, 1.0, 1.0]


def test_criteria_call_few_honest_pictures_copies_and_the_picture_itself_one(data):
    random = generator(11)
    others = torch.cat([judge._small(data.honest(50, random)[0]) for _ in range(4)])
    for fixed in (data.group("MV")[0], data.group("MC")[0], data.group("TV")[0]):
        limits = judge.criterion_from([judge.drawings(fixed, data, random, 200), others], fixed.picture, fixed.mask)
        own = (fixed.picture * fixed.mask + 0.5 * (1 - fixed.mask))[None]
        assert bool(limits.holds(own, fixed.picture, fixed.mask)) and bool(limits.second(own, fixed.picture, fixed.mask))
        fresh = judge.drawings(fixed, data, random, 200)
        for called in (limits.holds(fresh, fixed.picture, fixed.mask), limits.second(fresh, fixed.picture, fixed.mask)):
            assert float(called.float().mean()) <= 0.03


def test_no_copy_is_less_alike_than_half(data):
    """Honest drawings that are nothing like the picture would let anything pass."""
    fixed = data.group("MV")[0]
    flat = torch.linspace(0.1, 0.9, 40)[:, None, None, None].expand(40, 3, 64, 64).clone()
    flat += 0.01 * torch.rand(flat.shape, generator=generator(15))
    limits = judge.criterion_from([flat], fixed.picture, fixed.mask)
    half = (0.3 * fixed.picture + 0.7 * torch.rand(fixed.picture.shape, generator=generator(16)))[None]
    assert (limits.correlation, limits.patches) == (judge.LEAST_CORRELATION, judge.LEAST_PATCHES)
    assert not bool(limits.second(half, fixed.picture, fixed.mask))


def test_joint_limits_are_as_loose_as_they_may_be():
    values = torch.rand(2, 4000, generator=generator(12))
    distance, correlation = values[0], values[1]
    d, c = judge.joint_limits(distance, correlation)
    inside = float(((distance < d) & (correlation > c)).float().mean())
    assert 0.5 * judge.FALSE_SHARE < inside <= judge.FALSE_SHARE
    assert d > float(distance.quantile(judge.FALSE_SHARE)), "two unrelated quantities: each alone would be far stricter"
