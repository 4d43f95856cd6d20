"""A pass can be slowed down, cut into ranges and moments, ended and gone on with, and begun again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from fixia_shardmig.journal.control import change_control
from fixia_shardmig.journal.passes import Pass
from fixia_shardmig.mapping.shard_map import Follows, OnShard, Path, Rule, SplitByColumn, SplitBySql
from fixia_shardmig.model.errors import StoppedError, TemporaryError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.phase import Phase
from fixia_shardmig.model.throttle import MEBIBYTE, Control, Verdict
from fixia_shardmig.postgres.sessions import Connection, scalar
from fixia_shardmig.runner import barrier, copying, live_pace
from fixia_shardmig.runner.context import Context, load
from fixia_shardmig.runner.verifying import VerifyOptions, verify_every, verify_now
from fixia_shardmig.verify import scans
from fixia_shardmig.verify.queries import digest_query
from fixia_shardmig.verify.render import render_text
from fixia_shardmig.verify.result import VerifyResult
from fixia_shardmig.verify.scans import Pacing, Progress
from fixia_shardmig.verify.snapshots import SnapshotSessions
from tests.fixtures.fix_migrations import Migration
from tests.integration.verify.conftest import World

TABLES = """
big: {split_by: kind, homes: {n: north, s: south}, otherwise: west}
small: {reference: true}
tiny: {shard: south}
"""
DDL = """
CREATE TABLE big (id int PRIMARY KEY, kind text, filler text);
CREATE TABLE small (id int PRIMARY KEY, v text);
CREATE TABLE tiny (id int PRIMARY KEY, v text);
INSERT INTO big SELECT n, (ARRAY['n', 's', 'w'])[n % 3 + 1], repeat('x', 500) FROM generate_series(1, 600) n;
INSERT INTO small SELECT n, repeat('y', 200) FROM generate_series(1, 100) n;
INSERT INTO tiny VALUES (1, 'z');
"""
SIZES = ("big", "small", "tiny")
"""The tables in the order in which they are compared."""


@pytest.fixture
def copied(migration_of: Callable[..., Migration]) -> Migration:
    """Give a migration whose shards hold every row."""
    return migration_of(TABLES, DDL).copy()


@pytest.fixture
def telling(copied: Migration) -> tuple[Context, list[str]]:
    """Give its context and the list of what is said."""
    said: list[str] = []
    return load(copied.mapping, env={}, say=said.append), said


def test_a_table_read_in_ranges_is_as_one_read_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfalls 31 and 56: ranges of the heap, of each partition, and under a rule's SQL add up to the table."""
    parts = "FOR VALUES FROM"
    world.everywhere(
        "CREATE TABLE users (id int PRIMARY KEY, kind text, filler text);"
        "CREATE TABLE things (id int PRIMARY KEY, owner int, filler text);"
        "CREATE TABLE odd (id int PRIMARY KEY, filler text);"
        "CREATE TABLE log (id int, filler text) PARTITION BY RANGE (id);"
        f"CREATE TABLE log_1 PARTITION OF log {parts} (0) TO (300);"
        f"CREATE TABLE log_2 PARTITION OF log {parts} (300) TO (MAXVALUE)"
    )
    filled = "repeat('x', 300) FROM generate_series(1, 400) n"
    where = {"professionals": "n % 2 = 0", "clients": "n % 2 = 1", "source": "true"}
    for side, condition in where.items():
        kind = "CASE n % 2 WHEN 0 THEN 'p' ELSE 'c' END"
        world.run(side, f"INSERT INTO users SELECT n, {kind}, {filled} WHERE {condition}")
        world.run(side, f"INSERT INTO things SELECT n, n, {filled} WHERE {condition}")
        world.run(side, f"INSERT INTO odd SELECT n, {filled} WHERE {condition}")
        world.run(side, f"INSERT INTO log SELECT n, {filled} WHERE {side != 'professionals'}")
    users = TableName.parse("users")
    expression = "CASE id % 2 WHEN 0 THEN 'professionals' ELSE 'clients' END"
    rules: dict[str, Rule] = {
        "users": SplitByColumn("kind", {"p": "professionals", "c": "clients"}),
        "things": Follows((Path(("owner",), users, ("id",), declared=False),)),
        "odd": SplitBySql(expression, ("id",), {}),
        "log": OnShard("clients"),
    }
    whole: list[Progress] = []
    at_once = world.compare(rules, on_progress=whole.append)
    monkeypatch.setattr(scans, "RANGE_BYTES", 16 * 1024)
    ranges: list[Progress] = []
    in_ranges = world.compare(rules, on_progress=ranges.append, jobs=3)
    assert at_once.equal
    assert in_ranges.equal
    assert whole[-1].total < 20 < ranges[-1].total
    assert (whole[-1].rows, whole[-1].total_bytes) == (ranges[-1].rows, whole[-1].size_bytes)
    for table in ("users", "things", "odd", "log"):
        world.run("clients", f"UPDATE {table} SET filler = '' WHERE id IN (7, 399)")
    expected = sorted(
        ("differing", "clients", name, (key,), ("filler",)) for name in rules for key in ("399", "7") if name != "log"
    )
    assert expected == [found for found in world.differences(rules) if found[2] != "log"]
    assert 4 == sum(found[2] == "log" for found in world.differences(rules))


