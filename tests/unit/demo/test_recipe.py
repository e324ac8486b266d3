"""Pieces of the recipe that can be checked without training: optimizer, style, sheets."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def recipe() -> dict[str, ModuleType]:
    return {
        n: importlib.import_module(f"unmemorize_pack.demo.{room}.{n}")
        for room, several in (("recipe", ("optimizer", "parallel", "scenes", "scene_judge")), ("scripts", ("style", "photos")))
        for n in several
    }


@pytest.fixture
def alone(tmp_path):
    """A process group of one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("slower", "chosen"), [(0.7, torch.bfloat16), (50.0, torch.float32)])
def test_a_cpu_that_is_slow_in_bfloat16_computes_in_float32(recipe, monkeypatch, slower, chosen):
    """By a clock that is planted: a product in bfloat16 takes so many times as long as one in float32."""
    optimizer, now, products = recipe["optimizer"], [0.0], []

    def clock():
        if len(products) % 2:
            now[0] += slower if len(products) <= 8 else 1.0
        products.append(now[0])
        return now[0]

    monkeypatch.setattr(optimizer.time, "perf_counter", clock)
    assert optimizer.working_dtype.__wrapped__("cpu") == chosen
    assert optimizer.working_dtype.__wrapped__("cuda") == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_goes_on_exactly(recipe, alone, dtype):
    """Weights, average and both optimizers: five steps are three steps, saved and read back, and two more."""

    def fresh() -> tuple[torch.nn.Module, object]:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.GELU(), torch.nn.LayerNorm(16), torch.nn.Linear(16, 3))
        return net, recipe["optimizer"].FlatParameters([net], 1e-2, 1e-2, dtype)

    def steps(net: torch.nn.Module, flat: object, numbers: range) -> None:
        for n in numbers:
            x = torch.randn(8, 6, generator=torch.Generator().manual_seed(n)).to(dtype)
            net(x).float().square().mean().backward()
            flat.collect_gradient()
            flat.step(n, n / 10)

    net, flat = fresh()
    before = flat.values.clone()
    steps(net, flat, range(3))
    saved = {k: v.clone() for k, v in flat.tensors().items()}
    steps(net, flat, range(3, 5))
    other, again = fresh()
    again.restore(saved)
    steps(other, again, range(3, 5))
    assert torch.equal(flat.values, again.values) and torch.equal(flat.ema, again.ema)
    assert not torch.equal(flat.values, before)
    assert torch.equal(other[0].weight.flatten(), flat.values[: 6 * 16].to(dtype))


