"""What every bundled workflow has: how the demo model is sampled."""

from __future__ import annotations

from typing import Any

from ..graph import Graph, Node

SAMPLING: dict[str, Any] = {"steps": 20, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}


def demo_model(g: Graph, x: int, y: int) -> tuple[Node, Node, Node]:
    """Load Demo Checkpoint, the empty prompt and an empty latent, in a column."""
    load = g.add("UnmemorizeLoadDemoCheckpoint", (x, y), (300, 100))
    empty = g.add("CLIPTextEncode", (x, y + 170), (300, 100), "Empty prompt", clip=load[1], text="")
    latent = g.add("EmptyLatentImage", (x, y + 340), (300, 110), width=128, height=128, batch_size=1)
    return load, empty, latent


def sampled(g: Graph, x: int, y: int, model: Any, prompt: Node, empty: Node, latent: Node, title: str | None = None) -> Node:
    """The stock KSampler at the demo's settings."""
    links = {"model": model, "positive": prompt[0], "negative": empty[0], "latent_image": latent[0]}
    return g.add("KSampler", (x, y), (300, 270), title, seed=1, **links, **SAMPLING)
