"""Unmemorize: find, show and remove memorized training images in diffusion models and LoRAs."""

WEB_DIRECTORY = "./js"


async def comfy_entrypoint():
    """ComfyUI's V3 entry point; a failure is logged whole, since ComfyUI shows only its last line."""
    import logging

    try:
        from .nodes import Extension
    except Exception:
        logging.exception("Unmemorize could not be loaded")
        raise
    return Extension()
