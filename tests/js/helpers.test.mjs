/** The helpers of js/ that need no browser: `node --test tests/js`. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { COLOUR_MAPS, colourOf, table } from "../../js/lib/colours.mjs";
import { PLAIN, counted, number, plain, share, signed, words } from "../../js/lib/format.mjs";
import { clamp, enlarged, extent, grown, linear, shortNames, squeezed, wholeTicks } from "../../js/lib/scales.mjs";
import { lineOf, symbolOf } from "../../js/lib/menus.mjs";
import { sameRun } from "../../js/lib/same_run.mjs";
import { RULES, unused } from "../../js/lib/unused.mjs";
import { gravest, ofAudit, ofBatch, ofGuard, ofReport } from "../../js/lib/verdict.mjs";
import { panes, within } from "../../js/lib/wipe.mjs";

const HOSTILE = "<img src=x onerror=alert(1)>";

test("colour maps end where their stops end, and are even between", () => {
  for (const [name, stops] of Object.entries(COLOUR_MAPS)) {
    const hex = (/** @type {number} */ i) => [...table(name).slice(3 * i, 3 * i + 3)].map((c) => c.toString(16).padStart(2, "0")).join("");
    assert.equal(hex(0), stops[0]);
    assert.equal(hex(255), stops.at(-1));
  }
  assert.equal(colourOf("gray", 0.5), "rgb(128, 128, 128)");
  assert.equal(colourOf("no such map", 2), colourOf("viridis", 1));
});

test("numbers keep their digits", () => {
  assert.equal(number(0.123456), "0.123");
  assert.equal(number(1234567.8), "1.23e+6");
  assert.equal(number(-0.00001234), "-1.23e-5");
  assert.equal(number(42), "42");
  assert.equal(number(null), "none");
  assert.equal(number(NaN), "none");
  assert.equal(signed(3.14159), "+3.14");
  assert.equal(share(0.1234), "12.3 %");
  assert.equal(share(0.1234, { ...PLAIN, shares: "fraction" }), "0.123");
  assert.deepEqual([counted(1, "step"), counted(0, "step")], ["1 step", "0 steps"]);
  assert.deepEqual([counted(1, "entry", "entries"), counted(2, "entry", "entries")], ["1 entry", "2 entries"]);
  assert.equal(words("energy_removed"), "energy removed");
});

test("what comes from files stays a string", () => {
  assert.equal(plain(HOSTILE), HOSTILE);
  assert.equal(plain([HOSTILE, null, true]), `${HOSTILE}, none, yes`);
  assert.equal(plain([[1, 0.5], []]), "[1, 0.5], [none]");
  assert.match(ofReport("UnmemorizeSaveFilteredLoRA", { saved: HOSTILE }, PLAIN).text, /^saved as <img/);
});

test("scales", () => {
  assert.equal(linear(0, 10, 100, 200)(5), 150);
  assert.equal(linear(3, 3, 0, 8)(3), 4);
  assert.deepEqual(extent([null, 2, -1, NaN]), [-1, 2]);
  assert.deepEqual(extent([]), [0, 1]);
  assert.deepEqual(wholeTicks(9, 5), [0, 2, 4, 6, 8]);
  assert.equal(squeezed(0), 0);
  assert.ok(squeezed(100) < 5 && squeezed(-3) === -squeezed(3));
  assert.equal(clamp(5, 0, 1), 1);
});

test("enlarging is torch's bilinear without aligned corners", () => {
  assert.deepEqual([...enlarged([0, 1], 2, 1, 4, 1)], [0, 0.25, 0.75, 1]);
  assert.deepEqual([...enlarged([0, 2, 4, 6], 2, 2, 1, 1)], [3]);
});

test("names lose what all of them share", () => {
  assert.deepEqual(shortNames(["a.b.1.ff", "a.b.2.ff"]), ["1", "2"]);
  assert.deepEqual(shortNames(["only.one"]), ["one"]);
  assert.deepEqual(shortNames([]), []);
});

