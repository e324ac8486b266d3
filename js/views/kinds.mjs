/**
 * Which node shows what.
 * @module
 */
import { auditView } from "./audit.mjs";
import { compareView } from "./compare.mjs";
import { densityView } from "./density.mjs";
import { guardView } from "./guard.mjs";
import { overlayView } from "./overlay.mjs";
import { spectrumView } from "./spectrum.mjs";
import { wordsView } from "./words.mjs";

/** @typedef {import("../lib/panel.mjs").Kind} Kind */

/** @type {Kind} */
const guard = { key: "unmemorize_guard", height: 190, hint: "The steps appear here while the sampler runs.", make: guardView };
/** @type {Kind} */
const overlay = {
  key: "unmemorize_overlay",
  height: 300,
  hint: "Run the workflow: the map appears here.",
  make: overlayView,
  replaces: true,
};
/** @type {Kind} */
const spectrum = {
  key: "unmemorize_spectrum",
  height: 260,
  hint: "Run the workflow: the LoRA's channels appear here.",
  make: spectrumView,
};
/** @type {Kind} */
const density = {
  key: "unmemorize_density",
  height: 190,
  hint: "Run the workflow: layers and noise levels appear here.",
  make: densityView,
};

/** @type {Kind} */
const words = { key: "unmemorize_words", height: 120, hint: "Run the workflow: the words are coloured here.", make: wordsView };

/** @type {Kind} */
const audit = {
  key: "unmemorize_audit",
  height: 300,
  hint: "Run the workflow: the prompts appear here with their pictures.",
  make: auditView,
};

/** @type {Kind} */
const compare = {
  key: "unmemorize_compare",
  height: 260,
  hint: "Run the workflow: both pictures appear here.",
  make: compareView,
  replaces: true,
};

/** Node id -> its view; null: badge and report only. Nodes that are not here report nothing. @type {Record<string, Kind | null>} */
export const KINDS = {
  UnmemorizeKSamplerStabilityGuard: guard,
  UnmemorizeStabilityGuard: guard,
  UnmemorizeStabilityChart: { ...guard, replaces: true },
  UnmemorizeHeatmapOverlay: overlay,
  UnmemorizeComparePictures: compare,
  UnmemorizeLoRASpectrumPlot: spectrum,
  UnmemorizeBAFFilterLoRA: spectrum,
  UnmemorizeLoadLoRABAF: spectrum,
  UnmemorizeCleanAppliedLoRAs: spectrum,
  UnmemorizeFindMemorizedNeurons: density,
  UnmemorizePruneNeurons: density,
  UnmemorizeCompareNeuronMasks: density,
  UnmemorizeTriggerWords: words,
  UnmemorizeCopyCheck: null,
  UnmemorizeAudit: audit,
  UnmemorizeBestEpoch: null,
  UnmemorizeCleanLoRA: null,
  UnmemorizeMemorizationCheck: null,
  UnmemorizeReferencePictures: null,
  UnmemorizeLoRALeakProbe: null,
  UnmemorizeMeasuredLoRAFilter: null,
  UnmemorizeModelStabilityProfile: null,
  UnmemorizeCurvatureDifferenceMap: null,
  UnmemorizeScoreDifferenceMap: null,
  UnmemorizeBrightEndingMap: null,
  UnmemorizeMapThreshold: null,
  UnmemorizeCalibrateStabilityProfile: null,
  UnmemorizeOpenLoRA: null,
  UnmemorizeSaveFilteredLoRA: null,
  UnmemorizeFilterLoRAFolder: null,
  UnmemorizeRecordNeuronActivity: null,
};
