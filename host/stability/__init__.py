"""The stability guard: watch a run, judge it, correct it (arXiv 2605.22050)."""
