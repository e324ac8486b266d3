/**
 * Before and after in one place: the line between them, and where two pictures go.
 * @module
 */
import { svg } from "./dom.mjs";
import { line } from "./plot.mjs";

/** Half of the handle. */
const HANDLE = 7;
/** Between two pictures. */
const GAP = 8;
/** So much wider than one picture an area must be to show both beside each other. */
const ROOMY = 1.6;

/**
 * The line between before and after, with a handle that asks to be dragged.
 * @param {SVGSVGElement} vector @param {number} edge @param {number} top @param {number} height
 */
export function wipeLine(vector, edge, top, height) {
  line(vector, edge, top, edge, top + height, "wipe");
  const middle = top + height / 2;
  vector.append(svg("circle", { cx: edge, cy: middle, r: HANDLE, class: "handle" }));
  for (const side of [-1, 1]) {
    const tip = edge + side * (HANDLE - 2);
    vector.append(svg("path", { d: `M ${tip} ${middle} l ${-3 * side} -3 v 6 z`, class: "arrow" }));
  }
}

/** @typedef {{left: number, top: number, width: number, height: number}} Box */

/**
 * Places for pictures of a shape in an area: one in the middle, or two beside each other where the area is wide.
 * @param {number} width @param {number} height of the area @param {number} aspect width of a picture over its height
 * @returns {Box[]}
 */
export function panes(width, height, aspect) {
  const alone = Math.min(width, height * aspect);
  const count = width >= ROOMY * alone ? 2 : 1;
  const wide = Math.min((width - GAP * (count - 1)) / count, height * aspect);
  const left = (width - count * wide - GAP * (count - 1)) / 2;
  return Array.from({ length: count }, (_, i) => ({
    left: left + i * (wide + GAP),
    top: (height - wide / aspect) / 2,
    width: wide,
    height: wide / aspect,
  }));
}

/**
 * The largest place of a picture's shape within another.
 * @param {{width: number, height: number}} picture @param {Box} box
 * @returns {Box}
 */
export function within(picture, box) {
  const scale = Math.min(box.width / picture.width, box.height / picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  return { left: box.left + (box.width - width) / 2, top: box.top + (box.height - height) / 2, width, height };
}
