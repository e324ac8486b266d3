"""What users drag: every node of the pack, one file a family."""

from comfy_api.latest import ComfyExtension, io

from .combined import AlternativePrompts, BestEpoch, MeasuredLoRAFilter, TriggerWords
from .combined_audit import MemorizationAudit
from .combined_simple import CleanLoRA, ComparePictures, MemorizationCheck
from .copies import LoRALeakProbe
from .copies_check import CopyCheck, LoadCopyDetector, ReferencePictures
from .curvature import BrightEndingMap, CurvatureDifferenceMap, RecordScoreDifference, ScoreDifferenceMap
from .curvature_maps import CalibrateMapThreshold, HeatmapOverlay, MapThreshold
from .curvature_thresholds import LoadMapThreshold, SaveMapThreshold
from .demo import LoadDemoCheckpoint, LoadDemoLoRA, LoadDemoPicture
from .lora import BAFFilterLoRA, CleanAppliedLoRAs, LoadLoRABAF
from .lora_files import FilterLoRAFolder, LoRASpectrumPlot, OpenLoRA, SaveFilteredLoRA
from .neurons import CompareNeuronMasks, FindMemorizedNeurons, PruneNeurons, RecordNeuronActivity
from .neurons_masks import LoadNeuronMask, SaveNeuronMask
from .stability import KSamplerStabilityGuard, StabilityChart, StabilityGuard
from .stability_profiles import CalibrateStabilityProfile, LoadStabilityProfile, ModelStabilityProfile, SaveStabilityProfile

NODES: list[type[io.ComfyNode]] = [
    CurvatureDifferenceMap,
    RecordScoreDifference,
    ScoreDifferenceMap,
    BrightEndingMap,
    HeatmapOverlay,
    MapThreshold,
    CalibrateMapThreshold,
    SaveMapThreshold,
    LoadMapThreshold,
    ModelStabilityProfile,
    CalibrateStabilityProfile,
    KSamplerStabilityGuard,
    StabilityGuard,
    StabilityChart,
    AlternativePrompts,
    SaveStabilityProfile,
    LoadStabilityProfile,
    LoadLoRABAF,
    OpenLoRA,
    BAFFilterLoRA,
    CleanAppliedLoRAs,
    LoRASpectrumPlot,
    MeasuredLoRAFilter,
    BestEpoch,
    SaveFilteredLoRA,
    FilterLoRAFolder,
    RecordNeuronActivity,
    FindMemorizedNeurons,
    PruneNeurons,
    CompareNeuronMasks,
    SaveNeuronMask,
    LoadNeuronMask,
    MemorizationCheck,
    CleanLoRA,
    ComparePictures,
    ReferencePictures,
    LoadCopyDetector,
    CopyCheck,
    LoRALeakProbe,
    TriggerWords,
    MemorizationAudit,
    LoadDemoCheckpoint,
    LoadDemoLoRA,
    LoadDemoPicture,
]


class Extension(ComfyExtension):
    """The pack, as ComfyUI loads it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
