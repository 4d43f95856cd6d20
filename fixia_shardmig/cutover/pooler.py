"""Every PgBouncer of the mapping at once: PAUSE, re-point, RESUME, and the proof of where each alias leads.

    rehearse   before anybody waits: an alias more for each shard proves that PgBouncer itself can log in there
    pause      all aliases of all poolers, or none: by the deadline everything is resumed and who held it is named
    repoint    the databases file, RELOAD, SHOW DATABASES says the same, RECONNECT
    resume     clients that waited go on, on the server that the file now names
    probe      a real query through each alias: this very server, this database

Each may be done again at any time. A pooler that cannot be reached has nobody paused, and reads its file when it
starts, so the others are never left waiting for it. What is paused stays so when we are killed: `recover` resumes it,
and the console does, by hand: RESUME "alias". Passwords are in no message.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, LiteralString
from urllib.parse import quote, urlsplit

import psycopg

from fixia_shardmig.cutover.pooler_files import Direction, Target, listed, replace_file, rewritten, targets, without
from fixia_shardmig.mapping.shard_map import PgBouncer, ShardMap
from fixia_shardmig.model.errors import RefusedError, ShardmigError, TemporaryError
from fixia_shardmig.model.places import place
from fixia_shardmig.postgres.pgbouncer import Console, Holder, Pause, await_pauses
from fixia_shardmig.postgres.sessions import Connection, describe

PROBE_CONNECT_S: Final = 5
PROBE_S: Final = 10.0
"""How long a probe is tried again: longer than `server_login_retry`, since a PAUSE may have cut off a login."""

PROBE_POLL_S: Final = 0.02

LOGINS_S: Final = 1.0
"""How long logins that are under way are waited for before a PAUSE; then it cuts them off."""

RETRY_S: Final = "0.01"
"""`server_login_retry` from RESUME until the clients go on."""

SETTLE_S: Final = 0.3
"""How long after a RESUME the settings of the files may hold again, and probes ask: the clients, who have waited, have
server connections by then, and nothing of ours takes their turn."""

IDENTITY: LiteralString = "SELECT system_identifier::text, current_database() FROM pg_catalog.pg_control_system()"

HOLDERS_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Identity:
    """Which database of which server; two databases of one server differ by name."""

    system: str
    database: str

    def __str__(self) -> str:
        """Show both."""
        return f"{self.database} on server {self.system}"


class PauseBlockedError(RefusedError):
    """Transactions that are open kept a PAUSE from returning; everything is resumed. `holders` are their clients."""

    def __init__(self, holders: list[Holder], where: str) -> None:
        """Name whom an operator has to ask."""
        named = "; ".join(map(str, holders[:HOLDERS_SHOWN])) or "transactions that have ended since"
        pid = next((holder.server_pid for holder in holders if holder.server_pid), 0)
        end = f", or on the source: SELECT pg_terminate_backend({pid})" if pid else ""
        super().__init__(
            f"PAUSE did not return in time on {where}: {named}; all aliases are resumed",
            hint=f"wait for it to end{end}; then run shardmig cutover again",
        )
        self.holders = holders


@dataclass(slots=True)
class Pooler:
    """One PgBouncer: its part of the mapping, and its console."""

    section: PgBouncer
    shard_map: ShardMap
    console: Console = field(init=False)
    let_in: int = 0
    """Which of the users that are tried was let in last."""

    def __post_init__(self) -> None:
        """Make the console; it connects when it is first asked."""
        self.console = Console(self.section.admin_url)

    def __str__(self) -> str:
        """Return the place of its console."""
        return str(self.console)

    @property
    def aliases(self) -> tuple[str, ...]:
        """Its databases that are ours."""
        return tuple(self.section.aliases.values())

    @property
    def file(self) -> Path | None:
        """The databases file, if we are to write it."""
        return Path(self.section.databases_file) if self.section.databases_file else None

    def wanted(self, direction: Direction) -> dict[str, Target]:
        """Return where its aliases shall lead."""
        return targets(self.shard_map, self.section, direction)

    def text(self) -> str:
        """Return its databases file; RefusedError where it cannot be read."""
        try:
            return self.file.read_text("utf-8") if self.file else ""
        except (OSError, UnicodeDecodeError) as error:
            reason = (getattr(error, "strerror", None) or "it is not UTF-8").lower()
            raise RefusedError(
                f"cannot read {self.file}: {reason}", hint="shardmig export pgbouncer writes it anew"
            ) from None

    def prepare(self) -> None:
        """Have no server connection be made while clients wait, which the PAUSE would cut off in its login (61).

        After such a login PgBouncer makes none for `server_login_retry`, and refuses clients that ask meanwhile; and
        `min_pool_size` has one made every third of a second, paused or not. `settle` takes this back.
        """
        self.console.set("min_pool_size", "0")
        deadline = time.monotonic() + LOGINS_S
        while time.monotonic() < deadline and self.console.logins(self.aliases):
            time.sleep(PROBE_POLL_S)

    def resume(self) -> None:
        """Let all clients go on, at once even if a login was cut off."""
        self.console.set("server_login_retry", RETRY_S)
        for alias in self.aliases:
            self.console.resume(alias)

    def settle(self) -> None:
        """Have the settings of the files hold again."""
        self.console.reload()

    def repoint(self, direction: Direction) -> None:
        """Have the aliases lead elsewhere; the file first, so that a PgBouncer that starts meanwhile reads it."""
        wanted = self.wanted(direction)
        if self.file is not None:
            replace_file(self.file, rewritten(without(self.text(), frozenset(self.probes())), wanted))
            place("pooler.file_written")
        self.console.reload()
        self.console.set("min_pool_size", "0")
        place("pooler.reloaded")
        if self.file is not None:
            self.refuse_unless(wanted)
        for alias in self.aliases:
            self.console.reconnect(alias)

    def refuse_unless(self, wanted: Mapping[str, Target]) -> None:
        """Refuse unless PgBouncer itself says that these databases lead there: RELOAD tells no mistake in a file."""
        known = self.console.databases()
        for alias, target in wanted.items():
            found = known.get(alias)
            if found is None or found.leads_to != (target.host, target.port, target.database):
                leads = f"leads to {found.leads_to}" if found else "is not known there"
                raise RefusedError(
                    f"{self}: after RELOAD {alias} {leads}, not to {target}",
                    hint=f"pgbouncer.ini needs %include {self.file}, and no line of its own for {alias}; see its log",
                )

    def probes(self) -> dict[str, str]:
        """Return the name of the alias that rehearses each shard, by that name."""
        return {f"shardmig_probe_{shard}": shard for shard in self.section.aliases}

    @contextmanager
    def rehearsing(self, direction: Direction) -> Iterator[None]:
        """Have an alias more for each shard, for as long as it takes; clients' own aliases are not touched."""
        if self.file is None:
            yield
            return
        before = without(self.text(), frozenset(self.probes()))
        wanted = self.wanted(direction)
        templates = _lines_of(before)
        probing = {name: self.section.aliases[shard] for name, shard in self.probes().items()}
        lines = [f"{name} = {templates.get(alias, '')}" for name, alias in probing.items()]
        with_probes = rewritten(
            before.rstrip("\n") + "\n" + "\n".join(lines) + "\n",
            {name: wanted[alias] for name, alias in probing.items()},
        )
        replace_file(self.file, with_probes)
        try:
            self.console.reload()
            yield
        finally:
            replace_file(self.file, before)
            self.console.reload()

    def identity(self, alias: str, url: str, *, timeout_s: float) -> Identity:
        """Ask through an alias which database it leads to, as the first user that PgBouncer and the server let in.

        Tried are the user of the console and that of the database's own URL.

        Raises:
            RefusedError: Nobody was let in within that time.
        """
        deadline = time.monotonic() + timeout_s
        urls = [_through(self.section.admin_url, alias, as_in=credentials) for credentials in (None, url)]
        urls = urls[self.let_in :] + urls[: self.let_in]
        reasons: dict[str, str] = {}
        while True:
            for one in urls:
                try:
                    found = ask_identity(one)
                except psycopg.Error as error:
                    reasons[describe(one)] = _first_line(error)
                else:
                    self.let_in = (self.let_in + urls.index(one)) % len(urls)
                    return found
            if time.monotonic() >= deadline or all(map(_is_final, reasons.values())):
                break
            time.sleep(PROBE_POLL_S)
        said = "; ".join(f"{where}: {reason}" for where, reason in reasons.items())
        raise RefusedError(
            f"{self}: no query gets through {alias}: {said}",
            hint="let a user of one of these URLs in: PgBouncer's auth_file or auth_query, with the same password"
            " on the source and on every shard; PgBouncer's log says why a login fails",
        )


