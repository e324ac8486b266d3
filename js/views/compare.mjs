/**
 * Two pictures, before and after: the line between them follows the pointer. At rest a wide node shows both whole.
 * @module
 */
import { api } from "../../../scripts/api.js";
import { choice, el, labelled, setOptions, slider } from "../lib/dom.mjs";
import { Plot, write } from "../lib/plot.mjs";
import { clamp } from "../lib/scales.mjs";
import { style } from "../lib/settings.mjs";
import { mostChanged, ofPair, ofPairs } from "../lib/verdict.mjs";
import { panes, wipeLine, within } from "../lib/wipe.mjs";

/** Of the keyboard. */
const STEP = 0.05;
/** From the corner of a picture to its name. */
const INSET = 6;
const SIDES = ["before", "after"];

/** @typedef {import("../lib/wipe.mjs").Box} Box */

class CompareView {
  /** @param {import("../lib/panel.mjs").Place} place */
  constructor(place) {
    this.place = place;
    /** @type {any} */
    this.data = null;
    this.index = 0;
    /** The pictures before and after, as they came. @type {(HTMLImageElement | null)[]} */
    this.images = [null, null];
    /** Where the line was put by hand, as a share of the picture; null: it was not. @type {number | null} */
    this.put = null;
    /** Where the pointer is. @type {{pane: number, share: number} | null} */
    this.under = null;
    this.plot = new Plot("Before and after; arrow keys move the line between them", {
      draw: (paper) => this.draw(paper),
      point: (x, y, pressed) => this.point(x, y, pressed),
      leave: () => this.hover(null),
      step: (dx, dy) => this.move(dx - dy),
    });
    this.line = slider({ min: 0, max: 100, step: 1, value: 50, label: "line between before and after" }, (v) => this.set(v / 100));
    this.picture = choice(["1"], "picture of the batch", (value) => this.chosen(Number(value) - 1));
    this.batch = labelled("picture", this.picture);
    const fields = el("div", { class: "fields" }, labelled("line", this.line, "Left of the line: before. Right of it: after"), this.batch);
    this.element = el("div", { class: "stage compare" }, this.plot.element, fields);
  }

  /** @param {any} data {before, after, differences} of Compare Pictures: of a large batch the first pictures, and all differences */
  show(data) {
    const before = this.data;
    this.data = data;
    const count = Math.max(data.before.length, data.after.length);
    setOptions(
      /** @type {HTMLSelectElement} */ (this.picture),
      Array.from({ length: count }, (_, i) => String(i + 1)),
    );
    /** @type {HTMLElement} */ (this.batch).style.visibility = count > 1 ? "" : "hidden";
    if (data !== before) this.choose(mostChanged(data.differences.slice(0, count)));
    return ofPairs(data.differences, style());
  }

  /** By hand. @param {number} index */
  chosen(index) {
    this.choose(index);
    const { kind, word, text } = ofPair(this.data.differences[index], style());
    this.place.say({ kind, word, text: `picture ${index + 1}: ${text}` });
  }

  /** @param {number} index */
  choose(index) {
    this.index = index;
    /** @type {HTMLSelectElement} */ (this.picture).value = String(index + 1);
    this.images = [null, null];
    SIDES.forEach((name, side) => {
      const several = this.data[name];
      const picture = several[index % several.length]; // one is paired with all
      const image = new Image();
      image.onload = () => {
        if (this.data[name] !== several || this.index !== index) return;
        this.images[side] = image;
        this.plot.redraw();
      };
      image.onerror = () => this.place.say({ kind: "off", word: "gone", text: "the server was restarted: run the workflow again" });
      image.src = api.apiURL(`/view?${new URLSearchParams(picture)}`);
    });
  }

  /** Places of the pictures; none before they came. @returns {Box[]} */
  panes() {
    const [before] = this.images;
    return before ? panes(this.plot.width, this.plot.height, before.naturalWidth / before.naturalHeight) : [];
  }

  /** Where the line of a place stands. Of two places the left one shows what was before, the right one what came after. @param {number} pane */
  from(pane) {
    if (this.under?.pane === pane) return this.under.share;
    if (this.panes().length === 1) return this.put ?? 0.5;
    return pane === 0 ? 1 : (this.put ?? 0);
  }

  /** @param {import("../lib/plot.mjs").Paper} paper */
  draw({ context, vector }) {
    const [before, after] = this.images;
    if (!before || !after) return;
    if (this.put === null && !this.under) this.mark(this.from(this.panes().length - 1));
    context.imageSmoothingQuality = "high";
    this.panes().forEach((box, pane) => {
      const edge = box.left + this.from(pane) * box.width;
      paint(context, before, box, box.left, edge);
      paint(context, after, box, edge, box.left + box.width);
      const room = [edge - box.left, box.left + box.width - edge];
      const at = [box.left + INSET, box.left + box.width - INSET];
      for (const side of [0, 1]) {
        if (room[side] > box.width / 4) write(vector, at[side], box.top + 2.5 * INSET, SIDES[side], side ? "end" : "start");
      }
      if (Math.min(...room) > 0) wipeLine(vector, edge, box.top, box.height);
    });
  }

  /** @param {number} x @param {number} y @param {boolean} pressed */
  point(x, y, pressed) {
    const boxes = this.panes();
    const pane = boxes.findIndex(({ left, width }) => x >= left && x <= left + width);
    if (pane < 0) return this.hover(null);
    const at = clamp((x - boxes[pane].left) / boxes[pane].width, 0, 1);
    if (pressed) this.set(at);
    this.hover({ pane, share: at });
  }

  /** @param {{pane: number, share: number} | null} under */
  hover(under) {
    this.under = under;
    this.plot.redraw();
  }

  /** The slider's thumb. @param {number} at */
  mark(at) {
    /** @type {HTMLInputElement} */ (this.line).value = String(Math.round(100 * at));
  }

  /** @param {number} at */
  set(at) {
    this.put = at;
    this.mark(at);
    this.plot.redraw();
  }

  /** @param {number} steps */
  move(steps) {
    this.under = null;
    this.set(clamp(this.from(this.panes().length - 1) + STEP * steps, 0, 1));
  }
}

/**
 * The part of a picture that lies between two edges.
 * @param {CanvasRenderingContext2D} context @param {HTMLImageElement} image @param {Box} box @param {number} left @param {number} right
 */
function paint(context, image, box, left, right) {
  const place = within({ width: image.naturalWidth, height: image.naturalHeight }, box);
  context.save();
  context.beginPath();
  context.rect(left, box.top, right - left, box.height);
  context.clip();
  context.drawImage(image, place.left, place.top, place.width, place.height);
  context.restore();
}

/** @param {import("../lib/panel.mjs").Place} place @returns {import("../lib/panel.mjs").View} */
export function compareView(place) {
  return new CompareView(place);
}
