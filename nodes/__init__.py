"""What users drag: every node of the pack, one file a family."""

from comfy_api.latest import ComfyExtension, io

from .curvature import CurvatureDifferenceMap, HeatmapOverlay
from .demo import LoadDemoCheckpoint, LoadDemoLoRA, LoadDemoPicture

NODES: list[type[io.ComfyNode]] = [CurvatureDifferenceMap, HeatmapOverlay, LoadDemoCheckpoint, LoadDemoLoRA, LoadDemoPicture]


class Extension(ComfyExtension):
    """The pack, as ComfyUI loads it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
