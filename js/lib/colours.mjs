/**
 * Colour maps and marks that colour-blind readers can tell apart. The maps are the same stops as in unmemorize/pictures/heatmap.py.
 * @module
 */

/** Equally spaced stops, perceptually even. @type {Record<string, string[]>} */
export const COLOUR_MAPS = {
  ember: ["000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06"],
  inferno: ["000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06", "f7d13d", "fcffa4"],
  viridis: ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"],
  cividis: ["00224e", "123570", "3b496c", "575d6d", "707173", "8a8678", "a59c74", "c3b369", "e1cc55", "fee838"],
  gray: ["000000", "ffffff"],
};

/** Marks on a light or dark ground; each also has a shape, a dash or a word of its own. */
export const MARKS = { kept: "#2b8fd0", weakened: "#d9a514", removed: "#e0561f", edited: "#e0561f" };

/** Lines of the guard's chart: colour and dash. @type {Record<string, {colour: string, dash: string}>} */
export const LINES = {
  update: { colour: "#2b8fd0", dash: "" },
  prediction: { colour: "#d9a514", dash: "7 3" },
  revision: { colour: "#c774b0", dash: "2 3" },
  agreement: { colour: "#3aa17e", dash: "9 3 2 3" },
};

/** @param {string} hex */
function rgb(hex) {
  return [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

/** @type {Map<string, Uint8ClampedArray>} */
const tables = new Map();

/**
 * 256 colours of a map as r, g, b; an unknown name is shown as viridis.
 * @param {string} name
 * @returns {Uint8ClampedArray}
 */
export function table(name) {
  const known = Object.hasOwn(COLOUR_MAPS, name) ? name : "viridis";
  const ready = tables.get(known);
  if (ready) return ready;
  const stops = COLOUR_MAPS[known].map(rgb);
  const colours = new Uint8ClampedArray(256 * 3);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    for (let c = 0; c < 3; c++) colours[3 * i + c] = stops[low][c] + (stops[low + 1][c] - stops[low][c]) * (place - low);
  }
  tables.set(known, colours);
  return colours;
}

/**
 * CSS colour of a value from 0 to 1.
 * @param {string} name
 * @param {number} value
 */
export function colourOf(name, value) {
  const i = 3 * Math.round(255 * Math.min(1, Math.max(0, value || 0)));
  const colours = table(name);
  return `rgb(${colours[i]}, ${colours[i + 1]}, ${colours[i + 2]})`;
}
