"""A run of the stability guard as a picture: the observed norms against the regions of clean runs."""

from __future__ import annotations

import textwrap
from typing import Any

from PIL import Image, ImageDraw
from torch import Tensor

from .canvas import INK, LINE, PAGE, SOFT, font, tensor_of
from .pages import counted

WIDTH, PANEL, MARGIN = 900, 190, 64
HEAD, GAP, FOOT = 72, 34, 40
BAND, MEAN, RUN, EDIT = "#31506b", "#7fb2dc", "#f2c14e", "#ff8f85"
GAMMA = 3.0
"""Half width of the drawn regions, in standard deviations."""
LINE_LENGTH = 120
"""Characters of a reason in a line."""
PANELS = {
    "update": "length of the update, by radian",
    "prediction": "norm of the predicted picture",
    "revision": "how much less the prompt's prediction is still revised (log ratio)",
    "agreement": "does the prompt ask for the same with the LoRA as without it? (cosine)",
}
OF_THE_LORA = "agreement"
"""The detector that watches nothing but a LoRA."""


def chart(record: dict[str, Any], sample: int) -> Tensor:
    """The chart of one sample of a run as a picture [1, h, w, 3] in [0, 1]; `record` as host.stability writes it."""
    shown = [name for name in PANELS if name in record["observed"] and name in record["regions"]]
    height = HEAD + len(shown) * (PANEL + GAP) + FOOT
    picture = Image.new("RGB", (WIDTH, height), PAGE)
    draw = ImageDraw.Draw(picture)
    _headline(draw, record, sample)
    for k, name in enumerate(shown):
        values = [row[sample] for row in record["observed"][name]]
        edited = _edited(record, sample)
        _panel(draw, HEAD + k * (PANEL + GAP), PANELS[name], values, record["regions"][name], edited)
    draw.text((MARGIN, height - FOOT + 8), "step", fill=SOFT, font=font(14))
    _legend(draw, height - FOOT + 8, bool(_edited(record, sample)))
    return tensor_of(picture)


def verdict(record: dict[str, Any], sample: int) -> str:
    """What the guard found and did, in words."""
    if record["not_judged"][sample]:
        return f"not judged: {record['not_judged'][sample]}"
    words = "memorized" if record["memorized"][sample] else "nothing found"
    if not record["memorized"][sample]:
        words += " of the LoRA" if record["detector"] == OF_THE_LORA else " of the checkpoint" if record.get("unwatched") else ""
    if final(record, sample) == "acquitted":
        words += ": tried without the LoRA's answer, it hardly changed"
    elif final(record, sample):
        words += f", {redrawn(record, sample)}"
    if _edited(record, sample):
        words += f", {counted(len(_edited(record, sample)), 'step')} edited"
    return words


def final(record: dict[str, Any], sample: int) -> str:
    """What the picture that came out is, where it was sampled again: "another", "memorized" still, or "unknown"; "acquitted" where it was
    tried and is as it was (it hardly changes without what a LoRA may remember); "" where it was not."""
    look = record.get("redrawn", {}).get(str(sample))
    if sample not in record["restarted"]:
        return "acquitted" if str(sample) in record.get("acquitted", {}) and not record["memorized"][sample] else ""
    if look is None or look["memorized"] is None:
        return "unknown"
    return "memorized" if look["memorized"] else "another"


def redrawn(record: dict[str, Any], sample: int) -> str:
    """What became of a picture that was sampled again, in words."""
    now = final(record, sample)
    if now == "unknown":
        return "sampled again"
    if record["redrawn"][str(sample)].get("likeness") is not None:
        return "sampled again: still the same picture" if now == "memorized" else "sampled again: another picture"
    return "sampled again: still looks like a memory" if now == "memorized" else "sampled again: clean"


def _edited(record: dict[str, Any], sample: int) -> list[int]:
    return record["edited_steps"].get(str(sample), [])


def _headline(draw: ImageDraw.ImageDraw, record: dict[str, Any], sample: int) -> None:
    unknown = record["not_judged"][sample]
    colour = EDIT if record["memorized"][sample] else RUN if unknown else MEAN
    draw.text((MARGIN, 12), "not judged" if unknown else verdict(record, sample), fill=colour, font=font(22))
    if unknown:
        for k, line in enumerate(textwrap.wrap(unknown, LINE_LENGTH)[:2]):
            draw.text((MARGIN, 38 + 15 * k), line, fill=SOFT, font=font(13))
        return
    limit = "" if record["detector"] == "paper" else f" (memorized from {record['limit']:g})"
    score = record["scores"][sample]
    unit = "" if OF_THE_LORA in record["detector"] else " standard deviations of clean runs"
    shown = "none" if score is None else f"{score:.1f}{unit}{limit}"
    text = f"sample {sample}: score {shown}, detector: {record['detector']}"
    draw.text((MARGIN, 40), text, fill=SOFT, font=font(14))


Values = list[float | None]
"""By step; None where a signal has no value."""


def _panel(draw: ImageDraw.ImageDraw, top: int, title: str, values: Values, region: list[list[float]], edited: list[int]) -> None:
    low = [mean - GAMMA * sd for mean, sd in region]
    high = [mean + GAMMA * sd for mean, sd in region]
    present = [v for v in values if v is not None]
    bottom_value, top_value = min([*low, *present]), max([*high, *present])
    span = max(top_value - bottom_value, 1e-9)
    upper, lower = top + 26, top + PANEL

    def at(step: int, value: float) -> tuple[float, float]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * step / max(len(values) - 1, 1)
        return x, lower - (lower - upper) * (value - bottom_value) / span

    draw.text((MARGIN, top), title, fill=INK, font=font(15))
    outline = [at(i, v) for i, v in enumerate(high)] + [at(i, low[i]) for i in reversed(range(len(low)))]
    if len(values) > 1:
        draw.polygon(outline, fill=BAND)
        draw.line([at(i, mean) for i, (mean, _) in enumerate(region)], fill=MEAN, width=2)
    draw.line([(MARGIN, lower), (WIDTH - MARGIN, lower)], fill=LINE)
    points = [at(i, v) for i, v in enumerate(values) if v is not None]
    if len(points) > 1:
        draw.line(points, fill=RUN, width=3)
    for x, y in points:
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=RUN)
    for step in edited:
        value = values[step]
        x, y = at(step, region[step][0] if value is None else value)
        draw.ellipse((x - 7, y - 7, x + 7, y + 7), outline=EDIT, width=3)
    for value in (bottom_value, top_value):
        draw.text((8, at(0, value)[1] - 8), f"{value:.2g}", fill=SOFT, font=font(13))
    for step in range(0, len(values), max(1, len(values) // 10)):
        draw.text((at(step, bottom_value)[0] - 4, lower + 4), str(step), fill=SOFT, font=font(12))


def _legend(draw: ImageDraw.ImageDraw, y: int, edited: bool) -> None:
    x = MARGIN + 120
    items = [(RUN, "this run"), (MEAN, "mean of clean runs"), (BAND, "where clean runs stay")]
    for colour, text in items + ([(EDIT, "edited")] if edited else []):
        draw.rectangle((x, y + 4, x + 16, y + 14), fill=colour)
        draw.text((x + 22, y), text, fill=SOFT, font=font(14))
        x += 40 + int(draw.textlength(text, font=font(14)))