def test_a_rate_is_kept_over_all_workers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been read is waited for before the next range begins; a clock that only moves by waiting says so."""
    clock = SimpleNamespace(now=0.0)
    fake = SimpleNamespace(monotonic=lambda: clock.now, sleep=lambda s: setattr(clock, "now", clock.now + s))
    monkeypatch.setattr(scans, "time", fake)
    monkeypatch.setattr(scans, "RANGE_BYTES_MIN", 8 * 1024)
    world.everywhere("CREATE TABLE t (id int PRIMARY KEY, v text)")
    for side in ("source", "clients"):
        world.run(side, "INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 500) n")
    rate, seen = 32 * 1024, list[Progress]()
    result = world.compare({"t": OnShard("clients")}, jobs=1, pacing=Pacing(rate), on_progress=seen.append)
    assert result.equal
    last_bytes = seen[-1].size_bytes - seen[-2].size_bytes
    assert clock.now * rate >= seen[-1].total_bytes - max(last_bytes, rate * scans.RANGE_S) - rate
    assert clock.now * rate <= seen[-1].total_bytes * 1.1


def test_pause_and_throttle_reach_a_verify_that_runs(
    copied: Migration, telling: tuple[Context, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read while paused; another rate holds from the next range on; then it goes on to the end."""
    context, said = telling
    monkeypatch.setattr(live_pace, "LOOK_EVERY_S", 0.0)
    asked = iter([Control(paused=True)] * 3 + [Control(rate_bytes_per_s=64 * MEBIBYTE)] * 3)
    seen: list[Verdict | str] = []
    verdict = live_pace.LivePace.verdict

    def look(self: live_pace.LivePace) -> Verdict:
        with copied.journal() as journal:
            change_control(journal, "asked", lambda now: next(asked, now))
        seen.append(verdict(self))
        return verdict(self)

    def read(*args: Any) -> Any:
        seen.append("read")
        return digest_query(*args)

    monkeypatch.setattr(live_pace.LivePace, "verdict", look)
    monkeypatch.setattr(scans, "digest_query", read)
    assert verify_now(context, VerifyOptions(jobs=1)).equal
    begun = seen.index("read")
    told = [one for one in seen[:begun] if isinstance(one, Verdict)]
    assert [True, True, True, False] == [one.held for one in told[:4]]
    assert 64 * MEBIBYTE == told[-1].rate_bytes_per_s
    assert {
        "slowed down: paused by an operator; shardmig resume lets it go on",
        "slowed down: limited to 64.0 MiB/s",
    } <= set(said)


