"""Watches what slows the work down, tells copy, tail and workers their pace, and says each change of it once.

Has sessions of its own. While something wanted cannot be read, the work is held.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Final, TypeVar

import psycopg

from fixia_shardmig.journal.control import change_control, has_pace, prepare_pace, read_control, read_pace, tell_pace
from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.mapping.load import read_mapping
from fixia_shardmig.model.errors import RefusedError, ShardmigError
from fixia_shardmig.model.throttle import RATE_BYTES_PER_S_MIN, Control, Limits, Pace, Signals, Unreadable, decide
from fixia_shardmig.postgres.load import active_sessions, replica_lag_s
from fixia_shardmig.postgres.sessions import Connection, connect, is_open
from fixia_shardmig.runner.context import Context

LOOK_EVERY_S: Final = 0.5
FRESH_S: Final = 5.0
"""A pace that was told longer ago is not kept by anybody."""

T = TypeVar("T")


class Throttle:
    """The throttle of one run; `pace` is for whoever does the work."""

    def __init__(self, context: Context, limits: Limits) -> None:
        """Look once, so that the work begins at the right pace, then go on in a thread."""
        self._context = context
        self._limits = limits
        self._ended = Event()
        self._sessions: dict[str, Connection] = {}
        self._pace = Pace(decide(Signals(Unreadable("it was not looked at")), limits))
        self._told_kind = ""
        self._journal: Journal | None = None
        with ExitStack() as opened:
            opened.callback(self._close_sessions)
            with context.journal() as journal:
                prepare_pace(journal.connection)
            self._look()
            opened.pop_all()
        self._thread = threading.Thread(target=self._run, name="throttle", daemon=True)
        self._thread.start()

    def pace(self) -> Pace:
        """Return how the work may go on now."""
        return self._pace

    def close(self) -> None:
        """End the watch."""
        self._ended.set()
        self._thread.join()
        self._close_sessions()

    def _run(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        signals = self._read()
        verdict = decide(signals, self._limits)
        before = self._pace
        kept = before.since if verdict.kind == before.verdict.kind else None
        since = (kept or datetime.now(UTC)) if verdict.kind else None
        self._pace = Pace(verdict, since, ending=self._context.stop.is_set())
        try:
            journal = self._journal_session()
            tell_pace(journal.connection, self._pace)
            self._say_change(journal)
        except (ShardmigError, psycopg.Error) as error:
            self._drop_journal()
            self._hold(error)

    def _hold(self, error: Exception) -> None:
        """Hold the work while the workers cannot be told: what they were told last may be over."""
        verdict = decide(Signals(Unreadable(_first_line(error))), self._limits)
        self._pace = Pace(verdict, self._pace.since or datetime.now(UTC), ending=self._context.stop.is_set())

    def _say_change(self, journal: Journal) -> None:
        verdict = self._pace.verdict
        if verdict.kind == self._told_kind:
            return
        before, self._told_kind = self._told_kind, verdict.kind
        self._context.say(f"slowed down: {verdict.reason}" if verdict.kind else "no longer slowed down")
        journal.event("pace_changed", kind=verdict.kind, before=before, reason=verdict.reason)

    def _read(self) -> Signals:
        return Signals(
            control=_or_unreadable(lambda: read_control(self._journal_session().connection)),
            sessions=self._load(),
            replica_lag_s=self._lateness(),
        )

    def _load(self) -> int | Unreadable | None:
        if self._limits.sessions_max is None:
            return None
        return _or_unreadable(lambda: active_sessions(self._session(self._context.shard_map.source.url)))

    def _lateness(self) -> float | Unreadable | None:
        """Return the worst lag of the standbys of the source, and of the targets where there are any."""
        if self._limits.replica_lag_s_max is None:
            return None
        source_url = self._context.shard_map.source.url
        lags: list[float] = []
        for url in (source_url, *(endpoint.url for endpoint in self._context.shard_map.shards.values())):
            late_s = _or_unreadable(lambda url=url: replica_lag_s(self._session(url), expected=url == source_url))  # type: ignore[misc]
            if isinstance(late_s, Unreadable):
                return late_s
            lags.append(late_s)
        return max(lags)

    def _session(self, url: str) -> Connection:
        found = self._sessions.get(url)
        if found is None or not is_open(found):
            found = self._sessions[url] = connect(url, "throttle")
        return found

    def _journal_session(self) -> Journal:
        if self._journal is None or not is_open(self._journal.connection):
            self._journal = Journal(self._context.journal_url, self._context.shard_map.name)
        return self._journal

    def _drop_journal(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _close_sessions(self) -> None:
        self._drop_journal()
        for connection in self._sessions.values():
            connection.close()


def _or_unreadable(read: Callable[[], T]) -> T | Unreadable:
    try:
        return read()
    except (ShardmigError, psycopg.Error) as error:
        return Unreadable(_first_line(error))


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def throttling(context: Context, limits: Limits) -> Iterator[Throttle]:
    """Throttle the work of the block."""
    throttle = Throttle(context, limits)
    try:
        yield throttle
    finally:
        throttle.close()


def refuse_tiny_rate(rate_bytes_per_s: int | None) -> None:
    """Refuse a rate at which servers would take us for silent; 0 means no limit."""
    if rate_bytes_per_s and rate_bytes_per_s < RATE_BYTES_PER_S_MIN:
        raise RefusedError(
            f"a rate of {rate_bytes_per_s} bytes/s is less than {RATE_BYTES_PER_S_MIN}",
            hint="shardmig pause stops the work altogether",
        )


def change(mapping: Path, event: str, changed: Callable[[Control], Control]) -> tuple[str, Control, str | None]:
    """Change what is asked of the running work; asks nothing of the source, which may be too busy to answer.

    Returns:
        The migration's name, what is asked for now, and who drives it, None while nobody does.
    """
    with _journal_of(mapping) as journal:
        return journal.name, change_control(journal, event, changed), journal.holder("driver")


def asked(mapping: Path) -> tuple[str, Control, str | None]:
    """Return the same without a change."""
    with _journal_of(mapping) as journal:
        return journal.name, read_control(journal.connection), journal.holder("driver")


@contextmanager
def _journal_of(mapping: Path) -> Iterator[Journal]:
    found = read_mapping(mapping)
    with Journal(found.shards[found.journal_shard].url, found.document.name) as journal:
        journal.get()
        yield journal


def with_options(
    control: Control, *, clear: bool, rate_bytes_per_s: int | None = None, jobs: int | None = None
) -> Control:
    """Return a control with what was given changed; `clear` forgets rate and jobs first."""
    base = replace(control, rate_bytes_per_s=None, jobs=None) if clear else control
    given: Mapping[str, int] = {
        name: value for name, value in (("rate_bytes_per_s", rate_bytes_per_s), ("jobs", jobs)) if value is not None
    }
    return replace(base, **given)  # type: ignore[arg-type]


def current_pace(journal: Journal) -> Pace | None:
    """Return the pace of the work that runs now; None while nobody has told one lately."""
    pace = read_pace(journal.connection) if has_pace(journal.connection) else None
    return pace if pace and pace.age_s < FRESH_S else None
