/**
 * A report to read, and to copy as JSON. Shown in a dialog of its own: the node keeps its size.
 * @module
 */
import { el } from "./dom.mjs";
import { counted, plain, words } from "./format.mjs";

/** Longer lists are cut for the eye; the copy has everything. */
const MOST = 60;
const DEEPEST = 4;

/**
 * @param {Record<string, unknown>} facts
 * @param {import("./format.mjs").Style} style
 * @param {number} [depth]
 * @returns {HTMLElement}
 */
export function listing(facts, style, depth = 0) {
  const list = el("dl");
  const entries = Object.entries(facts);
  for (const [key, value] of entries.slice(0, MOST)) {
    list.append(el("dt", { text: words(key) }), el("dd", {}, shown(value, style, depth)));
  }
  if (entries.length > MOST) list.append(el("dt", { text: "..." }), el("dd", { text: `and ${entries.length - MOST} more: copy JSON` }));
  return list;
}

/**
 * @param {unknown} value
 * @param {import("./format.mjs").Style} style
 * @param {number} depth
 * @returns {Node}
 */
function shown(value, style, depth) {
  if (Array.isArray(value)) {
    const more = value.length > MOST ? `, and ${value.length - MOST} more` : "";
    return document.createTextNode(plain(value.slice(0, MOST), style) + more);
  }
  if (value && typeof value === "object" && depth < DEEPEST) {
    const inner = /** @type {Record<string, unknown>} */ (value);
    const count = Object.keys(inner).length;
    if (!count) return document.createTextNode("none");
    const details = el("details", {}, el("summary", { text: counted(count, "entry", "entries") }), listing(inner, style, depth + 1));
    details.open = count <= 4;
    return details;
  }
  return document.createTextNode(plain(value, style));
}

/**
 * Copy a text; where the browser forbids it (no https), lay it out selected.
 * @param {string} text @param {HTMLElement} place @param {HTMLButtonElement} button
 */
async function copy(text, place, button) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    const area = el("textarea", { attrs: { readonly: "", "aria-label": "report as JSON" } });
    area.value = text;
    place.querySelector("textarea")?.remove();
    place.append(area);
    area.focus();
    area.select();
    button.textContent = "Selected: press Ctrl+C";
  }
}

/**
 * @param {string} title
 * @param {unknown[]} reports
 * @param {import("./format.mjs").Style} style
 */
export function reportDialog(title, reports, style) {
  const dialog = el("dialog", { attrs: { "aria-label": `Report of ${title}` } });
  const button = el("button", { class: "copy", text: "Copy JSON", attrs: { type: "button" } });
  const json = JSON.stringify(reports.length === 1 ? reports[0] : reports, null, 1);
  button.addEventListener("click", () => void copy(json, dialog, button));
  const close = el("button", { text: "Close", attrs: { type: "button" }, on: { click: () => dialog.close() } });
  dialog.append(el("div", { class: "bar" }, el("b", { text: title }), button, close));
  for (const report of reports) {
    if (report && typeof report === "object") dialog.append(listing(/** @type {any} */ (report), style));
    else dialog.append(el("p", { text: String(report) }));
  }
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  return dialog;
}
