"""All checks of the preflight, in the order in which their findings are shown within a severity.

A check that may not look (a managed server hides a view) is a warning of its own: never silence, never a crash.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from fixia_shardmig.plan.checks import objects, references, source_role, source_server, tables, targets, uniqueness
from fixia_shardmig.plan.findings import Check, Finding, Look, Severity

CHECKS: tuple[Check, ...] = (
    source_server.pooler,
    source_server.standby,
    source_server.wal_level,
    source_server.free_slots,
    source_server.free_wal_senders,
    source_server.slot_wal_limit,
    source_server.idle_slot_timeout,
    source_server.minor_version,
    source_server.prepared_transactions,
    source_server.long_transactions,
    source_server.left_overs,
    source_server.other_replication,
    source_role.may_replicate,
    source_role.may_read,
    source_role.may_publish,
    source_role.sees_all_rows,
    tables.identity,
    tables.deferrable_key,
    tables.generated_key,
    tables.full_identity,
    tables.values_without_equality,
    tables.root_without_key,
    tables.unlogged,
    tables.inheritance,
    tables.key_collation,
    tables.triggers_that_always_fire,
    tables.rules,
    tables.generated_columns,
    tables.row_security,
    tables.no_binary_form,
    references.dropped_cascades,
    references.followed_without_index,
    references.enum_without_home,
    references.value_that_decides_many,
    references.split_by_own_text,
    uniqueness.ends_at_the_split,
    objects.sequences,
    objects.sequences_behind,
    objects.large_objects,
    objects.views,
    objects.materialized_views,
    objects.foreign_tables,
    objects.event_triggers,
    objects.database_settings,
    objects.extension_data,
    targets.reachable,
    targets.poolers,
    targets.own_database,
    targets.empty,
    targets.encoding,
    targets.version,
    targets.collation,
    targets.role,
    targets.row_security,
    targets.ready_for_rollback,
    targets.extensions,
    targets.roles,
)


def run_checks(look: Look, checks: tuple[Check, ...] = CHECKS) -> Iterator[Finding]:
    """Run the checks one after another and yield all they find."""
    for check in checks:
        try:
            yield from list(check(look))
        except psycopg.Error as error:
            name = f"{check.__module__.rpartition('.')[2]}.{check.__name__}"
            yield Finding(
                "check-failed",
                Severity.WARNING,
                f"the check {name} could not look: {error.diag.message_primary or type(error).__name__}",
                "grant the role pg_monitor, or look by hand",
            )
