"""Reads how busy a server is and how far its standbys are behind. Decides nothing.

A role without pg_monitor sees only its own sessions: what is hidden from it is said to be so, and never taken for none.
"""

from __future__ import annotations

import psycopg

from fixia_shardmig.model.throttle import Unreadable
from fixia_shardmig.postgres.sessions import Connection

READ_TIMEOUT_MS = 3000
"""A server that is too busy to answer this is too busy for us."""

_HIDDEN = "other roles' sessions are hidden from ours: GRANT pg_monitor to it"

_SESSIONS = """
SELECT count(*) FILTER (WHERE backend_type = 'client backend' AND state = 'active'
                        AND application_name NOT LIKE 'shardmig %' AND pid <> pg_backend_pid()),
       count(*) FILTER (WHERE query = '<insufficient privilege>' AND datid IS NOT NULL)
FROM pg_stat_activity
"""

_STANDBYS = """
SELECT r.application_name, r.state, r.replay_lsn IS NOT NULL, extract(epoch FROM r.replay_lag)::float8
FROM pg_stat_replication r
WHERE NOT EXISTS (SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid AND s.slot_type = 'logical')
"""


def active_sessions(connection: Connection) -> int | Unreadable:
    """Return how many client sessions are at work on the whole server, those of ours not counted."""
    try:
        row = _read_one(connection)
    except psycopg.Error as error:
        return Unreadable(_first_line(error))
    active, hidden = row
    return Unreadable(_HIDDEN) if hidden else active


def replica_lag_s(connection: Connection, *, expected: bool) -> float | Unreadable:
    """Return the worst replay lag of a server's standbys in seconds, logical walsenders left out.

    Args:
        connection: A session there.
        expected: Whether there have to be standbys; one that lost its connection is not seen at all.
    """
    try:
        _bound(connection)
        rows = connection.execute(_STANDBYS).fetchall()
    except psycopg.Error as error:
        return Unreadable(_first_line(error))
    lags: list[float] = []
    for name, state, replays, lag_s in rows:
        if state is None:
            return Unreadable(_HIDDEN)
        if state == "catchup" and lag_s is None:
            return Unreadable(f"standby {name} is catching up")
        if replays:  # pg_receivewal and a base backup do not replay
            lags.append(lag_s or 0.0)  # the server says NULL once all of it is replayed
    if expected and not lags:
        return Unreadable("no standby is connected to the source")
    return max(lags, default=0.0)


def _read_one(connection: Connection) -> tuple[int, int]:
    _bound(connection)
    row = connection.execute(_SESSIONS).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)


def _bound(connection: Connection) -> None:
    connection.execute("SELECT set_config('statement_timeout', %s, false)", (str(READ_TIMEOUT_MS),))


def _first_line(error: psycopg.Error) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
