"""What users drag: every node of the pack, one file a family."""

from comfy_api.latest import ComfyExtension, io

from .curvature import BrightEndingMap, CurvatureDifferenceMap, RecordScoreDifference, ScoreDifferenceMap
from .curvature_maps import CalibrateMapThreshold, HeatmapOverlay, MapThreshold
from .demo import LoadDemoCheckpoint, LoadDemoLoRA, LoadDemoPicture
from .lora import BAFFilterLoRA, CleanAppliedLoRAs, LoadLoRABAF
from .lora_files import FilterLoRAFolder, LoRASpectrumPlot, OpenLoRA, SaveFilteredLoRA
from .neurons import CompareNeuronMasks, FindMemorizedNeurons, PruneNeurons, RecordNeuronActivity
from .neurons_masks import LoadNeuronMask, SaveNeuronMask
from .stability import KSamplerStabilityGuard, StabilityChart, StabilityGuard
from .stability_profiles import CalibrateStabilityProfile, LoadStabilityProfile, SaveStabilityProfile

NODES: list[type[io.ComfyNode]] = [
    CurvatureDifferenceMap,
    RecordScoreDifference,
    ScoreDifferenceMap,
    BrightEndingMap,
    HeatmapOverlay,
    MapThreshold,
    CalibrateMapThreshold,
    CalibrateStabilityProfile,
    KSamplerStabilityGuard,
    StabilityGuard,
    StabilityChart,
    SaveStabilityProfile,
    LoadStabilityProfile,
    LoadLoRABAF,
    OpenLoRA,
    BAFFilterLoRA,
    CleanAppliedLoRAs,
    LoRASpectrumPlot,
    SaveFilteredLoRA,
    FilterLoRAFolder,
    RecordNeuronActivity,
    FindMemorizedNeurons,
    PruneNeurons,
    CompareNeuronMasks,
    SaveNeuronMask,
    LoadNeuronMask,
    LoadDemoCheckpoint,
    LoadDemoLoRA,
    LoadDemoPicture,
]


class Extension(ComfyExtension):
    """The pack, as ComfyUI loads it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
