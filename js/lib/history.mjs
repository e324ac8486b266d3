/**
 * Results after the page was loaded anew: the front end forgets them, the server still has them.
 * @module
 */
import { api } from "../../../scripts/api.js";
import { byExecutionId, everyNode, root } from "./graph.mjs";
import { came } from "./origins.mjs";
import { acts, present, remember } from "./prompts.mjs";
import { stillTrue } from "./run.mjs";

/** How many runs are looked at. */
const MOST = 8;

/**
 * Outputs of the last runs of this workflow, newest first, by execution id. The type of each node is checked: another workflow may have
 * had another node of that id.
 * @param {any} history as /history sends it
 * @param {string} workflow its id
 * @returns {Generator<[string, string, any, any]>} id of the prompt, execution id, the prompt that ran, output
 */
export function* outputsOf(history, workflow) {
  for (const [run, entry] of /** @type {[string, any][]} */ (Object.entries(history ?? {})).reverse()) {
    const [, , prompt, extra] = entry?.prompt ?? [];
    if (!workflow || extra?.extra_pnginfo?.workflow?.id !== workflow) continue;
    for (const [id, output] of Object.entries(entry.outputs ?? {})) yield [run, id, prompt ?? {}, output];
  }
}

/**
 * Show every node of ours what it last found, where it shows nothing yet; as an earlier run's where the graph is no longer the one that ran.
 * @param {(node: any, output: any, earlier: boolean) => void} show
 * @param {(node: any) => boolean} bare does this node show nothing yet?
 */
export async function restore(show, bare) {
  const [graph, workflow, began] = [root(), root()?.id, new Set(everyNode())];
  // a tab may be changed meanwhile: its nodes have the same ids
  const gone = () => root() !== graph || graph?.id !== workflow || ![...everyNode()].some((node) => began.has(node));
  const answer = await api.fetchApi(`/history?max_items=${MOST}`);
  if (!answer.ok || gone()) return;
  const history = await answer.json();
  if (gone()) return;
  const now = acts() ? null : await present();
  if (gone()) return;
  for (const [run, id, then, output] of outputsOf(history, workflow)) {
    /** @type {any} */
    const node = byExecutionId(id);
    if (!node || !began.has(node) || (node.comfyClass ?? node.type) !== then[id]?.class_type || !bare(node)) continue;
    remember(run, then);
    came(output, run, id);
    show(node, output, now !== null && !stillTrue(then, now, id));
  }
}