test("the guard's badge", () => {
  const view = {
    kind: "done",
    detector: "default",
    limit: 3,
    memorized: [false, true],
    scores: [0.2, 7.1],
    verdicts: ["nothing found", "memorized, sampled again"],
  };
  assert.equal(ofGuard(view, PLAIN, 0).kind, "clean");
  const found = ofGuard(view, PLAIN, 1);
  assert.equal(found.kind, "memorized");
  assert.equal(found.text, "sampled again \u00b7 score 7.1, limit 3");
  assert.equal(ofGuard({ kind: "off" }, PLAIN, 0).kind, "off");
  assert.equal(ofGuard({ kind: "off", verdict: "not judged: no step was sampled" }, PLAIN, 0).kind, "unclear");
});

test("a batch is what its worst picture is", () => {
  const view = {
    ...{ kind: "done", detector: "default", limit: 3, numbers: [0, 17], worst: 1, memorized: [false, true], scores: [0.2, 7.1] },
    ...{ verdicts: ["nothing found", "memorized"], outcomes: { clean: 18, redrawn: 0, "not judged": 1, memorized: 1 } },
  };
  const { kind, word, text } = ofBatch(view, PLAIN);
  assert.deepEqual([kind, word, text], ["memorized", "memorized", "1 memorized, 1 not judged, 18 clean of 20 pictures"]);
  const one = { ...view, worst: 0, outcomes: { clean: 1, redrawn: 0, "not judged": 0, memorized: 0 } };
  assert.equal(ofBatch(one, PLAIN).text, ofGuard(one, PLAIN, 0).text);
  assert.equal(ofBatch({ kind: "off" }, PLAIN).kind, "off");
});

test("of several runs the gravest is told of", () => {
  const of = (/** @type {any[]} */ ...kinds) => gravest(kinds.map((kind) => ({ kind, word: "", text: "" })));
  assert.deepEqual(of("clean", "memorized", "memorized"), { run: 1, alike: 2 });
  assert.deepEqual(of("clean", "unclear", "note"), { run: 1, alike: 1 });
  assert.deepEqual(of("clean"), { run: 0, alike: 1 });
});

test("after a correction the badge speaks of the picture that came out, and of a LoRA only where it was watched", () => {
  const view = (/** @type {string} */ final, more = {}) => ({
    ...{ kind: "done", detector: "default", limit: 3, memorized: [true], scores: [7.1], verdicts: ["memorized, sampled again"] },
    ...{ final: [final], ...more },
  });
  assert.deepEqual([ofGuard(view("another"), PLAIN, 0).kind, ofGuard(view("another"), PLAIN, 0).word], ["note", "redrawn"]);
  const tried = { memorized: [false], verdicts: ["nothing found: tried without the LoRA's answer, it hardly changed"] };
  assert.equal(ofGuard(view("acquitted", tried), PLAIN, 0).word, "clean");
  assert.deepEqual([ofGuard(view("memorized"), PLAIN, 0).kind, ofGuard(view("memorized"), PLAIN, 0).word], ["memorized", "still a memory"]);
  assert.equal(ofGuard(view("unknown"), PLAIN, 0).kind, "unclear");
  assert.equal(ofGuard(view(""), PLAIN, 0).word, "memorized");
  const clean = { memorized: [false], verdicts: ["nothing found of the checkpoint"], unwatched: true };
  assert.equal(ofGuard(view("", clean), PLAIN, 0).word, "checkpoint clean");
  assert.equal(ofGuard(view("", { ...clean, unwatched: false }), PLAIN, 0).word, "clean");
});

test("a run that could not be judged is never called clean", () => {
  const view = {
    kind: "done",
    detector: "none",
    limit: 3,
    memorized: [false, false],
    judged: [false, true],
    scores: [null, 0.4],
    verdicts: ["not judged: The run begins at noise level 0.2.", "nothing found"],
  };
  const found = ofGuard(view, PLAIN, 0);
  assert.deepEqual([found.kind, found.word, found.text], ["unclear", "not judged", "The run begins at noise level 0.2."]);
  assert.equal(ofGuard(view, PLAIN, 1).kind, "clean");
});

