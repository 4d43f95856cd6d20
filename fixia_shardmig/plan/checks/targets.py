"""Whether the shards are there, empty, separate, alike, and let our role do its work."""

from __future__ import annotations

from collections.abc import Iterator

from fixia_shardmig.model.names import TableName
from fixia_shardmig.plan.checks.source_server import is_pooler
from fixia_shardmig.plan.findings import Finding, Look, Severity, ident, listed, row, rows
from fixia_shardmig.postgres.sessions import Connection


def reachable(look: Look) -> Iterator[Finding]:
    """Find shards that do not answer or let us in."""
    for target in look.targets.values():
        if target.error is not None:
            yield Finding(
                "target-unreachable",
                Severity.BLOCKER,
                f"the shard {target.shard}: {target.error.message}",
                target.error.hint,
            )


def poolers(look: Look) -> Iterator[Finding]:
    """Find poolers in front of shards (pitfall 46)."""
    for shard, connection in look.reached():
        if is_pooler(connection):
            yield Finding(
                "target-pooler",
                Severity.BLOCKER,
                f"the URL of the shard {shard} leads to a connection pooler; our settings do not live through it",
                f"set shards.{shard}.url to the server's direct URL; the application keeps the pooled one",
            )


def _identity(connection: Connection) -> tuple[object, ...]:
    target = row(connection, "target")
    return (target.system_identifier, target.oid, target.started_at)


def own_database(look: Look) -> Iterator[Finding]:
    """Find a shard that is the source, or two that are one, by what the servers say and not by their URLs."""
    seen = {_identity(look.source): "the source"}
    for shard, connection in look.reached():
        target, identity = row(connection, "target"), _identity(connection)
        if identity in seen:
            yield Finding(
                "same-database",
                Severity.BLOCKER,
                f"the shard {shard} is the same database as {seen[identity]} ({target.database})",
                f"createdb one for {shard}, and name it in shards.{shard}.url",
            )
        seen.setdefault(identity, f"the shard {shard}")


def empty(look: Look) -> Iterator[Finding]:
    """Find tables that are not ours on a shard."""
    for shard, connection in look.reached():
        tables = [TableName(one.schema, one.name) for one in rows(connection, "target_tables")]
        ours = row(connection, "target").prepared or _identity(connection) == _identity(look.source)
        if tables and not ours:
            yield Finding(
                "target-not-empty",
                Severity.BLOCKER,
                f"the shard {shard} is not empty: {listed(tables)}",
                "name an empty database as this shard, or drop these tables if nobody needs them",
            )


def encoding(look: Look) -> Iterator[Finding]:
    """Find a shard that cannot hold every text of the source (pitfall 51)."""
    for shard, connection in look.reached():
        target = row(connection, "target").encoding
        if target != look.catalog.encoding:
            yield Finding(
                "target-encoding",
                Severity.WARNING if target == "UTF8" else Severity.BLOCKER,
                f"the shard {shard} has the encoding {target}, the source {look.catalog.encoding}",
                f"createdb --template=template0 --encoding={look.catalog.encoding} …",
            )


def version(look: Look) -> Iterator[Finding]:
    """Say where source and shards are different major versions (pitfall 47)."""
    for shard, connection in look.reached():
        major = connection.info.server_version // 10000
        older = major < look.catalog.server_major
        if major != look.catalog.server_major:
            yield Finding(
                "target-version",
                Severity.WARNING if older else Severity.INFO,
                f"the shard {shard} is PostgreSQL {major}, the source {look.catalog.server_major}: "
                + ("it may lack what the source's DDL uses, and " if older else "")
                + "some rows are copied as text",
                "use the source's version or a newer one" if older else "",
            )


def collation(look: Look) -> Iterator[Finding]:
    """Find shards that sort otherwise than the source (pitfall 51)."""
    source = row(look.source, "target")
    for shard, connection in look.reached():
        target = row(connection, "target")
        ours = (source.provider, source.collation, source.ctype)
        if (target.provider, target.collation, target.ctype) != ours:
            yield Finding(
                "target-collation",
                Severity.WARNING,
                f"the shard {shard} sorts by {target.collation}, the source by {source.collation}: "
                "ORDER BY and upper() can differ",
                f"createdb --template=template0 --locale={source.collation} …",
            )


