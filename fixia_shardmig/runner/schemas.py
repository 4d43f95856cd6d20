"""Makes the shards' tables, or says what differs from what they should be."""

from __future__ import annotations

from fixia_shardmig.model.phase import Phase
from fixia_shardmig.runner.context import Context
from fixia_shardmig.runner.copying import prepare_schema
from fixia_shardmig.schema.build import build_all
from fixia_shardmig.schema.diff import SchemaDifference, diff


def apply_schemas(context: Context) -> list[str]:
    """Begin the migration and make its tables; returns the shards that have them."""
    with context.journal() as journal, journal.holding("driver"):
        migration = prepare_schema(context, journal)
        return list(migration.shard_names) if migration.phase is Phase.PLANNED else []


def diff_schemas(context: Context) -> dict[str, list[str]]:
    """Return, by shard, a line for each definition that differs from the source's."""
    return {name: [str(found) for found in differences] for name, differences in schema_differences(context).items()}


def schema_differences(context: Context) -> dict[str, list[SchemaDifference]]:
    """Return, by shard, each table, column, default, index, constraint, trigger, … that is not as the plan has it."""
    schemas = build_all(context.shard_map.source.url, context.shard_map, context.catalog)
    return {name: diff(schemas[name], endpoint.url) for name, endpoint in context.shard_map.shards.items()}
