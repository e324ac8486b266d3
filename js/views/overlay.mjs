/**
 * A picture and its map: opacity, colours, full heat and a before/after wipe act at once, since the map is here and nothing runs again.
 * @module
 */
import { api } from "../../../scripts/api.js";
import { COLOUR_MAPS, colourOf, table } from "../lib/colours.mjs";
import { choice, el, labelled, setOptions, slider } from "../lib/dom.mjs";
import { number, share } from "../lib/format.mjs";
import { setWidget, widgetOf } from "../lib/graph.mjs";
import { Plot, line, write } from "../lib/plot.mjs";
import { clamp, enlarged, linear } from "../lib/scales.mjs";
import { colourMap, style } from "../lib/settings.mjs";
import { wipeLine } from "../lib/wipe.mjs";

/** Longer side of what is painted; more is not seen in a node. */
const MOST_PIXELS = 512;
/** Room for the colour bar at the right, and the bar itself. */
const ASIDE = 54;
const BAR = 10;

/**
 * @typedef {{width: number, height: number, low: number, high: number, levels: number, top: number, cells: number[]}} MapData
 * @typedef {{image: HTMLImageElement, pixels: ImageData, heat: Float32Array | null}} Loaded
 */

/** Value of a cell; null outside the region. @param {MapData} map @param {number} x @param {number} y */
export function valueAt(map, x, y) {
  const cell = map.cells[y * map.width + x];
  return cell === undefined || cell < 0 ? null : map.low + (cell / map.levels) * (map.high - map.low);
}

/** Heat from 0 to 1 of every cell. @param {MapData} map @param {number} top */
export function heats(map, top) {
  return map.cells.map((cell) =>
    cell < 0 ? 0 : clamp((map.low + (cell / map.levels) * (map.high - map.low)) / Math.max(top, 1e-12), 0, 1),
  );
}

/**
 * Paint heat over pixels, as unmemorize/pictures/heatmap.py does; left of `from` the picture stays bare.
 * @param {ImageData} bare @param {ImageData} into @param {Float32Array} heat
 * @param {{colours: string, opacity: number, from: number}} look
 */
export function paint(bare, into, heat, { colours, opacity, from }) {
  const lookup = table(colours);
  const edge = Math.round(from * bare.width);
  into.data.set(bare.data);
  for (let i = 0; i < heat.length; i++) {
    const alpha = opacity * heat[i];
    if (!alpha || i % bare.width < edge) continue;
    const at = 3 * Math.round(255 * heat[i]);
    for (let c = 0; c < 3; c++) into.data[4 * i + c] = bare.data[4 * i + c] + (lookup[at + c] - bare.data[4 * i + c]) * alpha;
  }
}

class OverlayView {
  /** @param {import("../lib/panel.mjs").Place} place */
  constructor(place) {
    this.node = place.node;
    /** @type {any} */
    this.data = null;
    this.index = 0;
    this.look = { colours: "ember", opacity: 0.85, from: 0 };
    /** Colour map of the node or the setting, whichever counted the last time. @type {string | null} */
    this.wanted = null;
    /** Full heat, as a share of the node's own. */
    this.full = 1;
    /** @type {[number, number] | null} */
    this.cell = null;
    /** @type {Loaded | null} */
    this.loaded = null;
    this.plot = new Plot("The picture with its map; arrow keys read values", {
      draw: (paper) => this.draw(paper),
      point: (x, y, pressed) => this.point(x, y, pressed),
      leave: () => this.read(null),
      step: (dx, dy) => this.move(dx, dy),
    });
    this.element = el("div", { class: "stage overlay" }, this.plot.element, this.plot.readout, this.controls());
  }

  controls() {
    this.colours = choice(Object.keys(COLOUR_MAPS), "colour map", (name) => this.change({ colours: name }));
    this.opacity = slider({ min: 0, max: 1, step: 0.01, value: 0.85, label: "opacity" }, (opacity) => this.change({ opacity }));
    this.heat = slider({ min: -2, max: 2, step: 0.02, value: 0, label: "full heat" }, (power) => this.scale(2 ** power));
    this.wipe = slider({ min: 0, max: 100, step: 1, value: 0, label: "wipe: before and after" }, (from) =>
      this.change({ from: from / 100 }),
    );
    this.picture = choice(["1"], "picture of the batch", (value) => this.choose(Number(value) - 1));
    this.batch = labelled("picture", this.picture);
    const keep = el("button", { class: "keep", text: "Use in node", title: "Write these colours into the node's own widgets" });
    keep.addEventListener("click", () => this.keep());
    return el(
      "div",
      { class: "fields" },
      labelled("colours", this.colours),
      labelled("opacity", this.opacity),
      labelled("full heat", this.heat, "Right: only the hottest spots stay hot"),
      labelled("wipe", this.wipe, "Left of the line: the picture without the map. Drag on the picture, too"),
      this.batch,
      keep,
    );
  }

