"""What operators ask of running work, and the pace that the work was told: two rows of the journal, without its locks.

`control` is written by `pause`, `resume` and `throttle` and read by whoever drives; `pace` is written by the driver and
read by its workers, on whatever host they are, and by `status`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import LiteralString

from fixia_shardmig.journal.journal import Journal
from fixia_shardmig.model.throttle import Control, Pace, Verdict
from fixia_shardmig.postgres.named_sql import named_sql
from fixia_shardmig.postgres.sessions import Connection, scalar


def _query(name: str) -> LiteralString:
    return named_sql("fixia_shardmig.journal", "control.sql", name)


def read_control(connection: Connection) -> Control:
    """Return what operators ask for."""
    row = connection.execute(_query("control")).fetchone()
    return Control(*row) if row else Control()


def change_control(journal: Journal, event: str, change: Callable[[Control], Control]) -> Control:
    """Change what is asked for and write the event in one transaction; two operators come one after the other."""
    with journal.connection.transaction():
        row = journal.connection.execute(_query("lock_control")).fetchone()
        now = change(Control(*row) if row else Control())
        journal.connection.execute(_query("set_control"), (now.paused, now.rate_bytes_per_s, now.jobs))
        journal.event(event, paused=now.paused, rate_bytes_per_s=now.rate_bytes_per_s, jobs=now.jobs)
    return now


def prepare_pace(connection: Connection) -> None:
    """Make the table of the pace where a journal has none yet."""
    if not has_pace(connection):
        connection.execute(_query("pace_table"))


def has_pace(connection: Connection) -> bool:
    """Whether a journal has the table."""
    return scalar(connection, "SELECT to_regclass('shardmig.pace')") is not None


def tell_pace(connection: Connection, pace: Pace) -> None:
    """Publish the pace for workers and for `status`."""
    verdict = pace.verdict
    connection.execute(
        _query("tell_pace"),
        (verdict.held, verdict.kind, verdict.reason, verdict.rate_bytes_per_s, verdict.jobs, pace.since, pace.ending),
    )


def read_pace(connection: Connection) -> Pace | None:
    """Return the pace that was told last, or None before the first."""
    row = connection.execute(_query("pace")).fetchone()
    return Pace(Verdict(*row[:5]), *row[5:]) if row else None
