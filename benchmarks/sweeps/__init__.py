"""Explorations from which defaults are chosen, on captions that no benchmark evaluates."""
