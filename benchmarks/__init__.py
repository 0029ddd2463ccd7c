"""Benchmarks: what a thing costs here, beside a baseline measured in the same run."""
