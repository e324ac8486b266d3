"""The menus that say in words what a paper's symbol stands for."""

from __future__ import annotations

from ..host.core.menus import Menu

METHOD = Menu(
    "method",
    {
        "dh_0": "against the empty prompt",
        "dh_~": "against a baseline model",
        "dh_0 + dh_~": "against both",
        "ds_0": "quick, against the empty prompt",
        "ds_~": "quick, against a baseline model",
    },
)
PRESET = Menu("preset", {"recommended": "best for its cost", "paper": "as published", "custom": "the five settings below"})
PROBING = Menu("probing", {"structured": "places far apart move together", "random": "all places move, as published"})
ESTIMATOR = Menu(
    "estimator",
    {
        "forward difference": "cheapest",
        "central difference": "closer, at twice the cost",
        "reverse mode": "exact, by gradients, much memory",
    },
)
MODE = Menu("mode", {"detect": "only say it", "correct": "say it and draw again", "off": "the stock sampler"})
GUARD_METHOD = Menu("method", {"recommended": "best in our measurements", "paper": "as published"})
STAGE = Menu("stage", {"final": "trained, has memorized", "early": "half trained, has not yet"})
SCORE = Menu(
    "score",
    {
        "cross-attention": "how the prompt is read",
        "mean": "BAF, both sides of a channel",
        "min": "BAF, the weaker side",
        "left": "BAF, what it writes",
        "right": "BAF, what it reads",
        "product": "BAF, both sides multiplied",
        "mean x singular value": "BAF, strong channels first",
        "inverted": "control, BAF the other way round",
        "singular value": "control, by strength alone",
        "random": "control, by chance",
    },
)
GATE = Menu(
    "gate",
    {
        "hard": "all below the threshold goes",
        "soft": "a slope at the threshold",
        "ratio": "keep a share of each layer's channels",
        "ratio of the file": "keep a share of all channels",
        "energy": "keep a share of the energy",
        "scale": "weaken all alike",
    },
)
ROWS = Menu("rows", {"both": "prompt and negative prompt", "cond only": "the prompt's alone"})
NEURON_SCORE = Menu("score", {"wanda": "weight times activity", "contrast": "weight times difference of activities"})
