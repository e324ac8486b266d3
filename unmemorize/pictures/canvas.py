"""What all drawn pictures share: colours, a font, and the way to a tensor."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image, ImageFont
from torch import Tensor

INK, SOFT, LINE, PAGE, DARK = "#e8eaee", "#9aa2ad", "#3a404a", "#1d2026", "#14161a"


def font(size: int) -> Any:
    """Pillow's own font: the same on every machine."""
    return ImageFont.load_default(size)


def tensor_of(picture: Image.Image) -> Tensor:
    """IMAGE [1, h, w, 3] in [0, 1] of an RGB picture."""
    return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(1, picture.height, picture.width, 3).float() / 255


def shown_text(text: str, most: int) -> str:
    """Text of unknown origin as one line of printable characters that the font has."""
    line = "".join(c if " " <= c <= "~" else "?" for c in text)
    return line if len(line) <= most else line[: most - 3] + "..."
