/**
 * Is an input fed? A wire alone does not say so: what is muted sends nothing, what is bypassed sends what it is given. Pure.
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
 * @returns {boolean}
 */
function fed(node, slot, seen = new Set()) {
  if (node.inputs?.[slot]?.link == null || seen.has(node)) return false;
  seen.add(node);
  const origin = node.getInputNode(slot);
  if (!origin) return true; // an input of the subgraph: what feeds it is not looked for
  if (origin.mode === MUTED) return false;
  if (origin.mode === BYPASSED) return fed(origin, passed(origin, node.getInputLink?.(slot)?.origin_slot ?? 0), seen);
  return origin.type === "Reroute" ? fed(origin, 0, seen) : true;
}

/**
 * Does something come in by this name?
 * @param {any} node @param {string} name
 */
export function linked(node, name) {
  return fed(node, node.findInputSlot?.(name) ?? -1);
}