class Poolers:
    """All of them; none is fine, and then nothing is done."""

    def __init__(self, shard_map: ShardMap) -> None:
        """Take them from the mapping; nothing is opened yet."""
        self.each = tuple(Pooler(section, shard_map) for section in shard_map.pgbouncers)

    def __bool__(self) -> bool:
        """Whether there is one."""
        return bool(self.each)

    @property
    def by_hook(self) -> bool:
        """Whether a hook has to re-point one of them, so that hooks come before RESUME."""
        return any(pooler.file is None for pooler in self.each)

    def close(self) -> None:
        """End the sessions on the consoles."""
        for pooler in self.each:
            pooler.console.close()

    def pause(self, deadline: float) -> None:
        """Make every client of every alias wait between two transactions; all or none (pitfall 61).

        Raises:
            PauseBlockedError: A transaction did not end in time; its client is named.
            TemporaryError, RefusedError: A pooler is away or says no. All are resumed in every case.
        """
        pauses: list[Pause] = []
        try:
            for pooler in self.each:  # all are connected before the first client waits
                pooler.prepare()
                pauses += [pooler.console.pause(alias) for alias in pooler.aliases]
            for pause in pauses:
                pause.send()
            if not await_pauses(pauses, deadline):
                raise self._blocked()
        except BaseException as error:
            failures = self.undo()
            if failures and isinstance(error, ShardmigError):
                error.message = f"{error.message}; {'; '.join(failures)}"
            raise
        finally:
            for pause in pauses:
                pause.close()

    def resume(self) -> list[str]:
        """Let all clients go on, wherever a pooler can be reached; returns what could not be done."""
        return self._at_all(Pooler.resume, "not resumed")

    def settle(self) -> list[str]:
        """Some time after a RESUME, have the settings of the files hold again; returns what could not be done."""
        return self._at_all(Pooler.settle, "not reloaded")

    def undo(self) -> list[str]:
        """Let all clients go on where they were, with the settings of the files; returns what could not be done."""
        failures = self.resume()
        if self.each:
            time.sleep(SETTLE_S)
        return [*failures, *self.settle()]

    def repoint(self, direction: Direction) -> list[str]:
        """Re-point each pooler and resume it; returns what could not be done.

        One whose aliases could not be re-pointed is not resumed: its clients would meet the fence.
        """

        def one(pooler: Pooler) -> None:
            pooler.repoint(direction)
            place("pooler.repointed")
            pooler.resume()

        return self._at_all(one, "not re-pointed")

    def probe(
        self, identities: Mapping[str, Identity], direction: Direction, *, timeout_s: float = PROBE_S
    ) -> list[str]:
        """Ask through every alias; returns each that does not lead to the database it shall lead to.

        Args:
            identities: By shard; going back, the source's for each.
            direction: Whose users are tried.
            timeout_s: For each of them.
        """

        def one(pooler: Pooler) -> None:
            for shard, alias in pooler.section.aliases.items():
                end = pooler.shard_map.shards[shard] if direction == "forward" else pooler.shard_map.source
                refuse_other(alias, pooler.identity(alias, end.url, timeout_s=timeout_s), identities[shard])

        return self._at_all(one, "not proven")

    def _at_all(self, work: Callable[[Pooler], None], doing: str) -> list[str]:
        if not self.each:
            return []

        def guarded(pooler: Pooler) -> str:
            try:
                work(pooler)
            except (ShardmigError, psycopg.Error) as error:
                by_hand = ", ".join(f'RESUME "{alias}"' for alias in pooler.aliases)
                return f"{doing}: {_first_line(error)} (on its console, by hand: {by_hand})"
            return ""

        with ThreadPoolExecutor(len(self.each), thread_name_prefix="pooler") as pool:
            return [reason for reason in pool.map(guarded, self.each) if reason]

    def _blocked(self) -> PauseBlockedError:
        holders: list[Holder] = []
        for pooler in self.each:
            holders += pooler.console.holders(pooler.aliases)
        return PauseBlockedError(holders, ", ".join(map(str, self.each)))


