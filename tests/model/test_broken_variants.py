"""The model finds what it is for: each mistake that such a program could make is made on purpose, and is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from psycopg import sql

from fixia_shardmig.copy import statements
from fixia_shardmig.copy.worker import ShardWrite
from fixia_shardmig.mapping.shard_map import Path
from fixia_shardmig.model.catalog import Table
from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.placement.stream import Key
from fixia_shardmig.postgres.transactions import Idle, Item
from fixia_shardmig.tail.batches import Batches
from fixia_shardmig.tail.record import Decisions
from fixia_shardmig.tail.router import Router
from fixia_shardmig.tail.settle import _Settling
from fixia_shardmig.tail.tail import Tail
from tests.model import world
from tests.model.machine import run_histories
from tests.model.source import home
from tests.model.world import Lost, World

HISTORIES_MAX = 2000
"""By then each mistake was found many times over; most are within a hundred histories."""

Break = Callable[[pytest.MonkeyPatch], None]


def no_replay(patch: pytest.MonkeyPatch) -> None:
    """Commit moves on one shard before the other, and after a crash decide the batch again."""
    patch.setattr(Tail, "_replay_torn_batch", lambda _: None)


def no_replay_of_settling(patch: pytest.MonkeyPatch) -> None:
    """Take shards at one position for shards that have committed the same."""
    patch.setattr(Tail, "_replay_torn_settling", lambda _: None)


def only_masks(patch: pytest.MonkeyPatch) -> None:
    """Record where changes went, and not the rows that moved."""
    write = Decisions.to_bytes
    patch.setattr(Decisions, "to_bytes", lambda self: write(Decisions(self.masks)))


def the_future(patch: pytest.MonkeyPatch) -> None:
    """Ask the live source where a parent lives."""
    worlds: list[World] = []
    begin = World.__init__

    def remembered(self: World) -> None:
        worlds[:] = [self]
        begin(self)

    def parent_home(_: Router, path: Path, key: Key) -> str | None:
        tables = worlds[0].source.tables
        parent = tables[path.references.name].get(key[0])
        return home(path.references.name, parent.values, tables) if parent else None

    patch.setattr(World, "__init__", remembered)
    patch.setattr(Router, "parent_home", parent_home)


def keepalives(patch: pytest.MonkeyPatch) -> None:
    """Acknowledge what a keepalive says as it comes."""
    receive = Tail._receive

    def received(self: Tail, wait_s: float) -> None:
        take = self._receiver.take

        def taken(wait_s: float) -> list[Item]:
            items = take(wait_s)
            for item in items:
                if isinstance(item, Idle):
                    self._receiver.acknowledge(item.server_lsn)
            return items

        patch.setattr(self._receiver, "take", taken)
        receive(self, wait_s)
        patch.delattr(self._receiver, "take")

    patch.setattr(Tail, "_receive", received)


def the_first_shard(patch: pytest.MonkeyPatch) -> None:
    """Take for durable what the foremost shard has."""
    patch.setattr(Batches, "position", property(lambda self: max(shard.position for shard in self.shards)))


def no_followers(patch: pytest.MonkeyPatch) -> None:
    """Move a user and forget who follows."""
    moved = _Settling._is_now_at

    def alone(self: Any, *arguments: Any) -> None:
        parents = self.router.unsettled.add_parent
        self.router.unsettled.add_parent = lambda *_: None
        moved(self, *arguments)
        self.router.unsettled.add_parent = parents

    patch.setattr(_Settling, "_is_now_at", alone)


def a_later_epoch_adds(patch: pytest.MonkeyPatch) -> None:
    """Leave in a table without a key what a chunk that died has left there, and add the whole table to it."""
    write = statements._shard_write

    def added(*arguments: Any, **options: Any) -> ShardWrite:
        written = write(*arguments, **options)
        return replace(written, before=tuple(one for one in written.before if not one.startswith("TRUNCATE")))

    patch.setattr(statements, "_shard_write", added)
    patch.setattr(world, "_written", world._written.__wrapped__)


def a_later_epoch_does_not_overwrite(patch: pytest.MonkeyPatch) -> None:
    """Keep the older version of a row that an earlier snapshot epoch has left."""

    def kept(_: Table, target: sql.Identifier, names: sql.Composable) -> list[sql.Composable]:
        query = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {} WHERE true ON CONFLICT DO NOTHING")
        return [query.format(target, names, names, statements._STAGING)]

    patch.setattr(statements, "_from_staging", kept)


def what_is_read_ahead_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Take the shards for consistent once the snapshots are passed, whatever was read on the live source."""
    patch.setattr(Tail, "_read_ahead", property(lambda _: LSN(0), lambda *_: None), raising=False)


