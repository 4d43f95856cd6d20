"""The sessions of one cutover, opened before anybody is made to wait: the source and every shard.

Does nothing by itself. A session belongs to one thread at a time; `each` gives every one of them to a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from fixia_shardmig.cutover.pooler import Poolers
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.postgres.sessions import Connection, session

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sides:
    """One session on the source and one on each shard, all in autocommit; and the consoles of the poolers."""

    source: Connection
    shards: Mapping[str, Connection]
    poolers: Poolers

    def each_shard(self, work: Callable[[str, Connection], T]) -> dict[str, T]:
        """Run the same work on all shards at once; the first error is raised when all have ended."""
        with ThreadPoolExecutor(max_workers=len(self.shards), thread_name_prefix="cutover") as pool:
            futures = {name: pool.submit(work, name, connection) for name, connection in self.shards.items()}
            return {name: future.result() for name, future in futures.items()}

    def source_and_each(
        self, on_source: Callable[[Connection], T], on_shard: Callable[[str, Connection], T]
    ) -> tuple[T, dict[str, T]]:
        """Run work on the source and on all shards at the same time."""
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="cutover") as pool:
            source = pool.submit(on_source, self.source)
            shards = self.each_shard(on_shard)
            return source.result(), shards


@contextmanager
def open_sides(shard_map: ShardMap) -> Iterator[Sides]:
    """Connect to the source and to every shard."""
    with ExitStack() as stack:
        source = stack.enter_context(session(shard_map.source.url, "cutover"))
        shards = {
            name: stack.enter_context(session(endpoint.url, "cutover")) for name, endpoint in shard_map.shards.items()
        }
        poolers = Poolers(shard_map)
        stack.callback(poolers.close)
        yield Sides(source, shards, poolers)
