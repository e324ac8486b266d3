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
import { byExecutionId, byLocator, everyNode } from "./lib/graph.mjs";
import { restore } from "./lib/history.mjs";
import { Panel } from "./lib/panel.mjs";
import { Runs } from "./lib/runs.mjs";
import { begin, settings } from "./lib/settings.mjs";
import { KINDS } from "./views/kinds.mjs";

/** Message of host/stability/live_view.py. */
const EVENT = "unmemorize.guard";
/** Of a node that an ExecutionBlocker with a message kept from running: the run goes on. */
const BLOCKED = "ExecutionBlocked";

/** @type {WeakMap<object, Panel>} */
const panels = new WeakMap();

const runs = new Runs((node) => panels.get(node));

/** @param {any} node */
function addPanel(node) {
  const type = node.comfyClass ?? node.type;
  if (!Object.hasOwn(KINDS, type) || panels.has(node)) return;
  const panel = new Panel(node, type, KINDS[type]);
  panel.widget.beforeQueued = () => runs.queued(node);
  panels.set(node, panel);
  const before = node.onExecuted;
  node.onExecuted = /** @this {any} */ function (/** @type {any} */ output) {
    const result = before?.call(this, output);
    runs.result(node, output);
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
  // some front ends tell of a change before it can be read
  queueMicrotask(() => [...everyNode()].forEach((node) => panels.get(node)?.refresh()));
}

function seatAll() {
  for (const node of everyNode()) if (node.graph === app.canvas?.graph) panels.get(node)?.seat(); // a node's number is its graph's
}

/** After a cancel or an error no view goes on watching. @param {any} event */
function stopped({ detail }) {
  if (detail?.exception_type === BLOCKED) return;
  for (const node of everyNode()) panels.get(node)?.stopped();
  void runs.ended(detail?.prompt_id, false);
}

/** @type {Record<string, (event: any) => void>} */
const LISTENERS = {
  [EVENT]: ({ detail }) => void (detail?.node !== undefined && runs.live(detail)),
  execution_start: ({ detail }) => void runs.at(detail.prompt_id),
  execution_cached: ({ detail }) => detail.nodes.forEach((/** @type {string} */ id) => runs.at(detail.prompt_id).cached.add(String(id))),
  executing: ({ detail }) => void (detail && runs.run?.begun.add(String(detail))),
  executed: ({ detail }) => runs.executed(detail),
  execution_success: ({ detail }) => void runs.ended(detail.prompt_id, true),
  status: ({ detail }) => void (detail?.exec_info?.queue_remaining === 0 && runs.idle()),
  execution_interrupted: stopped,
  execution_error: stopped,
  graphChanged: () => {
    fadeAll(); // nodes are muted and bypassed
    runs.compareSoon();
  },
};

/** @type {any} the published types know fewer hooks and setting ids than there are */
const extension = {
  name: "Unmemorize.Views",
  settings: settings(refreshAll),
  aboutPageBadges: [{ label: "Unmemorize 0.1.0", url: "#unmemorize", icon: "pi pi-eye-slash" }],

  setup() {
    ready = true;
    fadeOnEveryGraph();
    for (const [event, listener] of Object.entries(LISTENERS)) api.addEventListener(/** @type {any} */ (event), listener);
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
    const found = Object.entries(outputs ?? {}).map(([id, output]) => [byLocator(id) ?? byExecutionId(id), output]);
    runs.kept(/** @type {[any, any][]} */ (found.filter(([node]) => node)));
  },

  afterConfigureGraph() {
    for (const node of everyNode()) {
      shorten(node); // loading gives back the class's own
      inWords(node);
    }
    openWhole();
    fadeAll();
    runs.look();
    requestAnimationFrame(seatAll);
    const bare = (/** @type {any} */ node) => panels.get(node)?.source === null;
    // not awaited: some front ends wait for this before they say which tab the graph is in
    if ([...everyNode()].some(bare)) void restore((...result) => runs.show(...result), bare).catch(console.warn);
  },
};

app.registerExtension(extension);
