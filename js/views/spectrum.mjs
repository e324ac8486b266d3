/**
 * The channels of a LoRA: score against singular value, and what a threshold keeps of them, while it is dragged.
 * @module
 */
import { MARKS, colourOf } from "../lib/colours.mjs";
import { choice, el, labelled, slider, svg } from "../lib/dom.mjs";
import { counted, number, share } from "../lib/format.mjs";
import { setWidget, widgetOf } from "../lib/graph.mjs";
import { feeding, linked } from "../lib/links.mjs";
import { Plot, keys, line, write } from "../lib/plot.mjs";
import { clamp, extent, linear } from "../lib/scales.mjs";
import { style } from "../lib/settings.mjs";

const LEFT = 32;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 16;
/** How near a point must be to be named, in pixels. */
const NEAR = 14;
/** Channels weaker than this share of the strongest stand at the edge: they would leave no room for the others. */
const SMALLEST = 1e-4;
const BY_STATE = "what happens";
const BY_BLOCK = "block";

/** Gates that a threshold decides. */
const THRESHOLDED = ["hard", "soft"];

/**
 * What the hard gate keeps at a threshold: counts and energy of all channels, also of those that are not drawn.
 * @param {{count: number[], energy: number[]}} bins of the scores from -1 to 1
 * @param {number} threshold
 */
export function keptAt(bins, threshold) {
  const first = Math.round(((threshold + 1) * bins.count.length) / 2);
  const sum = (/** @type {number[]} */ list, from = 0) => list.slice(Math.max(0, from)).reduce((a, b) => a + b, 0);
  const energy = sum(bins.energy);
  return { count: sum(bins.count, first), total: sum(bins.count), energy: energy ? sum(bins.energy, first) / energy : 1 };
}

class SpectrumView {
  /** @param {import("../lib/panel.mjs").Place} place */
  constructor(place) {
    this.node = place.node;
    /** @type {any} */
    this.data = null;
    this.by = BY_STATE;
    this.threshold = 0;
    /** @type {number | null} */
    this.point = null;
    /** @type {any} */
    this.watched = null;
    /** Widgets that tell of their changes. @type {WeakSet<object>} */
    this.heard = new WeakSet();
    this.plot = new Plot("Score of each channel or layer against its size", {
      draw: (paper) => this.draw(paper),
      point: (x, y) => this.look(this.nearest(x, y)),
      leave: () => this.look(null),
      step: (dx, dy) => this.move(dx || dy),
    });
    this.slider = slider({ min: -1, max: 1, step: 0.01, value: 0, label: "threshold" }, (value) => this.drag(value));
    this.value = el("span", { class: "value" });
    this.colouring = choice([BY_STATE, BY_BLOCK], "colour by", (by) => this.colour(by));
    this.keys = el("div");
    this.keys.className = "wide";
    this.kept = "";
    const field = labelled("threshold", this.slider, "Writes the threshold of the node that filters");
    field.classList.add("wide");
    field.append(this.value);
    const fields = el("div", { class: "fields" }, field, labelled("colour", this.colouring), this.keys);
    fields.classList.add("few");
    this.element = el("div", { class: "stage spectrum" }, this.plot.element, this.plot.readout, fields);
  }

  /** @param {any} data as views.spectrum_view writes it */
  show(data) {
    this.data = data;
    this.point = null;
    this.order = data.points.sigma.map((/** @type {unknown} */ _, /** @type {number} */ i) => i);
    this.order.sort((/** @type {number} */ a, /** @type {number} */ b) => data.points.sigma[b] - data.points.sigma[a]);
    this.watch();
    const widget = this.target()?.widget;
    this.set(widget ? Number(widget.value) : data.threshold);
    this.slider.disabled = !widget || !this.decides();
    this.colour(this.by);
    return null;
  }

  /** Does a threshold decide what is kept? A layer that is judged as a whole goes or stays by what it is. */
  decides() {
    return THRESHOLDED.includes(this.data.gate) && this.data.unit !== "layer";
  }

