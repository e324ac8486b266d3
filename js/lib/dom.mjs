/**
 * Elements made of text: nothing from a file or a prompt is ever parsed as HTML.
 * @module
 */

/**
 * @typedef {{
 *   class?: string,
 *   text?: string,
 *   title?: string,
 *   attrs?: Record<string, string | number>,
 *   on?: Record<string, (event: any) => void>,
 * }} Parts
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * @param {Element} element
 * @param {Parts} parts
 * @param {(Node | null)[]} children
 */
function furnish(element, parts, children) {
  if (parts.class) element.setAttribute("class", parts.class);
  if (parts.text !== undefined) element.textContent = parts.text;
  if (parts.title) element.setAttribute("title", parts.title);
  for (const [name, value] of Object.entries(parts.attrs ?? {})) element.setAttribute(name, String(value));
  for (const [name, listener] of Object.entries(parts.on ?? {})) element.addEventListener(name, listener);
  element.append(...children.filter((child) => child !== null));
}

/**
 * An HTML element.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Parts} [parts]
 * @param {...(Node | null)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function el(tag, parts = {}, ...children) {
  const element = document.createElement(tag);
  furnish(element, parts, children);
  return element;
}

/**
 * An SVG element.
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string | number>} [attrs]
 * @param {string} [text]
 * @returns {SVGElementTagNameMap[K]}
 */
export function svg(tag, attrs = {}, text) {
  const element = document.createElementNS(SVG, tag);
  furnish(element, text === undefined ? { attrs } : { attrs, text }, []);
  return element;
}

/**
 * A labelled control; the label is part of it, so that screen readers and clicks find it.
 * @param {string} text
 * @param {HTMLElement} control
 * @param {string} [title]
 */
export function labelled(text, control, title) {
  return el("label", { class: "field", title }, el("span", { text }), control);
}

/**
 * A slider that reports every movement.
 * @param {{min: number, max: number, step: number, value: number, label: string}} range
 * @param {(value: number) => void} moved
 */
export function slider(range, moved) {
  const { min, max, step, value, label } = range;
  const input = el("input", { attrs: { type: "range", min, max, step, "aria-label": label } });
  input.value = String(value);
  input.addEventListener("input", () => moved(Number(input.value)));
  return input;
}

/**
 * A choice among words.
 * @param {string[]} options
 * @param {string} label
 * @param {(value: string) => void} chosen
 */
export function choice(options, label, chosen) {
  const select = el("select", { attrs: { "aria-label": label } });
  setOptions(select, options);
  select.addEventListener("change", () => chosen(select.value));
  return select;
}

/**
 * Replace the options of a choice; what was chosen stays if it is still there.
 * @param {HTMLSelectElement} select
 * @param {string[]} options
 */
export function setOptions(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map((text) => el("option", { text, attrs: { value: text } })));
  if (options.includes(before)) select.value = before;
}
