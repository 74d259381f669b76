"""What using this package costs, measured side by side with what one would write without it. `make bench`; docs/benchmarks.md."""
