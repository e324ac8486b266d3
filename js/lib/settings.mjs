/**
 * The pack's settings, and what they are now.
 * @module
 */
import { app } from "../../../scripts/app.js";
import { COLOUR_MAPS } from "./colours.mjs";

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
  ];
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
