"""Compares the source with the shards at one LSN, row by row, and names every difference. Changes nothing.

Imports no room that moves rows: a mistake that copy, tail and verify shared would hide itself (pitfall 57).
"""
