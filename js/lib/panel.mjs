/**
 * The widget in a node: badge and numbers above, a view below, the report behind a button.
 *
 * A DOM widget, because only those are drawn by the classic canvas and by Nodes 2.0 alike. It is part of neither the prompt nor the saved
 * workflow: what is looked at must not change what is computed.
 * @module
 */
import { el } from "./dom.mjs";
import { originOf } from "./origins.mjs";
import { reportDialog } from "./report.mjs";
import { STOPPED } from "./run.mjs";
import { style } from "./settings.mjs";
import { hidePreviews, sheet } from "./sheet.mjs";
import { SIGNS, gravest, ofReport } from "./verdict.mjs";

/** ComfyUI's own preview of a node's pictures on the classic canvas. */
const STOCK_PREVIEW = "$$canvas-image-preview";
/** Around the widget, in pixels. */
const MARGIN = 6;
const HEAD = 30;
/** A verdict belongs to the graph on screen. @type {Verdict} */
const EARLIER = { kind: "off", word: "earlier run", text: "of other words or settings than these: run again for a verdict" };

/**
 * @typedef {import("./graph.mjs").LGraphNode} LGraphNode
 * @typedef {import("./verdict.mjs").Verdict} Verdict
 * @typedef {{
 *   element: HTMLElement,
 *   show: (data: any) => Verdict | null,
 *   live?: (message: any) => Verdict | null,
 * }} View shows a result; its verdict replaces the report's
 * @typedef {{node: LGraphNode, say: (verdict: Verdict) => void}} Place
 * @typedef {{addDOMWidget: (name: string, type: string, element: HTMLElement, options: object) => Widget}} Holder the published types leave
 *   this method of nodes out
 * @typedef {{serialize?: boolean, beforeQueued?: () => void}} Widget
 * @typedef {{key: string, height: number, hint: string, make: (place: Place) => View, replaces?: boolean}} Kind `replaces`: the view
 *   shows all that the node's own preview picture shows
 */

/**
 * The same picture twice would make the node twice as tall: ComfyUI's own preview stays out of sight. The pictures are still the node's, for
 * its menu, the queue and the API.
 * @param {any} node
 */
function hidePreview(node) {
  node.hideOutputImages = true; // Nodes 2.0, in front ends that know it; for the others:
  hidePreviews();
  const add = node.addCustomWidget;
  node.addCustomWidget = function (/** @type {any} */ widget) {
    if (widget?.name === STOCK_PREVIEW) {
      const size = { minHeight: 0, maxHeight: 0, minWidth: 0 };
      Object.assign(widget, { hidden: true, computeLayoutSize: () => size });
    }
    return add.call(this, widget);
  };
}

export class Panel {
  /** @param {LGraphNode} node @param {string} type @param {Kind | null} kind */
  constructor(node, type, kind) {
    this.node = node;
    this.type = type;
    this.kind = kind;
    /** @type {any} */
    this.output = null;
    /** The result or message that the verdict was found in; null: there is no verdict. @type {any} */
    this.source = null;
    /** What it says, if it is of the graph on screen. @type {Verdict | null} */
    this.found = null;
    /** Is what is shown another graph's? */
    this.earlier = false;
    this.running = false;
    this.badge = el("span", { class: "badge", text: "\u2013", attrs: { "data-kind": "off" } });
    this.summary = el("span", { class: "summary", text: "not run yet" });
    this.button = el("button", { class: "report", text: "Report", attrs: { type: "button", disabled: "" } });
    this.button.addEventListener("click", () => this.openReport());
    this.view = kind ? kind.make({ node, say: (verdict) => this.say(verdict) }) : null;
    this.empty = kind ? el("div", { class: "empty", text: kind.hint }) : null;
    this.stage = kind ? el("div", { class: "stage" }, this.empty) : null;
    const { host, widget } = this.mount();
    this.host = host;
    this.widget = widget;
    if (kind?.replaces) hidePreview(node);
  }

  mount() {
    // widget-expands: Nodes 2.0 then gives it the node's free height, as the classic canvas does
    const host = el("div", { class: this.kind ? "unmemorize-view widget-expands" : "unmemorize-view" });
    host.classList.toggle("replaces", this.kind?.replaces ?? false);
    const height = (this.kind?.height ?? 0) + HEAD;
    host.style.setProperty("--unmemorize-height", `${height}px`);
    this.shadow = host.attachShadow({ mode: "open" });
    this.shadow.adoptedStyleSheets = [sheet()];
    const head = el("div", { class: "head" }, this.badge, this.summary, this.button);
    const panel = el("section", { class: "panel", attrs: { "aria-label": "Unmemorize result" } }, head, this.stage);
    this.shadow.append(panel);
    // keys, drags and wheels within are ours: they must not delete, move or zoom the node
    for (const event of ["keydown", "keyup", "copy", "pointerdown", "mousedown", "dblclick", "wheel"]) {
      this.shadow.addEventListener(event, (e) => this.keep(/** @type {any} */ (e)));
    }
    const holder = /** @type {LGraphNode & Holder} */ (this.node);
    const widget = holder.addDOMWidget("unmemorize_view", "unmemorize_view", host, {
      serialize: false,
      hideOnZoom: false,
      margin: MARGIN,
      getMinHeight: () => height + 2 * MARGIN,
      ...(this.kind ? {} : { getMaxHeight: () => height + 2 * MARGIN }),
    });
    widget.serialize = false;
    return { host, widget };
  }