test("a threshold's badge says only what the calibration allows", () => {
  const badge = (/** @type {string} */ verdict, threshold = "calibrated", type = "UnmemorizeMapThreshold") =>
    ofReport(type, { threshold, areas: [0.034, 0.01], quantile: 0.995, verdict }, PLAIN);
  for (const kind of ["clean", "unclear", "memorized"]) assert.equal(badge(kind).kind, kind);
  assert.equal(badge("clean").text, "3.4 % hot, clean pictures 0.5 %");
  for (const word of ["of another version", "constructor", "running"]) assert.equal(badge(word).kind, "unclear");
  assert.equal(badge("memorized", "uncalibrated (Otsu)").kind, "uncalibrated");
  assert.equal(badge("memorized", "calibrated", "UnmemorizeHeatmapOverlay").kind, "memorized");
  assert.equal(ofReport("UnmemorizeCurvatureDifferenceMap", { scores: [0.1, 0.4] }, PLAIN).kind, "uncalibrated");
});

test("copies, and what cannot be told from one", () => {
  const of = (/** @type {any} */ facts) =>
    ofReport("UnmemorizeCopyCheck", { verdict: "words", threshold: 0.5, rejected: [], pictures: [], ...facts }, PLAIN);
  assert.deepEqual(
    [of({ rejected: [2] }).kind, of({ rejected: [2] }).word, of({ rejected: [0, 2] }).word],
    ["memorized", "copy", "copies"],
  );
  assert.equal(of({ pictures: [{ copy: false }] }).kind, "clean");
  assert.equal(of({ pictures: [{ copy: false }, { copy: null }] }).kind, "unclear", "one that could not be judged is not called clean");
  assert.equal(of({ threshold: null, pictures: [{ copy: null }] }).kind, "uncalibrated");
});

test("a check and an audit say what they found, and nothing where they could not", () => {
  const check = (/** @type {boolean | null} */ memorized) =>
    ofReport("UnmemorizeMemorizationCheck", { memorized, verdict: "memorized: why" }, PLAIN);
  assert.deepEqual([check(true).kind, check(false).kind, check(null).kind, check(true).text], ["memorized", "clean", "unclear", "why"]);
});

test("an audit's badge counts all prompts, also those that are not shown", () => {
  const audit = (/** @type {Record<string, number>} */ counts) => {
    const count = Object.values(counts).reduce((sum, one) => sum + one, 0);
    const { kind, word } = ofAudit({ summary: "s", count, counts, rows: [{ verdict: "nothing found", fine: true }] });
    return [kind, word];
  };
  assert.deepEqual(audit({ "nothing found": 9 }), ["clean", "nothing found"]);
  assert.deepEqual(audit({ memorized: 1500, copied: 2, "nothing found": 1 }), ["memorized", "1502 found"]);
  assert.deepEqual(audit({ "nothing found": 1000, failed: 400 }), ["unclear", "not judged"]);
  assert.deepEqual(audit({ "nothing found": 1000, "not judged": 1 }), ["unclear", "not judged"]);
});