def identity_of(connection: Connection) -> Identity:
    """Return which database a direct session is on."""
    row = connection.execute(IDENTITY).fetchone()
    return Identity(*row) if row else Identity("", "")


def ask_identity(url: str) -> Identity:
    """Return which database a URL leads to; it may lead through a pooler, so nothing is set or prepared."""
    with psycopg.connect(
        url, connect_timeout=PROBE_CONNECT_S, autocommit=True, prepare_threshold=None, application_name="shardmig probe"
    ) as connection:
        row = connection.execute(IDENTITY).fetchone()
    return Identity(*row) if row else Identity("", "")


def refuse_other(alias: str, found: Identity, wanted: Identity) -> None:
    """Refuse an alias that leads to another database than it shall."""
    if found != wanted:
        raise RefusedError(
            f"{alias} leads to {found}, not to {wanted}",
            hint="correct host, port and dbname of the URLs in the mapping: PgBouncer resolves them on its own host",
        )


def _lines_of(text: str) -> dict[str, str]:
    """Return what stands behind each alias's equals sign."""
    return {name: line.partition("=")[2].strip() for line in text.splitlines() for name in listed(line)}


def _through(admin_url: str, alias: str, *, as_in: str | None) -> str:
    """Return a URL of the pooler with an alias as its database, and the user of another URL if one is given."""
    parts = urlsplit(admin_url)
    hosts = parts.netloc.rpartition("@")[2]
    users = (urlsplit(as_in).netloc if as_in else parts.netloc).rpartition("@")[0]
    query = f"?{parts.query}" if parts.query else ""
    return f"postgresql://{users}{'@' if users else ''}{hosts}/{quote(alias, safe='')}{query}"


def _is_final(reason: str) -> bool:
    """Whether trying again is useless. A login that was cut off, or a PgBouncer that restarts, may be there soon."""
    return any(text in reason for text in ("authentication failed", "no such database", "no such user", "not allowed"))


def _first_line(error: BaseException) -> str:
    if isinstance(error, TemporaryError | RefusedError):
        return error.message
    return (str(error).strip() or type(error).__name__).splitlines()[0]
