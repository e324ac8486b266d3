/**
 * From numbers to places and back. Pure functions.
 * @module
 */

/**
 * @typedef {(value: number) => number} Scale
 */

/**
 * Linear from [a, b] to [from, to]; an empty domain lands in the middle.
 * @param {number} a @param {number} b @param {number} from @param {number} to
 * @returns {Scale}
 */
export function linear(a, b, from, to) {
  return b === a ? () => (from + to) / 2 : (value) => from + ((value - a) / (b - a)) * (to - from);
}

/**
 * A scale that is even near 0 and logarithmic far from it: the band of clean runs stays readable beside an outlier.
 * @param {number} z
 */
export function squeezed(z) {
  return Math.asinh(z / 2);
}

/**
 * Lowest and highest of the numbers among some values; [0, 1] if there are none.
 * @param {Iterable<number | null>} values
 * @returns {[number, number]}
 */
export function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value === null || !Number.isFinite(value)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return low <= high ? [low, high] : [0, 1];
}

/**
 * Whole numbers from 0 to last, at most `most` of them, evenly spaced.
 * @param {number} last @param {number} most
 */
export function wholeTicks(last, most) {
  const step = Math.max(1, Math.ceil((last + 1) / Math.max(1, most)));
  return Array.from({ length: Math.floor(last / step) + 1 }, (_, i) => i * step);
}

/** @param {number} value @param {number} low @param {number} high */
export function clamp(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

/**
 * Bilinear enlargement as torch does it (align_corners=False).
 * @param {ArrayLike<number>} cells row by row
 * @param {number} width @param {number} height of the cells
 * @param {number} wide @param {number} tall of the result
 */
export function enlarged(cells, width, height, wide, tall) {
  const result = new Float32Array(wide * tall);
  const columns = neighbours(width, wide);
  const rows = neighbours(height, tall);
  for (let y = 0; y < tall; y++) {
    const [top, bottom, v] = rows[y];
    for (let x = 0; x < wide; x++) {
      const [left, right, u] = columns[x];
      const above = cells[top * width + left] * (1 - u) + cells[top * width + right] * u;
      const below = cells[bottom * width + left] * (1 - u) + cells[bottom * width + right] * u;
      result[y * wide + x] = above * (1 - v) + below * v;
    }
  }
  return result;
}

/**
 * @param {number} few @param {number} many
 * @returns {[number, number, number][]} the two cells a pixel lies between, and how near it is to the second
 */
function neighbours(few, many) {
  return Array.from({ length: many }, (_, i) => {
    const place = Math.max(0, ((i + 0.5) * few) / many - 0.5);
    const low = Math.min(Math.floor(place), few - 1);
    return [low, Math.min(low + 1, few - 1), place - low];
  });
}

/**
 * Names without the parts that all share at both ends, as in unmemorize/pictures/neuron_chart.py.
 * @param {string[]} names
 */
export function shortNames(names) {
  if (!names.length) return [];
  const parts = names.map((name) => name.split("."));
  const shortest = Math.min(...parts.map((p) => p.length));
  const alike = (/** @type {(p: string[]) => string} */ pick) => parts.every((p) => pick(p) === pick(parts[0]));
  let begin = 0;
  while (begin < shortest - 1 && alike((p) => p[begin])) begin++;
  let end = 0;
  while (end < shortest - 1 - begin && alike((p) => p[p.length - 1 - end])) end++;
  return parts.map((p) => p.slice(begin, p.length - end).join("."));
}

/**
 * The view that shows a graph that grew as the stored one showed it before.
 * @param {{scale: number, offset: number[]}} view
 * @param {number[]} before left, top, right, bottom of all places @param {number[]} now
 */
export function grown({ scale, offset }, before, now) {
  const growth = (now[2] - now[0]) / Math.max(1, before[2] - before[0]);
  return { scale: scale / growth, offset: [0, 1].map((i) => growth * (before[i] + offset[i]) - now[i]) };
}
