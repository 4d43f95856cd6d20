"""Reads the stream in a thread of its own, so that it goes on, and the server hears from us, while a batch is applied.

What has come and is not taken yet is bounded: beyond that the socket is left to fill, and only the status goes out.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from fixia_shardmig.model.lsn import LSN
from fixia_shardmig.postgres.transactions import Idle, Item, Transaction, TransactionReader
from fixia_shardmig.tail.spool import Messages

READ_BYTES = 4 * 1024 * 1024
READ_WAIT_S = 0.1
UNTAKEN_BYTES_MAX = 24 * 1024 * 1024
"""Of memory that transactions hold until they are taken: a batch, so that the next is there when one is done."""


class Receiver:
    """A stream and its transaction reader, emptied by one thread into a bounded store that another one takes from."""

    def __init__(self, stream: Messages, reader: TransactionReader, *, arrivals: threading.Event | None = None) -> None:
        """Start reading; `arrivals` is set when more than a keepalive has come, for who waits for several streams."""
        self._arrivals = arrivals
        self._stream = stream
        self._reader = reader
        self._changed = threading.Condition()
        self._items: list[Item] = []
        self._untaken_bytes = 0
        self._failure: BaseException | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="tail-receiver", daemon=True)
        self._thread.start()

    @property
    def server_lsn(self) -> LSN:
        """Return the newest position the server has spoken of."""
        return self._stream.server_lsn

    def acknowledge(self, lsn: LSN) -> None:
        """Have the server told that everything below a position is durable."""
        self._stream.acknowledge(lsn)

    def take(self, wait_s: float) -> list[Item]:
        """Return what has come, in order; waits up to `wait_s` for a first item. Raises what ended the stream."""
        with self._changed:
            if not self._items and self._failure is None and wait_s:
                self._changed.wait(wait_s)
            if not self._items and self._failure is not None:
                raise self._failure
            items, self._items = self._items, []
            self._untaken_bytes = 0
            return items

    def close(self) -> None:
        """End the thread, then the stream; what was not taken stays in the slot."""
        self._closing = True
        self._thread.join()
        for item in self._items:
            if isinstance(item, Transaction):
                item.close()
        self._reader.close()
        self._stream.close()

    def _run(self) -> None:
        try:
            while not self._closing:
                if self._untaken_bytes > UNTAKEN_BYTES_MAX:
                    self._stream.send_status()
                    threading.Event().wait(READ_WAIT_S)
                else:
                    self._hand_over(self._reader.feed(self._stream.read(READ_BYTES, READ_WAIT_S)))
        except BaseException as error:  # noqa: BLE001  it is raised to whoever takes
            with self._changed:
                self._failure = error
                self._changed.notify()
            if self._arrivals is not None:
                self._arrivals.set()

    def _hand_over(self, items: Iterable[Item]) -> None:
        items = list(items)
        if items:
            with self._changed:
                self._items += items
                self._untaken_bytes += sum(item.held_bytes for item in items if isinstance(item, Transaction))
                self._changed.notify()
            if self._arrivals is not None and not all(isinstance(item, Idle) for item in items):
                self._arrivals.set()
