/** Whose result is it, and what is fed: the rules of js/ that need no browser. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { feeding, linked, wired as hasWire } from "../../js/lib/links.mjs";
import { came, originOf } from "../../js/lib/origins.mjs";
import { Run, STOPPED, UNREACHED, UNUSED, filledIn, stillTrue } from "../../js/lib/run.mjs";
import { readers } from "../../js/lib/same_run.mjs";

const GUARD = "UnmemorizeStabilityGuard";
const PROMPT = {
  1: { class_type: "Load", inputs: { name: "a" } },
  2: { class_type: GUARD, inputs: { model: ["1", 0] } },
  3: { class_type: "CFGGuider", inputs: { model: ["2", 0], cfg: 3 } },
  4: { class_type: "SamplerCustomAdvanced", inputs: { guider: ["3", 0], seed: 5 } },
  5: { class_type: "SaveImage", inputs: { images: ["4", 0], name: "x" } },
  6: { class_type: "UnmemorizeCopyCheck", inputs: { images: ["4", 0], limit: 0.5 } },
};
const now = (/** @type {any} */ prompt, loose = new Set()) => ({ prompt, loose });
const changed = (/** @type {string} */ id, /** @type {string} */ name, /** @type {any} */ value) => {
  /** @type {any} */
  const other = structuredClone(PROMPT);
  other[id].inputs[name] = value;
  return other;
};

test("a result is known again: as it came, behind a proxy, and as a copy", () => {
  const result = { unmemorize_report: [{ verdict: "clean" }], images: [{ filename: "a.png" }] };
  came(result, "run", "3:7");
  const origin = { prompt: "run", id: "3:7" };
  assert.deepEqual(originOf(result), origin);
  assert.deepEqual(originOf({ __v_raw: result }), origin);
  assert.deepEqual(originOf({ ...structuredClone(result), images: [] }), origin, "pictures may be edited");
  assert.equal(originOf({ unmemorize_report: [{ verdict: "memorized" }] }), null);
  for (const nothing of [null, undefined, {}, { images: [] }]) assert.equal(originOf(nothing), null);
  came(null, "run", "1"); // a cached node without a result
});

test("the same words of two runs are the later one's, but each result stays its own", () => {
  const [first, second] = [{ unmemorize_report: ["twice"] }, { unmemorize_report: ["twice"] }];
  came(first, "one", "1");
  came(second, "two", "1");
  assert.deepEqual([originOf(first)?.prompt, originOf(second)?.prompt], ["one", "two"]);
  assert.equal(originOf(structuredClone(first))?.prompt, "two");
});

test("a message is its own, and no other's", () => {
  const [message, other] = [{ kind: "done" }, { kind: "done" }];
  came(message, "run", "2");
  assert.equal(originOf(message)?.prompt, "run");
  assert.equal(originOf(other), null);
});

test("a guard's verdict hangs on the sampler behind it, another node's on what stands before it", () => {
  assert.deepEqual(readers(PROMPT, "2"), ["3", "4"]);
  assert.ok(stillTrue(PROMPT, now(structuredClone(PROMPT)), "2"));
  assert.ok(!stillTrue(PROMPT, now(changed("4", "seed", 6)), "2"));
  assert.ok(stillTrue(PROMPT, now(changed("4", "seed", 6), new Set(["4:seed"])), "2"));
  assert.ok(stillTrue(PROMPT, now(changed("5", "name", "y")), "2"));
  assert.ok(stillTrue(PROMPT, now(changed("6", "limit", 1)), "5"));
  assert.ok(!stillTrue(PROMPT, now(changed("1", "name", "b")), "6"));
});

test("what the server filled in is no difference; another wire is", () => {
  assert.deepEqual([...filledIn(changed("4", "seed", 9), PROMPT)], ["4:seed"]);
  assert.deepEqual([...filledIn(changed("4", "guider", ["1", 0]), PROMPT)], []);
  assert.deepEqual([...filledIn(PROMPT, structuredClone(PROMPT))], []);
});

