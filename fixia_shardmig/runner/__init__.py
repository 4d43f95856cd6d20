"""Drives one migration from phase to phase: what the commands call, and nothing about terminals."""
