"""The recipe: trains a lab. Runs in a clone, never ships."""
