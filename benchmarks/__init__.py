"""What asof costs, beside its parts and beside what a user would pick instead: `python -m benchmarks --help`."""
