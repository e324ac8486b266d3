"""Evidence: each module measures one family and writes benchmarks/out/NAME.json."""
