"""Benchmarks: shardmig beside its peers and its limits, in one run on one machine. `python -m benchmarks`.

A speed is a ratio of medians and never an assertion: machines differ, and what else they do differs by the minute.
docs/explanation/performance.md says what is measured and why so.
"""
