/**
 * Find nodes by the ids that ComfyUI uses for results. A node's own id is unique only within its graph: a subgraph may hold another 3.
 *
 * execution id  "1:2:3"      node 3 in the subgraph of node 2 in the subgraph of node 1: what the server says
 * locator       "uuid:3"     node 3 in that subgraph, or "3" in the root graph: what stored outputs are named by
 * @module
 */
import { app } from "../../../scripts/app.js";

/** @typedef {import("@comfyorg/comfyui-frontend-types").ComfyApp} ComfyApp */
/** @typedef {NonNullable<ReturnType<ComfyApp["graph"]["getNodeById"]>>} LGraphNode */

/** @returns {any} the outermost graph, in old and new front ends */
export function root() {
  /** @type {any} */
  const a = app;
  return a.rootGraph ?? a.graph;
}

/**
 * Front ends before 1.49 number nodes, later ones name them.
 * @param {any} graph @param {string} id
 * @returns {LGraphNode | null}
 */
function local(graph, id) {
  return graph?.getNodeById?.(id) ?? graph?.getNodeById?.(Number(id)) ?? null;
}

/**
 * @param {string} id
 * @returns {LGraphNode | null}
 */
export function byExecutionId(id) {
  const path = String(id).split(":");
  const last = /** @type {string} */ (path.pop());
  let graph = root();
  for (const step of path) {
    /** @type {any} */
    const holder = local(graph, step);
    graph = holder?.subgraph;
  }
  return local(graph, last);
}

/**
 * @param {string} locator
 * @returns {LGraphNode | null}
 */
export function byLocator(locator) {
  const [first, second] = String(locator).split(":");
  return second === undefined ? local(root(), first) : local(root()?.subgraphs?.get?.(first), second);
}

/** Every node of the workflow, those in subgraphs too. @returns {Generator<LGraphNode>} */
export function* everyNode() {
  const whole = root();
  const graphs = [whole, ...(whole?.subgraphs?.values?.() ?? [])];
  for (const graph of graphs) yield* graph?.nodes ?? graph?._nodes ?? [];
}

/**
 * The node at the other end of an input's wire, whatever its mode, if it is in the same graph.
 * @param {any} node @param {string} input
 * @returns {any}
 */
export function neighbour(node, input) {
  const slot = node.findInputSlot(input);
  return slot < 0 ? null : node.getInputNode(slot);
}

/**
 * @param {LGraphNode | null} node @param {string} name
 * @returns {any}
 */
export function widgetOf(node, name) {
  return node?.widgets?.find((widget) => widget.name === name) ?? null;
}

/**
 * Write a widget as its user would.
 * @param {LGraphNode} node @param {any} widget @param {unknown} value
 */
export function setWidget(node, widget, value) {
  widget.value = value;
  widget.callback?.(value, app.canvas, node);
  app.canvas?.setDirty?.(true, true);
}
