"""UI-format workflows (what users load) -> API prompts (what the server runs)."""

from __future__ import annotations

from typing import Any

from comfy_cli.workflow_to_api import convert_ui_to_api


def lower(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """API prompt of a UI workflow, by comfy-cli; `object_info` is the server's."""
    return convert_ui_to_api(workflow, object_info)
