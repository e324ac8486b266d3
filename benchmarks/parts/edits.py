"""Synthetic copies of photographs: what people do to a picture, and which part of the result is copied."""

from __future__ import annotations

import io
from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...demo.pictures import as_tensor

BAR = 0.15
"""Height of the caption bar."""
CROP_AREA, PASTED_AREA = 0.40, 0.25

Edit = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""(photograph, another one, random) -> the edited picture [3, h, w], and 1 where it shows the photograph [h, w]."""


def mirrored(photo: Tensor, _other: Tensor, _random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Left and right exchanged."""
    return photo.flip(-1), torch.ones(photo.shape[1:])


def tinted(photo: Tensor, _other: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each channel by .7 to 1.3, then a gamma of .75 to 1.35."""
    gains = 0.7 + 0.6 * torch.rand(3, 1, 1, generator=random)
    gamma = 0.75 + 0.6 * torch.rand((), generator=random)
    return (photo * gains).clamp(0, 1) ** gamma, torch.ones(photo.shape[1:])


def blurred(photo: Tensor, _other: Tensor, _random: torch.Generator) -> tuple[Tensor, Tensor]:
    """To a third of the size and back."""
    small = F.interpolate(photo[None], scale_factor=1 / 3, mode="bilinear", antialias=True)
    return F.interpolate(small, size=photo.shape[1:], mode="bicubic")[0].clamp(0, 1), torch.ones(photo.shape[1:])


def compressed(photo: Tensor, _other: Tensor, _random: torch.Generator) -> tuple[Tensor, Tensor]:
    """JPEG at quality 20."""
    buffer = io.BytesIO()
    Image.fromarray((photo * 255).round().byte().permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=20)
    return as_tensor(Image.open(buffer).convert("RGB")), torch.ones(photo.shape[1:])


def captioned(photo: Tensor, _other: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """A plain bar with blocks like words over the lower edge."""
    picture, shown = photo.clone(), torch.ones(photo.shape[1:])
    height, width = photo.shape[1:]
    bar = round(BAR * height)
    top, edge = height - bar, bar // 3
    picture[:, top:], shown[top:] = 0.95, 0.0
    x = 6
    while x < width - 16:
        length = int(torch.randint(6, 18, (), generator=random))
        picture[:, top + edge : height - edge, x : min(x + length, width - 6)] = 0.1
        x += length + 4
    return picture, shown


def cropped(photo: Tensor, _other: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """A part of CROP_AREA, enlarged to the whole picture."""
    side = round(CROP_AREA**0.5 * photo.shape[-1])
    y, x = torch.randint(photo.shape[-1] - side + 1, (2,), generator=random).tolist()
    part = photo[None, :, y : y + side, x : x + side]
    return F.interpolate(part, size=photo.shape[1:], mode="bicubic", antialias=True)[0].clamp(0, 1), torch.ones(photo.shape[1:])


def pasted(photo: Tensor, other: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """A part of PASTED_AREA, put somewhere into another photograph."""
    side = round(PASTED_AREA**0.5 * photo.shape[-1])
    y, x, top, left = torch.randint(photo.shape[-1] - side + 1, (4,), generator=random).tolist()
    picture, shown = other.clone(), torch.zeros(photo.shape[1:])
    picture[:, top : top + side, left : left + side] = photo[:, y : y + side, x : x + side]
    shown[top : top + side, left : left + side] = 1
    return picture, shown


WHOLE: dict[str, Edit] = {"mirror": mirrored, "tint": tinted, "blur": blurred, "jpeg": compressed, "caption": captioned}
PARTIAL: dict[str, Edit] = {"crop": cropped, "paste": pasted}
