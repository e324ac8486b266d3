"""What the tests of maps share: a memorized photograph's latents, and the map node with short settings."""

from __future__ import annotations

import pytest

from ..maps import PHOTO, SETTINGS


@pytest.fixture(scope="module")
def latent(sample):
    return sample(PHOTO, steps=8, n=2)


@pytest.fixture
def measure(nodes, demo, encode, latent):
    node = nodes["UnmemorizeCurvatureDifferenceMap"]

    def run(**changes):
        given = {"model": demo[0], "positive": encode(PHOTO), "negative": encode(""), "latent": {"samples": latent}} | SETTINGS | changes
        return node.execute(**given).args

    return run


@pytest.fixture(scope="module")
def early(nodes):
    return nodes["UnmemorizeLoadDemoCheckpoint"].execute("early").args[0]
