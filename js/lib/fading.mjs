/**
 * Widgets that do not count are faded and take no input, in the classic canvas and in Nodes 2.0.
 * @module
 */
import { app } from "../../../scripts/app.js";
import { everyNode, widgetOf } from "./graph.mjs";
import { CUSTOM, PRESET, RULES, unused } from "./unused.mjs";

/** Nodes 2.0 of front ends that do not look at `widget.disabled`: a row is told by its place in the node. */
const ROWS = new CSSStyleSheet();

/** @param {any} node */
const typeOf = (node) => node.comfyClass ?? node.type;

/** @param {any} node @param {string} name */
function linked(node, name) {
  const slot = node.findInputSlot?.(name) ?? -1;
  return slot >= 0 && node.inputs[slot].link != null;
}

/** Disable what does not count in a node; a bypassed choice keeps its say. @param {any} node */
function fade(node) {
  const value = (/** @type {string} */ name) => (linked(node, name) ? undefined : widgetOf(node, name)?.value);
  const names = unused(typeOf(node), value, (name) => linked(node, name));
  for (const widget of node.widgets ?? []) widget.disabled = names.has(widget.name);
  return names;
}

/** After any change: every node of ours, since one rule looks at links. */
export function fadeAll() {
  /** @type {string[]} */
  const rules = [];
  for (const node of /** @type {Iterable<any>} */ (everyNode())) {
    if (!Object.hasOwn(RULES, typeOf(node))) continue;
    const names = fade(node);
    const shown = node.widgets.filter((/** @type {any} */ w) => !w.hidden && !w.options?.hidden && !w.options?.canvasOnly);
    shown.forEach((/** @type {any} */ widget, /** @type {number} */ i) => {
      const row = `[data-node-id="${CSS.escape(String(node.id))}"] .lg-node-widget:nth-child(${i + 1}):not(:has([data-widget-name]))`;
      if (names.has(widget.name)) rules.push(`${row} { opacity: 0.45; pointer-events: none; }`);
    });
  }
  ROWS.replaceSync(rules.join("\n"));
  if (!document.adoptedStyleSheets.includes(ROWS)) document.adoptedStyleSheets.push(ROWS);
  app.canvas?.setDirty?.(true, true);
}

/** Follow a node's choices and links. @param {any} node */
export function follow(node) {
  if (!Object.hasOwn(RULES, typeOf(node))) return;
  for (const widget of node.widgets ?? []) {
    const before = widget.callback;
    let last = widget.value;
    widget.callback = function (/** @type {any[]} */ ...args) {
      const result = before?.apply(this, args);
      const preset = widgetOf(node, "preset");
      if (preset && PRESET.includes(widget.name) && widget.value !== last) preset.value = CUSTOM; // what was typed is meant
      last = widget.value;
      fadeAll();
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
