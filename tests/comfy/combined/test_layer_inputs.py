"""What is noted of the rows that enter a LoRA's layers: a fair sample, bounded, by whose they are."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture
def module(comfy):
    return importlib.import_module("unmemorize_pack.host.combined.layer_inputs")


@pytest.fixture
def inputs(module):
    found = module.LayerInputs([], None, None)
    found._modules[False]["linear"] = torch.nn.Linear(3, 3)
    return found


class Named:
    target = "linear"


def test_a_sample_is_bounded_and_fair(module, inputs):
    """Of many rows each is as likely to be kept, early ones and late ones."""
    calls = 20 * module.MOST_KEPT // module.PER_CALL
    for k in range(calls):
        inputs.add("linear", (module.COND,), 0, torch.full((1, 40, 3), float(k) / calls))
    rows = inputs.kept(Named)
    assert rows.shape == (module.MOST_KEPT, 3)
    assert float(rows.mean()) == pytest.approx(0.5, abs=0.03) and float(rows.std()) == pytest.approx(12**-0.5, abs=0.02)


def test_few_rows_are_all_there(module, inputs):
    inputs.add("linear", (module.COND,), 0, torch.arange(6.0).reshape(1, 2, 3))
    assert sorted(map(tuple, inputs.kept(Named).tolist())) == [(0, 1, 2), (3, 4, 5)]


def test_captions_are_kept_apart_and_count_their_own_side(module, inputs):
    for label in (0, 1):
        inputs.label = label
        inputs.add("linear", (module.COND,), 0, torch.full((1, 2, 3), float(label)))
        inputs.add("linear", (1 - module.COND,), 0, torch.full((1, 2, 3), 9.0))
    assert inputs.kept(Named) is None
    assert inputs.leaked(Named, [1]).unique().tolist() == [1.0] and len(inputs.leaked(Named, [0, 1])) == 4
    assert inputs.leaked(Named, [2]) is None and inputs.leaked(Named, []) is None
    inputs.label = None
    inputs.add("linear", (1 - module.COND,), 0, torch.full((1, 2, 3), 9.0))
    assert inputs.kept(Named).unique().tolist() == [9.0], "what must be kept has both sides"


@pytest.mark.parametrize("how", [{}, {"stride": 2}, {"kernel_size": 1, "padding": 0}])
def test_patches_are_what_a_convolution_multiplies(module, how):
    """The convolution of each patch is one of the convolution's own outputs."""
    conv = torch.nn.Conv2d(2, 5, **({"kernel_size": 3, "padding": 1} | how), bias=False)
    z = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    patches = module._patches(conv, z, 7, torch.Generator().manual_seed(1))
    outputs = F.conv2d(z, conv.weight, None, conv.stride, conv.padding).movedim(1, -1).reshape(-1, 5)
    found = patches @ conv.weight.flatten(1).T
    assert float((found[:, None] - outputs).abs().amax(-1).min(1).values.max()) < 1e-5
