"""What the router is given to let go of what it holds: operations to the shards, and what does not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fixia_shardmig.tail.shards import ShardSession


@dataclass(frozen=True, slots=True)
class Overflow:
    """Where what does not fit into memory goes.

    Attributes:
        keep_part: Takes (number, content) of a part of the batch record that is complete.
        spool: A directory for files without a name.
    """

    keep_part: Callable[[int, bytes], None]
    spool: Path


@dataclass(frozen=True, slots=True)
class Sending:
    """How shards are made to send what waits.

    Attributes:
        on_all: Runs something on every shard at once and waits for all of them.
        start: Has one shard begin, in another thread.
    """

    on_all: Callable[[Callable[[ShardSession], None]], None]
    start: Callable[[ShardSession], None]
