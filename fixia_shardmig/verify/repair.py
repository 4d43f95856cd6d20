"""Puts named rows right: reads them again on all sides, writes the source's to their homes, looks, then commits.

The caller has made sure that nobody writes to the shards and that they stand exactly at the source's snapshot. Every
shard has one transaction. In it the named rows are read again, those that still differ are deleted and written anew as
the source has them, and all of them are read once more: only when none differs any more, the shards commit, one after
the other. Until the switch the source has every row, so a crash between two commits loses none: what is left differs
and is found again.

Touches no row that was not named. Refuses, with nothing written, a row that would still differ, a row that a rule of
the shard does not take, and a shard that stands elsewhere than the others. Values pass from server to server as COPY's
text and are never parsed here (pitfall 49). Triggers and foreign keys do not fire, as when the tail writes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import psycopg
from psycopg import errors, sql

from fixia_shardmig.journal.records import FORWARD
from fixia_shardmig.mapping.shard_map import ShardMap
from fixia_shardmig.model.catalog import Catalog, Column
from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.model.places import place
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.retry import as_shardmig_error
from fixia_shardmig.postgres.sessions import Connection, connect, scalar
from fixia_shardmig.verify.canonical import HashForm, column_hashes_sql, text_sql
from fixia_shardmig.verify.comparison import Difference, Names, Row, compare_rows, key_text
from fixia_shardmig.verify.homes import EVERY_SHARD, HomeSql, equal, home_sql, relation
from fixia_shardmig.verify.layouts import layout_of
from fixia_shardmig.verify.queries import Layout, chosen_rows_query, on_shard
from fixia_shardmig.verify.references import as_type
from fixia_shardmig.verify.snapshots import SnapshotRef, SnapshotSessions, search_path

LOCK_TIMEOUT_MS = 30_000
"""How long a row that somebody else holds on a shard is waited for; nothing is written then."""

NEXT_COMMAND = "shardmig verify --repair"

Identity = tuple[str | None, ...]
Act = Literal["insert", "delete", "replace"]


@dataclass(frozen=True, slots=True)
class RepairAction:
    """What a repair does, or would do, to one named row of one shard."""

    act: Act
    table: TableName
    shard: str
    key: Mapping[str, str | None]
    copies: int = 1


def actions_for(differences: Iterable[Difference]) -> tuple[RepairAction, ...]:
    """Return what puts some differences right, in their order."""
    return tuple(action for difference in differences for action in _actions(difference))


def _actions(found: Difference) -> Iterator[RepairAction]:
    acts: dict[str, tuple[tuple[Act, str], ...]] = {
        "missing": (("insert", found.shard),),
        "extra": (("delete", found.shard),),
        "differing": (("replace", found.shard),),
        "misplaced": (("insert", found.home), ("delete", found.shard)),
        "duplicated": (("delete", found.shard),),
    }
    for act, shard in acts[found.kind]:
        yield RepairAction(act, found.table, shard, found.key, found.copies)


def repair(
    shard_map: ShardMap,
    *,
    source: SnapshotRef,
    differences: Collection[Difference],
    form: HashForm,
    still_alone: Callable[[], None],
) -> tuple[RepairAction, ...]:
    """Put right what of some differences is still there, and return what was done.

    Args:
        shard_map: Where rows belong.
        source: The source at the moment at which every shard stands.
        differences: What a comparison has named.
        form: How that comparison hashed, which names the rows of tables without a key.
        still_alone: Raises when somebody else may have begun to write to the shards.

    Raises:
        RefusedError: A row would not come right; nothing was written.
        TemporaryError: A server went away, or held a row; what was not committed is found again.
    """
    named: dict[TableName, set[Identity]] = defaultdict(set)
    for difference in differences:
        named[difference.table].add(difference.identity)
    with ExitStack() as stack:
        sessions = stack.enter_context(SnapshotSessions(source, "source"))
        opened = {name: stack.enter_context(_writing(name, at.url)) for name, at in shard_map.shards.items()}
        shards = {name: connection for name, (connection, _) in opened.items()}
        _refuse_apart(shards)
        with sessions.session("reading the named rows") as reader:
            work = _Repair(shard_map, reader, shards, {name: catalog for name, (_, catalog) in opened.items()}, form)
            found = work.differences(named)
            work.write(found)
            _refuse_left(work.differences(named))
        still_alone()
        for name, connection in shards.items():
            place("repair.before_commit", name)
            with _explaining(name, shard_map.shards[name].url, "committing the repair"):
                connection.commit()
        place("repair.committed")
    return actions_for(found)


@contextmanager
def _writing(shard: str, url: str) -> Iterator[tuple[Connection, Catalog]]:
    """Read a shard's catalog, then open the transaction that is committed by the caller or not at all."""
    connection = connect(url, "repair")
    try:
        with _explaining(shard, url, "opening the repair's transaction"):
            catalog = read_catalog(connection)
            connection.autocommit = False
            connection.execute("SET LOCAL session_replication_role = replica")
            connection.execute("SELECT set_config('lock_timeout', %s, true)", (f"{LOCK_TIMEOUT_MS}ms",))
        yield connection, catalog
    finally:
        connection.close()


