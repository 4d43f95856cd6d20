"""The writers' book counts what was confirmed, and measures gaps only while somebody wants to write."""

from __future__ import annotations

import threading

from fixia_shardmig.demo.ledger import Entry, Ledger, Touch

ROW = Touch("users", "k", "insert")


def test_rows_are_listed_only_after_open_and_only_for_its_places() -> None:
    """What went to the source before or after the move is counted and not listed."""
    book = Ledger()
    book.committed("source", [ROW], work="w")
    book.open(["clients"])
    book.committed("clients", [ROW], work="w")
    book.committed("source", [ROW], work="w")
    assert [Entry("clients", ROW, certain=True)] == book.entries()
    assert (3, 3) == (book.counters().transactions, book.counters().changes)


def test_an_unanswered_commit_is_listed_as_uncertain() -> None:
    """It is no transaction, and no gap ends with it."""
    book = Ledger()
    book.open(["clients"])
    book.committed("clients", [], work="w")
    book.uncertain("clients", [ROW])
    assert [Entry("clients", ROW, certain=False)] == book.entries()
    assert (1, 1) == (book.counters().transactions, book.counters().uncertain)
    assert book.longest_gap() is None


def test_a_gap_needs_two_commits() -> None:
    """One commit says nothing about how long nobody could commit."""
    book = Ledger()
    assert book.longest_gap() is None
    book.committed("source", [], work="w")
    assert book.longest_gap() is None
    book.committed("source", [], work="w")
    gap = book.longest_gap()
    assert gap is not None
    assert gap.ended_at >= gap.began_at


def test_a_rest_is_no_gap() -> None:
    """After a rest the next commit begins a measurement and ends none."""
    book = Ledger()
    book.committed("source", [], work="w")
    book.rest()
    book.committed("source", [], work="w")
    assert book.longest_gap() is None


def test_forgetting_gaps_keeps_the_open_one() -> None:
    """The gap that was open when it was forgotten still ends with the next commit."""
    book = Ledger()
    book.committed("source", [], work="w")
    book.committed("source", [], work="w")
    book.forget_gaps()
    assert book.longest_gap() is None
    book.committed("source", [], work="w")
    assert book.longest_gap() is not None


def test_counters_are_a_copy() -> None:
    """What was read does not change afterwards."""
    book = Ledger()
    book.count(error="40P01")
    read = book.counters()
    book.count(error="40P01", rolled_back=1, idle_turns=1)
    assert (1, 0, 0) == (read.errors["40P01"], read.rolled_back, read.idle_turns)


def test_many_threads_lose_nothing() -> None:
    """Each of four threads' thousand commits is counted and listed."""
    book = Ledger()
    book.open(["clients"])

    def write() -> None:
        for _ in range(1000):
            book.committed("clients", [ROW], work="w")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (4000, 4000) == (book.counters().transactions, len(book.entries()))