def role(look: Look) -> Iterator[Finding]:
    """Find a role that may not make tables, switch triggers off or mark what it applies."""
    for shard, connection in look.reached():
        ours = row(connection, "role")
        if not ours.creates:
            yield Finding(
                "target-role-create",
                Severity.BLOCKER,
                f"the role {ours.name} may not create schemas in the shard {shard}",
                f"GRANT CREATE ON DATABASE {ident(ours.database)} TO {ident(ours.name)}",
            )
        if not ours.sets_replica_role:
            yield Finding(
                "target-role-replica",
                Severity.BLOCKER,
                f"the role {ours.name} may not set session_replication_role on the shard {shard}: "
                "triggers and foreign keys would fire for every applied row",
                f"as a superuser: GRANT SET ON PARAMETER session_replication_role TO {ident(ours.name)}",
            )
        if not ours.origins:
            yield Finding(
                "target-role-origins",
                Severity.WARNING,
                f"the role {ours.name} may not use replication origins on the shard {shard}, as the way back will",
                "as a superuser: GRANT EXECUTE ON FUNCTION pg_replication_origin_create(text), "
                "pg_replication_origin_session_setup(text), pg_replication_origin_xact_setup(pg_lsn, timestamptz), … "
                f"TO {ident(ours.name)}",
            )


def row_security(look: Look) -> Iterator[Finding]:
    """Find row level security that would keep our role from writing or reading all rows of a shard (pitfall 53)."""
    tables = [table.name for table in look.moved() if table.row_security]
    for shard, connection in look.reached():
        ours = row(connection, "role")
        if tables and not (ours.superuser or ours.bypassrls):
            yield Finding(
                "target-role-row-security",
                Severity.BLOCKER,
                f"row level security of {listed(tables)} would hide rows of {shard} from the role {ours.name}",
                f"as a superuser: ALTER ROLE {ident(ours.name)} BYPASSRLS",
            )


def ready_for_rollback(look: Look) -> Iterator[Finding]:
    """Find what a shard lacks to send its changes back after the cutover."""
    for shard, connection in look.reached():
        target, ours = row(connection, "target"), row(connection, "role")
        lacking = []
        if target.wal_level != "logical":
            lacking.append(f"wal_level is {target.wal_level}")
        if target.slots >= target.slots_max:
            lacking.append("no replication slot is free")
        if not (ours.superuser or ours.replication or ours.managed_replication):
            lacking.append(f"the role {ours.name} may not replicate")
        if lacking:
            yield Finding(
                "target-no-rollback",
                Severity.WARNING,
                f"the shard {shard} could not send changes back, as a rollback will need: {'; '.join(lacking)}",
                "ALTER SYSTEM SET wal_level = logical, restart; ALTER ROLE … REPLICATION; raise max_replication_slots",
            )


def extensions(look: Look) -> Iterator[Finding]:
    """Find extensions that a shard does not have, or has in another version (pitfall 54)."""
    used = {one.name for one in rows(look.source, "used_extensions")}
    for shard, connection in look.reached():
        available = {one.name: one.version for one in rows(connection, "available_extensions")}
        for name, source_version, _ in look.catalog.extensions:
            if name not in available:
                yield Finding(
                    "target-extension",
                    Severity.BLOCKER if name in used else Severity.WARNING,
                    f"the extension {name} is not available on the shard {shard}"
                    + (", and tables or functions use it" if name in used else ""),
                    "install its package on that server" + ("" if name in used else ", or do without it there"),
                )
            elif available[name] != source_version:
                yield Finding(
                    "target-extension-version",
                    Severity.WARNING if name in used else Severity.INFO,
                    f"the extension {name} is {source_version} on the source and would be {available[name]} on {shard}",
                    "use the same package on both servers",
                )


def roles(look: Look) -> Iterator[Finding]:
    """Find roles that own or use the source's tables and do not exist on a shard."""
    wanted = {one.name for one in rows(look.source, "roles")}
    of_policies = {one.name for one in rows(look.source, "policy_roles")}
    for shard, connection in look.reached():
        existing = {one.name for one in rows(connection, "existing_roles")}
        missing = sorted(wanted - existing - of_policies)
        for name in sorted(of_policies - existing):
            yield Finding(
                "target-policy-role-missing",
                Severity.BLOCKER,
                f"the shard {shard} has no role {name}, which policies are for: they are never left out",
                f"CREATE ROLE {ident(name)} … on that server",
            )
        if missing:
            yield Finding(
                "target-role-missing",
                Severity.WARNING,
                f"the shard {shard} has no role {listed(missing)}: what they own or may use is left out there",
                f"CREATE ROLE {ident(missing[0])} … on that server, before `shardmig schema apply`",
            )
