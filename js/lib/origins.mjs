/**
 * Which run a result came of. Front ends keep results without it: as they came, behind a proxy, or as copies. Pure.
 * @module
 */

/** @typedef {{prompt: string, id: string}} Origin id of the prompt, and execution id of the node in it */

/** How many results are known again by what they say alone. */
const MOST = 64;
const PREFIX = "unmemorize_";

/** @type {WeakMap<object, Origin>} */
const known = new WeakMap();
/** @type {Map<string, Origin>} */
const alike = new Map();

/** What stands behind a proxy of Vue. @param {any} thing @returns {any} */
const raw = (thing) => thing?.__v_raw ?? thing;

/**
 * Length and FNV-1a of what is ours in a result; of one that holds nothing of ours "".
 * @param {any} result
 */
function print(result) {
  const ours = Object.entries(result).filter(([name]) => name.startsWith(PREFIX));
  const text = ours.length ? JSON.stringify(ours) : "";
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return text && `${text.length}:${hash >>> 0}`;
}

/**
 * Note where a result, or a message, came from.
 * @param {any} result @param {string} prompt @param {string} id
 */
export function came(result, prompt, id) {
  if (!result || typeof result !== "object" || !prompt) return;
  const origin = { prompt, id: String(id) };
  known.set(raw(result), origin);
  const key = print(result);
  if (!key) return;
  alike.delete(key); // to the end: the oldest is dropped
  alike.set(key, origin);
  if (alike.size > MOST) alike.delete(/** @type {string} */ (alike.keys().next().value));
}

/** @param {any} result @returns {Origin | null} null: it is not known */
export function originOf(result) {
  if (!result || typeof result !== "object") return null;
  return known.get(raw(result)) ?? alike.get(print(result)) ?? null;
}
