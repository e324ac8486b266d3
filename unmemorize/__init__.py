"""The methods, in pure torch: nothing here imports ComfyUI."""
