/**
 * A run as the server tells of it, and what a node says that it brought nothing for: the verdict of the run before is not its. Pure.
 * @module
 */
import { isLink, readers, sameRun } from "./same_run.mjs";

/** @typedef {import("./verdict.mjs").Verdict} Verdict */
/** @typedef {import("./same_run.mjs").Prompt} Prompt */

/** Has no result of its own: it is judged while its sampler runs. */
const JUDGED_LATER = "UnmemorizeStabilityGuard";

/** @type {Verdict} */
export const STOPPED = { kind: "off", word: "stopped", text: "the run ended before there was a verdict" };
/** @type {Verdict} */
export const UNREACHED = { kind: "off", word: "not reached", text: "in this run: there is no new verdict" };
/** @type {Verdict} */
export const UNUSED = { kind: "off", word: "not judged", text: "in this run: the guard is off, or nothing was sampled under it" };

/** What a verdict hangs on: the node, and of a guard whose sampler comes later that sampler too. @param {Prompt} prompt @param {string} id */
function concerned(prompt, id) {
  return prompt[id]?.class_type === JUDGED_LATER ? [id, ...readers(prompt, id)] : [id];
}

/**
 * Values that a prompt was queued with and others that it ran with: extensions of the server fill in words and seeds.
 * @param {Prompt} then what ran @param {Prompt} queued
 * @returns {Set<string>} "execution id:input"
 */
export function filledIn(then, queued) {
  const found = new Set();
  for (const [id, { class_type, inputs }] of Object.entries(then)) {
    if (queued[id]?.class_type !== class_type) continue;
    for (const [name, value] of Object.entries(inputs)) {
      const before = queued[id].inputs[name];
      if (!isLink(value) && !isLink(before) && JSON.stringify(value) !== JSON.stringify(before)) found.add(`${id}:${name}`);
    }
  }
  return found;
}

/**
 * Is a node's result that of the graph?
 * @param {Prompt} then the prompt it came of
 * @param {import("./prompts.mjs").Present} now
 * @param {string} id
 */
export function stillTrue(then, now, id) {
  return concerned(then, id).every((one) => sameRun(then, now.prompt, one, now.loose));
}

export class Run {
  /** @param {string} id */
  constructor(id) {
    this.id = id;
    /** What was queued, once it is known. @type {Prompt | null} */
    this.prompt = null;
    /**
     * Is the run that of the graph, as far as this node goes? Said when it began: what is edited later does not take the run away.
     * @type {WeakMap<object, boolean>}
     */
    this.mine = new WeakMap();
    /** Nodes that this page queued it with. @type {WeakSet<object> | null} */
    this.own = null;
    /** What the graph said then. @type {Promise<import("./prompts.mjs").Present> | null} */
    this.queued = null;
    /** Execution ids of what the server had already. @type {Set<string>} */
    this.cached = new Set();
    /** Of what it began. @type {Set<string>} */
    this.begun = new Set();
    /** Of what gave a result. @type {Set<string>} */
    this.shown = new Set();
    /** Of what gave a verdict, live. @type {Set<string>} */
    this.judged = new Set();
  }

  /**
   * What a node says at the end of the run.
   * @param {string} id @param {boolean} success did the run come to its end?
   * @returns {Verdict | null} null: its result came, or the one it shows still holds
   */
  without(id, success) {
    if (!this.prompt || this.shown.has(id) || this.judged.has(id)) return null;
    if (concerned(this.prompt, id).every((one) => this.cached.has(one))) return null;
    const later = this.prompt[id].class_type === JUDGED_LATER && (this.begun.has(id) || this.cached.has(id));
    if (success) return later ? UNUSED : UNREACHED;
    return later || this.begun.has(id) ? STOPPED : UNREACHED;
  }
}