  /** Nodes 2.0 of some front ends goes on showing the element of the node that undo has replaced. */
  seat() {
    const shown = document.querySelector(`[data-node-id="${CSS.escape(String(this.node.id))}"] .unmemorize-view`);
    if (shown && !this.host.isConnected) shown.replaceWith(this.host);
  }

  /** @param {KeyboardEvent & PointerEvent} event */
  keep(event) {
    const inside = /** @type {Element} */ (event.composedPath()[0]);
    const shortcut = event.type.startsWith("key") && (event.ctrlKey || event.metaKey) && !inside.closest?.("dialog");
    const ours = event.type === "wheel" ? ".cards, .words, dialog" : "input, select, button, textarea, dialog, a, .cards, .plot";
    if (!shortcut && inside.closest?.(ours)) event.stopPropagation();
  }

  /** @param {Verdict} found */
  say(found) {
    this.found = found;
    const earlier = this.earlier && found.kind !== "running";
    const verdict = earlier ? EARLIER : found;
    // gauges and verdicts of single pictures are hidden too
    this.host.toggleAttribute("data-earlier", earlier || this.source === null);
    this.badge.dataset.kind = verdict.kind;
    this.badge.textContent = `${SIGNS[verdict.kind]} ${verdict.word}`;
    this.summary.textContent = verdict.text;
    this.summary.title = verdict.text;
  }

  /**
   * A result of this node.
   * @param {any} output as the server sent it: lists by name @param {boolean} [earlier] of another graph?
   * @param {any} [source] the result of another node that it is part of
   */
  show(output, earlier = false, source = output) {
    const reports = output?.unmemorize_report;
    const seen = (this.kind && output?.[this.kind.key]) || [];
    if (output === this.output || !(Array.isArray(reports) || seen.length)) return;
    this.take(output, source, earlier);
    this.running = false;
    this.button.disabled = !Array.isArray(reports);
    if (this.empty && !seen.length) this.stage?.replaceChildren(this.empty); // no drawing of another run stands under this report
    // a node that is given a list runs once for each of it, and the server joins what they show
    const runs = Math.max(seen.length, reports?.length ?? 0, 1);
    const verdicts = Array.from({ length: runs }, (_, run) => this.verdictOf(seen[run], reports?.[run]));
    const { run, alike } = gravest(verdicts);
    if (run !== runs - 1) this.verdictOf(seen[run], reports?.[run]); // the one that is told of is the one that is shown
    const of = runs > 1 ? `${alike} of ${runs} runs \u00b7 ` : "";
    this.say({ ...verdicts[run], text: `${of}${verdicts[run].text}` });
  }

  /** @param {any} output @param {any} source @param {boolean} earlier */
  take(output, source, earlier) {
    this.output = output;
    this.source = source;
    this.earlier = earlier;
    this.button.disabled = true;
  }

  /** Shows a run. @param {any} data for the view @param {any} report @returns {Verdict} */
  verdictOf(data, report) {
    const verdict = data && this.view ? this.reveal().show(data) : null;
    return verdict ?? ofReport(this.type, report, style());
  }

  /** A message while the node runs: what was found before is no longer told of. @param {any} message */
  live(message) {
    if (!this.view?.live) return;
    this.take(null, message, false);
    const verdict = this.reveal().live?.(message);
    if (!verdict) return;
    this.running = message.kind !== "done";
    this.say(verdict);
  }

  /** The run was cancelled, or broke: nothing will follow what was seen live. */
  stopped() {
    if (this.running) this.without(STOPPED);
  }

  /** A run has no verdict of this node, and those of other runs are not its. @param {Verdict} why */
  without(why) {
    this.take(null, null, false);
    this.running = false;
    this.say(why);
  }

  /** Does it show a result of the graph on screen, as far as is known? */
  holds() {
    return this.source !== null && !this.earlier;
  }

  /** Where its verdict came from, if there is one and it is known. */
  origin() {
    return this.running ? null : originOf(this.source);
  }

  /** It became known whether its result is still that of the graph. @param {boolean} earlier */
  mark(earlier) {
    if (this.earlier === earlier || !this.found) return;
    this.earlier = earlier;
    this.say(this.found);
  }

  /** Draw again: a setting was changed. */
  refresh() {
    const { output, earlier, source } = this;
    this.output = null;
    if (output) this.show(output, earlier, source);
  }

  /** @returns {View} */
  reveal() {
    const view = /** @type {View} */ (this.view);
    if (!view.element.isConnected || view.element.parentNode !== this.stage) this.stage?.replaceChildren(view.element);
    return view;
  }

  openReport() {
    const dialog = reportDialog(this.node.title || this.type, this.output?.unmemorize_report ?? [], style());
    this.shadow?.append(dialog);
    dialog.showModal();
  }
}
