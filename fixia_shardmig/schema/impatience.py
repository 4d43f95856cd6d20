"""Has a session that wants a table not wait for autovacuum, which begins on every table that was just filled.

A server ends an autovacuum that is in somebody's way, but only once that somebody has waited for `deadlock_timeout`: a
second, for nearly every statement of a copy's end. Who may not set it waits that second.
"""

from __future__ import annotations

from typing import LiteralString

from fixia_shardmig.postgres.sessions import Connection

DEADLOCK_TIMEOUT_MS = 20
"""What a look for a deadlock costs is nothing beside what the statement costs that waits."""

_QUERY: LiteralString = """
SELECT set_config('deadlock_timeout', %s, false) WHERE has_parameter_privilege('deadlock_timeout', 'SET')
"""


def press_autovacuum(connection: Connection) -> None:
    """Let a session have autovacuum ended where it waits for it."""
    connection.execute(_QUERY, (f"{DEADLOCK_TIMEOUT_MS}ms",))
