"""A menu that says in words what a choice does, with its symbol behind; a workflow saved with the symbol alone still runs."""

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
