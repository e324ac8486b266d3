/** What needs ComfyUI's front end, with a stand-in for it: a graph of plain objects. */
import assert from "node:assert/strict";
import { register } from "node:module";
import { test } from "node:test";

const APP = "data:text/javascript,export const app = { canvas: { setDirty() {} } }; export const api = { addEventListener() {} };";
const HOOK = `export const resolve = (name, context, next) =>
  /scripts\\/(app|api)\\.js$/.test(name) ? { url: ${JSON.stringify(APP)}, shortCircuit: true } : next(name, context);`;
register(`data:text/javascript,${encodeURIComponent(HOOK)}`);
Object.assign(globalThis, {
  CSSStyleSheet: class {
    replaceSync() {}
  },
  document: { adoptedStyleSheets: [] },
});

/** @type {any} */
const { app } = await import(APP);
const { follow, inWords } = await import("../../js/lib/fading.mjs");
const { Runs } = await import("../../js/lib/runs.mjs");

/** A node whose first input is fed. @param {any} facts @param {any} from */
const fed = (facts, from) => ({
  mode: 0,
  inputs: [{ link: 1 }],
  findInputSlot: () => 0,
  getInputNode: () => from,
  ...facts,
});
const PRESETS = ["best for its cost (recommended)", "as published (paper)", "the five settings below (custom)"];

test("what a wire brings is not typed, even from a value node that is muted or bypassed", async () => {
  for (const mode of [0, 2, 4, null]) {
    const value = { type: "PrimitiveNode", mode, inputs: [], outputs: [{ type: "INT" }] };
    const widgets = [
      { name: "preset", value: PRESETS[0], options: { values: PRESETS } },
      { name: "probes", value: 16, callback: () => {} },
    ];
    const node = fed({ comfyClass: "UnmemorizeCurvatureDifferenceMap", widgets, graph: {} }, value);
    if (mode === null) node.inputs = [{ link: null }];
    app.rootGraph = { nodes: [node] };
    follow(node);
    widgets[1].callback?.(); // as the front end does of every value node before it queues
    await new Promise((done) => setTimeout(done));
    assert.equal(widgets[0].value, mode === null ? PRESETS[2] : PRESETS[0], `mode ${mode}`);
  }
});

test("a folder that is gone stays what the workflow says", () => {
  const widgets = [
    { name: "folder", value: "cats", options: { values: ["none", "photos (cats)"] } },
    { name: "preset", value: "paper", options: { values: PRESETS } },
  ];
  inWords({ comfyClass: "UnmemorizeReferencePictures", widgets });
  assert.deepEqual(
    widgets.map(({ value }) => value),
    ["cats", PRESETS[1]],
  );
});

test("a chart shows its guard's run through a Reroute", () => {
  const guard = { type: "UnmemorizeStabilityGuard", mode: 0 };
  const chart = fed({ type: "UnmemorizeStabilityChart" }, fed({ type: "Reroute" }, guard));
  /** @type {any[]} */
  const shown = [];
  new Runs((node) => /** @type {any} */ ({ show: () => shown.push(node) })).show(chart, { unmemorize_guard: [{}] });
  assert.deepEqual(shown, [chart, guard]);
});
