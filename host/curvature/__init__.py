"""Maps of where a picture is memorized, measured on ComfyUI models (arXiv 2605.26756), and the baselines beside them."""
