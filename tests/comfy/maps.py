"""What the tests of maps share: the caption of a memorized photograph, and widgets that keep a map short."""

from __future__ import annotations

PHOTO = "a large halved blue circle on a brown background"
SETTINGS = {
    "method": "dh_0", "preset": "custom", "sigmas": "0.2", "probes": 4, "noises": 1, "probing": "structured",
    "estimator": "forward difference", "seed": 0,
}  # fmt: skip
