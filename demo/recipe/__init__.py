"""The recipe of the demo model: what it is trained on, how, and who judges it."""
