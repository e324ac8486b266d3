/**
 * Menus say in words what a choice does, with its symbol in brackets at the end. Older workflows hold the symbol alone. Pure.
 * @module
 */

/**
 * The symbol of a menu line; of anything else itself.
 * @param {unknown} value
 */
export function symbolOf(value) {
  return /\(([^()]+)\)$/.exec(String(value))?.[1] ?? String(value);
}

/**
 * The line of a menu that an old value means, if there is one. Every line of a menu has a symbol (host/core/menus.py); lists of files and
 * folders have a line without one, and a name in them means itself.
 * @param {unknown} options @param {unknown} value
 * @returns {string | undefined}
 */
export function lineOf(options, value) {
  if (!Array.isArray(options) || options.includes(value)) return undefined;
  if (options.some((line) => String(line) === symbolOf(line))) return undefined;
  return options.find((line) => symbolOf(line) === value);
}
