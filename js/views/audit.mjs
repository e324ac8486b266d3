/**
 * An audit as a gallery: a card a prompt with its pictures, sorted by what is asked for.
 * @module
 */
import { api } from "../../../scripts/api.js";
import { choice, el, labelled } from "../lib/dom.mjs";
import { number } from "../lib/format.mjs";
import { style } from "../lib/settings.mjs";
import { isFound, ofAudit } from "../lib/verdict.mjs";

/** What a card says in numbers: key of a row -> words. @type {Record<string, string>} */
const NUMBERS = {
  agreement: "agreement",
  beyond: "beyond others'",
  guard_score: "guard score",
  map_score: "map score",
  likeness: "likeness",
};
const FIRST = "most suspicious";

/** @typedef {Record<string, any> & {prompt: string, verdict: string, fine: boolean, picture: string | null}} Row */

/**
 * Rows in another order; what has no number comes last, and rows that are equal stay as they were.
 * @param {Row[]} rows the most suspicious first @param {string} by words of a number, "prompt", or anything else: as they are
 * @returns {Row[]}
 */
export function ordered(rows, by) {
  if (by === "prompt") return [...rows].sort((a, b) => a.prompt.localeCompare(b.prompt));
  const key = Object.keys(NUMBERS).find((k) => NUMBERS[k] === by);
  if (!key) return rows;
  const value = (/** @type {Row} */ row) => (Number.isFinite(row[key]) ? row[key] : -Infinity);
  return [...rows].sort((a, b) => (value(a) === value(b) ? 0 : value(b) - value(a)));
}

class AuditView {
  constructor() {
    /** @type {{folder: string, pictures: string, count: number, rows: Row[]} | null} */
    this.data = null;
    this.order = choice([FIRST, ...Object.values(NUMBERS), "prompt"], "order of the prompts", () => this.fill());
    this.link = el("a", { text: "Page", title: "The whole report as one HTML page", attrs: { target: "_blank", rel: "noopener" } });
    this.cards = el("div", { class: "cards", attrs: { tabindex: "0", role: "list", "aria-label": "audited prompts" } });
    this.element = el("div", { class: "stage audit" }, el("div", { class: "bar" }, labelled("order", this.order), this.link), this.cards);
  }

  /** @param {any} data of host/combined/audit.py gallery */
  show(data) {
    this.data = data;
    this.link.href = this.url(data.folder, "index.html");
    this.fill();
    return ofAudit(data);
  }

  fill() {
    const data = this.data;
    if (!data) return;
    const more = data.count - data.rows.length;
    this.cards.replaceChildren(...ordered(data.rows, this.order.value).map((row) => this.card(row, data.pictures)));
    if (more > 0) this.cards.append(el("p", { text: `and ${more} less suspicious ones: see the page` }));
    this.cards.scrollTop = 0;
  }

  /** @param {Row} row @param {string} folder */
  card(row, folder) {
    const known = Object.entries(NUMBERS).filter(([key]) => Number.isFinite(row[key]));
    const numbers = known.map(([key, word]) => `${word} ${number(row[key], style())}`).join(" \u00b7 ");
    const attrs = { src: row.picture ? this.url(folder, row.picture) : "", alt: `pictures of: ${row.prompt}`, loading: "lazy" };
    return el(
      "div",
      { class: "card", attrs: { role: "listitem" } },
      row.picture ? el("img", { attrs }) : null,
      el("b", { text: row.prompt, title: row.prompt }),
      el("span", { class: row.fine ? "fine" : isFound(row) ? "look" : "open", text: row.verdict }),
      el("span", { class: "numbers", text: numbers }),
    );
  }

  /** @param {string} subfolder @param {string} filename */
  url(subfolder, filename) {
    return api.apiURL(`/view?${new URLSearchParams({ type: "output", subfolder, filename })}`);
  }
}

/** @returns {import("../lib/panel.mjs").View} */
export function auditView() {
  return new AuditView();
}
