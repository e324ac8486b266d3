"""The recipe of the next lab: what it is trained on, how, and who judges it."""
