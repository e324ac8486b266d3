/**
 * An area to draw in: a canvas for many marks and an SVG for axes and text above it, redrawn when its size changes, with one readout for
 * pointer and keyboard.
 * @module
 */
import { el, svg } from "./dom.mjs";

/** Charts are drawn at twice their size: nodes are zoomed. */
const SHARPNESS = 2;

/**
 * @typedef {{context: CanvasRenderingContext2D, vector: SVGSVGElement, width: number, height: number}} Paper
 * @typedef {{
 *   draw: (paper: Paper) => void,
 *   point: (x: number, y: number, pressed: boolean) => void,
 *   leave: () => void,
 *   step: (dx: number, dy: number) => void,
 * }} Hand what a view does with its area; places are in CSS pixels of the area
 */

export class Plot {
  /** @param {string} label @param {Hand} hand */
  constructor(label, hand) {
    this.hand = hand;
    this.canvas = el("canvas");
    this.vector = svg("svg", { "aria-hidden": "true" });
    this.element = el("div", { class: "plot", attrs: { tabindex: 0, role: "img", "aria-label": label } }, this.canvas, this.vector);
    this.readout = el("div", { class: "readout", attrs: { role: "status" } });
    this.width = 0;
    this.height = 0;
    new ResizeObserver(() => this.redraw()).observe(this.element);
    this.listen();
  }

  listen() {
    const at = (/** @type {PointerEvent} */ event) => {
      // the node may be zoomed: the box on screen is not the size of the drawing
      const box = this.element.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * this.width;
      const y = ((event.clientY - box.top) / box.height) * this.height;
      this.hand.point(x, y, event.buttons % 2 === 1);
    };
    this.element.addEventListener("pointermove", at);
    this.element.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.element.setPointerCapture(event.pointerId);
      at(event);
    });
    this.element.addEventListener("pointerleave", () => this.hand.leave());
    this.element.addEventListener("blur", () => this.hand.leave());
    /** @type {Record<string, [number, number]>} */
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    this.element.addEventListener("keydown", (event) => {
      const step = arrows[event.key];
      if (!step) return;
      event.preventDefault();
      this.hand.step(...step);
    });
  }

  redraw() {
    const width = this.element.clientWidth;
    const height = this.element.clientHeight;
    const context = this.canvas.getContext("2d");
    if (!width || !height || !context) return;
    Object.assign(this, { width, height });
    if (this.canvas.width !== width * SHARPNESS || this.canvas.height !== height * SHARPNESS) {
      this.canvas.width = width * SHARPNESS;
      this.canvas.height = height * SHARPNESS;
    }
    context.setTransform(SHARPNESS, 0, 0, SHARPNESS, 0, 0);
    context.clearRect(0, 0, width, height);
    this.vector.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.vector.replaceChildren();
    this.hand.draw({ context, vector: this.vector, width, height });
  }

  /** @param {string} text @param {string} [more] what there is no room for */
  say(text, more) {
    this.readout.textContent = text;
    this.readout.title = more ?? text;
  }
}

/**
 * @param {SVGSVGElement} vector
 * @param {number} x @param {number} y @param {string} text
 * @param {"start" | "middle" | "end"} [anchor]
 */
export function write(vector, x, y, text, anchor = "start") {
  vector.append(svg("text", { x, y, "text-anchor": anchor }, text));
}

/**
 * @param {SVGSVGElement} vector
 * @param {number} x1 @param {number} y1 @param {number} x2 @param {number} y2
 * @param {string} [kind] class
 */
export function line(vector, x1, y1, x2, y2, kind = "axis") {
  vector.append(svg("line", { x1, y1, x2, y2, class: kind }));
}

/**
 * A key to colours: a short stroke or a square, and a word.
 * @param {{text: string, colour: string, dash?: string, square?: boolean}[]} entries
 */
export function keys(entries) {
  return el(
    "div",
    { class: "keys" },
    ...entries.map(({ text, colour, dash, square }) => {
      const sample = svg("svg", { viewBox: "0 0 18 8", "aria-hidden": "true" });
      if (square) sample.append(svg("rect", { x: 5, y: 0, width: 8, height: 8, fill: colour }));
      else sample.append(svg("line", { x1: 0, y1: 4, x2: 18, y2: 4, stroke: colour, "stroke-width": 2, "stroke-dasharray": dash ?? "" }));
      return el("span", {}, sample, el("span", { text }));
    }),
  );
}
