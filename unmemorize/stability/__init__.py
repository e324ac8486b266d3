"""Stability regions of runs: notice memorization and correct it (arXiv 2605.22050)."""
