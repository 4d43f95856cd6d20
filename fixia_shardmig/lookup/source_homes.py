"""Before the switch, a row's home is what the mapping's rules say of it on the source, by placement's own reading.

The shards are no witnesses then: they lag behind, and a row that is being moved is on two of them for a moment.
Refuses a row whose home cannot be decided, as the tail does.
"""

from __future__ import annotations

import threading
from typing import cast

from psycopg import sql

from fixia_shardmig.lookup.keys import KeyTexts, check_parts, shown
from fixia_shardmig.lookup.places import Place
from fixia_shardmig.mapping.check import check_mapping
from fixia_shardmig.mapping.load import MappingFile
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.catalog import Catalog
from fixia_shardmig.model.errors import UnroutableError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.placement.snapshot import extension_path, from_item, home_sql
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.sessions import Connection


class SourceHomes:
    """The rules, held against the source's catalog when they are first needed."""

    def __init__(self, mapping: MappingFile) -> None:
        """Keep the mapping; reads nothing yet."""
        self._mapping = mapping
        self._lock = threading.Lock()
        self._rules: tuple[ShardMap, Catalog] | None = None

    def home(self, source: Place, table: TableName, key: KeyTexts) -> str | None:
        """Return the home of a row that has a home by its own value or a parent's; None without a row."""
        with source.question() as borrowed:
            connection = cast("Connection", borrowed.connection.driver_connection)
            shard_map, catalog = self._checked(connection)
            check_parts(table, catalog.tables[table].primary_key, key)
            query = _home_query(shard_map, catalog, table, key)
            with connection.transaction():
                path = extension_path(catalog)
                connection.execute("SELECT set_config('search_path', %s, true)", (path,))
                row = connection.execute(query).fetchone()
        if row is None:
            return None
        if row[0] is None:
            raise UnroutableError(
                f"{table} {shown(key)} has no home under the mapping", hint="shardmig plan names such rows' values"
            )
        return str(row[0])

    def _checked(self, connection: Connection) -> tuple[ShardMap, Catalog]:
        with self._lock:
            if self._rules is None:
                catalog = read_catalog(connection)
                self._rules = check_mapping(self._mapping, catalog), catalog
            return self._rules


def _home_query(shard_map: ShardMap, catalog: Catalog, table: TableName, key: KeyTexts) -> sql.Composed:
    """Read one row's home. A quoted literal takes the type of the column it is compared with."""
    home = home_sql(shard_map, catalog, table, "found")
    columns = catalog.tables[table].primary_key
    pairs = [
        sql.SQL("{} = {}").format(sql.Identifier("found", column), sql.Literal(text))
        for column, text in zip(columns, key, strict=True)
    ]
    return sql.SQL("SELECT {} FROM {} AS found{} WHERE {}").format(
        home.expression, from_item(catalog, table), home.joins, sql.SQL(" AND ").join(pairs)
    )
