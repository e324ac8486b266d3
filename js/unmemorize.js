/**
 * Views of the Unmemorize nodes: results in the node, live while it runs, with the report behind a button.
 *
 * ComfyUI imports every .js file of this folder; the parts are .mjs so that only this one starts anything.
 * @module
 */
import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";
import { byExecutionId, byLocator, everyNode } from "./lib/graph.mjs";
import { restore } from "./lib/history.mjs";
import { Panel } from "./lib/panel.mjs";
import { settings } from "./lib/settings.mjs";
import { KINDS } from "./views/kinds.mjs";

/** Message of host/live.py. */
const EVENT = "unmemorize.guard";

/** @type {WeakMap<object, Panel>} */
const panels = new WeakMap();

/** @param {any} node */
function addPanel(node) {
  const type = node.comfyClass ?? node.type;
  if (!Object.hasOwn(KINDS, type) || panels.has(node)) return;
  const panel = new Panel(node, type, KINDS[type]);
  panels.set(node, panel);
  const before = node.onExecuted;
  node.onExecuted = /** @this {any} */ function (/** @type {any} */ output) {
    const result = before?.call(this, output);
    panel.show(output);
    return result;
  };
}

/** Settings are reported once before there is a graph. */
let ready = false;

function refreshAll() {
  if (!ready) return;
  for (const node of everyNode()) panels.get(node)?.refresh();
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
    api.addEventListener(/** @type {any} */ (EVENT), heard);
  },

  nodeCreated: addPanel,

  /** Results that were kept: another tab of the front end, an item of the queue. @param {Record<string, any>} outputs */
  onNodeOutputsUpdated(outputs) {
    for (const [locator, output] of Object.entries(outputs ?? {})) {
      const node = byLocator(locator);
      if (node) panels.get(node)?.show(output);
    }
  },

  async afterConfigureGraph() {
    const bare = (/** @type {any} */ node) => panels.get(node)?.output === null;
    if ([...everyNode()].some(bare)) await restore((node, output) => panels.get(node)?.show(output), bare);
  },
};

app.registerExtension(extension);
