/**
 * A prompt whose words are coloured by how much of a memory hangs on each.
 * @module
 */
import { colourOf } from "../lib/colours.mjs";
import { el } from "../lib/dom.mjs";
import { share } from "../lib/format.mjs";
import { clamp } from "../lib/scales.mjs";
import { colourMap, style } from "../lib/settings.mjs";

/** A word with less is not coloured. */
const LEAST = 0.1;
/** On colours above this the letters are dark. */
const BRIGHT = 0.55;

class WordsView {
  constructor() {
    this.text = el("p", { class: "prompt" });
    this.advice = el("p", { class: "advice" });
    this.element = el("div", { class: "stage words" }, this.text, this.advice);
  }

  /** @param {any} data {pieces, verdict, kind, signal} of host/combined/trigger_words.py */
  show(data) {
    this.text.replaceChildren(...data.pieces.map((/** @type {any} */ piece) => this.piece(piece)));
    this.advice.textContent = data.verdict;
    return null;
  }

  /** @param {{text: string, share: number | null, by?: string}} piece */
  piece(piece) {
    if (piece.share === null || piece.share < LEAST) return el("span", { text: piece.text });
    const value = clamp(piece.share, 0, 1);
    const told = `${share(value, style())} of the signal hangs on it${piece.by ? `; tried in its place: ${piece.by}` : ""}`;
    const word = el("mark", { text: piece.text, title: told });
    word.style.background = colourOf(colourMap("ember"), value);
    word.style.color = value > BRIGHT ? "#111" : "#fff";
    return word;
  }
}

/** @returns {import("../lib/panel.mjs").View} */
export function wordsView() {
  return new WordsView();
}