test("at the end of a run every node says what it has of it", () => {
  const run = () => Object.assign(new Run("run"), { prompt: PROMPT });
  assert.equal(run().without("6", true), UNREACHED, "blocked, or not asked for");
  assert.equal(run().without("6", false), UNREACHED, "the run broke before it");
  const broken = run();
  broken.begun.add("6");
  assert.equal(broken.without("6", false), STOPPED);
  assert.equal(broken.without("6", true), UNREACHED, "a node that is blocked begins all the same");
  const told = run();
  told.shown.add("6");
  told.judged.add("2");
  assert.deepEqual([told.without("6", false), told.without("2", true)], [null, null]);
  const cached = run();
  for (const id of ["2", "6"]) cached.cached.add(id);
  assert.equal(cached.without("6", true), null, "what it shows still holds");
  assert.equal(cached.without("2", false), STOPPED, "its sampler ran anew");
  assert.equal(cached.without("2", true), UNUSED);
  for (const id of ["3", "4"]) cached.cached.add(id);
  assert.equal(cached.without("2", true), null);
  assert.equal(new Run("run").without("6", true), null, "the prompt is not known");
});

test("a wire from a muted node feeds nothing, one through a bypassed node what that is given", () => {
  const source = { mode: 0, inputs: [], outputs: [{ type: "CLIP" }] };
  /** @param {any} from @param {string} type @param {number} [output] */
  const wired = (from, type, output = 0) => ({
    mode: 0,
    inputs: [
      { name: "model", type: "MODEL", link: null },
      { name: "clip", type, link: from ? 1 : null },
    ],
    outputs: [{ type: "MODEL" }, { type }],
    findInputSlot: (/** @type {string} */ name) => ["model", "clip"].indexOf(name),
    getInputNode: () => from,
    getInputLink: () => ({ origin_slot: output }),
  });
  const of = (/** @type {any} */ from, output = 0) => linked(wired(from, "CLIP", output), "clip");
  assert.ok(of(source));
  assert.ok(!of({ ...source, mode: 2 }) && !of({ ...source, mode: 4 }));
  const loader = (/** @type {any} */ from) => ({ ...wired(from, "CLIP"), mode: 4 });
  assert.ok(of(loader(source), 1), "a bypassed LoRA loader hands the CLIP on");
  assert.ok(!of(loader(null), 1) && !of(loader({ ...source, mode: 2 }), 1));
  const reroute = (/** @type {any} */ from) => ({ ...wired(from, "*"), type: "Reroute", inputs: [{ link: from ? 1 : null }] });
  assert.ok(of(reroute(source)) && !of(reroute({ ...source, mode: 2 })) && !of(reroute(null)));
  assert.ok(!linked(wired(source, "CLIP"), "model") && !linked(wired(source, "CLIP"), "none") && !linked({}, "clip"));
  const inSubgraph = { ...wired(source, "CLIP"), getInputNode: () => null };
  assert.ok(linked(inSubgraph, "clip"), "an input of the subgraph");
  const circle = loader(null);
  circle.inputs[1].link = 1;
  circle.getInputNode = () => circle;
  assert.ok(!of(circle, 1));

  const from = (/** @type {any} */ node, output = 0) => feeding(wired(node, "CLIP", output), "clip");
  assert.equal(from(source), source);
  assert.equal(from(reroute(reroute(source))), source, "the node before its Reroutes");
  assert.equal(from(loader(source), 1), source);
  assert.deepEqual(
    [from({ ...source, mode: 2 }), from(reroute(null)), feeding(inSubgraph, "clip"), feeding({}, "clip")],
    Array(4).fill(null),
  );
  assert.ok(hasWire(wired({ ...source, mode: 2 }, "CLIP"), "clip"), "what is muted hangs on it all the same");
  assert.ok(!hasWire(wired(null, "CLIP"), "clip") && !hasWire(wired(source, "CLIP"), "none") && !hasWire({}, "clip"));
});
