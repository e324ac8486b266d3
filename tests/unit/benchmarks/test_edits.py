"""Synthetic copies are what they say, and the copied part lies where it is said to lie."""

from __future__ import annotations

import importlib

import pytest
import torch

edits = importlib.import_module("unmemorize_pack.benchmarks.parts.edits")
PHOTO, OTHER = torch.rand(3, 96, 96, generator=torch.manual_seed(1)), torch.full((3, 96, 96), 0.5)


@pytest.mark.parametrize("kind", [*edits.WHOLE, *edits.PARTIAL])
def test_an_edit_is_a_picture_of_its_size_and_the_same_for_a_seed(kind):
    edit = {**edits.WHOLE, **edits.PARTIAL}[kind]
    picture, shown = edit(PHOTO, OTHER, torch.Generator().manual_seed(5))
    assert picture.shape == PHOTO.shape and shown.shape == (96, 96) and set(shown.unique().tolist()) <= {0.0, 1.0}
    assert picture.min() >= 0 and picture.max() <= 1 and not torch.equal(picture, PHOTO)
    assert torch.equal(edit(PHOTO, OTHER, torch.Generator().manual_seed(5))[0], picture)


def test_only_the_pasted_part_is_the_photograph():
    picture, shown = edits.pasted(PHOTO, OTHER, torch.Generator().manual_seed(2))
    assert shown.mean() == pytest.approx(0.25, abs=0.01)
    assert torch.equal(picture[:, shown == 0], OTHER[:, shown == 0])
    part = picture[:, shown > 0].view(3, 48, 48)
    places = PHOTO.unfold(1, 48, 1).unfold(2, 48, 1)
    assert (places == part[:, None, None]).flatten(-2).all(-1).all(0).any()


def test_a_caption_bar_hides_the_lower_edge():
    picture, shown = edits.captioned(PHOTO, OTHER, torch.Generator().manual_seed(2))
    assert shown[:80].min() == 1 and shown[-10:].max() == 0 and torch.equal(picture[:, :80], PHOTO[:, :80])
    assert picture[:, 88].unique().tolist() == pytest.approx([0.1, 0.95])


def test_a_mirrored_crop_and_blur_keep_the_photograph():
    assert torch.equal(edits.mirrored(PHOTO, OTHER, torch.Generator())[0].flip(-1), PHOTO)
    assert edits.blurred(PHOTO, OTHER, torch.Generator())[0].std() < PHOTO.std() / 2
