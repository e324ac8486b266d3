"""Unmemorize: find, show and remove memorized training images in diffusion models and LoRAs."""

WEB_DIRECTORY = "./js"


async def comfy_entrypoint():
    """ComfyUI's V3 entry point; nothing is imported before it is called."""
    from .nodes import entrypoint

    return await entrypoint()
