"""All that touches ComfyUI: a change in a new version of it should be mended here only."""
