/**
 * The prompt that ran, and the one that would run now.
 * @module
 */
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { byExecutionId, everyNode, neighbour } from "./graph.mjs";
import { isLink } from "./same_run.mjs";

/** @typedef {import("./same_run.mjs").Prompt} Prompt */
/** @typedef {{prompt: Prompt, loose: Set<string>}} Present `loose`: inputs "execution id:name" that change by themselves */

/** How many prompts are kept. */
const MOST = 16;

/** @type {Map<string, Promise<Prompt | null>>} */
const known = new Map();

/** @param {string} id @param {Promise<Prompt | null>} prompt */
function keep(id, prompt) {
  known.set(id, prompt);
  if (known.size > MOST) known.delete(/** @type {string} */ (known.keys().next().value));
  return prompt;
}

/** @param {string} path */
async function read(path) {
  const answer = await api.fetchApi(path);
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

/** A prompt goes from the queue to the history, never back. @param {string} id @returns {Promise<Prompt | null>} */
async function find(id) {
  const { queue_running = [], queue_pending = [] } = await read("/queue");
  const queued = [...queue_running, ...queue_pending].find((item) => item[1] === id);
  return queued?.[2] ?? (await read(`/history/${encodeURIComponent(id)}`))[id]?.prompt?.[2] ?? null;
}

/** A prompt that is at hand. @param {string} id @param {Prompt} prompt */
export function remember(id, prompt) {
  if (!known.has(id)) void keep(id, Promise.resolve(prompt));
}

/** The prompt of a run, asked for once. @param {string} id @returns {Promise<Prompt | null>} null: the server has forgotten it */
export function ran(id) {
  const before = known.get(id);
  if (before) return before;
  const found = find(id);
  found.catch(() => known.delete(id)); // another time it may be reached
  return keep(id, found);
}

/**
 * What is made anew whenever the graph is queued is no difference between two runs: seeds that go on, texts that choose among words.
 * @param {Prompt} prompt of the graph
 * @returns {Set<string>}
 */
function changing(prompt) {
  const found = new Set();
  for (const [id, { inputs }] of Object.entries(prompt)) {
    /** @type {any} */
    const node = byExecutionId(id);
    for (const widget of node?.widgets ?? []) {
      const sent = inputs[widget.name];
      const differs = JSON.stringify(sent?.__value__ ?? sent) !== JSON.stringify(widget.value); // lists are sent wrapped
      const driver = neighbour(node, widget.name);
      const control = [...(widget.linkedWidgets ?? []), ...(driver?.isVirtualNode ? (driver.widgets ?? []) : [])].find(
        (/** @type {any} */ w) => w.name === "control_after_generate" && w.value !== "fixed",
      );
      const made = typeof widget.serializeValue === "function" && !isLink(sent) && differs;
      if (made || control) found.add(`${id}:${widget.name}`);
    }
  }
  return found;
}

/** Would turning the graph into a prompt take a picture, or send a file? That is not done unasked. */
export function acts() {
  const does = (/** @type {any} */ widget) => widget.serializeValue?.constructor.name === "AsyncFunction";
  return [.../** @type {Iterable<any>} */ (everyNode())].some((node) => node.widgets?.some(does));
}

/** What would run now. @returns {Promise<Present>} */
export async function present() {
  const prompt = /** @type {Prompt} */ ((await app.graphToPrompt()).output);
  return { prompt, loose: changing(prompt) };
}