def _refuse_apart(shards: Mapping[str, Connection]) -> None:
    """Lock the tail's position on each shard, so that no tail commits beside us, and see that all are the same."""
    query = "SELECT applied_lsn::text FROM shardmig.position WHERE stream = %s FOR UPDATE"
    positions = {name: scalar(connection, query, (FORWARD,)) for name, connection in shards.items()}
    if len(set(positions.values())) > 1:
        told = ", ".join(f"{name} at {lsn}" for name, lsn in positions.items())
        raise RefusedError(f"the shards do not stand at one LSN: {told}", hint="shardmig tail --until caught-up")


@contextmanager
def _explaining(shard: str, url: str, doing: str) -> Iterator[None]:
    """Turn a server's error into ours; with a row that the shard does not take, the operator acts first."""
    try:
        yield
    except (errors.IntegrityError, errors.RaiseException, errors.InsufficientPrivilege) as error:
        raise RefusedError(
            f"{shard}: {doing}: {str(error).splitlines()[0]}; nothing was written",
            hint="shardmig verify names every difference; take away what stands against it, then: " + NEXT_COMMAND,
        ) from error
    except psycopg.Error as error:
        raise as_shardmig_error(error, url, doing=f"{shard}: {doing}", next_command=NEXT_COMMAND) from error


def _refuse_left(left: Sequence[Difference]) -> None:
    if not left:
        return
    first = left[0]
    key = key_text(first.key)
    columns = f" in {', '.join(first.columns)}" if first.columns else ""
    raise RefusedError(
        f"{first.table} {key} on {first.shard} would still be {first.kind}{columns}; nothing was written",
        hint="a trigger or a generated column of the shard stands against it: shardmig schema diff",
    )


