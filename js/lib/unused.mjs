/**
 * Which widgets do not count under what the others say: they are disabled, never removed, because saved values are positional.
 * @module
 */

/**
 * @typedef {(name: string) => unknown} Value of a widget; undefined if it comes through a link
 * @typedef {(name: string) => boolean} Linked is something connected to this input?
 * @typedef {{names: string[], unless: (value: Value, linked: Linked) => boolean}} Rule
 */

import { symbolOf } from "./menus.mjs";

/** @param {string} name @param {...string} choices */
const says =
  (name, ...choices) =>
  (/** @type {Value} */ value) =>
    value(name) === undefined || choices.includes(symbolOf(value(name)));

/** @param {string} input */
const has = (input) => (/** @type {Value} */ _, /** @type {Linked} */ linked) => linked(input);

export const CUSTOM = "custom";
/** What a preset settles. */
export const PRESET = ["sigmas", "probes", "noises", "probing", "estimator"];

/** @type {Rule[]} */
const MEASURING = [
  { names: PRESET, unless: says("preset", CUSTOM) },
  { names: ["probes", "probing", "estimator"], unless: (value) => !symbolOf(value("method")).startsWith("ds_") },
];

/** Scores that judge a layer as a whole, by no number: nothing lies between what goes and what stays. */
const WHOLE = "cross-attention";
/** @param {Value} value */
const graded = (value) => symbolOf(value("score")) !== WHOLE;

/** @type {Rule[]} */
const FILTERING = [
  { names: ["threshold", "deviations"], unless: (value) => graded(value) && says("gate", "hard", "soft")(value) },
  { names: ["temperature"], unless: says("gate", "soft") },
  { names: ["keep"], unless: says("gate", "ratio", "ratio of the file", "energy", "scale") },
  { names: ["base_energy"], unless: graded },
  { names: ["control_seed"], unless: says("score", "random") },
];

/** @type {Rule[]} */
const GUARDING = [{ names: ["method"], unless: says("mode", "detect", "correct") }];
/** Choices of Copy Check under which references calibrate; undefined: one that comes through a link may be any. @type {Set<unknown>} */
const AMONG_THEMSELVES = new Set([undefined, "references among themselves"]);
/** @type {Rule} */
const OF_REFERENCES = { names: ["copy_limit"], unless: has("references") };

/** @type {Record<string, Rule[]>} */
export const RULES = {
  UnmemorizeCurvatureDifferenceMap: MEASURING,
  UnmemorizeCalibrateMapThreshold: MEASURING,
  UnmemorizeLoadLoRABAF: [...FILTERING, { names: ["strength_clip", "text_encoder"], unless: has("clip") }],
  UnmemorizeBAFFilterLoRA: [...FILTERING, { names: ["text_encoder"], unless: has("clip") }],
  UnmemorizeFilterLoRAFolder: [...FILTERING, { names: ["text_encoder"], unless: has("clip") }],
  UnmemorizeCleanAppliedLoRAs: FILTERING,
  UnmemorizeKSamplerStabilityGuard: GUARDING,
  UnmemorizeStabilityGuard: GUARDING,
  UnmemorizeCopyCheck: [
    { names: ["calibrate"], unless: (_, linked) => !linked("honest") },
    { names: ["false_alarms"], unless: (value, linked) => linked("honest") || AMONG_THEMSELVES.has(value("calibrate")) },
  ],
  UnmemorizeAudit: [{ names: ["neighbours"], unless: (_, linked) => !linked("base") }, OF_REFERENCES],
  UnmemorizeBestEpoch: [OF_REFERENCES, { names: ["probe_pictures"], unless: (_, linked) => !linked("references") }],
  UnmemorizeLoadCopyDetector: [{ names: ["detector"], unless: (_, linked) => !linked("clip_vision") }],
  UnmemorizeCleanLoRA: [{ names: ["prompts"], unless: (value) => String(value("captions") ?? "linked").trim() !== "" }],
};

/**
 * Names of the widgets of a node that change nothing now.
 * @param {string} type @param {Value} value @param {Linked} linked
 * @returns {Set<string>}
 */
export function unused(type, value, linked) {
  const rules = Object.hasOwn(RULES, type) ? RULES[type] : [];
  return new Set(rules.filter((rule) => !rule.unless(value, linked)).flatMap((rule) => rule.names));
}