test("a result is the graph's only if nothing before it changed", () => {
  const then = {
    1: { class_type: "Load", inputs: { name: "a" } },
    2: { class_type: "Words", inputs: { text: "a red circle", clip: ["1", 0] } },
    "3:7": { class_type: "Guard", inputs: { positive: ["2", 0], model: ["1", 0], seed: 5, levels: [1, 2] } },
    4: { class_type: "Save", inputs: { images: ["3:7", 0] } },
  };
  const changed = (/** @type {string} */ id, /** @type {string} */ name, /** @type {any} */ value) => {
    const now = structuredClone(then);
    /** @type {any} */ (now)[id].inputs[name] = value;
    return now;
  };
  const same = (/** @type {any} */ now, loose = new Set()) => sameRun(then, now, "3:7", loose);
  assert.ok(same(structuredClone(then)));
  assert.ok(same(changed("4", "images", ["1", 0])), "what stands behind it does not count");
  assert.ok(!same(changed("2", "text", "a blue circle")), "other words");
  assert.ok(!same(changed("1", "name", "b")), "another model");
  assert.ok(!same(changed("3:7", "positive", ["1", 0])), "another wire");
  assert.ok(!same(changed("3:7", "positive", ["2", 1])), "another output");
  assert.ok(!same(changed("3:7", "levels", [1, 3])));
  assert.ok(!same(changed("3:7", "seed", 6)));
  assert.ok(same(changed("3:7", "seed", 6), new Set(["3:7:seed"])), "a seed that changes by itself");
  const { 2: _gone, ...without } = then;
  assert.ok(!same(without));
});

test("what does not count under the present choice is known", () => {
  const of = (/** @type {string} */ type, /** @type {Record<string, unknown>} */ values, /** @type {string[]} */ links = []) =>
    [
      ...unused(
        type,
        (name) => values[name],
        (name) => links.includes(name),
      ),
    ].sort();
  const map = "UnmemorizeCurvatureDifferenceMap";
  assert.deepEqual(of(map, { preset: "recommended", method: "dh_0" }), ["estimator", "noises", "probes", "probing", "sigmas"]);
  assert.deepEqual(of(map, { preset: "custom", method: "dh_0" }), []);
  assert.deepEqual(of(map, { preset: "custom", method: "ds_~" }), ["estimator", "probes", "probing"]);
  assert.deepEqual(of(map, { preset: "custom", method: "quick, against a baseline model (ds_~)" }), ["estimator", "probes", "probing"]);
  assert.deepEqual(of(map, { method: "dh_0" }), [], "a preset that comes through a link may be any");
  const filter = "UnmemorizeBAFFilterLoRA";
  assert.deepEqual(of(filter, { score: "cross-attention", gate: "hard" }, ["clip"]), [
    "base_energy",
    "control_seed",
    "deviations",
    "keep",
    "temperature",
    "threshold",
  ]);
  assert.deepEqual(of(filter, { score: "mean", gate: "soft" }, ["clip"]), ["control_seed", "keep"]);
  assert.deepEqual(of(filter, { score: "random", gate: "energy" }), ["deviations", "temperature", "text_encoder", "threshold"]);
  assert.deepEqual(of("UnmemorizeStabilityGuard", { mode: "off" }), ["method"]);
  assert.deepEqual(of("UnmemorizeCopyCheck", { calibrate: "not at all" }), ["false_alarms"]);
  assert.deepEqual(of("UnmemorizeCopyCheck", { calibrate: "not at all" }, ["honest"]), ["calibrate"]);
  assert.deepEqual(of("UnmemorizeCopyCheck", { calibrate: "honest pictures" }), ["false_alarms"], "none are connected");
  assert.deepEqual(of("UnmemorizeCopyCheck", { calibrate: "references among themselves" }), []);
  assert.deepEqual(of("UnmemorizeCopyCheck", {}), [], "a choice that comes through a link");
  assert.deepEqual(of("UnmemorizeAudit", {}, ["base"]), ["copy_limit", "neighbours"]);
  assert.deepEqual(of("UnmemorizeBestEpoch", {}), ["copy_limit"]);
  assert.deepEqual(of("UnmemorizeBestEpoch", {}, ["references"]), ["probe_pictures"]);
  assert.deepEqual(of("UnmemorizeLoadCopyDetector", {}, ["clip_vision"]), ["detector"]);
  assert.deepEqual(of("UnmemorizeCleanLoRA", { captions: " " }), ["prompts"]);
  assert.deepEqual(of("UnmemorizeCleanLoRA", { captions: "a cat" }), []);
  assert.deepEqual(of("UnmemorizeCleanLoRA", {}), [], "captions that come through a link");
  assert.deepEqual(of("KSampler", { preset: "recommended" }), []);
});

