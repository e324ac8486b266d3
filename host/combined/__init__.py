"""What joins families: jobs that need two or more of them."""
