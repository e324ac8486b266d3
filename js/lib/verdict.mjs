/**
 * The badge of a node: what its result says, in a word, and its numbers in a line. Pure functions.
 * @module
 */
import { counted, number, plain, share } from "./format.mjs";

/**
 * @typedef {"memorized" | "clean" | "uncalibrated" | "unclear" | "off" | "note" | "running"} Kind
 * @typedef {{kind: Kind, word: string, text: string}} Verdict
 * @typedef {import("./format.mjs").Style} Style
 */

/** A sign beside the word, so that nothing hangs on colour alone. @type {Record<Kind, string>} */
export const SIGNS = { memorized: "\u25b2", clean: "\u2713", uncalibrated: "?", unclear: "?", off: "\u2013", note: "i", running: "\u2026" };

/** The gravest first. @type {Kind[]} */
const GRAVITY = ["memorized", "unclear", "uncalibrated", "note", "clean", "off", "running"];

/**
 * Of several runs: the first of those that say the gravest, and how many say the same.
 * @param {Verdict[]} verdicts at least one
 */
export function gravest(verdicts) {
  const kind = GRAVITY.find((one) => verdicts.some((verdict) => verdict.kind === one));
  const alike = verdicts.filter((verdict) => verdict.kind === kind).length;
  return {
    run: Math.max(
      0,
      verdicts.findIndex((verdict) => verdict.kind === kind),
    ),
    alike,
  };
}

/** What became of a picture that was sampled again. @type {Record<string, {kind: Kind, word: string}>} */
const REDRAWN = {
  another: { kind: "note", word: "redrawn" },
  memorized: { kind: "memorized", word: "still a memory" },
  unknown: { kind: "unclear", word: "redrawn, not judged" },
};

/**
 * Of a batch what its worst picture is, and how many there are of them.
 * @param {any} view as unmemorize/pictures/views.py guard_view writes it
 * @param {Style} style
 * @returns {Verdict}
 */
export function ofBatch(view, style) {
  if (view.kind === "off") return ofGuard(view, style, 0);
  const worst = ofGuard(view, style, view.worst);
  const counts = /** @type {Record<string, number>} */ (view.outcomes);
  const many = Object.values(counts).reduce((sum, count) => sum + count, 0);
  if (many < 2) return worst;
  const said = Object.entries(counts).filter(([, count]) => count > 0);
  const all = said.reverse().map(([outcome, count]) => `${count} ${outcome}`);
  return { ...worst, text: `${all.join(", ")} of ${many} pictures` };
}

/**
 * Of one picture.
 * @param {any} view as unmemorize/pictures/views.py guard_view writes it
 * @param {Style} style
 * @param {number} sample its place among those that were sent
 * @returns {Verdict}
 */
export function ofGuard(view, style, sample) {
  if (view.kind === "off" && view.verdict && view.verdict !== "off") {
    return { kind: "unclear", word: "not judged", text: String(view.verdict).replace(/^not judged: /, "") };
  }
  if (view.kind === "off") return { kind: "off", word: "off", text: "the stock sampler, unwatched" };
  if (view.judged?.[sample] === false) {
    return { kind: "unclear", word: "not judged", text: String(view.verdicts[sample]).replace(/^not judged: /, "") };
  }
  const kind = view.memorized[sample] ? "memorized" : "clean";
  const now = REDRAWN[view.final?.[sample]]; // the picture that came out counts, not the run that was flagged
  const words = String(view.verdicts[sample] ?? "").replace(/^(memorized|flagged)(, )?/, "");
  const limit = String(view.detector).startsWith("paper") ? "" : `, limit ${number(view.limit, style)}`;
  const score = `score ${number(view.scores[sample], style)}${limit}`;
  // a guard without a profile has seen what the LoRA does, and nothing of the checkpoint's own memories; one without a parent the reverse
  const seen = view.detector === "agreement" ? "LoRA clean" : view.unwatched ? "checkpoint clean" : kind;
  const word = kind === "clean" ? seen : kind;
  return { kind: now?.kind ?? kind, word: now?.word ?? word, text: [words, score].filter(Boolean).join(" \u00b7 ") };
}

/** @param {any} report @param {Style} style @returns {Verdict} */
function ofThreshold(report, style) {
  const area = Math.max(0, ...report.areas);
  const text = `${share(area, style)} hot`;
  if (!String(report.threshold).startsWith("calibrated")) return { kind: "uncalibrated", word: "uncalibrated", text };
  const kind = /** @type {Kind} */ (["memorized", "clean"].includes(report.verdict) ? report.verdict : "unclear");
  return { kind, word: kind, text: `${text}, clean pictures ${share(1 - report.quantile, style)}` };
}

/** Of Copy Check: a copy, none, or neither can be said. @param {any} report @returns {Verdict} */
function ofCopies(report) {
  const text = String(report.verdict);
  if (report.threshold === null) return { kind: "uncalibrated", word: "uncalibrated", text };
  if (report.rejected.length) return { kind: "memorized", word: report.rejected.length === 1 ? "copy" : "copies", text };
  const unclear = report.pictures.some((/** @type {any} */ p) => p.copy === null);
  return unclear ? { kind: "unclear", word: "unclear", text } : { kind: "clean", word: "no copy", text };
}

