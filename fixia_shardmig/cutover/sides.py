"""The sessions of one cutover, opened before anybody is made to wait: the source and every shard.

Does nothing by itself. A session belongs to one thread at a time; `each_shard` gives every one of them to a thread, and
`beside` lets the source's be at work while the shards are waited for. Threads are there before they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from fixia_shardmig.cutover.pooler import Poolers
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.postgres.sessions import Connection, session

T = TypeVar("T")


def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="cutover")


@dataclass(frozen=True, slots=True)
class Sides:
    """One session on the source and one on each shard, all in autocommit; and the consoles of the poolers."""

    source: Connection
    shards: Mapping[str, Connection]
    poolers: Poolers
    threads: ThreadPoolExecutor = field(default_factory=_threads)

    def each_shard(self, work: Callable[[str, Connection], T]) -> dict[str, T]:
        """Run the same work on all shards at once; the first error is raised when all have ended."""
        return _results(self._begin(work))

    def source_and_each(
        self, on_source: Callable[[Connection], T], on_shard: Callable[[str, Connection], T]
    ) -> tuple[T, dict[str, T]]:
        """Run work on the source and on all shards at the same time."""
        with self.beside(on_source) as source:
            shards = self.each_shard(on_shard)
        return source.result(), shards

    @contextmanager
    def beside(self, on_source: Callable[[Connection], T]) -> Iterator[Future[T]]:
        """Run work on the source's session while the block, which leaves that session alone, runs; ends after both."""
        future = self.threads.submit(on_source, self.source)
        try:
            yield future
        finally:
            wait([future])

    @contextmanager
    def beside_shards(self, on_shard: Callable[[str, Connection], T]) -> Iterator[Callable[[], dict[str, T]]]:
        """Run work on the shards' sessions while the block, which leaves them alone, runs; yields its results."""
        futures = self._begin(on_shard)
        try:
            yield lambda: _results(futures)
        finally:
            wait(futures.values())

    def _begin(self, work: Callable[[str, Connection], T]) -> dict[str, Future[T]]:
        return {name: self.threads.submit(work, name, connection) for name, connection in self.shards.items()}


def _results(futures: Mapping[str, Future[T]]) -> dict[str, T]:
    wait(futures.values())
    return {name: future.result() for name, future in futures.items()}


@contextmanager
def open_sides(shard_map: ShardMap) -> Iterator[Sides]:
    """Connect to the source and to every shard. Plans that were made before the pause serve in it."""
    with ExitStack() as stack:
        source = stack.enter_context(session(shard_map.source.url, "cutover"))
        shards = {
            name: stack.enter_context(session(endpoint.url, "cutover")) for name, endpoint in shard_map.shards.items()
        }
        for connection in (source, *shards.values()):
            connection.execute("SET plan_cache_mode = force_generic_plan")
        poolers = Poolers(shard_map)
        stack.callback(poolers.close)
        threads = stack.enter_context(ThreadPoolExecutor(len(shards) + 2, thread_name_prefix="cutover"))
        yield Sides(source, shards, poolers, threads)
