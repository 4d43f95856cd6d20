"""What applications import: on which shard a row lives, sessions there, and reads across the shards.

Pulls in SQLAlchemy and the mapping's reader, but neither the command line nor the rooms that move rows.
"""

from __future__ import annotations

from fixia_shardmig.lookup.cross import CrossShard
from fixia_shardmig.lookup.router import ShardRouter
from fixia_shardmig.lookup.routes import Route
from fixia_shardmig.model.errors import RowNotFoundError
from fixia_shardmig.model.phase import Writer

__all__ = ["CrossShard", "Route", "RowNotFoundError", "ShardRouter", "Writer"]
