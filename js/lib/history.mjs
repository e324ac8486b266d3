/**
 * Results after the page was loaded anew: the front end forgets them, the server still has them.
 * @module
 */
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { byExecutionId, root } from "./graph.mjs";
import { sameRun } from "./same_run.mjs";

/** How many runs are looked at. */
const MOST = 8;

/**
 * Outputs of the last runs of this workflow, newest first, by execution id. The type of each node is checked: another workflow may have
 * had another node of that id.
 * @param {any} history as /history sends it
 * @param {string} workflow its id
 * @returns {Generator<[string, any, any]>} execution id, the prompt that ran, output
 */
export function* outputsOf(history, workflow) {
  for (const entry of Object.values(history ?? {}).reverse()) {
    const [, , prompt, extra] = entry?.prompt ?? [];
    if (!workflow || extra?.extra_pnginfo?.workflow?.id !== workflow) continue;
    for (const [id, output] of Object.entries(entry.outputs ?? {})) yield [id, prompt ?? {}, output];
  }
}

/**
 * Seeds that change by themselves after a run: they are no difference between two.
 * @param {Record<string, any>} prompt
 * @returns {Set<string>} "execution id:input"
 */
function changing(prompt) {
  const found = new Set();
  for (const id of Object.keys(prompt)) {
    for (const widget of /** @type {any} */ (byExecutionId(id))?.widgets ?? []) {
      const control = widget.linkedWidgets?.find((/** @type {any} */ w) => w.name === "control_after_generate");
      if (control && control.value !== "fixed") found.add(`${id}:${widget.name}`);
    }
  }
  return found;
}

/**
 * Show every node of ours what it last found, where it shows nothing yet; as an earlier run's where the graph is no longer the one that ran.
 * @param {(node: any, output: any, earlier: boolean) => void} show
 * @param {(node: any) => boolean} bare does this node show nothing yet?
 */
export async function restore(show, bare) {
  const workflow = root()?.id;
  const answer = await api.fetchApi(`/history?max_items=${MOST}`);
  if (!answer.ok) return;
  const history = await answer.json();
  const now = (await app.graphToPrompt()).output;
  const loose = changing(now);
  for (const [id, then, output] of outputsOf(history, workflow)) {
    /** @type {any} */
    const node = byExecutionId(id);
    if (node && (node.comfyClass ?? node.type) === then[id]?.class_type && bare(node)) show(node, output, !sameRun(then, now, id, loose));
  }
}
