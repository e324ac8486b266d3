/**
 * Which run a result belongs to, and whether that run is still the graph's: one rule for results that come live, from a stored tab, after
 * undo, or from the server's history. Nothing waits for it: a result is shown at once, and marked as an earlier run's when that is known.
 * @module
 */
import { byExecutionId, everyNode, root } from "./graph.mjs";
import { feeding } from "./links.mjs";
import { came } from "./origins.mjs";
import { acts, present, ran } from "./prompts.mjs";
import { Run, filledIn, stillTrue } from "./run.mjs";

/** How long a message waits to learn whose it is, and how long the comparison waits for more results; milliseconds. */
const LONGEST = 1000;
const PAUSE = 60;
const CHART = "UnmemorizeStabilityChart";

/** @typedef {import("./panel.mjs").Panel} Panel */

/** @param {any} view */
const ofTheBatch = (view) => ({ ...view, sample: null });
/** @param {Promise<unknown>} ready */
const soon = (ready) => Promise.race([ready, new Promise((resolve) => setTimeout(resolve, LONGEST))]);

export class Runs {
  /** @param {(node: any) => Panel | undefined} panelOf */
  constructor(panelOf) {
    this.panelOf = panelOf;
    /** The one that the server is at. @type {Run | null} */
    this.run = null;
    /** Its prompt is known, and compared with the graph. @type {Promise<void>} */
    this.ready = Promise.resolve();
    this.timer = 0;
    /** What this page has queued that did not begin yet, and what the graph said the last time. */
    this.asked = { count: 0, nodes: new WeakSet(), graph: /** @type {Promise<import("./prompts.mjs").Present> | null} */ (null) };
    this.asking = false;
    /** Of prompts that ran with other values than they were queued with: which. @type {Map<string, Set<string>>} */
    this.filled = new Map();
  }

  /** The graph is about to be queued: every node of ours says so, and what runs then is theirs whatever the server makes of it. @param {any} node */
  queued(node) {
    if (!this.asking) {
      this.asking = true;
      queueMicrotask(() => (this.asking = false));
      this.asked = { count: this.asked.count + 1, nodes: new WeakSet(), graph: acts() ? null : Promise.resolve().then(present) };
      this.asked.graph?.catch(console.warn);
    }
    this.asked.nodes.add(node);
  }

  /** Nothing waits at the server: what was queued has run, or was taken back, or was refused. */
  idle() {
    this.asked.count = 0;
  }

  /**
   * Show a result. Stability Guard is done before its sampler starts and has no result of its own: what the chart that reads it shows is its run.
   * @param {any} node @param {any} output @param {boolean} [earlier] of another graph than the one on screen?
   */
  show(node, output, earlier = false) {
    this.panelOf(node)?.show(output, earlier);
    const guard = this.guardOf(node);
    if (!guard) return;
    // the chart looks at one picture; the guard speaks of the batch
    const whole = { ...output, unmemorize_guard: output?.unmemorize_guard?.map(ofTheBatch) };
    this.panelOf(guard)?.show(whole, earlier, output);
  }

  /** @param {any} node */
  guardOf(node) {
    return node?.type === CHART ? feeding(node, "record") : null;
  }

  /** A result that the front end hands to its node, without saying of which run. @param {any} node @param {any} output */
  result(node, output) {
    const foreign = this.run?.mine.get(node) === false;
    if (foreign && this.panelOf(node)?.holds()) return; // a run of another tab takes nothing away
    this.show(node, output, foreign);
    this.compareSoon();
  }

  /** Results that were kept: another tab of the front end, an item of the queue. @param {[any, any][]} results node and output */
  kept(results) {
    for (const [node, output] of results) this.show(node, output);
    this.compareSoon(0);
  }

  /** @param {string} id of the prompt */
  at(id) {
    if (this.run?.id === id) return this.run;
    this.run = new Run(id);
    const { asked } = this;
    if (asked.count > 0) this.run.own = asked.nodes;
    if (asked.count === 1) this.run.queued = asked.graph;
    asked.count = Math.max(0, asked.count - 1);
    this.look();
    return this.run;
  }

