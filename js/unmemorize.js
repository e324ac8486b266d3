/**
 * Views of the Unmemorize nodes: results in the node, live while it runs, with the report behind a button.
 *
 * ComfyUI imports every .js file of this folder; the parts are .mjs so that only this one starts anything.
 * @module
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { fadeAll, fadeOnEveryGraph, follow, inWords } from "./lib/fading.mjs";
import { openWhole } from "./lib/first_view.mjs";
import { byExecutionId, byLocator, everyNode, feeding } from "./lib/graph.mjs";
import { restore } from "./lib/history.mjs";
import { Panel } from "./lib/panel.mjs";
import { begin, settings } from "./lib/settings.mjs";
import { KINDS } from "./views/kinds.mjs";

/** Message of host/stability/live_view.py. */
const EVENT = "unmemorize.guard";
const CHART = "UnmemorizeStabilityChart";

/** @type {WeakMap<object, Panel>} */
const panels = new WeakMap();

/** @param {any} view */
const ofTheBatch = (view) => ({ ...view, sample: null });

/**
 * Show a result. Stability Guard is done before its sampler starts and has no result of its own: what the chart that reads it shows is its run.
 * @param {any} node @param {any} output @param {boolean} [earlier] of another graph than the one on screen?
 */
function show(node, output, earlier = false) {
  panels.get(node)?.show(output, earlier);
  const guard = node.type === CHART ? feeding(node, "record") : null;
  // the chart looks at one picture; the guard speaks of the batch
  if (guard) panels.get(guard)?.show({ ...output, unmemorize_guard: output?.unmemorize_guard?.map(ofTheBatch) }, earlier);
}

/** @param {any} node */
function addPanel(node) {
  const type = node.comfyClass ?? node.type;
  if (!Object.hasOwn(KINDS, type) || panels.has(node)) return;
  const panel = new Panel(node, type, KINDS[type]);
  panels.set(node, panel);
  const before = node.onExecuted;
  node.onExecuted = /** @this {any} */ function (/** @type {any} */ output) {
    const result = before?.call(this, output);
    show(node, output);
    return result;
  };
}

/** Names say in brackets what people search for, because old front ends search names alone; on the graph the name is enough. @param {any} node */
function shorten(node) {
  const untouched = node.title === node.constructor?.title;
  if (untouched && String(node.comfyClass ?? "").startsWith("Unmemorize")) node.title = String(node.title).replace(/ \([a-z, ]+\)$/, "");
}

/** Settings are reported once before there is a graph. */
let ready = false;

function refreshAll() {
  if (!ready) return;
  for (const node of everyNode()) panels.get(node)?.refresh();
}

/** After a cancel or an error no view goes on watching. */
function stopAll() {
  for (const node of everyNode()) panels.get(node)?.stopped();
}

/** @param {any} message */
function heard({ detail }) {
  const node = detail?.node === undefined ? null : byExecutionId(detail.node);
  if (node) panels.get(node)?.live(detail);
}

/** @type {any} the published types know fewer hooks and setting ids than there are */
const extension = {
  name: "Unmemorize.Views",
  settings: settings(refreshAll),
  aboutPageBadges: [{ label: "Unmemorize 0.1.0", url: "#unmemorize", icon: "pi pi-eye-slash" }],

  setup() {
    ready = true;
    fadeOnEveryGraph();
    api.addEventListener(/** @type {any} */ (EVENT), heard);
    for (const event of ["execution_interrupted", "execution_error"]) api.addEventListener(/** @type {any} */ (event), stopAll);
  },

  /** @param {any} node */
  nodeCreated(node) {
    shorten(node);
    begin(node);
    addPanel(node);
    follow(node);
    if (ready) queueMicrotask(fadeAll); // it is in the graph then
  },

  /** Results that were kept: another tab of the front end, an item of the queue. @param {Record<string, any>} outputs */
  onNodeOutputsUpdated(outputs) {
    for (const [locator, output] of Object.entries(outputs ?? {})) {
      const node = byLocator(locator);
      if (node) show(node, output);
    }
  },

  async afterConfigureGraph() {
    for (const node of everyNode()) {
      shorten(node); // loading gives back the class's own
      inWords(node);
    }
    openWhole();
    fadeAll();
    const bare = (/** @type {any} */ node) => panels.get(node)?.output === null;
    if ([...everyNode()].some(bare)) await restore(show, bare);
  },
};

app.registerExtension(extension);
