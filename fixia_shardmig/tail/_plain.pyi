# What the compiled `_plain.pyx` offers.

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from fixia_shardmig.postgres.pgoutput import Change
from fixia_shardmig.postgres.transactions import Transaction
from fixia_shardmig.tail.operations import Operation
from fixia_shardmig.tail.router import Router
from fixia_shardmig.tail.tables import Keyspace, RelationPlan

Values: TypeAlias = tuple[str | None, ...]

SOURCE: str

class Shape: ...

class PlainChange:
    first_of_key: str
    def operation(self) -> Operation: ...

class GeneralChange: ...

Window: TypeAlias = list[PlainChange | GeneralChange]

class Windows:
    def __init__(
        self, router: Router, transactions: Iterable[Transaction], changes_max: int, bytes_max: int
    ) -> None: ...
    def next(self) -> tuple[Window, int, list[tuple[Keyspace, list[tuple[str, ...]]]], list[Change]] | None: ...

class Plain:
    def __init__(self, router: Router) -> None: ...
    def route(self, window: Window) -> None: ...

class PlainNet:
    plan: RelationPlan
    puts: dict[Values, PlainChange]
    updates: dict[Values, PlainChange]
    deletes: dict[Values, None]

def merge(operations: Sequence[Operation | PlainChange]) -> PlainNet | None: ...
def lines(changes: list[PlainChange], places: tuple[int, ...], block_bytes: int) -> Iterator[bytes]: ...
def array_of(keys: Iterable[Values], place: int) -> str: ...
