"""Tail: a backlog that waits in a slot, applied to three shards, beside native subscriptions to one database.

Five of the marketplace's tables, with users who move and without; and a small service of narrow rows, by itself.

Each contender has a slot (or a subscription) of its own for each round, all made before the backlog is written, so all
apply the very same changes. The rows are compared with the source's after each measurement.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks import backlog, markdown, native, ours
from benchmarks.backlog import MARKET, NARROW, Service, Written
from benchmarks.figures import Comparison, Sample
from benchmarks.processes import libpq_environment, run_apart, run_program
from benchmarks.race import Contender, present, race, say
from benchmarks.servers import Servers, copy_schema, program
from fixia_shardmig.model.errors import ShardmigError

CHANGES = {"small": 30_000, "full": 600_000}
USERS = {"small": 1_000, "full": 60_000}
NARROW_USERS = {"small": 1_000, "full": 20_000}

OURS = "shardmig tail, three shards"
OFF, ON = "off", "on"
"""What a subscription sets for synchronous_commit while it applies; off is its default."""

DECODE, RECEIVE = "decode", "receive"
"""The slots of the two limits."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is written to which tables, and whether users change their home."""

    service: Service
    users: int
    changes: int
    moves: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether all contenders take part; elsewhere one of them is enough to compare with."""
        return self.service is MARKET and not self.moves

    @property
    def title(self) -> str:
        """Return a headline."""
        what = "the marketplace's tables" if self.service is MARKET else "a service of narrow rows"
        return f"{self.changes:,} row changes, {what}, {'1 % of them move a user' if self.moves else 'nobody moves'}"


@dataclass(frozen=True, slots=True)
class Round:
    """What waits for the backlog in one round: a migration that has caught up, subscriptions that are disabled, slots.

    Attributes:
        subscriptions: The subscription's name and its database's URL, by its setting of synchronous_commit.
        slots: The slot's name and where it starts, by its use.
    """

    migration: ours.Migration
    subscriptions: Mapping[str, tuple[str, str]]
    slots: Mapping[str, tuple[str, int]]


def measure(servers: Servers, rounds: int, size: str) -> str:
    """Return the section about tail."""
    say("tail")
    sizes = (
        Size(MARKET, USERS[size], CHANGES[size]),
        Size(MARKET, USERS[size], CHANGES[size], moves=True),
        Size(NARROW, NARROW_USERS[size], CHANGES[size]),
    )
    return "\n".join(_measure(servers, rounds, one) for one in sizes)


def _measure(servers: Servers, rounds: int, size: Size) -> str:
    say(f"  {size.title}")
    with _waiting(servers, rounds, size) as (source_url, ready):
        written = backlog.write(source_url, users=size.users, changes=size.changes, moves=size.moves)
        work = _Work(servers, size.service, source_url, ready=ready, written=written)
        applied, *others = race(_contenders(work, size), rounds)
    table = markdown.comparison(Comparison(size.title, written.changes, "changes", present(applied), tuple(others)))
    return f"{table}\n{work.moved_rows:,} rows changed their shard with their users.\n" if size.moves else table


def _contenders(work: _Work, size: Size) -> list[Contender]:
    """Return who takes part."""
    always = [
        Contender(OURS, work.follow),
        Contender("subscription, one target, synchronous_commit off", lambda n: work.subscription(n, OFF)),
    ]
    if not size.is_whole:
        return always
    return [
        *always,
        Contender("subscription, one target, synchronous_commit on", lambda n: work.subscription(n, ON)),
        Contender("limit: received and decoded in Python, not applied", work.decode),
        Contender("limit: pg_recvlogical to /dev/null", work.receive),
    ]


@contextmanager
def _waiting(servers: Servers, rounds: int, size: Size) -> Iterator[tuple[str, list[Round]]]:
    """Seed a source and let everybody copy it; at the end nothing of it is left on either side."""
    name = f"{'market' if size.service is MARKET else 'narrow'}_{'moving' if size.moves else 'staying'}"
    with ExitStack() as stack:
        stack.callback(servers.source.drop_database, name)
        source_url = servers.source.create_database(name)
        backlog.seed(source_url, size.service, users=size.users)
        stack.enter_context(native.publication(source_url))
        yield (
            source_url,
            [_round(servers, source_url, f"{name}{number}", size, stack) for number in range(rounds)],
        )


def _round(servers: Servers, source_url: str, prefix: str, size: Size, stack: ExitStack) -> Round:
    settings, uses = ((OFF, ON), (DECODE, RECEIVE)) if size.is_whole else ((OFF,), ())
    return Round(
        waiting_migration(servers, source_url, prefix, stack, service=size.service),
        {setting: _subscription(servers, source_url, f"{prefix}_{setting}", setting, stack) for setting in settings},
        {use: (f"{prefix}_{use}", ours.make_slot(source_url, f"{prefix}_{use}")) for use in uses},
    )


def waiting_migration(
    servers: Servers, source_url: str, prefix: str, stack: ExitStack, *, service: Service = NARROW, apart: bool = True
) -> ours.Migration:
    """Make a migration of a service that has caught up, in a process of its own or in this; the stack clears it."""
    urls = stack.enter_context(ours.shard_databases(servers, prefix, service.shards))
    mapping = servers.folder / f"{prefix}.yaml"
    mapping.write_text(service.mapping_of(prefix), "utf-8")
    variables = {service.source: source_url} | {service.shards[shard]: url for shard, url in urls.items()}
    migration = ours.Migration(mapping, variables, urls)
    stack.callback(ours.clear, migration)
    if apart:
        run_apart(ours.migrate, migration, servers.jobs)
    else:
        ours.migrate(migration, servers.jobs)
    return migration


def _subscription(
    servers: Servers, source_url: str, name: str, synchronous_commit: str, stack: ExitStack
) -> tuple[str, str]:
    """Make a target with every key, index and foreign key, and a subscription that has copied the seed and waits."""
    stack.callback(servers.target.drop_database, name)
    url = servers.target.create_database(name)
    copy_schema(source_url, url, folder=servers.folder)
    stack.callback(native.unsubscribe, url, name)
    native.subscribe(source_url, url, name, synchronous_commit=synchronous_commit)
    native.disable(url, name)
    return name, url


class _Work:
    """The backlog, as each contender does it."""

    def __init__(
        self, servers: Servers, service: Service, source_url: str, *, ready: list[Round], written: Written
    ) -> None:
        self.moved_rows = 0
        self._service = service
        self._servers = servers
        self._source_url = source_url
        self._ready = ready
        self._written = written
        self._expected = backlog.digests(service, source_url)

    def follow(self, number: int) -> Sample:
        migration = self._ready[number].migration
        self._servers.calm()
        done = run_apart(ours.follow, migration, self._written.end)
        changes, self.moved_rows = done.value
        self._check_changes(OURS, changes)
        backlog.check(OURS, self._expected, self._service, *migration.shard_urls.values())
        return Sample(done.seconds, done.peak_bytes)

    def subscription(self, number: int, synchronous_commit: str) -> Sample:
        name, url = self._ready[number].subscriptions[synchronous_commit]
        self._servers.calm()
        table = self._service.tables[-1]
        sample = Sample(native.catch_up(url, name, table=table, last_event=backlog.LAST_EVENT))
        native.disable(url, name)
        backlog.check(name, self._expected, self._service, url)
        return sample

    def decode(self, number: int) -> Sample:
        slot, start = self._ready[number].slots[DECODE]
        self._servers.calm()
        between = (start, self._written.before_last)
        done = run_apart(ours.receive, self._source_url, slot, native.PUBLICATION, between, self._servers.folder)
        self._check_changes(slot, done.value)
        return Sample(done.seconds, done.peak_bytes)

    def receive(self, number: int) -> Sample:
        slot, _ = self._ready[number].slots[RECEIVE]
        options = ("proto_version=1", f"publication_names={native.PUBLICATION}")
        self._servers.calm()
        environment = libpq_environment(self._source_url)
        began = time.monotonic()
        _, peak_bytes = run_program(
            [
                *(program("pg_recvlogical"), "--start", "--slot", slot, "--endpos", str(self._written.before_last)),
                *(
                    "--dbname",
                    environment["PGDATABASE"],
                    "--file",
                    "/dev/null",
                    *(f"--option={option}" for option in options),
                ),
            ],
            environment=environment,
            cwd=self._servers.folder,
        )
        return Sample(time.monotonic() - began, peak_bytes)

    def _check_changes(self, who: str, changes: int) -> None:
        if changes != self._written.changes:
            raise ShardmigError(f"{who} saw {changes} of {self._written.changes} changes", hint="its time says nothing")