  /**
   * The node that filters, and its threshold: this one, or the one that feeds it; null if its widget does not say the threshold.
   * @returns {{node: any, widget: any} | null}
   */
  target() {
    for (const node of [this.node, feeding(this.node, "spectrum")]) {
      const widget = widgetOf(node, "threshold");
      if (node && widget) return linked(node, "threshold") ? null : { node, widget };
    }
    return null;
  }

  /** Hear the widget when it is dragged in its own node. */
  watch() {
    const widget = this.target()?.widget ?? null;
    this.watched = widget;
    if (!widget || this.heard.has(widget)) return;
    this.heard.add(widget);
    const before = widget.callback;
    const hear = () => widget === this.watched && this.set(Number(widget.value));
    widget.callback = /** @this {any} */ function (/** @type {any[]} */ ...given) {
      const result = before?.apply(this, given);
      hear();
      return result;
    };
  }

  /** @param {number} value */
  drag(value) {
    const found = this.target();
    if (found) setWidget(found.node, found.widget, value);
    this.set(found ? value : this.data.threshold); // it may have been connected meanwhile
  }

  /** @param {number} threshold */
  set(threshold) {
    this.threshold = threshold;
    this.slider.value = String(threshold);
    this.value.textContent = threshold.toFixed(2);
    this.tell();
    this.plot.redraw();
  }

  /** @param {string} by */
  colour(by) {
    this.by = by;
    const states = /** @type {const} */ (["kept", "weakened", "removed"]);
    const entries = by === BY_STATE ? states.map((s) => ({ text: s, colour: MARKS[s], square: true })) : [];
    const ends = [
      { text: "first block", colour: colourOf("viridis", 0), square: true },
      { text: "last", colour: colourOf("viridis", 1), square: true },
    ];
    this.keys.replaceChildren(keys(by === BY_STATE ? entries : ends));
    this.plot.redraw();
  }

  /** Does the threshold decide what is kept, and does it differ from the run's? */
  moved() {
    return this.decides() && Math.abs(this.threshold - this.data.threshold) > 1e-6;
  }

  tell() {
    const { data } = this;
    if (!this.decides()) {
      const by = data.unit === "layer" ? "whole layers are judged, by no threshold" : `gate "${data.gate}" does not use the threshold`;
      this.say(`${by}; ${data.removed} of ${counted(data.channels, data.unit)} removed`);
      return;
    }
    const kept = keptAt(data.bins, this.threshold);
    const soft = data.gate === "soft" ? "more than half of " : "";
    const note = this.moved() ? " \u00b7 not run yet" : "";
    this.say(`keeps ${soft}${kept.count} of ${kept.total} channels, ${share(kept.energy, style())} of the energy${note}`);
  }

  /** @param {string} text */
  say(text) {
    this.kept = text;
    if (this.point === null) this.plot.say(text);
  }

  /** @param {number} i @returns {"kept" | "weakened" | "removed"} */
  state(i) {
    const { points } = this.data;
    const kept = this.moved() ? Number(points.margin[i] > this.threshold) : points.kept[i];
    return kept >= 1 - 1e-6 ? "kept" : kept <= 1e-6 ? "removed" : "weakened";
  }

  /** @returns {{x: import("../lib/scales.mjs").Scale, y: import("../lib/scales.mjs").Scale, low: number, high: number, least: number}} */
  scales() {
    const { points } = this.data;
    const [weakest, strongest] = extent(points.sigma);
    const least = Math.max(weakest, strongest * SMALLEST, 1e-12);
    const [low, high] = extent(points.margin);
    const room = 0.04 * (high - low || 1);
    const across = linear(Math.log10(least), Math.log10(Math.max(strongest, least)), LEFT + 4, this.plot.width - RIGHT - 4);
    return {
      least,
      x: (sigma) => across(Math.log10(Math.max(sigma, least))),
      y: linear(low - room, high + room, this.plot.height - BOTTOM, TOP),
      low,
      high,
    };
  }

