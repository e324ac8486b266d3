/**
 * Numbers as people read them. Pure functions.
 * @module
 */

/** @typedef {{digits: number, shares: "percent" | "fraction"}} Style */

/** @type {Style} */
export const PLAIN = { digits: 3, shares: "percent" };

/**
 * @param {number | null | undefined} value
 * @param {Style} [style]
 */
export function number(value, style = PLAIN) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "none";
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-4 || size >= 1e6)) return value.toExponential(style.digits - 1);
  return String(Number(value.toPrecision(style.digits)));
}

/**
 * With its sign.
 * @param {number | null | undefined} value
 * @param {Style} [style]
 */
export function signed(value, style = PLAIN) {
  const text = number(value, style);
  return value !== null && value !== undefined && value > 0 ? `+${text}` : text;
}

/**
 * A share from 0 to 1.
 * @param {number | null | undefined} value
 * @param {Style} [style]
 */
export function share(value, style = PLAIN) {
  if (style.shares === "fraction" || value === null || value === undefined) return number(value, style);
  return `${number(100 * value, style)} %`;
}

/**
 * One line of a value of any kind, for reports.
 * @param {unknown} value
 * @param {Style} [style]
 * @returns {string}
 */
export function plain(value, style = PLAIN) {
  if (value === null || value === undefined) return "none";
  if (typeof value === "number") return number(value, style);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) {
    const items = value.map((item) => (Array.isArray(item) ? `[${plain(item, style)}]` : plain(item, style)));
    return items.length ? items.join(", ") : "none";
  }
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

/**
 * "1 picture", "2 pictures".
 * @param {number} count @param {string} word @param {string} [several]
 */
export function counted(count, word, several = `${word}s`) {
  return `${count} ${count === 1 ? word : several}`;
}

/** A key of a report as words. @param {string} key */
export function words(key) {
  return key.replaceAll("_", " ");
}
