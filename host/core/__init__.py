"""What every family shares: the denoiser, sampling, one sample of a batch, weights, files, the identity of a model, progress."""