  /** @param {import("../lib/plot.mjs").Paper} paper */
  draw({ context, vector, width, height }) {
    if (!this.data?.points.sigma.length) return;
    const { points, blocks } = this.data;
    const { x, y, low, high, least } = this.scales();
    for (let i = 0; i < points.sigma.length; i++) {
      const state = this.state(i);
      const colour = this.by === BY_STATE ? MARKS[state] : colourOf("viridis", points.block[i] / Math.max(1, blocks.length - 1));
      mark(context, x(points.sigma[i]), y(points.margin[i]), state, colour);
    }
    line(vector, LEFT, TOP, LEFT, height - BOTTOM);
    line(vector, LEFT, height - BOTTOM, width - RIGHT, height - BOTTOM);
    for (const value of new Set([low, high, low < 0 && high > 0 ? 0 : low]))
      write(vector, LEFT - 4, y(value) + 3, number(value, { ...style(), digits: 2 }), "end");
    const most = extent(points.sigma)[1];
    write(vector, LEFT, height - 4, number(least, style()));
    write(vector, width - RIGHT, height - 4, number(most, style()), "end");
    const across = this.data.unit === "layer" ? "size of the layer's change" : "singular value";
    write(vector, (LEFT + width) / 2, height - 4, across, "middle");
    const at = clamp(this.threshold, low, high);
    if (this.decides()) line(vector, LEFT, y(at), width - RIGHT, y(at), "cursor threshold");
    if (this.point !== null) {
      const place = { cx: x(points.sigma[this.point]), cy: y(points.margin[this.point]), r: 6 };
      vector.append(svg("circle", { ...place, class: "cursor", fill: "none", style: "stroke-width: 2" }));
    }
  }

  /** @param {number} px @param {number} py @returns {number | null} */
  nearest(px, py) {
    if (!this.data?.points.sigma.length) return null;
    const { points } = this.data;
    const { x, y } = this.scales();
    let best = NEAR * NEAR;
    let found = null;
    for (let i = 0; i < points.sigma.length; i++) {
      const far = (x(points.sigma[i]) - px) ** 2 + (y(points.margin[i]) - py) ** 2;
      if (far < best) [best, found] = [far, i];
    }
    return found;
  }

  /** To the next weaker or stronger channel. @param {number} by */
  move(by) {
    if (!this.order?.length) return;
    const at = this.point === null ? -1 : this.order.indexOf(this.point);
    this.look(this.order[clamp(at + by, 0, this.order.length - 1)]);
  }

  /** @param {number | null} point @returns {void} */
  look(point) {
    const changed = point !== this.point;
    this.point = point;
    if (changed) this.plot.redraw();
    if (point === null) return this.plot.say(this.kept);
    const { points, blocks } = this.data;
    const [sigma, score] = [number(points.sigma[point], style()), number(points.score[point], style())];
    const layer = this.data.unit === "layer";
    const what = layer ? `size ${sigma}` : `channel ${points.channel[point] + 1}: singular value ${sigma}`;
    this.plot.say(`${blocks[points.block[point]]} \u00b7 ${what}, score ${score}, ${this.state(point)}`);
  }
}

/**
 * Each state has a shape of its own: dot, ring, cross.
 * @param {CanvasRenderingContext2D} context
 * @param {number} x @param {number} y
 * @param {"kept" | "weakened" | "removed"} state @param {string} colour
 */
function mark(context, x, y, state, colour) {
  context.fillStyle = colour;
  context.strokeStyle = colour;
  context.lineWidth = 1.2;
  context.beginPath();
  if (state === "removed") {
    context.moveTo(x - 2.2, y - 2.2);
    context.lineTo(x + 2.2, y + 2.2);
    context.moveTo(x + 2.2, y - 2.2);
    context.lineTo(x - 2.2, y + 2.2);
    context.stroke();
    return;
  }
  context.arc(x, y, 2.2, 0, 2 * Math.PI);
  if (state === "kept") context.fill();
  else context.stroke();
}

/** @param {import("../lib/panel.mjs").Place} place @returns {import("../lib/panel.mjs").View} */
export function spectrumView(place) {
  return new SpectrumView(place);
}
