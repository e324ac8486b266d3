/**
 * A guarded run: how far each step lies from clean runs, while it is sampled and after.
 * @module
 */
import { LINES, MARKS } from "../lib/colours.mjs";
import { choice, el, labelled, setOptions, svg } from "../lib/dom.mjs";
import { counted, number, signed } from "../lib/format.mjs";
import { Plot, keys, line, write } from "../lib/plot.mjs";
import { clamp, extent, linear, squeezed, wholeTicks } from "../lib/scales.mjs";
import { style } from "../lib/settings.mjs";
import { ofBatch, ofGuard } from "../lib/verdict.mjs";

const LEFT = 30;
const RIGHT = 8;
const TOP = 18;
const BOTTOM = 16;
const GAMMA = 3;
const MARKED = [3, 10, 30, 100, 300, 1000];
const LABELS = /** @type {Record<string, string>} */ ({
  update: "size of the step",
  prediction: "size of the prediction",
  revision: "how settled",
  agreement: "LoRA's agreement",
});

/** @implements {Partial<import("../lib/panel.mjs").View>} */
class GuardView {
  constructor() {
    /** @type {any} */
    this.data = null;
    this.sample = 0;
    /** @type {number | null} */
    this.at = null;
    this.plot = new Plot("How far each step lies from clean runs, in standard deviations", {
      draw: (paper) => this.draw(paper),
      point: (x) => this.look(this.stepAt(x)),
      leave: () => this.look(null),
      step: (dx) => this.look((this.at ?? -1) + dx),
    });
    this.choice = choice(["1"], "picture of the batch", (value) => this.choose(this.data.numbers.indexOf(Number(value) - 1)));
    this.field = labelled("picture", this.choice);
    this.field.hidden = true;
    this.keys = el("div");
    this.gauge = el("div", { class: "gauge" });
    this.element = el("div", { class: "stage guard" }, this.gauge, this.plot.element, this.plot.readout, this.keys, this.field);
    /** @type {(verdict: import("../lib/verdict.mjs").Verdict) => void} */
    this.say = () => {};
  }

  /** @param {any} data as views.guard_view writes it */
  show(data) {
    this.data = data;
    this.field.hidden = data.kind === "off" || data.numbers.length < 2;
    if (data.kind === "off") {
      this.data = { signals: {}, steps: 0, every: 1 };
      this.gauge.replaceChildren();
      this.keys.replaceChildren();
      this.plot.redraw();
      return ofBatch(data, style());
    }
    setOptions(
      this.choice,
      data.numbers.map((/** @type {number} */ i) => String(i + 1)),
    );
    this.sample = data.sample ?? data.worst;
    this.choice.value = String(data.numbers[this.sample] + 1);
    this.redraw();
    return data.sample === null ? ofBatch(data, style()) : ofGuard(data, style(), data.sample);
  }

  /** @param {any} message of host/stability/live_view.py */
  live(message) {
    if (message.kind === "done") return this.show(message.view);
    if (message.kind === "trial") {
      const which = message.samples.map((/** @type {number} */ i) => i + 1).join(", ");
      return { kind: /** @type {const} */ ("running"), word: "looking closer", text: `trying picture ${which} without the LoRA's answer` };
    }
    if (message.kind === "restart") {
      const which = message.samples.map((/** @type {number} */ i) => i + 1).join(", ");
      return { kind: /** @type {const} */ ("memorized"), word: "memorized", text: `sampling picture ${which} again` };
    }
    this.data = { ...message, every: 1, restarted: [], edited_steps: {} };
    this.field.hidden = true;
    this.sample = this.farthest();
    this.redraw();
    const outside = this.outside().length;
    const compared = Object.keys(message.signals).length > 0; // a LoRA is compared when the run has ended
    const inside = compared ? "all inside the region" : "compared at the end";
    const found = outside ? `${counted(outside, "step")} outside the region` : inside;
    return {
      kind: /** @type {const} */ ("running"),
      word: "watching",
      text: `step ${message.step + 1} of ${message.steps} \u00b7 ${found}`,
    };
  }

  /** @param {number} sample */
  choose(sample) {
    this.sample = sample;
    this.redraw();
    this.say(ofGuard(this.data, style(), sample));
  }

  redraw() {
    const shown = Object.keys(this.data.signals).map((name) => ({ text: LABELS[name] ?? name, ...LINES[name] }));
    const marks = this.edited().length ? [{ text: "edited", colour: MARKS.edited, square: true }] : [];
    this.measure();
    this.keys.replaceChildren(keys([...shown, { text: "clean runs", colour: "#8888", square: true }, ...marks]));
    this.plot.redraw();
    this.look(this.at);
  }

  /** The score against its limit, once there is one. */
  measure() {
    const score = this.data.scores?.[this.sample] ?? null;
    const { limit, detector } = this.data;
    this.gauge.replaceChildren();
    if (score === null || String(detector).startsWith("paper") || !(limit > 0)) return; // the paper's rule looks at every step
    const place = linear(0, Math.max(score, 2 * limit), 0, 100);
    const bar = el("span", { class: "bar" });
    const over = this.data.memorized?.[this.sample] ? "over" : "under";
    bar.append(
      el("i", { class: over, attrs: { style: `width: ${clamp(place(score), 0, 100).toFixed(1)}%` } }),
      el("b", { attrs: { style: `left: ${place(limit).toFixed(1)}%` } }),
    );
    const words = `${number(score, style())}, memorized from ${number(limit, style())}`;
    this.gauge.append(el("span", { text: "score" }), bar, el("span", { text: words }));
  }

  /** @param {string} name @returns {(number | null)[]} */
  values(name) {
    return this.data.signals[name].z.map((/** @type {(number | null)[]} */ row) => row[this.sample] ?? null);
  }

