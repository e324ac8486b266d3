/**
 * Is a result still that of the graph on screen? Pure.
 * @module
 */

/** @typedef {Record<string, {class_type: string, inputs: Record<string, any>}>} Prompt as ComfyUI is sent it */

/** @param {any} value is it the output of another node? */
export function isLink(value) {
  return Array.isArray(value) && value.length === 2 && typeof value[1] === "number" && ["string", "number"].includes(typeof value[0]);
}

/**
 * Would a node be asked the same again: its inputs, and those of all that stands before it?
 * @param {Prompt} then the prompt that ran
 * @param {Prompt} now that of the graph
 * @param {string} id of the node, the same in both
 * @param {Set<string>} loose inputs "id:name" that may differ
 * @param {Set<string>} [seen]
 * @returns {boolean}
 */
export function sameRun(then, now, id, loose, seen = new Set()) {
  if (seen.has(id)) return true;
  seen.add(id);
  const [a, b] = [then[id], now[id]];
  if (!a || !b || a.class_type !== b.class_type) return false;
  const names = Object.keys(a.inputs);
  if (names.length !== Object.keys(b.inputs).length) return false;
  return names.every((name) => {
    const [x, y] = [a.inputs[name], b.inputs[name]];
    if (loose.has(`${id}:${name}`)) return true;
    if (!isLink(x) || !isLink(y)) return JSON.stringify(x) === JSON.stringify(y);
    return String(x[0]) === String(y[0]) && x[1] === y[1] && sameRun(then, now, String(x[0]), loose, seen);
  });
}

/**
 * What reads a node, and what reads that: of a model its sampler, also one that stands behind a guider.
 * @param {Prompt} prompt @param {string} id
 * @returns {string[]}
 */
export function readers(prompt, id) {
  const of = (/** @type {string[]} */ ids) =>
    Object.keys(prompt).filter((one) => Object.values(prompt[one].inputs).some((value) => isLink(value) && ids.includes(String(value[0]))));
  const first = of([id]);
  return [...new Set([...first, ...of(first)])];
}
