"""The spool between a real slot and whoever reads: what is acknowledged, where it ends, and where the slot goes on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psycopg
import pytest

from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.postgres.pgoutput import Insert, LogicalMessage
from fixia_shardmig.postgres.slots import emit_marker
from fixia_shardmig.postgres.transactions import Transaction
from fixia_shardmig.tail.spool import Extent, Spool, SpooledStream
from fixia_shardmig.tail.spool_files import Identity
from fixia_shardmig.tail.spooler import READ_BYTES, Spooler
from tests.fixtures.fix_replication import PREFIX, Published

WAIT_S = 60.0
SMALL_SEGMENT = 4096


@dataclass
class Kept:
    """A published table, its slot, and the place of its spool."""

    published: Published
    base: Path
    said: list[str] = field(default_factory=list[str])
    sent: int = 0

    @property
    def identity(self) -> Identity:
        """Whose spool it is."""
        return Identity(1, 1, self.published.name, self.published.lsn)

    def write(self, transactions: int, rows: int = 1) -> None:
        """Insert rows, so many in each transaction."""
        with psycopg.connect(self.published.url, autocommit=True) as connection:
            for _ in range(transactions):
                connection.execute(
                    "INSERT INTO t SELECT n, repeat('x', 50) FROM generate_series(%s::int, %s::int) n",
                    (self.sent, self.sent + rows - 1),
                )
                self.sent += rows

    def confirmed(self) -> LSN:
        """Return what the slot was told."""
        return LSN.parse(
            self.published.one(
                "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE database = current_database()"
            )
        )

    def was_told(self, lsn: LSN) -> bool:
        """Whether the slot was told so much."""
        return self.confirmed() >= lsn

    def now(self) -> LSN:
        """Return the source's position."""
        return LSN.parse(self.published.one("SELECT pg_current_wal_lsn()::text"))

    def extent(self) -> Extent:
        """Return what is kept."""
        with contextlib.closing(Spool(self.base, self.identity)) as spool:
            found = spool.extent()
        assert found is not None
        return found

    @contextlib.contextmanager
    def spooling(self, *, bytes_max: int = 2**40, free_bytes_min: int = 0) -> Iterator[Spooler]:
        """Keep the stream while the block runs."""
        spooler = Spooler(
            Spool(self.base, self.identity),
            self.published.lsn,
            open_stream=lambda start: self.published.stream(start=start),
            say=self.said.append,
            bytes_max=bytes_max,
            segment_bytes=SMALL_SEGMENT,
            free_bytes_min=free_bytes_min,
        )
        try:
            yield spooler
        finally:
            spooler.close()

    def wait(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < deadline, self.said
            time.sleep(0.05)

    def ids(self, start: LSN | None = None) -> list[int]:
        """Return the keys that spool and stream together give, in order, up to now."""
        with psycopg.connect(self.published.url, autocommit=True) as connection:
            content = f"end {time.monotonic_ns()}".encode()
            emit_marker(connection, PREFIX, content)
        found: list[int] = []
        source = SpooledStream(
            Spool(self.base, self.identity),
            start or self.published.lsn,
            open_stream=lambda at: self.published.stream(start=at),
        )
        deadline = time.monotonic() + WAIT_S
        with contextlib.closing(source), contextlib.closing(self.published.reader()) as reader:
            while time.monotonic() < deadline:
                for item in reader.feed(source.read(1000, 0.5)):
                    if isinstance(item, LogicalMessage) and item.content == content:
                        return found
                    if isinstance(item, Transaction):
                        found += [int(str(c.new[0])) for c in item.changes if isinstance(c, Insert)]
        raise AssertionError("the marker did not come")


@pytest.fixture
def kept(either_url: str, publish: Callable[..., Published], tmp_path: Path) -> Iterator[Kept]:
    """Give a table of rows with a slot."""
    with psycopg.connect(either_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (id int PRIMARY KEY, text text)")
    kept = Kept(publish(either_url, "t"), tmp_path / "kept")
    yield kept
    with psycopg.connect(either_url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
        )


def test_the_slot_moves_on_while_nobody_applies(kept: Kept) -> None:
    """Pitfall 37: the source is told what is durable here, never more; the spool's files say the same."""
    with kept.spooling():
        kept.write(100)
        goal = kept.now()
        kept.wait(partial(kept.was_told, goal))
    assert kept.extent().end_lsn >= kept.confirmed() >= goal


def test_spool_and_stream_together_give_each_row_once(kept: Kept) -> None:
    """What came before, while and after the spool was kept, over two runs of it."""
    kept.write(20)
    for _ in range(2):
        with kept.spooling():
            kept.write(50)
            goal = kept.now()
            kept.wait(partial(kept.was_told, goal))
        kept.write(20)

    assert list(range(160)) == kept.ids()


def test_a_transaction_cut_at_the_end_of_the_spool_comes_whole_from_the_slot(kept: Kept) -> None:
    """Pitfall 39: the spool ends at a boundary, and the slot goes on exactly there."""
    with contextlib.closing(Spool(kept.base, kept.identity)) as spool:
        kept.write(3)
        kept.write(1, rows=500)
        kept.write(3)
        writer = spool.writer(kept.published.lsn, segment_bytes=SMALL_SEGMENT)
        with contextlib.closing(kept.published.stream()) as stream:
            frames: list[tuple[int, bytes]] = []
            deadline = time.monotonic() + WAIT_S
            while len(frames) < 200 and time.monotonic() < deadline:
                frames += stream.read(100, 0.5)
            writer.append(frames[:200])
            end = writer.sync()
            stream.acknowledge(end)
        writer.close()
    assert end == kept.extent().end_lsn == kept.confirmed()

    assert list(range(506)) == kept.ids()


@pytest.mark.parametrize("bounds", [{"bytes_max": READ_BYTES + 8 * SMALL_SEGMENT}, {"free_bytes_min": 2**60}])
def test_a_full_spool_leaves_the_rest_to_the_slot(kept: Kept, bounds: dict[str, int]) -> None:
    """By its own bound or by the disk's free space: it says so with what to do, and nothing is lost."""
    with kept.spooling(**bounds) as spooler:
        for _ in range(10):
            kept.write(50)
            time.sleep(0.2)
        kept.wait(lambda: bool(kept.said))
        kept.write(50)
        flushed = spooler.flushed_lsn
    (said,) = kept.said
    assert "is full" in said
    assert f"shardmig copy --resume --spool {kept.base} --spool-bytes MORE" in said
    assert kept.confirmed() <= flushed < kept.now()
    assert list(range(550)) == kept.ids()


def test_a_stream_that_is_cut_is_opened_again_where_the_spool_ends(kept: Kept) -> None:
    """The walsender is terminated in the middle; the rows still come once each."""
    with kept.spooling():
        for _ in range(3):
            kept.write(30)
            kept.published.run("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
            kept.write(30)
            goal = kept.now()
            kept.wait(partial(kept.was_told, goal))
    assert any("goes on" in line for line in kept.said)
    assert list(range(180)) == kept.ids()
