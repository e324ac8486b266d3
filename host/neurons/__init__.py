"""Memorized neurons: recorded while sampling, found, laid over a model as a mask (arXiv 2406.18566)."""
