"""Identities of models, and models merged by ComfyUI's own node."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture(scope="session")
def identities(host):
    """host.core.identity."""
    return host("core.identity")


@pytest.fixture(scope="session")
def merge(comfy):
    """merge(one, other, ratio): ratio 1 is the first, 0 the other."""
    merging = importlib.import_module("comfy_extras.nodes_model_merging")
    return lambda one, other, ratio: merging.ModelMergeSimple().merge(one, other, ratio)[0]


@pytest.fixture(scope="session")
def early(nodes):
    """The demo model before it memorized."""
    return nodes["UnmemorizeLoadDemoCheckpoint"].execute("early").args[0]
