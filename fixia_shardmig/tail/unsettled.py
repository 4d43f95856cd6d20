"""What may have changed its home in a batch, however much it is: keys beyond a limit wait in files without a name."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fixia_shardmig.model.errors import TemporaryError
from fixia_shardmig.model.names import TableName
from fixia_shardmig.placement.stream import Key
from fixia_shardmig.tail.tables import Keyspace

KEYS_HELD_MAX = 20_000
"""Keys of one table or keyspace in memory, about 5 MB; those of a million users that move are on disk."""


class Keys:
    """Keys in the order in which they came; one can come again once earlier ones are on disk."""

    __slots__ = ("_file", "_held", "_spool")

    def __init__(self, spool: Path) -> None:
        """Start empty."""
        self._spool = spool
        self._held: dict[Key, None] = {}
        self._file: IO[str] | None = None

    def add(self, key: Key) -> None:
        """Note a key."""
        self._held[key] = None
        if len(self._held) >= KEYS_HELD_MAX:
            self._spill()

    def pieces(self, size: int) -> Iterator[list[Key]]:
        """Yield all keys, so many at a time."""
        if self._file is not None:
            self._spill()
            self._file.seek(0)
        piece: list[Key] = []
        for key in self._all():
            piece.append(key)
            if len(piece) >= size:
                yield piece
                piece = []
        if piece:
            yield piece

    def close(self) -> None:
        """Give memory and disk back."""
        self._held.clear()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _all(self) -> Iterator[Key]:
        if self._file is None:
            yield from list(self._held)
            return
        while line := self._file.readline():
            yield tuple(json.loads(line))

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile("w+", encoding="utf-8", dir=self._spool)  # noqa: SIM115  see close
            self._file.seek(0, 2)
            self._file.writelines(json.dumps(key) + "\n" for key in self._held)
            self._file.flush()
        except OSError as error:
            raise TemporaryError(
                f"cannot note in {self._spool} which rows may move: {(error.strerror or str(error)).lower()}",
                hint=f"make room in {self._spool}, then: shardmig tail",
            ) from error
        self._held.clear()


class Unsettled:
    """What settling looks at.

    Attributes:
        tables: Roots of which every row has to be looked at.
    """

    def __init__(self, spool: Path) -> None:
        """Start with nothing to look at."""
        self.tables: set[TableName] = set()
        self._spool = spool
        self._rows: dict[TableName, Keys] = {}
        self._parents: dict[Keyspace, Keys] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self._rows or self._parents or self.tables)

    def add_row(self, leaf: TableName, key: Key) -> None:
        """Have the row of an identity looked at."""
        keys = self._rows.get(leaf)
        if keys is None:
            keys = self._rows[leaf] = Keys(self._spool)
        keys.add(key)

    def add_parent(self, space: Keyspace, key: Key) -> None:
        """Have the followers of a key looked at: it came, went or moved."""
        keys = self._parents.get(space)
        if keys is None:
            keys = self._parents[space] = Keys(self._spool)
        keys.add(key)

    def rows(self, leaf: TableName, size: int) -> Iterator[list[Key]]:
        """Yield the identities of a table's rows, so many at a time."""
        yield from self._rows[leaf].pieces(size) if leaf in self._rows else ()

    def parents(self, space: Keyspace, size: int) -> Iterator[list[Key]]:
        """Yield the keys whose followers have to be looked at, so many at a time."""
        yield from self._parents[space].pieces(size) if space in self._parents else ()

    def clear(self) -> None:
        """Forget it all."""
        for keys in (*self._rows.values(), *self._parents.values()):
            keys.close()
        self._rows.clear()
        self._parents.clear()
        self.tables.clear()
