/**
 * What feeds an input? A wire alone does not say so: what is muted sends nothing, what is bypassed or a Reroute sends what it is given. Pure.
 * @module
 */

/** Modes of a node, as litegraph numbers them. */
const MUTED = 2;
const BYPASSED = 4;

/**
 * The input that a bypassed node hands on in place of an output: the one at its place if it fits, or the first that fits.
 * @param {any} node @param {number} output
 */
function passed(node, output) {
  const type = node.outputs?.[output]?.type;
  const fits = (/** @type {any} */ input) => input !== undefined && (input.type === type || input.type === "*" || type === "*");
  return fits(node.inputs?.[output]) ? output : (node.inputs ?? []).findIndex(fits);
}

/**
 * @param {any} node @param {number} slot of its inputs @param {Set<any>} [seen]
 * @returns {any} the node that feeds it; undefined if nothing does, null if it is an input of the subgraph: what feeds that is not looked for
 */
function source(node, slot, seen = new Set()) {
  if (node.inputs?.[slot]?.link == null || seen.has(node)) return undefined;
  seen.add(node);
  const origin = node.getInputNode(slot);
  if (!origin) return null;
  if (origin.mode === MUTED) return undefined;
  if (origin.mode === BYPASSED) return source(origin, passed(origin, node.getInputLink?.(slot)?.origin_slot ?? 0), seen);
  return origin.type === "Reroute" ? source(origin, 0, seen) : origin;
}

/** @param {any} node @param {string} name of an input */
const slotOf = (node, name) => node.findInputSlot?.(name) ?? -1;

/**
 * Does something come in by this name?
 * @param {any} node @param {string} name
 */
export function linked(node, name) {
  return source(node, slotOf(node, name)) !== undefined;
}

/**
 * The node whose result comes in by this name, if it is in the same graph.
 * @param {any} node @param {string} name
 * @returns {any}
 */
export function feeding(node, name) {
  return source(node, slotOf(node, name)) ?? null;
}

/**
 * Is there a wire, whatever comes through it? A PrimitiveNode writes its value into the widget even when it is muted.
 * @param {any} node @param {string} name
 */
export function wired(node, name) {
  return node.inputs?.[slotOf(node, name)]?.link != null;
}
