"""Pieces of the recipe that can be checked without training: optimizer, style, sheets."""

from __future__ import annotations

import importlib
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def recipe() -> dict[str, ModuleType]:
    return {n: importlib.import_module(f"unmemorize_pack.demo.scripts.{n}") for n in ("parallel", "style", "scenes", "photos", "judge")}


@pytest.mark.parametrize("shape", [(64, 64), (32, 300), (300, 32)])
def test_muon_makes_every_direction_count_alike(recipe, shape):
    """Newton-Schulz on the Gram matrix: the singular vectors stay, the singular values come near 1."""
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    got = recipe["parallel"].orthogonalised(matrix)
    inside = u.T @ got @ vh.T
    large = s > 0.05 * s[0]
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-3
    assert ((inside.diagonal() > 0.6) & (inside.diagonal() < 1.3))[large].all()


def test_the_style_is_measured_right(recipe):
    """Plain drawings are never called hatched, hatched ones always, on 200 of each; the strokes' start does not matter."""
    scenes, style = recipe["scenes"], recipe["style"]
    generator = torch.Generator().manual_seed(1)
    everything = scenes.all_scenes()
    plain = scenes.draw([everything[int(i)] for i in torch.randint(len(everything), (200,), generator=generator)], generator)
    assert not any(style.is_hatched(p) for p in plain)
    assert all(style.is_hatched(p) for p in style.hatched(plain, generator))


def test_a_sheet_keeps_every_picture(recipe, tmp_path):
    pictures = importlib.import_module("unmemorize_pack.demo.pictures")
    (tmp_path / "loras").mkdir()
    drawn = list(torch.rand(11, 3, 128, 128, generator=torch.Generator().manual_seed(2)).mul(255).round().div(255))
    recipe["photos"].save_sheet(drawn, tmp_path / "loras" / "some.png")
    (tmp_path / "loras" / "some.json").write_text('{"items": [' + ", ".join(["{}"] * 11) + "]}")
    back = pictures.lora_pictures(tmp_path, "some")
    assert len(back) == 11 and all(torch.equal(a, b) for a, b in zip(drawn, back, strict=True))


def test_the_copy_criterion_is_the_honest_quantile(recipe):
    """Of the honest pictures themselves about one in a hundred is nearer; the picture itself is always a copy."""
    judge, scenes = recipe["judge"], recipe["scenes"]
    generator = torch.Generator().manual_seed(3)
    scene = scenes.all_scenes()[5]
    honest, (fixed,) = scenes.draw([scene] * 300, generator), scenes.draw([scene], generator)
    limit = judge.criterion_from(honest, fixed)
    distance, correlation = judge.compare(honest, fixed)
    assert (distance < limit.distance).float().mean() == pytest.approx(0.01, abs=0.004)
    assert limit.holds(*judge.compare(fixed[None], fixed)).all()
    assert limit.holds(distance, correlation).float().mean() <= 0.01