  /** @param {any} data {pictures, maps, colour_map, opacity} of Heatmap Overlay */
  show(data) {
    const before = this.data;
    this.data = data;
    // a new result brings the node's own look only if that was changed there: what was set by hand here stays
    const wanted = colourMap(data.colour_map);
    if (wanted !== this.wanted) this.look.colours = wanted;
    this.wanted = wanted;
    if (!before || before.opacity !== data.opacity) this.look.opacity = data.opacity;
    /** @type {HTMLSelectElement} */ (this.colours).value = this.look.colours;
    /** @type {HTMLInputElement} */ (this.opacity).value = String(this.look.opacity);
    const count = data.maps.length;
    setOptions(
      /** @type {HTMLSelectElement} */ (this.picture),
      data.maps.map((/** @type {unknown} */ _, /** @type {number} */ i) => String(i + 1)),
    );
    /** @type {HTMLElement} */ (this.batch).style.visibility = count > 1 ? "" : "hidden";
    const index = Math.min(this.index, count - 1);
    // the share was of another full heat
    if (before?.maps[index]?.top !== data.maps[index].top) {
      this.full = 1;
      /** @type {HTMLInputElement} */ (this.heat).value = "0";
    }
    this.choose(index);
    return null;
  }

  /** @returns {MapData} */
  map() {
    return this.data.maps[this.index];
  }

  /** @param {number} index */
  choose(index) {
    this.index = index;
    /** @type {HTMLSelectElement} */ (this.picture).value = String(index + 1);
    const picture = this.data.pictures[index];
    const image = new Image();
    image.onload = () => {
      if (this.data.pictures[this.index] !== picture) return;
      this.loaded = this.prepared(image);
      this.plot.redraw();
    };
    image.onerror = () => this.plot.say("The picture is gone (the server was restarted): run the workflow again");
    image.src = api.apiURL(`/view?${new URLSearchParams(picture)}`);
  }

  /** @param {HTMLImageElement} image @returns {Loaded | null} */
  prepared(image) {
    const shrink = Math.min(1, MOST_PIXELS / Math.max(image.naturalWidth, image.naturalHeight));
    const canvas = el("canvas");
    canvas.width = Math.max(1, Math.round(image.naturalWidth * shrink));
    canvas.height = Math.max(1, Math.round(image.naturalHeight * shrink));
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (!context) return null;
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    return { image, pixels: context.getImageData(0, 0, canvas.width, canvas.height), heat: null };
  }

  /** @param {Partial<{colours: string, opacity: number, from: number}>} changed */
  change(changed) {
    Object.assign(this.look, changed);
    this.plot.redraw();
  }

  /** @param {number} full */
  scale(full) {
    this.full = full;
    if (this.loaded) this.loaded.heat = null;
    this.plot.redraw();
  }

  keep() {
    /** @type {[string, unknown][]} */
    const values = [
      ["colour_map", this.look.colours],
      ["opacity", this.look.opacity],
    ];
    if (this.full !== 1) values.push(["full_heat", Number((this.map().top * this.full).toPrecision(3))]);
    for (const [name, value] of values) {
      const widget = widgetOf(this.node, name);
      if (widget) setWidget(this.node, widget, value);
    }
  }

  /** Where the picture lies: [left, top, pixels of the area a pixel of the picture takes]. @returns {[number, number, number]} */
  frame() {
    const { width, height } = /** @type {Loaded} */ (this.loaded).pixels;
    const scale = Math.min((this.plot.width - ASIDE) / width, this.plot.height / height);
    return [(this.plot.width - ASIDE - width * scale) / 2, (this.plot.height - height * scale) / 2, scale];
  }

