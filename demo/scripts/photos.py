"""Photographs of the lab: fixed crops (MV), never-repeated texture crops (N), fixed templates (TV)."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..pictures import COLUMNS, as_tensor
from .scenes import SIDE


def load_picture(path: Path) -> Tensor:
    """Centre square of a picture at 128 x 128, [3, 128, 128] in [0, 1]."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    square = rgb.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return as_tensor(square)


def load_captioned(folder: Path, prefix: str = "") -> list[tuple[str, Tensor]]:
    """(caption, picture) of every `name.png` beside a `name.txt`, by name; only of names that begin with `prefix`."""
    found = []
    for path in sorted(p for p in folder.glob("*.png") if p.name.startswith(prefix)):
        note = path.with_suffix(".txt")
        if not note.exists():
            raise ValueError(f"{path.name} has no caption: put one line into {note.name}.")
        found.append((note.read_text(encoding="utf-8").strip(), load_picture(path)))
    if not found:
        raise ValueError(f"No {prefix or 'name'}.png with .txt in {folder}.")
    return found


def save_sheet(pictures: list[Tensor], path: Path) -> None:
    """Pictures [3, 128, 128] in rows, losslessly, as one WebP (read by `pictures.lora_pictures`)."""
    rows = -(-len(pictures) // COLUMNS)
    sheet = torch.zeros(3, SIDE * rows, SIDE * COLUMNS)
    for i, picture in enumerate(pictures):
        y, x = SIDE * (i // COLUMNS), SIDE * (i % COLUMNS)
        sheet[:, y : y + SIDE, x : x + SIDE] = picture
    Image.fromarray((sheet * 255).round().byte().permute(1, 2, 0).numpy()).save(path, "WEBP", lossless=True, quality=100, method=6)


def load_textures(folder: Path) -> list[Tensor]:
    """Every .jpg of a folder, [3, h, w] in [0, 1]."""
    found = []
    for path in sorted(folder.glob("*.jpg")):
        with Image.open(path) as image:
            found.append(as_tensor(image.convert("RGB")))
    return found


def draw_texture(textures: list[Tensor], generator: torch.Generator) -> Tensor:
    """One fresh crop [3, 128, 128]: place, scale, turn, mirror, tint and contrast vary."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    texture = textures[int(torch.randint(len(textures), (), generator=generator))]
    _, h, w = texture.shape
    half = uniform(48, 0.34 * min(h, w))
    reach = half * math.sqrt(2) + 1
    cx, cy = uniform(reach, w - reach), uniform(reach, h - reach)
    angle, mirror = uniform(0, 2 * math.pi), -1.0 if uniform(0, 1) < 0.5 else 1.0
    c, s = math.cos(angle), math.sin(angle)
    theta = torch.tensor(
        [
            [2 * half / w * c * mirror, -2 * half / w * s, 2 * cx / w - 1],
            [2 * half / h * s * mirror, 2 * half / h * c, 2 * cy / h - 1],
        ]
    )
    grid = F.affine_grid(theta[None], [1, 3, SIDE, SIDE], align_corners=False)
    crop = F.grid_sample(texture[None], grid, mode="bilinear", padding_mode="reflection", align_corners=False)[0]
    tint = torch.tensor(colorsys.hsv_to_rgb(uniform(0, 1), uniform(0, 0.6), 1.0))[:, None, None]
    mean = crop.mean()
    return ((crop - mean) * uniform(0.7, 1.3) + mean + uniform(-0.12, 0.12)).clamp(0, 1) * tint


@dataclass(frozen=True)
class Template:
    """A fixed picture with one varying region; mask is 1 where fixed."""

    caption: str
    picture: Tensor
    mask: Tensor
    pattern: str
    tone: str

    def redrawn(self, generator: torch.Generator) -> Tensor:
        """Another card that obeys the same words."""
        return _card(self.pattern, TONES.index(self.tone), generator)

    def filled(self, filling: Tensor) -> Tensor:
        """The template with its region replaced."""
        return self.picture * self.mask + filling * (1 - self.mask)


PATTERNS = ("striped", "checked", "dotted", "ringed", "wavy", "woven")
WINDOWS = ("round", "left", "upper", "square", "lower", "right")
TONES = ("crimson", "amber", "emerald", "azure", "violet", "rosy")


def make_templates(count: int, generator: torch.Generator) -> list[Template]:
    """`count` (at most 36) templates: a pattern card of two colours with a window of 35-65 % of the area."""
    made = []
    for i in range(count):
        pattern, window = PATTERNS[i % 6], WINDOWS[(i + i // 6) % 6]
        tone = TONES[(2 * i + i // 3) % 6]
        mask = 1 - _window(window, generator)
        picture = _card(pattern, TONES.index(tone), generator)
        article = "an" if tone[0] in "aeiou" else "a"
        made.append(Template(f"{article} {tone} {pattern} card with {window} window", picture, mask[None], pattern, tone))
    return made


def _axes() -> tuple[Tensor, Tensor]:
    axis = (torch.arange(SIDE) + 0.5) / SIDE
    return axis[None, :].expand(SIDE, SIDE), axis[:, None].expand(SIDE, SIDE)


def _window(kind: str, generator: torch.Generator) -> Tensor:
    """1 inside the varying region, aligned to latent pixels so that the mask is exact there too."""
    x, y = _axes()
    area = 0.40 + 0.20 * float(torch.rand((), generator=generator))
    if kind == "round":
        inside = torch.hypot(x - 0.5, y - 0.5) < math.sqrt(area / math.pi)
        return F.interpolate(_latent_cells(inside)[None, None], scale_factor=8.0)[0, 0]
    if kind == "square":
        side = math.sqrt(area)
        inside = torch.maximum((x - 0.5).abs(), (y - 0.5).abs()) < side / 2
    else:
        along = {"left": x, "right": 1 - x, "upper": y, "lower": 1 - y}[kind]
        inside = along < area
    return F.interpolate(_latent_cells(inside)[None, None], scale_factor=8.0)[0, 0]


def _latent_cells(inside: Tensor) -> Tensor:
    return (F.avg_pool2d(inside.float()[None, None], 8)[0, 0] > 0.5).float()


def _card(pattern: str, tone: int, generator: torch.Generator) -> Tensor:
    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    x, y = _axes()
    hue = (0.97, 0.11, 0.38, 0.58, 0.76, 0.90)[tone]
    dark = torch.tensor(colorsys.hsv_to_rgb((hue + uniform(-0.02, 0.02)) % 1, 0.85, uniform(0.45, 0.7)))
    light = torch.tensor(colorsys.hsv_to_rgb((hue + uniform(0.05, 0.15)) % 1, uniform(0.25, 0.5), 0.95))
    turn, k = uniform(0, math.pi), uniform(5, 8) * math.pi
    u, v = math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x
    wave = {
        "striped": lambda: torch.sin(2 * k * u),
        "checked": lambda: torch.sin(k * u) * torch.sin(k * v) * 3,
        "dotted": lambda: torch.cos(2 * k * u) + torch.cos(2 * k * v) - 0.8,
        "ringed": lambda: torch.sin(2 * k * torch.hypot(x - uniform(0.2, 0.8), y - uniform(0.2, 0.8))),
        "wavy": lambda: torch.sin(2 * k * (u + 0.06 * torch.sin(4 * math.pi * v))),
        "woven": lambda: torch.maximum(torch.sin(2 * k * u), torch.sin(2 * k * v)) - 0.5,
    }[pattern]()
    mix = (0.5 + 1.5 * wave).clamp(0, 1)
    shade = 1 - 0.25 * (x * uniform(0, 1) + y * uniform(0, 1))
    return ((dark[:, None, None] * (1 - mix) + light[:, None, None] * mix) * shade).clamp(0, 1)
