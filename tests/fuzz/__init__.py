"""Damaged files of every kind, thrown at the nodes: `nox -s fuzz -- 10000`."""
