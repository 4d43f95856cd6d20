"""Whether our role may do on the source what a migration does there."""

from __future__ import annotations

from collections.abc import Iterator

from fixia_shardmig.plan.findings import Finding, Look, Severity, ident, listed, quoted, row, rows


def may_replicate(look: Look) -> Iterator[Finding]:
    """Find a role that may not use a slot."""
    role = row(look.source, "role")
    if not (role.superuser or role.replication or role.managed_replication):
        yield Finding(
            "role-replication",
            Severity.BLOCKER,
            f"the role {role.name} may not replicate",
            f"as a superuser: ALTER ROLE {ident(role.name)} REPLICATION (on RDS: GRANT rds_replication TO …)",
        )


def may_read(look: Look) -> Iterator[Finding]:
    """Find tables our role may not read."""
    tables = {table.oid: table.name for table in look.moved()}
    found = rows(look.source, "unreadable_tables", {"oids": list(tables)})
    unreadable = sorted(tables[one.oid] for one in found if one.unreadable)
    if unreadable:
        role = row(look.source, "role").name
        yield Finding(
            "role-select",
            Severity.BLOCKER,
            f"the role {role} may not read {listed(unreadable)}",
            f"GRANT USAGE ON SCHEMA {ident(unreadable[0].schema)} TO {ident(role)}; "
            f"GRANT SELECT ON {quoted(unreadable[0])} TO {ident(role)}",
        )


def may_publish(look: Look) -> Iterator[Finding]:
    """Find a role that may not make the publication: CREATE on the database, and each table its own."""
    role = row(look.source, "role")
    if not role.creates:
        yield Finding(
            "role-create",
            Severity.BLOCKER,
            f"the role {role.name} may not create a publication in {role.database}",
            f"GRANT CREATE ON DATABASE {ident(role.database)} TO {ident(role.name)}",
        )
    tables = {table.oid: table for table in look.moved()}
    found = rows(look.source, "unreadable_tables", {"oids": list(tables)})
    foreign = sorted(tables[one.oid].name for one in found if one.not_owned)
    if foreign and not role.superuser:
        owner = look.catalog.tables[foreign[0]].owner
        yield Finding(
            "role-owner",
            Severity.BLOCKER,
            f"the role {role.name} does not own {listed(foreign)}, and only an owner may publish and fence a table",
            f"GRANT {ident(owner)} TO {ident(role.name)}",
        )


def sees_all_rows(look: Look) -> Iterator[Finding]:
    """Find row level security that would hide rows from our role (pitfall 53)."""
    role = row(look.source, "role")
    if role.superuser or role.bypassrls:
        return
    owned = {
        one.oid
        for one in rows(look.source, "unreadable_tables", {"oids": [t.oid for t in look.moved()]})
        if not one.not_owned
    }
    hidden = [t.name for t in look.with_rows() if t.row_security and (t.force_row_security or t.oid not in owned)]
    if hidden:
        yield Finding(
            "role-row-security",
            Severity.BLOCKER,
            f"row level security hides rows of {listed(hidden)} from the role {role.name}",
            f"as a superuser: ALTER ROLE {ident(role.name)} BYPASSRLS",
        )
