/**
 * Results after the page was loaded anew: the front end forgets them, the server still has them.
 * @module
 */
import { api } from "../../../scripts/api.js";
import { byExecutionId, root } from "./graph.mjs";

/** How many runs are looked at. */
const MOST = 8;

/**
 * Outputs of the last runs of this workflow, newest first, by execution id. The type of each node is checked: another workflow may have
 * had another node of that id.
 * @param {any} history as /history sends it
 * @param {string} workflow its id
 * @returns {Generator<[string, string, any]>} execution id, node type, output
 */
export function* outputsOf(history, workflow) {
  for (const entry of Object.values(history ?? {}).reverse()) {
    const [, , prompt, extra] = entry?.prompt ?? [];
    if (!workflow || extra?.extra_pnginfo?.workflow?.id !== workflow) continue;
    for (const [id, output] of Object.entries(entry.outputs ?? {})) yield [id, prompt?.[id]?.class_type ?? "", output];
  }
}

/**
 * Show every node of ours what it last found, where it shows nothing yet.
 * @param {(node: any, output: any) => void} show
 * @param {(node: any) => boolean} bare does this node show nothing yet?
 */
export async function restore(show, bare) {
  const workflow = root()?.id;
  const answer = await api.fetchApi(`/history?max_items=${MOST}`);
  if (!answer.ok) return;
  for (const [id, type, output] of outputsOf(await answer.json(), workflow)) {
    /** @type {any} */
    const node = byExecutionId(id);
    if (node && (node.comfyClass ?? node.type) === type && bare(node)) show(node, output);
  }
}
