"""Copies every table under a snapshot, chunk by chunk, straight to the rows' home shards.

It never doubles a row: a chunk's rows and its checkpoint commit together, and a chunk that is read again under a
later snapshot goes through a staging table.
"""
