"""Drives a real ComfyUI: start the server, run workflows, write the demo report."""