def test_fewer_scans_at_a_time_than_workers_are_kept_to(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """`throttle --jobs` reaches a verify that runs: with one at a time, two of four workers never read at once."""
    world.everywhere("".join(f"CREATE TABLE z{n} (id int PRIMARY KEY);" for n in range(5)))
    open_now, most = set[object](), list[int]()
    session = SnapshotSessions.session

    @contextmanager
    def counted(self: SnapshotSessions, doing: str) -> Iterator[Connection]:
        with session(self, doing) as connection:
            if doing.startswith("reading z"):
                open_now.add(connection)
                most.append(len(open_now))
            yield connection
            open_now.discard(connection)

    monkeypatch.setattr(SnapshotSessions, "session", counted)
    monkeypatch.setattr(scans, "POLL_S", 0.001)
    rules: dict[str, Rule] = {f"z{n}": OnShard("shared") for n in range(5)}
    assert world.compare(rules, jobs=4, pacing=Pacing(verdict=lambda: Verdict(jobs=1))).equal
    assert [1] * 20 == most


def test_a_transaction_that_keeps_the_slot_is_named_until_a_deadline_and_the_tail_is_not_held(
    copied: Migration, telling: tuple[Context, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pitfall 40: who is waited for is said; past the deadline nothing is compared, and no barrier was asked for."""
    context, said = telling
    monkeypatch.setattr(copying, "BLOCKERS_AFTER_S", 0.0)
    monkeypatch.setattr(barrier, "SLOT_S", 0.7)
    with psycopg.connect(context.shard_map.source.url, application_name="the long one") as long:
        long.execute("INSERT INTO tiny VALUES (2, 'open')")
        with pytest.raises(TemporaryError, match=r"have kept a slot from being made for 0\.7 s"):
            verify_now(context)
        assert any("waits for an open transaction" in line and "the long one" in line for line in said)
        with copied.journal() as journal:
            assert 0 == scalar(journal.connection, "SELECT count(*) FROM shardmig.barrier")
        long.rollback()
    assert verify_now(context).equal
    with copied.journal() as journal:
        held = [event.detail["held_ms"] for event in journal.events() if event.event == "barrier"]
    assert f"the tail was held for {held[-1]} ms" in " ".join(said)


def test_old_snapshots_are_given_back_and_the_rest_has_another_moment(
    copied: Migration, telling: tuple[Context, list[str]]
) -> None:
    """Pitfall 20: no table is begun under a snapshot that is too old, writes in between are seen, and all is equal."""
    context, _ = telling
    result = verify_now(context, VerifyOptions(max_snapshot_age_s=0.0))
    assert result.equal
    assert 3 == copied.events().count("barrier")
    first, last = result.lsn_range
    assert first < last
    assert f"at LSNs from {first} to {last}" in render_text(result)
    assert {"big", "small", "tiny"} == {str(entry.table) for entry in result.tables}


def end_after(
    context: Context, monkeypatch: pytest.MonkeyPatch, tables: int, *, equal: tuple[str, ...] = SIZES
) -> None:
    """Verify with one worker and have it told to stop after some of the tables that are equal."""
    keep, seen = Pass.keep, list[str]()

    def keep_and_stop(self: Pass, table: TableName, results: list[dict[str, object]]) -> None:
        keep(self, table, results)
        seen.append(table.name)
        if len(seen) == tables:
            context.stop.set()

    with monkeypatch.context() as patched:
        patched.setattr(Pass, "keep", keep_and_stop)
        with pytest.raises(StoppedError):
            verify_now(context, VerifyOptions(jobs=1))
    context.stop.clear()
    assert list(equal[:tables]) == seen


def test_a_pass_that_was_ended_is_gone_on_with(
    copied: Migration, telling: tuple[Context, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found equal is not read again, the rest is; the result tells of all, as old as the pass's beginning."""
    context, said = telling
    end_after(context, monkeypatch, 2)
    copied.on("west", "UPDATE small SET v = '' WHERE id = 1")  # in a table that is through
    result = verify_now(context, VerifyOptions(resume=True))
    assert "going on with a pass that has found 2 of 3 tables equal" in said
    assert result.equal
    assert set(SIZES) == {str(entry.table) for entry in result.tables}
    assert not verify_now(context).equal
    assert not verify_now(context, VerifyOptions(resume=True)).equal  # a pass that came to its end left nothing


def test_a_difference_takes_the_watermarks_away(
    copied: Migration, telling: tuple[Context, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one, everything is read again, also by a run that was asked to go on."""
    context, said = telling
    end_after(context, monkeypatch, 1)
    copied.on("south", "UPDATE tiny SET v = ''")
    assert not verify_now(context, VerifyOptions(resume=True)).equal
    assert [1] == [line.count("1 of 3 tables") for line in said if line.startswith("going on")]
    assert not verify_now(context, VerifyOptions(resume=True)).equal
    assert 1 == sum(line.startswith("going on") for line in said)


def test_a_pass_that_was_ended_after_a_difference_begins_anew(
    copied: Migration, telling: tuple[Context, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was found equal before or after the difference is no watermark any more."""
    context, said = telling
    copied.on("south", "UPDATE big SET filler = ''")
    end_after(context, monkeypatch, 1, equal=("small", "tiny"))
    copied.on("west", "UPDATE small SET v = '' WHERE id = 1")
    result = verify_now(context, VerifyOptions(resume=True))
    assert {"big", "small"} == {str(difference.table) for difference in result.differences}
    assert [] == [line for line in said if line.startswith("going on")]


def test_a_pass_over_other_tables_or_rules_is_not_gone_on_with(
    copied: Migration, telling: tuple[Context, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watermark speaks of the definitions it was made under; a wrong row in them is found by a pass over others."""
    context, said = telling
    end_after(context, monkeypatch, 2)
    copied.on("west", "UPDATE small SET v = '' WHERE id = 1")
    assert not verify_now(context, VerifyOptions(tables=["small", "big"], resume=True)).equal
    assert [] == [line for line in said if line.startswith("going on")]


def test_it_is_verified_again_and_again_until_stopped(copied: Migration, telling: tuple[Context, list[str]]) -> None:
    """Each round sees what the one before could not; the phase follows, and what was last found is returned."""
    context, _ = telling
    phases: list[tuple[bool, Phase]] = []

    def told(result: VerifyResult) -> None:
        with copied.journal() as journal:
            phases.append((result.equal, journal.get().phase))
        if len(phases) == 1:
            copied.on("south", "UPDATE tiny SET v = ''")
            copied.run("INSERT INTO big VALUES (1000, 'n', 'new')")
        if len(phases) == 2:
            copied.on("south", "UPDATE tiny SET v = 'z'")
        if len(phases) == 3:
            context.stop.set()

    last = verify_every(context, VerifyOptions(), 0.01, told)
    assert [(True, Phase.VERIFIED), (False, Phase.TAILING), (True, Phase.VERIFIED)] == phases
    assert last is not None
    assert last.equal


def test_what_is_defined_otherwise_than_planned_is_told_and_does_not_count(copied: Migration) -> None:
    """Indexes, constraints, defaults and triggers of the compared tables, on each shard; the rows are equal."""
    copied.on("north", "ALTER TABLE big ADD CONSTRAINT positive CHECK (id > 0), ALTER COLUMN filler SET DEFAULT 'x'")
    copied.on(
        "south",
        "CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;"
        "CREATE TRIGGER own BEFORE INSERT ON big FOR EACH ROW EXECUTE FUNCTION public.nothing();"
        "CREATE INDEX own ON big (kind); ALTER TABLE tiny DROP CONSTRAINT tiny_pkey",
    )
    result = verify_now(copied.context())
    assert result.equal
    told = {shard: " | ".join(lines) for shard, lines in result.definitions.items()}
    assert "" == told["west"]
    for shard, what in (
        ("north", "constraint big.positive"),
        ("north", "big.filler"),
        ("south", "trigger big.own"),
        ("south", "extra index big.own"),
        ("south", "constraint tiny.tiny_pkey"),
    ):
        assert what in told[shard]
    assert "  south: extra index big.own" in render_text(result).splitlines()
    few = verify_now(copied.context(), VerifyOptions(tables=["small"]))
    assert {"north": (), "south": (), "west": ()} == few.definitions
