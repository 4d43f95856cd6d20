"""The durable record of a migration: phase, chunks, positions, batch record, barriers, events.

One shard keeps it, in the schema `shardmig`; every shard keeps its own checkpoints and position there, since
those commit together with the rows they speak of.
"""
