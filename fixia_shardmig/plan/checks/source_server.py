"""Whether the source's server can be read by a slot for hours, and what stands in its way just now."""

from __future__ import annotations

from collections.abc import Iterator

from fixia_shardmig.plan.findings import Finding, Look, Severity, listed, row, rows, size_text
from fixia_shardmig.postgres.sessions import Connection, scalar

SLOTS_NEEDED = 2
"""One for the tail, and one for the snapshot that `verify` compares at."""
LONG_TRANSACTION_S = 60
"""A new slot waits for every open transaction; one older than this will not end by itself soon."""

# Below these minors pgoutput gave NULL in the old row for a column that was added with a default (FULL identity).
_FULL_IDENTITY_MINORS = {15: 6, 16: 2}
# Below these minors a transaction that was open during CREATE PUBLICATION could lose its later changes.
_PUBLICATION_MINORS = {15: 13, 16: 9, 17: 5}


def is_pooler(connection: Connection) -> bool:
    """Whether something between us and the server answers in its name: it invents the process id it tells."""
    return connection.info.backend_pid != int(scalar(connection, "SELECT pg_backend_pid()"))


def pooler(look: Look) -> Iterator[Finding]:
    """Find a pooler in front of the source (pitfall 46)."""
    if is_pooler(look.source):
        yield Finding(
            "source-pooler",
            Severity.BLOCKER,
            "the source's URL leads to a connection pooler; slots, snapshots and settings do not live through it",
            "set source.url to the server's direct URL, as for migrations beside the pooled one",
        )


def standby(look: Look) -> Iterator[Finding]:
    """Find a source that is a read-only copy."""
    if row(look.source, "source_server").standby:
        yield Finding(
            "source-standby",
            Severity.BLOCKER,
            "the source is a standby: it takes no publication and no fence",
            "set source.url to the primary",
        )


def wal_level(look: Look) -> Iterator[Finding]:
    """Find a WAL that says too little for logical decoding."""
    level = row(look.source, "source_server").wal_level
    if level != "logical":
        yield Finding(
            "wal-level",
            Severity.BLOCKER,
            f"wal_level is {level}, and a slot needs logical",
            "ALTER SYSTEM SET wal_level = logical, then restart the source",
        )


def free_slots(look: Look) -> Iterator[Finding]:
    """Find too few free slots."""
    server = row(look.source, "source_server")
    free = server.slots_max - server.slots
    needed = SLOTS_NEEDED - look.running
    if free < needed:
        yield Finding(
            "replication-slots",
            Severity.BLOCKER if free < 1 else Severity.WARNING,
            f"{free} of {server.slots_max} replication slots are free, {needed} are needed (tail and verify)",
            f"drop slots nobody reads, or ALTER SYSTEM SET max_replication_slots = {server.slots + needed + 2}, "
            "then restart the source",
        )


def free_wal_senders(look: Look) -> Iterator[Finding]:
    """Find too few free walsenders."""
    server = row(look.source, "source_server")
    free = server.senders_max - server.senders
    needed = SLOTS_NEEDED - look.running
    if free < needed:
        yield Finding(
            "wal-senders",
            Severity.BLOCKER if free < 1 else Severity.WARNING,
            f"{free} of {server.senders_max} walsenders are free, {needed} are needed (tail and verify)",
            f"ALTER SYSTEM SET max_wal_senders = {server.senders + needed + 2}, then restart the source",
        )


def slot_wal_limit(look: Look) -> Iterator[Finding]:
    """Find a limit at which the server gives our slot up (pitfall 17)."""
    server = row(look.source, "source_server")
    limit = server.slot_wal_bytes_max
    if limit is not None and limit >= 0:
        yield Finding(
            "slot-wal-limit",
            Severity.WARNING,
            f"max_slot_wal_keep_size is {size_text(limit)}: the slot is lost once so much WAL waits for it "
            f"(the database has {size_text(server.database_bytes)}, and a copy holds WAL for as long as it runs)",
            "ALTER SYSTEM SET max_slot_wal_keep_size = -1 for the migration, or make sure that the copy is quicker",
        )


