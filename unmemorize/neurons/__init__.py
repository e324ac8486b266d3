"""Memorized neurons: Wanda scores of weights, and masks of them (arXiv 2406.18566)."""
