/**
 * Where a bundled template opens. Nodes 2.0 draws a graph larger than the classic canvas for which its view was stored: it is shown smaller.
 * @module
 */
import { app } from "../../../scripts/app.js";
import { grown } from "./scales.mjs";

/** Corners of all places of nodes, as the template was laid out. */
const KEY = "unmemorize_laid_out";

/** After a template was opened; once, so that a graph that was saved keeps its own view. */
export function openWhole() {
  const { graph } = app;
  const before = /** @type {any} */ (graph?.extra)?.[KEY];
  if (!Array.isArray(before)) return;
  delete (/** @type {any} */ (graph.extra)[KEY]);
  const places = graph._nodes.map((node) => node.pos);
  const of = (/** @type {(...values: number[]) => number} */ pick, /** @type {number} */ i) => pick(...places.map((pos) => pos[i]));
  const view = app.canvas.ds;
  const { scale, offset } = grown(/** @type {any} */ (view), before, [of(Math.min, 0), of(Math.min, 1), of(Math.max, 0), of(Math.max, 1)]);
  view.scale = scale;
  [view.offset[0], view.offset[1]] = offset;
  app.canvas.setDirty(true, true);
}
