"""The demo checkpoint: a tiny text-to-image model that memorized part of its training set."""