class _Repair:
    """One repair: all sides, and the tables as verify reads them."""

    def __init__(
        self,
        shard_map: ShardMap,
        source: Connection,
        shards: Mapping[str, Connection],
        catalogs: Mapping[str, Catalog],
        form: HashForm,
    ) -> None:
        self._map = shard_map
        self._source = source
        self._shards = shards
        self._form = form
        self._catalog = read_catalog(source)
        self._catalogs = catalogs
        for connection, catalog in ((source, self._catalog), *((shards[n], c) for n, c in self._catalogs.items())):
            path = search_path(schema for _, _, schema in catalog.extensions)
            connection.execute("SELECT set_config('search_path', %s, true)", (path,))
        self._layouts: dict[TableName, Layout] = {}

    def layout(self, table: TableName) -> Layout:
        if table not in self._layouts:
            self._layouts[table] = layout_of(table, self._map, self._catalog, self._catalogs, self._form)
        return self._layouts[table]

    def differences(self, named: Mapping[TableName, Collection[Identity]]) -> list[Difference]:
        """Read the named rows on all sides as they are now and return what differs."""
        found: list[Difference] = []
        for table, identities in sorted(named.items()):
            layout = self.layout(table)
            names = Names(
                table,
                tuple(field.name for field in layout.key),
                tuple(field.name for field in layout.fields),
                self._map.shard_names,
            )
            source = self._rows(self._source, self._catalog, self._homes(table), table, identities)
            shards = {
                number: self._rows(self._shards[name], self._catalogs[name], rows, table, identities, shard=name)
                for number, name in enumerate(self._map.shard_names)
                if (rows := self._own(name, number, table))
            }
            found += compare_rows(names, source, shards)
        return found

    def write(self, found: Sequence[Difference]) -> None:
        """Delete every differing row from the shards it differs on, then write there what the source has for them."""
        touched: dict[tuple[TableName, str], set[Identity]] = defaultdict(set)
        for action, difference in ((action, one) for one in found for action in _actions(one)):
            touched[action.table, action.shard].add(difference.identity)
        for (table, shard), identities in sorted(touched.items()):
            self._delete(table, shard, identities)
        for (table, shard), identities in sorted(touched.items()):
            self._insert(table, shard, identities)

    def _homes(self, table: TableName) -> HomeSql:
        return home_sql(self._map, self._catalog, table)

    def _own(self, shard: str, number: int, table: TableName) -> HomeSql | None:
        there = self._catalogs[shard].tables.get(table)
        return on_shard(there, number) if there else None

    def _rows(
        self,
        connection: Connection,
        catalog: Catalog,
        rows: HomeSql,
        table: TableName,
        identities: Collection[Identity],
        *,
        shard: str = "source",
    ) -> list[Row]:
        query = chosen_rows_query(self.layout(table), rows, self._chosen(catalog, table, identities))
        with _explaining(shard, self._url(shard), f"reading named rows of {table}"):
            fetched = connection.execute(query).fetchall()
        return [Row(home, tuple(key), columns, copies, shown) for _, home, key, columns, copies, shown in fetched]

    def _url(self, side: str) -> str:
        return self._map.shards[side].url if side in self._map.shards else self._map.source.url

    def _delete(self, table: TableName, shard: str, identities: Collection[Identity]) -> None:
        catalog = self._catalogs[shard]
        if table not in catalog.tables:
            return
        query = sql.SQL("DELETE FROM {} AS t WHERE {}").format(
            relation(catalog.tables[table]), self._chosen(catalog, table, identities)
        )
        with _explaining(shard, self._url(shard), f"deleting from {table}"):
            self._shards[shard].execute(query)

    def _insert(self, table: TableName, shard: str, identities: Collection[Identity]) -> None:
        there = self._catalogs[shard].tables.get(table)
        number = self._map.shard_names.index(shard)
        if there is None:
            raise RefusedError(f"{table} is not on {shard}", hint="shardmig schema apply")
        homes, names = self._homes(table), [column.name for column in self._catalog.tables[table].copied_columns]
        read = sql.SQL("COPY (SELECT {} FROM {} WHERE {} IN ({}, {}) AND {}) TO STDOUT").format(
            sql.SQL(", ").join(sql.Identifier("t", name) for name in names),
            homes.source,
            homes.number,
            sql.Literal(number),
            sql.Literal(EVERY_SHARD),
            self._chosen(self._catalog, table, identities),
        )
        write = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(table.schema, table.name), sql.SQL(", ").join(map(sql.Identifier, names))
        )
        with (
            _explaining(shard, self._url(shard), f"writing to {table}"),
            self._source.cursor().copy(read) as rows,
            self._shards[shard].cursor().copy(write) as written,
        ):
            for block in rows:
                written.write(block)

    def _chosen(self, catalog: Catalog, table: TableName, identities: Collection[Identity]) -> sql.Composable:
        """Return the condition that a row `t` of one side is one of the named ones.

        By text, which is what names a row; by the key's own `=` too, so that an index finds it, where the key has
        the same type on all sides: a number from a wider column would be out of range.
        """
        layout = self.layout(table)
        parts = list(zip(*sorted(identities, key=repr), strict=True))
        names = [sql.Identifier("w", f"k{number}") for number in range(1, len(parts) + 1)]
        if layout.key:
            terms: list[sql.Composable] = [
                sql.SQL('({}) COLLATE "C" = {}').format(text_sql(field), name)
                for field, name in zip(layout.key, names, strict=True)
            ]
            columns = [catalog.tables[table].column(field.name) for field in layout.key]
            terms += [
                equal(catalog, column, sql.Identifier("t", column.name), as_type(name, column))
                for column, name in zip(columns, names, strict=True)
                if column and self._same_type(table, column)
            ]
        else:
            terms = [sql.SQL("{} = {}").format(column_hashes_sql(layout.fields, layout.form), names[0])]
        return sql.SQL("EXISTS (SELECT FROM unnest({}) AS w({}) WHERE {})").format(
            sql.SQL(", ").join(sql.SQL("{}::text[]").format(sql.Literal(list(texts))) for texts in parts),
            sql.SQL(", ").join(sql.Identifier(f"k{number}") for number in range(1, len(parts) + 1)),
            sql.SQL(" AND ").join(terms),
        )

    def _same_type(self, table: TableName, column: Column) -> bool:
        catalogs = (self._catalog, *self._catalogs.values())
        there = [catalog.tables[table].column(column.name) for catalog in catalogs if table in catalog.tables]
        return {other.base_type for other in there if other} == {column.base_type}
