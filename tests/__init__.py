"""Tests, by distance from a server: unit, integration, acceptance, faults; benchmarks beside them."""
