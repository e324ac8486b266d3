"""Where in a latent the model memorized: curvature and score differences (arXiv 2605.26756)."""