def what_an_earlier_run_read_ahead_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Count only what this run of the tail has read on the live source."""
    begin = Tail.__init__

    def forgetful(self: Tail, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        self._read_ahead = LSN(0)

    patch.setattr(Tail, "__init__", forgetful)


MISTAKES: tuple[Break, ...] = (
    no_replay,
    only_masks,
    the_future,
    keepalives,
    the_first_shard,
    no_followers,
    a_later_epoch_adds,
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.__name__)
def test_a_mistake_is_found(mistake: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfalls 2, 3, 5, 6, 7, 37, 44: with the mistake in the product's code the judge speaks up."""
    mistake(monkeypatch)
    with pytest.raises(Lost):
        run_histories(0, HISTORIES_MAX, shrink=False)


def torn_while_brought_home() -> None:
    """Have a service and its user come from two snapshots, and the service's new home die as it is brought there."""
    world = World()
    world.source.write([("user", 1, 0, 1, 0), ("service", 1, 0, 1, 0)])
    world.open_snapshot()
    world.copy("services", 0)
    world.source.write([("kind", 1, 0, 2, 0)])
    world.open_snapshot()
    for name, block in list(world.open_chunks):
        world.copy(name, block)
    assert not world.tail(world.source.now, portions=[], crashes=frozenset({("home south", 1, False)}))
    world.finish()
    world.close()


def test_rows_on_their_way_home_survive_a_crash_between_commits() -> None:
    """Pitfall 6: bringing all rows home moves no position; that only some shards committed it shows all the same."""
    torn_while_brought_home()


def test_a_torn_homecoming_without_its_record_loses_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 6: the same history with positions alone to tell by."""
    no_replay_of_settling(monkeypatch)
    with pytest.raises(Lost):
        torn_while_brought_home()


HISTORIES_WITHOUT_OVERWRITING = 120


def test_an_older_version_that_a_later_epoch_keeps_is_put_right_by_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mistake: a row with two versions was touched since the slot began, so its last version is in the stream.

    The product overwrites all the same; that nothing hangs on it is one thing less to trust.
    """
    a_later_epoch_does_not_overwrite(monkeypatch)
    run_histories(0, HISTORIES_WITHOUT_OVERWRITING, shrink=False)


def a_value_from_the_future() -> None:
    """Have a user escape both snapshots' chunks, so that what its update leaves out is read on the live source.

    By then the source has another value there, which the stream brings only after both snapshots.
    """
    world = World()
    world.source.write([("user", 1, 2, 1, 0)])
    world.open_snapshot()
    world.copy("users", 1)
    world.source.write([("kind", 1, 0, 2, 1)])
    world.open_snapshot()
    for name, block in list(world.open_chunks):
        world.copy(name, block)
    passed = world.source.now
    world.source.write([("user big", 1, 3, 1, 1)])
    for _ in range(2):
        assert world.tail(passed, portions=[])
        assert not world.exact
    world.finish()
    assert world.exact
    world.close()


def test_shards_with_a_value_from_the_future_are_not_called_consistent() -> None:
    """Pitfalls 2, 5: neither by the run that read it, nor by the next one; once the stream is past it, they are."""
    a_value_from_the_future()


@pytest.mark.parametrize(
    "mistake",
    [what_is_read_ahead_is_forgotten, what_an_earlier_run_read_ahead_is_forgotten],
    ids=lambda mistake: mistake.__name__,
)
def test_a_value_from_the_future_that_is_forgotten_is_found(mistake: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfalls 2, 5: the same history, called consistent too early: a shard holds what the source had not yet."""
    mistake(monkeypatch)
    with pytest.raises(Lost, match="lacks"):
        a_value_from_the_future()