  /** The graph on screen is another, or the run is. */
  look() {
    if (this.run) this.ready = this.compareRun(this.run).catch(console.warn);
  }

  /** @param {Run} run */
  async compareRun(run) {
    run.prompt ??= await ran(run.id);
    if (!run.prompt || acts()) return;
    const filled = run.queued && filledIn(run.prompt, (await run.queued).prompt);
    if (filled?.size) this.filled.set(run.id, filled);
    const nodes = new Set(everyNode());
    const now = await present();
    for (const [id, { class_type }] of Object.entries(run.prompt)) {
      /** @type {any} */
      const node = byExecutionId(id);
      if (!node || !nodes.has(node) || !this.panelOf(node) || run.mine.has(node)) continue;
      const same = () => !!run.own?.has(node) || (!!run.prompt && stillTrue(run.prompt, now, id));
      run.mine.set(node, (node.comfyClass ?? node.type) === class_type && same());
    }
  }

  /** `executed`: the front end has given the result to its node. @param {any} detail */
  executed({ prompt_id, node, display_node, output }) {
    const id = String(display_node || node);
    came(output, prompt_id, id);
    if (!prompt_id) return;
    const { shown } = this.at(prompt_id);
    if (!output) return; // from the cache, and nothing to show
    shown.add(id);
    const guard = this.guardOf(byExecutionId(id));
    if (guard) shown.add([...id.split(":").slice(0, -1), guard.id].join(":"));
    this.compareSoon();
  }

  /** A message of host/stability/live_view.py. @param {any} detail */
  async live(detail) {
    const { prompt_id, node: id, kind } = detail;
    const run = prompt_id ? this.at(prompt_id) : null;
    run?.begun.add(id);
    if (kind === "done") run?.judged.add(id);
    if (run) await soon(this.ready);
    const node = byExecutionId(id);
    const over = run !== null && run !== this.run && kind !== "done";
    if (!node || over || run?.shown.has(id) || run?.mine.get(node) === false) return;
    came(detail, prompt_id, id);
    this.panelOf(node)?.live(detail);
    if (kind === "done") this.compareSoon();
  }

  /** The run is over: nodes of ours that it brought nothing for say so. @param {string | undefined} id of the prompt @param {boolean} success */
  async ended(id, success) {
    const { run } = this;
    if (!run || (id && run.id !== id)) return;
    this.run = null;
    await soon(this.ready);
    for (const [one, { class_type }] of Object.entries(run.prompt ?? {})) {
      /** @type {any} */
      const node = byExecutionId(one);
      const mine = node && (run.mine.get(node) ?? (node.comfyClass ?? node.type) === class_type);
      const panel = mine ? this.panelOf(node) : undefined;
      const why = panel && run.without(one, success);
      if (why) panel.without(why);
    }
    this.compareSoon();
  }

  /** After results, or a change of the graph. @param {number} [pause] */
  compareSoon(pause = PAUSE) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.compare().catch(console.warn), pause);
  }

  /** Is what is shown that of the graph on screen? */
  async compare() {
    const graph = root()?.id;
    const told = [...everyNode()].flatMap((node) => {
      const panel = this.panelOf(node);
      const origin = panel?.origin();
      return panel && origin ? [{ panel, origin }] : [];
    });
    if (!told.length || acts()) return;
    const prompts = new Map();
    for (const { origin } of told) {
      if (!prompts.has(origin.prompt)) prompts.set(origin.prompt, await ran(origin.prompt).catch(() => null));
    }
    if (root()?.id !== graph) return;
    const now = await present();
    if (root()?.id !== graph) return;
    for (const { panel, origin } of told) {
      const then = prompts.get(origin.prompt);
      const same = panel.origin()?.prompt === origin.prompt; // nothing else came meanwhile
      const loose = new Set([...now.loose, ...(this.filled.get(origin.prompt) ?? [])]);
      if (then && same) panel.mark(!stillTrue(then, { ...now, loose }, origin.id));
    }
  }
}
