"""Carries the source's changes to the shards: decoded, routed, applied in batches together with the position.

Refuses to guess: a row without a home or of a shape that the targets do not have stops it before that transaction.
"""
