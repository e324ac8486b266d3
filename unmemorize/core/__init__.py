"""What several methods share: how a state is mixed from picture and noise."""
