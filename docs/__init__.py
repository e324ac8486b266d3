"""Writing for people, and what keeps it true: the README's tables are made from the tests and the committed results."""
