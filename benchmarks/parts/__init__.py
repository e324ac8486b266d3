"""What benchmarks are made of: captions, statistics, runs, scores."""