/** What an audit says of a prompt that gives a picture back. */
const FOUND = ["memorized", "copied"];

/** Does a row of an audit say so? @param {any} row */
export const isFound = (row) => FOUND.includes(row.verdict);

/** Of all prompts of an audit, also of those that are not shown: what was found, the worst first. @param {any} gallery @returns {Verdict} */
export function ofAudit(gallery) {
  const many = (/** @type {string} */ outcome) => Number(gallery.counts?.[outcome] ?? 0);
  const found = FOUND.reduce((sum, outcome) => sum + many(outcome), 0);
  const text = String(gallery.summary);
  if (found) return { kind: "memorized", word: `${found} found`, text };
  return many("nothing found") === gallery.count
    ? { kind: "clean", word: "nothing found", text }
    : { kind: "unclear", word: "not judged", text };
}

/** Of two pictures. @param {number | null} difference @param {Style} style @returns {Verdict} */
export function ofPair(difference, style) {
  if (difference === null) return { kind: "note", word: "not comparable", text: "pictures of other sizes, or broken ones" };
  if (difference === 0) return { kind: "note", word: "the same", text: "to the bit" };
  return { kind: "note", word: "changed", text: `colours differ by ${share(difference, style)} on average` };
}

/** The first pair of a batch that differs most. @param {(number | null)[]} differences */
export function mostChanged(differences) {
  const most = Math.max(...differences.map((one) => one ?? 0));
  return Math.max(
    0,
    differences.findIndex((one) => one === most),
  );
}

/** Of all pairs of a batch, also of those that are not shown. @param {(number | null)[]} differences @param {Style} style @returns {Verdict} */
export function ofPairs(differences, style) {
  const many = differences.length;
  const strange = differences.filter((one) => one === null).length;
  if (many < 2 || strange === many) return ofPair(differences[0] ?? null, style);
  const changed = differences.filter((one) => one !== null && one > 0).length;
  const most = mostChanged(differences);
  if (changed) {
    const rest = strange ? `, ${strange} not comparable` : "";
    const text = `most by ${share(differences[most] ?? 0, style)} on average, picture ${most + 1}${rest}`;
    return { kind: "note", word: `${changed} of ${many} changed`, text };
  }
  const same = counted(many - strange, "picture");
  if (strange) return { kind: "note", word: `${strange} of ${many} not comparable`, text: `${same} the same, to the bit` };
  return { kind: "note", word: "the same", text: `${same}, to the bit` };
}

/** @param {any} report @param {Style} style @returns {string} */
function inWords(report, style) {
  if (typeof report.verdict === "string") return report.verdict;
  if ("energy_removed" in report) {
    return `${share(report.energy_removed, style)} of the energy removed, rank ${report.rank_before} to ${report.rank_after}`;
  }
  if ("mean_iou" in report) return `mean overlap ${number(report.mean_iou, style)}`;
  if ("density" in report) {
    const strength = "strength" in report ? `, strength ${number(report.strength, style)}` : "";
    return `${share(report.density, style)} of the weights silenced${strength}`;
  }
  if ("saved" in report) return `saved as ${report.saved}`;
  if ("written" in report) return `${counted(report.written, "file")} written`;
  if ("channels" in report && "removed" in report) return `${report.removed} of ${report.channels} channels removed`;
  return Object.entries(report)
    .filter(([k, v]) => typeof v !== "object" && k !== "sha256")
    .slice(0, 3)
    .map(([k, v]) => `${k} ${plain(v, style)}`)
    .join(", ");
}

/**
 * Of any node's report.
 * @param {string} type of the node
 * @param {any} report
 * @param {Style} style
 * @returns {Verdict}
 */
export function ofReport(type, report, style) {
  if (!report || typeof report !== "object") return { kind: "note", word: "done", text: "" };
  if (report.verdict === "off") return { kind: "off", word: "off", text: "strength 0: nothing was changed" };
  if ("areas" in report) return ofThreshold(report, style);
  if (type === "UnmemorizeCopyCheck") return ofCopies(report);
  if (type === "UnmemorizeMemorizationCheck") {
    const kind = report.memorized === null ? "unclear" : report.memorized ? "memorized" : "clean";
    const word = { unclear: "not judged", memorized: "memorized", clean: "nothing found" }[kind];
    return { kind: /** @type {Kind} */ (kind), word, text: String(report.verdict).replace(/^(memorized|nothing found|not judged): /, "") };
  }
  if (type.endsWith("Map") && Array.isArray(report.scores)) {
    const score = Math.max(...report.scores);
    return { kind: "uncalibrated", word: "uncalibrated", text: `score ${number(score, style)}` };
  }
  if (type === "UnmemorizeHeatmapOverlay") {
    const brief = { ...style, digits: 2 };
    return { kind: "uncalibrated", word: "uncalibrated", text: `mean ${number(report.mean, brief)}, peak ${number(report.peak, brief)}` };
  }
  const warnings = Array.isArray(report.warnings) ? report.warnings.length : 0;
  return { kind: "note", word: warnings ? counted(warnings, "warning") : "done", text: inWords(report, style) };
}