def idle_slot_timeout(look: Look) -> Iterator[Finding]:
    """Find a time limit after which a slot without a reader is given up."""
    seconds = row(look.source, "source_server").idle_slot_timeout_s
    if seconds:
        yield Finding(
            "idle-slot-timeout",
            Severity.WARNING,
            f"idle_replication_slot_timeout is {seconds} s: a tail that is stopped for longer loses its slot",
            "ALTER SYSTEM SET idle_replication_slot_timeout = 0 for the migration",
        )


def minor_version(look: Look) -> Iterator[Finding]:
    """Find a minor version whose decoding has known bugs (pitfall 34)."""
    major, minor = divmod(look.catalog.server_version, 10000)
    full = [t.name for t in look.with_rows() if t.replica_identity == "f" and not t.primary_key]
    if full and minor < _FULL_IDENTITY_MINORS.get(major, 0):
        yield Finding(
            "minor-version",
            Severity.BLOCKER,
            f"PostgreSQL {major}.{minor} decodes wrong old rows for REPLICA IDENTITY FULL after ADD COLUMN … DEFAULT "
            f"({listed(full)})",
            f"update the source to {major}.{_FULL_IDENTITY_MINORS[major]} or newer, or give these tables a primary key",
        )
    elif minor < _PUBLICATION_MINORS.get(major, 0):
        yield Finding(
            "minor-version",
            Severity.WARNING,
            f"PostgreSQL {major}.{minor} can lose changes of a transaction that is open while a publication is altered",
            f"update the source to {major}.{_PUBLICATION_MINORS[major]} or newer; until then let nobody alter ours",
        )


def prepared_transactions(look: Look) -> Iterator[Finding]:
    """Find prepared transactions (pitfall 29)."""
    found = rows(look.source, "prepared")
    if found:
        yield Finding(
            "prepared-transactions",
            Severity.WARNING,
            f"{len(found)} prepared transactions are open ({listed(one.gid for one in found)}): "
            "a new slot waits for them, and the cutover refuses while any exists",
            "COMMIT PREPARED or ROLLBACK PREPARED each of them",
        )


def long_transactions(look: Look) -> Iterator[Finding]:
    """Find old transactions, which a new slot waits for (pitfall 40)."""
    found = rows(look.source, "long_transactions", {"seconds": LONG_TRANSACTION_S})
    if found:
        shown = listed(f"pid {one.pid} {one.application or one.who} for {one.age_s:.0f} s" for one in found)
        yield Finding(
            "long-transactions",
            Severity.WARNING,
            f"{len(found)} transactions are old: {shown}; a new slot waits until they end",
            f"end them if they are forgotten: SELECT pg_terminate_backend({found[0].pid})",
        )


def left_overs(look: Look) -> Iterator[Finding]:
    """Find slots and publications of a run that was never ended (pitfall 19)."""
    for slot in rows(look.source, "our_slots"):
        if slot.name == look.slot and look.running:
            continue
        state = "in use" if slot.active else "unused"
        yield Finding(
            "left-over-slot",
            Severity.BLOCKER if slot.name == look.slot else Severity.WARNING,
            f"the slot {slot.name} exists already ({state}) and holds back {size_text(slot.wal_bytes)} of WAL",
            f"if no migration needs it: SELECT pg_drop_replication_slot('{slot.name}')",
        )
    names = [one.name for one in rows(look.source, "publications")]
    if look.slot in names and not look.running:
        yield Finding(
            "left-over-publication",
            Severity.BLOCKER,
            f"the publication {look.slot} exists already, and no migration is under way",
            f"if no migration needs it: DROP PUBLICATION {look.slot}",
        )


def other_replication(look: Look) -> Iterator[Finding]:
    """Find others who read from or write into the source by replication (pitfall 71)."""
    readers = [slot.name for slot in rows(look.source, "other_slots")]
    if readers:
        yield Finding(
            "other-readers",
            Severity.INFO,
            f"others read this database by logical replication ({listed(readers)}); after the cutover they get nothing",
            "decide for each what it reads after the split",
        )
    writers = row(look.source, "subscriptions").count
    if writers:
        yield Finding(
            "other-writers",
            Severity.WARNING,
            f"{writers} subscriptions write into this database; the fence stops them, and they have no shard to go to",
            "decide what becomes of them before the cutover",
        )