  /** Which colour is which value, and from where on it counts. @param {import("../lib/plot.mjs").Paper} paper */
  scaleBar({ context, vector, width, height }) {
    const [x, top, bottom] = [width - ASIDE + 8, 12, height - 8];
    const full = this.map().top * this.full;
    const at = linear(0, full, bottom, top);
    for (let y = top; y <= bottom; y++) {
      context.fillStyle = colourOf(this.look.colours, (bottom - y) / (bottom - top));
      context.fillRect(x, y, BAR, 1.5);
    }
    const { limit } = this.data;
    const mark = limit === undefined ? null : Math.max(at(limit), top); // what lies above the bar is marked at its end
    const ends = [0, full].filter((v) => mark === null || Math.abs(at(v) - mark) > 12);
    for (const value of ends) write(vector, x + BAR + 4, at(value) + 3, number(value, { ...style(), digits: 2 }));
    if (mark === null) return;
    line(vector, x - 3, mark, x + BAR + 3, mark, "limit");
    write(vector, x + BAR + 4, mark + 3, `${number(limit, { ...style(), digits: 2 })}${limit > full ? "\u2191" : ""}`);
  }

  /** @param {import("../lib/plot.mjs").Paper} paper */
  draw(paper) {
    if (!this.loaded) return;
    const { context, vector } = paper;
    const { pixels } = this.loaded;
    const map = this.map();
    this.loaded.heat ??= enlarged(heats(map, map.top * this.full), map.width, map.height, pixels.width, pixels.height);
    const canvas = el("canvas");
    Object.assign(canvas, { width: pixels.width, height: pixels.height });
    const painted = new ImageData(pixels.width, pixels.height);
    paint(pixels, painted, this.loaded.heat, this.look);
    canvas.getContext("2d")?.putImageData(painted, 0, 0);
    const [left, top, scale] = this.frame();
    const [width, height] = [pixels.width * scale, pixels.height * scale];
    context.drawImage(canvas, left, top, width, height);
    this.scaleBar(paper);
    wipeLine(vector, left + this.look.from * width, top, height);
    if (!this.cell) return;
    const [x, y] = [left + ((this.cell[0] + 0.5) / map.width) * width, top + ((this.cell[1] + 0.5) / map.height) * height];
    line(vector, x - 6, y, x + 6, y, "cursor");
    line(vector, x, y - 6, x, y + 6, "cursor");
  }

  /** @param {number} x @param {number} y @param {boolean} pressed */
  point(x, y, pressed) {
    if (!this.loaded) return;
    const [left, top, scale] = this.frame();
    const { width, height } = this.loaded.pixels;
    const [u, v] = [(x - left) / (width * scale), (y - top) / (height * scale)];
    if (pressed) {
      this.look.from = clamp(u, 0, 1);
      /** @type {HTMLInputElement} */ (this.wipe).value = String(Math.round(100 * this.look.from));
      this.plot.redraw();
    }
    const map = this.map();
    if (u < 0 || u >= 1 || v < 0 || v >= 1) this.read(null);
    else this.read([Math.floor(u * map.width), Math.floor(v * map.height)]);
  }

  /** @param {number} dx @param {number} dy */
  move(dx, dy) {
    if (!this.loaded) return;
    const map = this.map();
    const [x, y] = this.cell ?? [Math.floor(map.width / 2), Math.floor(map.height / 2)];
    this.read([clamp(x + dx, 0, map.width - 1), clamp(y + dy, 0, map.height - 1)]);
  }

  /** @param {[number, number] | null} cell @returns {void} */
  read(cell) {
    const changed = String(cell) !== String(this.cell);
    this.cell = cell;
    if (changed) this.plot.redraw();
    if (!cell || !this.loaded) return this.plot.say("");
    const map = this.map();
    const value = valueAt(map, ...cell);
    const [x, y] = [
      ((cell[0] + 0.5) / map.width) * this.loaded.image.naturalWidth,
      ((cell[1] + 0.5) / map.height) * this.loaded.image.naturalHeight,
    ];
    const heat =
      value === null
        ? "not measured here"
        : `${number(value, style())}, ${share(clamp(value / (map.top * this.full), 0, 1), style())} of full heat`;
    this.plot.say(`x ${Math.round(x)}, y ${Math.round(y)}: ${heat}`);
  }
}

/** @param {import("../lib/panel.mjs").Place} place @returns {import("../lib/panel.mjs").View} */
export function overlayView(place) {
  return new OverlayView(place);
}