test("a graph that grew is shown smaller, its first corner where it was", () => {
  const before = { scale: 0.6, offset: [100, 50] };
  const [laid, now] = [
    [0, 10, 1000, 500],
    [0, 12, 1200, 600],
  ];
  const view = grown(before, laid, now);
  const place = (/** @type {number} */ at, /** @type {number} */ i, /** @type {{scale: number, offset: number[]}} */ v) =>
    (at + v.offset[i]) * v.scale;
  for (const i of [0, 1]) assert.ok(Math.abs(place(now[i], i, view) - place(laid[i], i, before)) < 1e-9);
  assert.ok(Math.abs(place(now[2], 0, view) - place(laid[2], 0, before)) < 1e-9);
  assert.deepEqual(grown(before, laid, laid), before);
});

test("an old workflow's choice is found in the menu, and nothing else is touched", () => {
  const menu = ["against the empty prompt (dh_0)", "against both (dh_0 + dh_~)"];
  assert.equal(lineOf(menu, "dh_0"), menu[0]);
  assert.equal(lineOf(menu, "dh_0 + dh_~"), menu[1]);
  assert.equal(lineOf(menu, menu[1]), undefined);
  assert.equal(lineOf(menu, "unknown"), undefined);
  assert.equal(lineOf(["custom", "paper"], "recommended"), undefined);
  assert.equal(lineOf(undefined, "dh_0"), undefined);
  for (const list of [
    ["none", "photos (cats)"],
    ["photos (cats)", "demo/demo"],
    ["photos (cats)", 3],
  ]) {
    assert.equal(lineOf(list, "cats"), undefined, "a folder that is gone is no other folder");
  }
  assert.deepEqual([symbolOf(menu[1]), symbolOf("hard"), symbolOf(3)], ["dh_0 + dh_~", "hard", "3"]);
});

const nodes = JSON.parse(readFileSync(new URL("../data/object_info.json", import.meta.url), "utf8"));

test("every line of a menu has its symbol, and no other list is all such lines", () => {
  const lists = Object.values(nodes).flatMap((/** @type {any} */ { inputs }) => inputs.filter((/** @type {any} */ i) => i.options));
  const menus = lists.filter(({ options }) => options.every((/** @type {string} */ line) => symbolOf(line) !== line));
  const names = [...new Set(menus.map(({ id }) => id))].sort();
  assert.deepEqual(names, ["estimator", "gate", "method", "mode", "preset", "probing", "rows", "score", "stage"]);
});

test("the rules name widgets that exist", () => {
  for (const [type, rules] of Object.entries(RULES)) {
    const known = nodes[type].inputs.map((/** @type {{id: string}} */ input) => input.id);
    for (const name of rules.flatMap((rule) => rule.names)) assert.ok(known.includes(name), `${type}: ${name}`);
  }
});

test("a wide area shows both pictures whole, a narrow one a picture in its middle", () => {
  assert.deepEqual(panes(340, 300, 1), [{ left: 20, top: 0, width: 300, height: 300 }]);
  const [before, after] = panes(708, 300, 1);
  assert.deepEqual(before, { left: 50, top: 0, width: 300, height: 300 });
  assert.deepEqual(after, { ...before, left: 358 });
  const [landscape, other] = panes(408, 150, 2);
  assert.equal(landscape.width, 300); // one fills most of the width: it has it alone
  assert.equal(other, undefined);
  for (const box of panes(900, 200, 2)) assert.equal(box.width, 2 * box.height);
});

test("a picture of another shape keeps it", () => {
  const box = { left: 10, top: 0, width: 100, height: 100 };
  assert.deepEqual(within({ width: 50, height: 25 }, box), { left: 10, top: 25, width: 100, height: 50 });
});
