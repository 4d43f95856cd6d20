"""What has to hold at every PgBouncer before its clients are made to wait.

Settings that turn a pause into errors, aliases that are not ours to re-point, a shard that PgBouncer itself cannot log
in to: each is found here, where nobody waits. Nothing is changed but for `pooler_reach`, which adds an alias for each
shard to the databases file for as long as it asks through it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Final, LiteralString

from fixia_shardmig.cutover.clients import identities
from fixia_shardmig.cutover.gates import Gate
from fixia_shardmig.cutover.pooler import Pooler, Poolers, refuse_other
from fixia_shardmig.cutover.pooler_files import Direction, listed
from fixia_shardmig.cutover.sides import Sides
from fixia_shardmig.model.errors import ShardmigError
from fixia_shardmig.postgres.pgbouncer import NAME, PooledDatabase

LOGIN_RETRY_S_MAX: Final = 1.0
PROBE_S: Final = 3.0
"""How long one alias may take to answer here, where nobody waits for it."""

TRACKS_PREPARED_SINCE: Final = (1, 21)
"""The version from which PgBouncer keeps named prepared statements in transaction pooling, and makes them anew on the
next server connection (pitfall 62)."""

KILLS_WAITING: Final = ("query_wait_timeout", "query_timeout")
"""The settings after which PgBouncer gives up a client that waits, with an error."""

_AROUND: LiteralString = """
SELECT coalesce(nullif(application_name, ''), 'no application name'), coalesce(usename, '?'),
       coalesce(host(client_addr), 'a local socket'), count(*)
FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND application_name NOT LIKE 'shardmig %%'
  AND pid <> pg_catalog.pg_backend_pid() AND NOT pid = ANY (%s)
GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3
"""


def pooler_gates(sides: Sides, direction: Direction, *, max_pause_s: float) -> tuple[Gate, ...]:
    """Ask every gate about every pooler; only the first if a console does not answer. `direction` is where to."""
    poolers = sides.poolers
    if not poolers:
        return ()
    console = consoles_answer(poolers)
    if not console.ok:
        return (console,)
    gates: tuple[Gate, ...] = (console, settings_fit(poolers, max_pause_s=max_pause_s), aliases_are_ours(poolers))
    if all(gate.ok for gate in gates):
        gates = (*gates, aliases_reach(sides, direction))
    return (*gates, around_the_poolers(sides)) if direction == "forward" else gates


def consoles_answer(poolers: Poolers) -> Gate:
    """Each console can be reached, and its user may PAUSE."""
    versions: list[str] = []

    def look(pooler: Pooler) -> list[str]:
        versions.append(".".join(map(str, pooler.console.version())))
        reason = pooler.console.may_pause()
        return [reason] if reason else []

    hint = "pgbouncer.admin_url: PgBouncer's own port, database pgbouncer, a user of admin_users"
    return _gate("pooler_console", poolers, look, lambda: f"PgBouncer {', '.join(versions)}", hint=hint)


def settings_fit(poolers: Poolers, *, max_pause_s: float) -> Gate:
    """A pause is only a pause: no session pooling, no long wait after a login that failed, no client given up (61)."""
    told: list[str] = []

    def look(pooler: Pooler) -> list[str]:
        config = pooler.console.config()
        told.append(_prepared(pooler.console.version(), config))
        return [*_timeouts(config, max_pause_s), *_modes(pooler, config), *_own_minimum(pooler, config)]

    hint = "set it in pgbouncer.ini and RELOAD; shardmig export pgbouncer shows all of them"
    return _gate("pooler_settings", poolers, look, lambda: "; ".join(dict.fromkeys(told)), hint=hint)


def aliases_are_ours(poolers: Poolers) -> Gate:
    """Every alias comes from the file that we may replace, is not paused, and leads to where the file says."""

    def look(pooler: Pooler) -> list[str]:
        known = pooler.console.databases()
        reasons = [reason for alias in pooler.aliases for reason in _alias_reasons(alias, known)]
        return reasons or _file_reasons(pooler, known)

    hint = "shardmig export pgbouncer writes the databases file and the pgbouncer.ini that includes it"
    names = ", ".join(dict.fromkeys(alias for pooler in poolers.each for alias in pooler.aliases))
    return _gate("pooler_aliases", poolers, look, lambda: names, hint=hint)


def aliases_reach(sides: Sides, direction: Direction) -> Gate:
    """Real queries: each alias leads to where the writes are, and PgBouncer can log in where it will lead."""
    opposite: Direction = "back" if direction == "forward" else "forward"
    now, then = identities(sides, opposite), identities(sides, direction)

    def look(pooler: Pooler) -> list[str]:
        for shard, alias in pooler.section.aliases.items():
            refuse_other(alias, pooler.identity(alias, _url(pooler, shard, opposite), timeout_s=PROBE_S), now[shard])
        if pooler.file is None:
            return []
        with pooler.rehearsing(direction):
            for name, shard in pooler.probes().items():
                refuse_other(
                    name, pooler.identity(name, _url(pooler, shard, direction), timeout_s=PROBE_S), then[shard]
                )
        return []

    hint = "PgBouncer's log says why a login fails"
    return _gate("pooler_reach", sides.poolers, look, lambda: "source and shards answer through PgBouncer", hint=hint)


def _url(pooler: Pooler, shard: str, direction: Direction) -> str:
    return (pooler.shard_map.shards[shard] if direction == "forward" else pooler.shard_map.source).url


def around_the_poolers(sides: Sides) -> Gate:
    """For information: who is on the source around the poolers, and will meet the fence and not a pause (71)."""
    ours: list[int] = []
    for pooler in sides.poolers.each:
        ours += pooler.console.server_pids(pooler.aliases)
    rows = sides.source.execute(_AROUND, [ours]).fetchall()
    listed_rows = [f"{application} as {user} from {address} ({count})" for application, user, address, count in rows]
    detail = "; ".join(listed_rows) or "nobody"
    return Gate("around_the_pooler", ok=True, detail=detail)


def _gate(
    name: str, poolers: Poolers, look: Callable[[Pooler], Iterable[str]], detail: Callable[[], str], *, hint: str
) -> Gate:
    reasons: list[str] = []
    for pooler in poolers.each:
        try:
            reasons += [f"{pooler}: {reason}" for reason in look(pooler)]
        except ShardmigError as error:
            reasons.append(error.message)
            hint = error.hint or hint
    return Gate(name, not reasons, "; ".join(reasons) or detail(), hint if reasons else "")


def _timeouts(config: dict[str, str], max_pause_s: float) -> list[str]:
    reasons: list[str] = []
    retry_s = float(config.get("server_login_retry") or 0)
    if retry_s > LOGIN_RETRY_S_MAX:
        reasons.append(f"server_login_retry is {retry_s:g} s, more than {LOGIN_RETRY_S_MAX:g}")
    for name in KILLS_WAITING:
        value_s = float(config.get(name) or 0)
        if 0 < value_s <= max_pause_s:
            reasons.append(f"{name} is {value_s:g} s, not more than --max-pause {max_pause_s:g} s")
    return reasons


def _modes(pooler: Pooler, config: dict[str, str]) -> list[str]:
    known, default = pooler.console.databases(), config.get("pool_mode", "session")
    modes = {alias: (known[alias].pool_mode or default) for alias in pooler.aliases if alias in known}
    for pool in pooler.console.pools():  # a user can have a mode of their own
        if pool["database"] in modes and pool["pool_mode"] == "session":
            modes[str(pool["database"])] = "session"
    return [
        f"{alias} is in session pooling, where PAUSE waits for every client"
        for alias in modes
        if modes[alias] == "session"
    ]


def _own_minimum(pooler: Pooler, config: dict[str, str]) -> list[str]:
    """Only the setting for all databases can be held at 0 while clients wait."""
    known, usual = pooler.console.databases(), int(config.get("min_pool_size") or 0)
    own = [alias for alias in pooler.aliases if alias in known and known[alias].min_pool_size not in {0, usual}]
    return [f"{alias} has a min_pool_size of its own, which makes logins that a PAUSE cuts off" for alias in own]


def _prepared(version: tuple[int, ...], config: dict[str, str]) -> str:
    """Say what named prepared statements do here; RECONNECT ends every server session, so no old plan is met (62)."""
    if version[:2] >= TRACKS_PREPARED_SINCE and int(config.get("max_prepared_statements") or 0) > 0:
        return "named prepared statements are made anew on the new servers"
    return "named prepared statements do not work here, before the cutover or after it"


def _alias_reasons(alias: str, known: dict[str, PooledDatabase]) -> list[str]:
    if not NAME.fullmatch(alias):
        return [f"{alias!r} cannot be a database's name in PgBouncer"]
    database = known.get(alias)
    if database is None:
        return [f"there is no database {alias}"]
    reasons = [f"{alias} is paused by somebody; on the console: RESUME"] if database.paused else []
    return [*reasons, f"{alias} is disabled; on the console: ENABLE {alias}"] if database.disabled else reasons


def _file_reasons(pooler: Pooler, known: dict[str, Any]) -> list[str]:
    if pooler.file is None:
        return []
    written = listed(pooler.text())
    reasons: list[str] = []
    for alias in pooler.aliases:
        target = written.get(alias)
        if target is None:
            reasons.append(f"{pooler.file} has no line for {alias}")
        elif known[alias].leads_to != (target.host, target.port, target.database):
            reasons.append(f"{alias} leads to {known[alias].leads_to}, {pooler.file} says {target}")
    place = pooler.file.resolve()
    if not os.access(place.parent, os.W_OK):
        reasons.append(f"{pooler.file} cannot be replaced: its directory is not ours to write in")
    elif os.geteuid() not in {0, place.stat().st_uid}:
        reasons.append(f"{pooler.file} is another user's: its owner could not be kept")
    return reasons
