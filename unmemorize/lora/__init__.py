"""Base-Anchored Filtering of LoRAs (BAF, arXiv 2605.10439), our reconstruction: only the paper's idea is public.

A LoRA adds dW to a layer W of its base model. `channels` splits dW into singular channels sigma_i u_i v_i^T, `subspace` finds the
directions that W mainly uses, `alignment` asks how far each channel lies inside them, `scores` ranks by that or otherwise (the score that
our measurement prefers needs neither base nor channels), `gates` keeps the best and weakens the others, `filtering` puts the steps together
for one layer. All matrices are two-dimensional, [m, n] = [out, in * kernel].
"""
