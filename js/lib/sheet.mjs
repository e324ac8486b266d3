/**
 * The look of the views, in ComfyUI's own theme colours. It lives in shadow roots: it touches nothing else on the page, and nothing else
 * touches it. One rule more is the page's, see `hidePreviews`.
 * @module
 */

const TEXT = `
:host { display: block; position: relative; width: 100%; height: 100%; min-height: var(--unmemorize-height); contain: layout size;
  color: var(--input-text, var(--fg-color, #ddd)); font: 11px/1.4 ui-sans-serif, system-ui, sans-serif; pointer-events: auto; }
.panel { position: absolute; inset: 0; display: flex; flex-direction: column; gap: 4px; overflow: hidden; box-sizing: border-box;
  padding: 4px 6px; border-radius: 6px; border: 1px solid var(--border-color, #4e4e4e); background: var(--comfy-input-bg, #222); }
.head { display: flex; align-items: center; gap: 6px; height: 20px; flex: none; }
.badge { flex: none; padding: 0 6px; border-radius: 9px; font-weight: 600; line-height: 17px; border: 1px solid currentColor; }
.badge[data-kind="memorized"] { background: #b23a0a; color: #fff; }
.badge[data-kind="clean"] { background: #00674d; color: #fff; }
.badge[data-kind="uncalibrated"], .badge[data-kind="unclear"] { background: #e8c14a; color: #222; }
.badge[data-kind="running"] { background: #1f6fa8; color: #fff; }
.badge[data-kind="off"], .badge[data-kind="note"] { background: transparent; }
.summary, .readout { flex: 1; min-width: 0; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.readout { flex: none; height: 16px; color: var(--input-text, #ddd); font-variant-numeric: tabular-nums; }
.stage { flex: 1; min-height: 0; display: flex; flex-direction: column; gap: 4px; }
.empty { flex: 1; display: grid; place-items: center; text-align: center; color: var(--descrip-text, #999); }
.plot { position: relative; flex: 1; min-height: 0; border-radius: 4px; overflow: hidden; }
.plot canvas, .plot svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.plot svg { pointer-events: none; }
.plot text { fill: var(--input-text, #ddd); font-size: 10px; }
.compare .plot { touch-action: none; cursor: ew-resize; }
.compare .plot text { fill: #fff; font-weight: 600; paint-order: stroke; stroke: #000; stroke-width: 3px; stroke-linejoin: round; }
.plot .axis { stroke: var(--descrip-text, #999); stroke-width: 1; opacity: .5; }
.plot .band { fill: var(--input-text, #ddd); opacity: .13; }
.plot .wipe { stroke: #fff; stroke-width: 1.5; paint-order: stroke; filter: drop-shadow(0 0 1px #000); }
.plot .handle { fill: #fff; stroke: #222; stroke-width: 1; }
.plot .arrow { fill: #222; }
.plot .limit { stroke: var(--input-text, #ddd); stroke-width: 2; }
.plot .cursor { stroke: var(--input-text, #ddd); stroke-width: 1; }
.gauge { display: flex; align-items: center; gap: 6px; height: 14px; flex: none; white-space: nowrap; }
.gauge:empty, :host([data-earlier]) :is(.gauge, .card :is(.look, .fine, .open), .advice) { display: none; }
.gauge .bar { position: relative; flex: 1; height: 8px; border-radius: 4px; background: var(--border-color, #4e4e4e); }
.gauge i { position: absolute; inset: 0 auto 0 0; border-radius: 4px; background: #00674d; }
.gauge i.over { background: #d2501c; }
.gauge b { position: absolute; top: -3px; bottom: -3px; width: 2px; background: var(--input-text, #ddd); }
.words { overflow: auto; user-select: text; }
.words p { margin: 0; padding: 2px; }
.words .prompt { font-size: 14px; line-height: 1.7; white-space: pre-wrap; overflow-wrap: anywhere; }
.words mark { border-radius: 4px; padding: 1px 4px; }
.words .advice { color: var(--descrip-text, #999); }
.audit .bar { display: flex; gap: 10px; align-items: center; flex: none; }
.audit .bar label { flex: 1; }
.audit a { color: inherit; }
.cards { flex: 1; min-height: 0; overflow-y: auto; display: flex; flex-direction: column; gap: 6px; user-select: text; }
.card { display: grid; gap: 2px; padding: 5px; border-radius: 5px; border: 1px solid var(--border-color, #4e4e4e); flex: none;
  content-visibility: auto; contain-intrinsic-height: 130px; }
.card img { max-width: 100%; max-height: 76px; border-radius: 3px; justify-self: start; }
.card b { font-weight: 600; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.card :is(.look, .fine, .open) { justify-self: start; padding: 0 6px; border-radius: 9px; color: #fff; }
.card .look { background: #b23a0a; }
.card .fine { background: #00674d; }
.card .open { background: #e8c14a; color: #222; }
.card .numbers { color: var(--descrip-text, #999); font-variant-numeric: tabular-nums; }
.keys { display: flex; flex-wrap: wrap; gap: 2px 10px; flex: none; min-height: 16px; color: var(--input-text, #ddd); }
.keys span { display: inline-flex; align-items: center; gap: 4px; white-space: nowrap; }
.keys svg { width: 18px; height: 8px; flex: none; }
.fields { display: grid; grid-template-columns: 1fr 1fr; gap: 3px 10px; flex: none; }
.field { display: flex; align-items: center; gap: 6px; min-width: 0; height: 20px; }
.field > span { flex: none; min-width: 46px; }
.field[hidden] { display: none; }
.keys.wide, .wide { grid-column: 1 / -1; }
.field.wide { grid-column: 1 / -1; }
input[type="range"] { flex: 1; min-width: 0; width: 0; margin: 0; height: 16px; accent-color: #2b8fd0; cursor: pointer; }
select, button, textarea { font: inherit; color: inherit; background: var(--comfy-menu-bg, #353535); border-radius: 4px;
  border: 1px solid var(--border-color, #4e4e4e); }
select { flex: 1; min-width: 0; height: 19px; padding: 0 2px; }
button { height: 19px; padding: 0 7px; cursor: pointer; flex: none; }
:focus-visible { outline: 2px solid #2b8fd0; outline-offset: 1px; }
dialog { width: min(560px, 90vw); max-height: 80vh; padding: 0; border-radius: 8px; border: 1px solid var(--border-color, #4e4e4e);
  background: var(--comfy-menu-bg, #353535); color: var(--input-text, var(--fg-color, #ddd)); font-size: 13px; }
dialog::backdrop { background: rgb(0 0 0 / .45); }
dialog .bar { position: sticky; top: 0; display: flex; gap: 8px; align-items: center; padding: 10px 12px; background: inherit;
  border-bottom: 1px solid var(--border-color, #4e4e4e); }
dialog .bar b { flex: 1; }
dialog .bar button { height: 26px; }
dialog dl { display: grid; grid-template-columns: minmax(110px, auto) 1fr; gap: 4px 14px; margin: 0; padding: 10px 12px; }
dialog dl dl { padding: 2px 0; }
dialog dt { color: var(--descrip-text, #999); }
dialog dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
dialog summary { cursor: pointer; }
dialog textarea { display: block; width: calc(100% - 24px); height: 90px; margin: 0 12px 12px; box-sizing: border-box; }
@media (prefers-reduced-motion: no-preference) { .badge[data-kind="running"] { animation: breathe 1.6s ease-in-out infinite; } }
@keyframes breathe { 50% { opacity: .6; } }
`;

/** Nodes 2.0 of front ends that do not know `hideOutputImages`; the parent is hidden because it takes its share of the node's height. */
const NO_PREVIEW = ".lg-node:has(.unmemorize-view.replaces) :has(> .lg-node-content) { display: none; }";

/** @type {CSSStyleSheet | null} */
let shared = null;
let previewsHidden = false;

/** One sheet for all views, made when the first one needs it. */
export function sheet() {
  if (!shared) {
    shared = new CSSStyleSheet();
    shared.replaceSync(TEXT);
  }
  return shared;
}

/** Keep ComfyUI's own preview out of nodes whose view, marked `replaces`, shows the same picture. */
export function hidePreviews() {
  if (previewsHidden) return;
  previewsHidden = true;
  const page = new CSSStyleSheet();
  page.replaceSync(NO_PREVIEW);
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, page];
}
