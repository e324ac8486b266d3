/**
 * The pack's settings, and what they are now.
 * @module
 */
import { app } from "../../../scripts/app.js";
import { COLOUR_MAPS } from "./colours.mjs";

const FALSE_ALARMS = "Unmemorize.FalseAlarms";
export const AS_NODE = "as in the node";

/**
 * @param {() => void} changed
 * @returns {any[]} for registerExtension
 */
export function settings(changed) {
  const common = { versionAdded: "0.1.0", onChange: changed };
  return [
    {
      ...common,
      id: "Unmemorize.ColourMap",
      category: ["Unmemorize", "Views", "ColourMap"],
      name: "Colour map of new results",
      tooltip: "All are safe for colour-blind readers. Changes only what nodes show, never what they compute.",
      type: "combo",
      options: [AS_NODE, ...Object.keys(COLOUR_MAPS)],
      defaultValue: AS_NODE,
    },
    {
      ...common,
      id: "Unmemorize.Shares",
      category: ["Unmemorize", "Views", "Shares"],
      name: "Shares and areas",
      tooltip: "12.5 % or 0.125.",
      type: "combo",
      options: ["percent", "fraction"],
      defaultValue: "percent",
    },
    {
      ...common,
      id: "Unmemorize.Digits",
      category: ["Unmemorize", "Views", "Digits"],
      name: "Significant digits",
      tooltip: "Of numbers in nodes and reports. Copied JSON keeps all.",
      type: "slider",
      attrs: { min: 2, max: 6, step: 1 },
      defaultValue: 3,
    },
    {
      ...common,
      id: FALSE_ALARMS,
      category: ["Unmemorize", "Verdicts", "FalseAlarms"],
      name: "False alarms of new Copy Check nodes",
      tooltip: "Share of honest pictures that may be called copies. Nodes that are in a graph already keep theirs.",
      type: "number",
      attrs: { min: 0.0001, max: 0.5, step: 0.001 },
      defaultValue: 0.02,
    },
  ];
}

/** A node that was just created, before a workflow gives it saved values: what the user's settings begin it with. @param {any} node */
export function begin(node) {
  const widget = node.comfyClass === "UnmemorizeCopyCheck" && node.widgets?.find((/** @type {any} */ w) => w.name === "false_alarms");
  const wanted = Number(get(FALSE_ALARMS, 0.02));
  if (widget && wanted >= 0.0001 && wanted <= 0.5) widget.value = wanted;
}

/** @param {string} id @param {any} otherwise */
function get(id, otherwise) {
  /** @type {any} */
  const manager = app.extensionManager;
  return manager?.setting?.get(id) ?? otherwise;
}

/** @returns {import("./format.mjs").Style} */
export function style() {
  const digits = Math.min(6, Math.max(2, Math.round(Number(get("Unmemorize.Digits", 3))) || 3));
  return { digits, shares: get("Unmemorize.Shares", "percent") === "fraction" ? "fraction" : "percent" };
}

/**
 * The chosen colour map, or what the node itself says.
 * @param {string} ofNode
 * @returns {string}
 */
export function colourMap(ofNode) {
  const chosen = get("Unmemorize.ColourMap", AS_NODE);
  return Object.hasOwn(COLOUR_MAPS, chosen) ? chosen : ofNode;
}
