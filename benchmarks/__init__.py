"""What asof costs beside what its parts cost: `python -m benchmarks --help`."""