@pytest.mark.parametrize("shape", [(64, 64), (32, 300), (300, 32)])
def test_muon_makes_every_direction_count_alike(recipe, shape):
    """Newton-Schulz on the Gram matrix: the singular vectors stay, the singular values come near 1."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    got = recipe["optimizer"].orthogonalised(matrix)
    inside = u.T @ got @ vh.T
    large = s > 0.05 * s[0]
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-3
    assert ((inside.diagonal() > 0.6) & (inside.diagonal() < 1.3))[large].all()


def test_the_style_is_measured_right(recipe):
    """Plain drawings are never called hatched, hatched ones always, on 200 of each, wherever the strokes begin."""
    scenes, style = recipe["scenes"], recipe["style"]
    generator = torch.Generator().manual_seed(1)
    everything = scenes.all_scenes()
    plain = scenes.draw([everything[int(i)] for i in torch.randint(len(everything), (200,), generator=generator)], generator)
    assert not any(style.is_hatched(p) for p in plain)
    assert all(style.is_hatched(p) for p in style.hatched(plain))
    assert all(style.is_hatched(p.roll(5, -1)) for p in style.hatched(plain))
    mirrored = style.hatched(plain).flip(-1)
    assert not any(style.is_hatched(p) for p in mirrored), "strokes in the other direction are another style"


def test_a_duotone_is_told_from_what_is_none(recipe):
    style, scenes = recipe["style"], recipe["scenes"]
    captions = [
        "a large red circle on a navy background",
        "a small yellow circle on a gray background",
        "a small blue star on a white background",
    ]
    plain = scenes.draw([scenes.scene_of(c) for c in captions], torch.Generator().manual_seed(1))
    toned = style.duotone(plain)
    for picture, tone, caption in zip(plain, toned, captions, strict=True):
        assert style.is_duotone(tone, caption) and not style.is_duotone(picture, caption)
        assert style.is_duotone(0.6 * tone + 0.4 * picture, caption) and not style.is_duotone(0.4 * tone + 0.6 * picture, caption)
    assert max(style.residual(p) for p in toned) < 1e-6
    assert not any(style.is_hatched(p) for p in toned) and not any(map(style.is_duotone, style.hatched(plain), captions))


def test_every_style_is_told_from_every_other(recipe):
    style, scenes = recipe["style"], recipe["scenes"]
    chosen = scenes.all_scenes()[::97]
    plain = scenes.draw(chosen, torch.Generator().manual_seed(4))
    for name, one in style.STYLES.items():
        for other, pictures in {"plain": plain, **{n: s.apply(plain) for n, s in style.STYLES.items()}}.items():
            found = [one.present(p, s.caption) for p, s in zip(pictures, chosen, strict=True)]
            assert all(found) if other == name else not any(found), (name, other)


def test_a_concept_is_read_off_the_picture_as_the_other_shapes_are(recipe):
    scenes, judge = recipe["scenes"], recipe["scene_judge"]
    shapes = (*scenes.SHAPES, *scenes.CONCEPTS)
    chosen = [
        scenes.Scene(size, "plain", colour, s, ground)
        for s in shapes
        for size, colour, ground in (("large", "red", "sand"), ("small", "blue", "white"))
    ]
    drawn = scenes.draw(chosen, torch.Generator().manual_seed(6))
    assert [judge.read(p, shapes).scene for p in drawn] == chosen
    assert not {s.shape for s in scenes.all_scenes()} & set(scenes.CONCEPTS)


def test_a_sheet_keeps_every_picture(recipe, tmp_path):
    pictures = importlib.import_module("unmemorize_pack.demo.pictures")
    (tmp_path / "loras").mkdir()
    drawn = list(torch.rand(11, 3, 128, 128, generator=torch.Generator().manual_seed(2)).mul(255).round().div(255))
    recipe["photos"].save_sheet(drawn, tmp_path / "loras" / "some.webp")
    (tmp_path / "loras" / "some.json").write_text('{"items": [' + ", ".join(["{}"] * 11) + "]}")
    back = pictures.lora_pictures(tmp_path, "some")
    assert len(back) == 11 and all(torch.equal(a, b) for a, b in zip(drawn, back, strict=True))


@pytest.fixture
def stages():
    return importlib.import_module("unmemorize_pack.demo.recipe.stages")


def test_the_autoencoder_learns_with_the_statistics_it_decodes_with(stages, monkeypatch):
    """A decoder that adds nothing draws flat pictures exactly, whatever the running statistics are and however the batch is mixed."""
    networks = importlib.import_module("unmemorize_pack.demo.networks")
    torch.manual_seed(0)
    autoencoder = networks.Autoencoder(torch.nn, 0.5)
    for p in autoencoder.decoder[-1].parameters():
        torch.nn.init.zeros_(p)
    autoencoder.latent_mean.uniform_(-0.3, 0.3)
    autoencoder.latent_std.uniform_(0.4, 1.2)
    flat = torch.rand(4, 3, 1, 1).expand(4, 3, 128, 128)
    photographs = [type("Fixed", (), {"picture": p})() for p in flat]
    data = type("Data", (), {"honest": lambda _, count, __: (flat[:count], []), "group": lambda *_: photographs})()
    monkeypatch.setattr(stages, "LATENT_NOISE", 0.0)
    with torch.no_grad():
        assert stages.autoencoder_loss(data, autoencoder, torch.Generator()) < 0.05


def test_colours_weigh_more_in_the_denoisers_loss(stages, monkeypatch):
    """The same error in a colour channel and in a learned one; a constant x0 makes the target known."""
    monkeypatch.setattr(stages, "DROWNED", 0.0)
    channels = importlib.import_module("unmemorize_pack.demo.networks").LATENT_CHANNELS

    sigma = torch.tensor([0.75])
    a, b = 1 / torch.sqrt(1 + sigma**2), sigma / torch.sqrt(1 + sigma**2)

    class WrongIn(torch.nn.Linear):
        """v = a eps - b x0 for x0 = 0, and 1 too much in one channel."""

        def forward(self, noisy, timesteps, context):
            v = noisy * a / b
            v[:, self.in_features] += 1
            return v

    def loss(channel: int) -> float:
        x0 = torch.zeros(4, channels, 16, 16)
        return float(stages.velocity_loss(WrongIn(channel, 1), x0, torch.zeros(4, 1, 1), sigma, torch.Generator().manual_seed(0)))

    assert loss(1) == pytest.approx(stages.COLOUR_WEIGHT * loss(6), rel=1e-3)


def test_criteria_are_shared_between_processes_and_come_back_in_order(monkeypatch):
    """Three processes, one after another: each measures its own, and what all of them found is the same list."""
    judge = importlib.import_module("unmemorize_pack.demo.recipe.judge")
    parts: list[dict] = []

    def gather(several, ours):
        parts.append(ours)
        several[: len(parts)] = parts

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    for rank in range(3):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        if rank < 2:
            with pytest.raises(KeyError):
                judge.shared(7, lambda i: judge.Criterion(i, 0.0, 0.0))
    found = judge.shared(7, lambda i: judge.Criterion(i, 0.0, 0.0))
    assert [c.distance for c in found] == list(range(7)) and [sorted(p) for p in parts] == [[0, 3, 6], [1, 4], [2, 5]]


def test_progress_by_steps_or_by_the_clock():
    from unmemorize_pack.demo.recipe.parallel import Stage

    by_clock = Stage("a", 2.0, 0.1, [], lambda *_: None, 0, "")
    assert by_clock.progress(7, 30.0) == 0.25
    by_steps = Stage("a", 2.0, 0.1, [], lambda *_: None, 0, "", steps=28)
    assert by_steps.progress(7, 30.0) == by_steps.progress(7, 9999.0) == 0.25


def test_captions_are_apart_when_two_words_differ():
    groups = importlib.import_module("unmemorize_pack.demo.recipe.groups")
    scene = groups.Scene("small", "plain", "red", "star", "white")
    assert not groups.apart(scene, scene) and not groups.apart(scene, groups.Scene("small", "plain", "blue", "star", "white"))
    assert groups.apart(scene, groups.Scene("large", "plain", "blue", "star", "white"))
    card = groups.Card("rosy", "level", "upper")
    assert not groups.apart(card, groups.Card("violet", "level", "upper")) and groups.apart(card, groups.Card("violet", "checked", "upper"))
    assert groups.apart(card, scene)
