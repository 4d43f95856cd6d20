"""The oracle's own knowledge of the split: each rule of Fixia, said once more by hand."""

from __future__ import annotations

import re

import pytest

from fixia_shardmig.demo import oracle
from fixia_shardmig.demo.generator import SCHEMA_FILE
from fixia_shardmig.demo.ledger import Entry, Kind, Touch

NULL = rb"\N"
HOMES: dict[str, dict[bytes, str | None]] = {
    "users": {b"u": "clients"},
    "services": {b"s": "professionals"},
    "service_requests": {b"r": "clients"},
    "projects": {b"p": "clients"},
    "jobs": {b"j": "professionals"},
    "reviews": {b"v": "professionals"},
    "matches": {b"m": "clients"},
    "service_matches": {b"n": "professionals"},
}


def home(table: str, *leads: bytes) -> str | None:
    """Ask the oracle for a row's home."""
    inquest = oracle._Inquest(table, HOMES, oracle._Since(()), oracle.Judgement())
    return inquest._home(oracle._Row(b"key", leads, 0))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(b"client", "clients"), (b"professional", "professionals"), (b"dual", "professionals"), (b"admin", "shared")],
)
def test_a_users_type_decides_their_home(kind: bytes, expected: str) -> None:
    """A dual user lives with the professionals, an admin on shared."""
    assert expected == home("users", kind)


@pytest.mark.parametrize(
    ("table", "lead", "expected"),
    [
        ("notifications", b"u", "clients"),
        ("service_views", b"s", "professionals"),
        ("service_matches", b"r", "clients"),
        ("conversations", b"p", "clients"),
        ("jobs", b"p", "clients"),
        ("job_milestones", b"j", "professionals"),
        ("review_flags", b"v", "professionals"),
    ],
)
def test_a_row_lives_with_what_it_refers_to(table: str, lead: bytes, expected: str) -> None:
    """A reference is followed to the parent's home, whatever table that is."""
    assert expected == home(table, lead)


@pytest.mark.parametrize(
    ("leads", "expected"),
    [
        ((b"m", b"n", b"u"), "clients"),
        ((NULL, b"n", b"u"), "professionals"),
        ((NULL, NULL, b"u"), "clients"),
        ((b"gone", b"n", b"u"), None),
    ],
)
def test_the_first_reference_that_is_not_null_decides(leads: tuple[bytes, ...], expected: str | None) -> None:
    """Pitfall 8: a phone reveal follows its match, else its service match, else its user; a dangling one nothing."""
    assert expected == home("phone_reveals", *leads)


@pytest.mark.parametrize("table", ["review_templates", "contact_messages"])
def test_shared_tables_live_on_shared(table: str) -> None:
    """They follow nobody."""
    assert "shared" == home(table)


def test_the_oracle_knows_exactly_the_schemas_tables() -> None:
    """A table added to the marketplace has to be added here too, and none is left over."""
    tables = set(re.findall(r'CREATE TABLE "(\w+)"', SCHEMA_FILE.read_text(encoding="utf-8")))
    assert tables == set(oracle._KNOWN)


def test_every_reference_the_oracle_follows_is_a_foreign_key() -> None:
    """It walks only along declared references, to the table that each really points to."""
    text = SCHEMA_FILE.read_text(encoding="utf-8")
    declared = set(
        re.findall(r'ALTER TABLE "(\w+)" ADD CONSTRAINT \S+\s+FOREIGN KEY \("(\w+)"\) REFERENCES "(\w+)"', text)
    )
    followed = {(table, column, parent) for table, leads in oracle._LEADS.items() for column, parent in leads}
    assert set() == followed - declared


def test_parents_are_judged_before_their_children() -> None:
    """Else a child's home would be looked up before it is known."""
    order = sorted(oracle._KNOWN, key=oracle._depth)
    for table, leads in oracle._LEADS.items():
        for _, parent in leads:
            assert order.index(parent) < order.index(table)


def test_the_ledger_is_summed_not_ordered() -> None:
    """Two threads may report an insert and its delete in either order; a key comes and goes by count."""
    kinds: list[Kind] = ["delete", "insert", "update"]
    entries = [Entry("clients", Touch("users", "k", kind), certain=True) for kind in kinds]
    assert {b"k": 0} == dict(oracle._Since(entries).balance["users"])
