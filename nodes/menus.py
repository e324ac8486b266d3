"""Menus that say in words what a choice does, with the paper's symbol behind; a workflow saved with the symbol alone still runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Menu:
    """The choices of one widget: symbol -> words. The first is the default."""

    name: str
    words: dict[str, str]

    @property
    def options(self) -> list[str]:
        """What the menu shows."""
        return [f"{words} ({symbol})" for symbol, words in self.words.items()]

    def symbol(self, given: str) -> str:
        """Of a menu line; anything else is returned as it is, for the code behind to accept or refuse."""
        return dict(zip(self.options, self.words, strict=True)).get(given, given)

    def complaint(self, given: str | None) -> str:
        """What is wrong with a value, as the person at the graph should read it; "" if nothing. None comes through a link."""
        if given is None or self.symbol(given) in self.words:
            return ""
        return f"{self.name} = {given!r} is none of: {'; '.join(self.options)}. Choose one of these in the menu."


def checked(*given: tuple[Menu, str | None]) -> bool | str:
    """The answer of a node's validate_inputs: ComfyUI compares these no longer with the menu, which old names are not in."""
    return next((said for menu, value in given if (said := menu.complaint(value))), True)


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
