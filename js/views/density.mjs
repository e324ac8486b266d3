/**
 * A table of numbers as colours: layers down, noise levels across. For neuron masks, and for their overlap.
 * @module
 */
import { colourOf } from "../lib/colours.mjs";
import { el, svg } from "../lib/dom.mjs";
import { number, share } from "../lib/format.mjs";
import { Plot, write } from "../lib/plot.mjs";
import { clamp, extent, shortNames } from "../lib/scales.mjs";
import { colourMap, style } from "../lib/settings.mjs";

const TOP = 16;
const BOTTOM = 4;
const GAP = 1;
/** Rows lower than this are named only now and then. */
const READABLE = 11;
const LETTER = 5.6;

class DensityView {
  constructor() {
    /** @type {any} */
    this.data = null;
    /** @type {[number, number] | null} */
    this.cell = null;
    this.plot = new Plot("Map of layers and noise levels", {
      draw: (paper) => this.draw(paper),
      point: (x, y) => this.look(this.cellAt(x, y)),
      leave: () => this.look(null),
      step: (dx, dy) => this.move(dx, dy),
    });
    this.scale = el("div", { class: "keys" });
    this.element = el("div", { class: "stage density" }, this.plot.element, this.plot.readout, this.scale);
  }

  /** @param {any} data {title, layers, columns, cells, most} of unmemorize/pictures/views.py */
  show(data) {
    this.data = data;
    this.cell = null;
    this.short = shortNames(data.layers);
    this.most = data.most ?? (extent(data.cells.flat())[1] || 1);
    this.legend();
    this.plot.redraw();
    return null;
  }

  legend() {
    const bar = svg("svg", { viewBox: "0 0 60 8", "aria-hidden": "true", style: "width: 60px" });
    for (let i = 0; i < 30; i++)
      bar.append(svg("rect", { x: 2 * i, y: 0, width: 2, height: 8, fill: colourOf(colourMap("viridis"), i / 29) }));
    this.scale.replaceChildren(
      el("span", { text: "0" }),
      el("span", {}, bar),
      el("span", { text: `${this.told(this.most)} \u00b7 ${this.data.title}` }),
    );
  }

  /** @param {number | null} value */
  told(value) {
    return this.data.most === null ? share(value, style()) : number(value, style());
  }

  /** Room for the names of the layers. */
  left() {
    const longest = Math.max(...(this.short ?? []).map((name) => name.length), 4);
    return Math.min(longest * LETTER + 8, this.plot.width * 0.42);
  }

  /** @returns {{wide: number, tall: number, left: number}} */
  size() {
    const left = this.left();
    return {
      left,
      wide: (this.plot.width - left - 2) / this.data.columns.length,
      tall: (this.plot.height - TOP - BOTTOM) / Math.max(1, this.data.layers.length),
    };
  }

  /** @param {import("../lib/plot.mjs").Paper} paper */
  draw({ context, vector }) {
    if (!this.data?.layers.length) return;
    const { wide, tall, left } = this.size();
    const colours = colourMap("viridis");
    const gap = tall > 4 ? GAP : 0;
    this.data.cells.forEach((/** @type {(number | null)[]} */ row, /** @type {number} */ i) => {
      row.forEach((value, k) => {
        context.fillStyle = value === null ? "#8884" : colourOf(colours, value / (this.most ?? 1));
        // the first column stands for all levels together: a gap sets it apart
        context.fillRect(left + k * wide + (k ? 2 : 0), TOP + i * tall, wide - GAP - (k ? 0 : 2), tall - gap);
      });
    });
    const every = Math.max(1, Math.ceil(READABLE / tall));
    const letters = Math.max(3, Math.floor((left - 6) / LETTER));
    this.short?.forEach((name, i) => {
      if (i % every) return;
      const text = name.length > letters ? `\u2026${name.slice(1 - letters)}` : name;
      write(vector, left - 4, TOP + (i + 0.5) * tall + 3.5, text, "end");
    });
    const spread = Math.max(1, Math.ceil(30 / wide));
    this.data.columns.forEach((/** @type {string} */ name, /** @type {number} */ k) => {
      if (k % spread === 0 || k === 1) write(vector, left + (k + 0.5) * wide, TOP - 5, name, "middle");
    });
    if (this.cell) {
      const [k, i] = this.cell;
      const box = { x: left + k * wide, y: TOP + i * tall, width: wide - GAP, height: Math.max(2, tall - gap) };
      vector.append(svg("rect", { ...box, class: "cursor", fill: "none", style: "stroke-width: 2" }));
    }
  }

  /** @param {number} x @param {number} y @returns {[number, number] | null} */
  cellAt(x, y) {
    if (!this.data?.layers.length) return null;
    const { wide, tall, left } = this.size();
    const [k, i] = [Math.floor((x - left) / wide), Math.floor((y - TOP) / tall)];
    return k >= 0 && k < this.data.columns.length && i >= 0 && i < this.data.layers.length ? [k, i] : null;
  }

  /** @param {number} dx @param {number} dy */
  move(dx, dy) {
    if (!this.data?.layers.length) return;
    const [k, i] = this.cell ?? [0, 0];
    this.look([clamp(k + dx, 0, this.data.columns.length - 1), clamp(i + dy, 0, this.data.layers.length - 1)]);
  }

  /** @param {[number, number] | null} cell @returns {void} */
  look(cell) {
    const changed = String(cell) !== String(this.cell);
    this.cell = cell;
    if (changed) this.plot.redraw();
    if (!cell) return this.plot.say("");
    const [k, i] = cell;
    const value = this.told(this.data.cells[i][k] ?? null);
    const where = k ? `, noise level ${this.data.columns[k]}` : "";
    // the value first: names of layers are long
    this.plot.say(`${value} \u00b7 ${this.short?.[i]}${where}`, `${this.data.layers[i]}${where}: ${value}`);
  }
}

/** @returns {import("../lib/panel.mjs").View} */
export function densityView() {
  return new DensityView();
}
