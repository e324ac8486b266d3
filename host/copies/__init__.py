"""Are these pictures copies? Probes and comparisons on ComfyUI's models and pictures."""