  /** While a batch is sampled: the picture with the most steps outside the region. */
  farthest() {
    const many = Math.max(0, ...Object.values(this.data.signals).map((/** @type {any} */ s) => s.z[0]?.length ?? 0));
    const counts = Array.from({ length: many }, (_, i) => ((this.sample = i), this.outside().length));
    return Math.max(0, counts.indexOf(Math.max(...counts)));
  }

  /** Steps at which a signal lies outside the region. */
  outside() {
    const steps = new Set();
    for (const name of Object.keys(this.data.signals)) {
      this.values(name).forEach((z, i) => z !== null && Math.abs(z) > GAMMA && steps.add(i));
    }
    return [...steps];
  }

  /** @returns {number[]} rows of the data whose step was edited */
  edited() {
    const steps = this.data.edited_steps?.[String(this.sample)] ?? [];
    return steps.map((/** @type {number} */ step) => Math.floor(step / this.data.every));
  }

  rows() {
    return Math.max(1, ...Object.values(this.data.signals).map((/** @type {any} */ s) => s.z.length));
  }

  /** @param {number} width */
  across(width) {
    return linear(0, Math.max(1, this.rows() - 1), LEFT, width - RIGHT);
  }

  /** @param {number} x */
  stepAt(x) {
    return Math.round(linear(LEFT, this.plot.width - RIGHT, 0, this.rows() - 1)(x));
  }

  /** @param {number | null} step */
  look(step) {
    const before = this.at;
    this.at = step === null || !this.data || !Object.keys(this.data.signals).length ? null : clamp(step, 0, this.rows() - 1);
    if (before !== this.at) this.plot.redraw();
    if (this.at === null) this.plot.say("");
    else this.plot.say(...this.told(this.at));
  }

  /** Deviations of a step, and the same with the norms themselves. @param {number} row @returns {[string, string]} */
  told(row) {
    const [short, long] = [/** @type {string[]} */ ([]), /** @type {string[]} */ ([])];
    for (const [name, signal] of Object.entries(this.data.signals)) {
      const z = signal.z[row]?.[this.sample] ?? null;
      short.push(`${LABELS[name] ?? name} ${signed(z, { ...style(), digits: 2 })}`);
      const norm = z === null ? "none" : `${number(signal.mean[row] + z * signal.sd[row], style())}, ${signed(z, style())} sd`;
      long.push(`${LABELS[name] ?? name} ${norm}`);
    }
    const step = `step ${row * this.data.every + 1}`;
    const mark = this.edited().includes(row) ? ", edited" : "";
    return [`${step}: ${short.join(", ")} sd${mark}`, `${step}: ${long.join("; ")}${mark}`];
  }

  /** @param {import("../lib/plot.mjs").Paper} paper */
  draw({ vector, width, height }) {
    if (!this.data || !Object.keys(this.data.signals).length) return;
    const names = Object.keys(this.data.signals);
    const [low, high] = extent(names.flatMap((name) => this.values(name)));
    const bottom = squeezed(Math.min(low, -GAMMA - 1));
    const y = (/** @type {number} */ z) => linear(bottom, squeezed(Math.max(high, GAMMA + 1)), height - BOTTOM, TOP)(squeezed(z));
    const x = this.across(width);
    vector.append(svg("rect", { class: "band", x: LEFT, y: y(GAMMA), width: width - LEFT - RIGHT, height: y(-GAMMA) - y(GAMMA) }));
    line(vector, LEFT, y(0), width - RIGHT, y(0));
    for (const mark of [0, ...MARKED, ...MARKED.map((m) => -m)]) {
      if (mark > Math.max(high, GAMMA) || mark < Math.min(low, -GAMMA)) continue;
      write(vector, LEFT - 4, y(mark) + 3, mark > 0 ? `+${mark}` : String(mark), "end");
    }
    for (const row of wholeTicks(this.rows() - 1, Math.floor(width / 34))) {
      write(vector, x(row), height - 4, String(row * this.data.every + 1), "middle");
    }
    write(vector, 4, TOP - 7, "deviations from clean runs");
    write(vector, width - RIGHT, TOP - 7, "step \u2192", "end");
    for (const name of names) this.trace(vector, name, x, y);
    for (const row of this.edited()) {
      const z = this.values("update" in this.data.signals ? "update" : names[0])[row] ?? 0;
      vector.append(
        svg("circle", { class: "edited", cx: x(row), cy: y(z), r: 5, fill: "none", stroke: MARKS.edited, "stroke-width": 2.5 }),
      );
    }
    if (this.data.restarted?.includes(this.sample)) write(vector, width - RIGHT, TOP + 8, "\u21bb sampled again", "end");
    if (this.at !== null) line(vector, x(this.at), TOP, x(this.at), height - BOTTOM, "cursor");
  }

  /**
   * @param {SVGSVGElement} vector @param {string} name
   * @param {import("../lib/scales.mjs").Scale} x @param {import("../lib/scales.mjs").Scale} y
   */
  trace(vector, name, x, y) {
    const { colour, dash } = LINES[name] ?? LINES.update;
    let path = "";
    let pen = "M";
    this.values(name).forEach((z, i) => {
      if (z !== null) path += `${pen}${x(i).toFixed(1)} ${y(z).toFixed(1)}`;
      pen = z === null ? "M" : "L";
      if (z !== null) vector.append(svg("circle", { cx: x(i), cy: y(z), r: 1.8, fill: colour }));
    });
    vector.append(
      svg("path", { class: `trace ${name}`, d: path || "M0 0", fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash }),
    );
  }
}

/** @param {import("../lib/panel.mjs").Place} place @returns {import("../lib/panel.mjs").View} */
export function guardView(place) {
  const view = new GuardView();
  view.say = place.say;
  return view;
}
