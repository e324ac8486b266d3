/**
 * Widgets that do not count are faded and take no input, in the classic canvas and in Nodes 2.0.
 * @module
 */
import { app } from "../../../scripts/app.js";
import { everyNode, widgetOf } from "./graph.mjs";
import { linked, wired } from "./links.mjs";
import { lineOf } from "./menus.mjs";
import { CUSTOM, PRESET, RULES, unused } from "./unused.mjs";

/** Nodes 2.0 of front ends that do not look at `widget.disabled`: a row is told by its place in the node. */
const ROWS = new CSSStyleSheet();

/** @param {any} node */
const typeOf = (node) => node.comfyClass ?? node.type;

/** Disable what does not count in a node. @param {any} node */
function fade(node) {
  const value = (/** @type {string} */ name) => (linked(node, name) ? undefined : widgetOf(node, name)?.value);
  const names = unused(typeOf(node), value, (name) => linked(node, name));
  for (const widget of node.widgets ?? []) widget.disabled = names.has(widget.name);
  return names;
}

/** Say an old workflow's choices in the words of today's menus. @param {any} node */
export function inWords(node) {
  if (!String(typeOf(node) ?? "").startsWith("Unmemorize")) return;
  for (const widget of node.widgets ?? []) widget.value = lineOf(widget.options?.values, widget.value) ?? widget.value;
}

/** After any change: every node of ours, since one rule looks at links. */
export function fadeAll() {
  /** @type {string[]} */
  const rules = [];
  for (const node of /** @type {Iterable<any>} */ (everyNode())) {
    if (!Object.hasOwn(RULES, typeOf(node))) continue;
    const names = fade(node);
    if (node.graph !== app.canvas?.graph) continue; // a node's number is its own within its graph alone
    const shown = node.widgets.filter((/** @type {any} */ w) => !w.hidden && !w.options?.hidden && !w.options?.canvasOnly);
    shown.forEach((/** @type {any} */ widget, /** @type {number} */ i) => {
      const row = `[data-node-id="${CSS.escape(String(node.id))}"] .lg-node-widget:nth-child(${i + 1}):not(:has([data-widget-name]))`;
      // the first child is the dot of its input, which can be linked all the same
      if (names.has(widget.name)) rules.push(`${row} > :not(:first-child) { opacity: 0.45; pointer-events: none; }`);
    });
  }
  ROWS.replaceSync(rules.join("\n"));
  if (!document.adoptedStyleSheets.includes(ROWS)) document.adoptedStyleSheets.push(ROWS);
  app.canvas?.setDirty?.(true, true);
}

/** Subgraphs are entered and left. */
export function fadeOnEveryGraph() {
  app.canvas?.canvas?.addEventListener("litegraph:set-graph", () => queueMicrotask(fadeAll));
}

/** Follow a node's choices and links. @param {any} node */
export function follow(node) {
  if (!Object.hasOwn(RULES, typeOf(node))) return;
  /** @type {Set<string>} */
  const edits = new Set();
  for (const widget of node.widgets ?? []) {
    const before = widget.callback;
    widget.callback = function (/** @type {any[]} */ ...args) {
      const result = before?.apply(this, args);
      if (!edits.size) queueMicrotask(() => edited(node, edits));
      edits.add(widget.name);
      return result;
    };
  }
  const changed = node.onConnectionsChange;
  node.onConnectionsChange = function (/** @type {any[]} */ ...args) {
    const result = changed?.apply(this, args);
    queueMicrotask(fadeAll); // the link is written after the call
    return result;
  };
}

/**
 * What is typed into a preset's value is meant; a program sets several widgets at a time, and what a wire brings is not typed.
 * @param {any} node @param {Set<string>} edits since the last time
 */
function edited(node, edits) {
  const [name, ...others] = edits;
  edits.clear();
  const preset = widgetOf(node, "preset");
  if (preset && !others.length && PRESET.includes(name) && !wired(node, name))
    preset.value = lineOf(preset.options?.values, CUSTOM) ?? CUSTOM;
  fadeAll();
}
