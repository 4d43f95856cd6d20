"""Reads how much room a server has for the WAL that a slot keeps. What a role may not see is None, never a guess."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from fixia_shardmig.postgres.sessions import Connection, scalar

_ROOM = """
SELECT (SELECT nullif(setting::int8, -1) * 1024 * 1024 FROM pg_catalog.pg_settings
        WHERE name = 'max_slot_wal_keep_size'),
       (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'autovacuum_freeze_max_age'),
       (SELECT nullif(setting::int8, 0) FROM pg_catalog.pg_settings WHERE name = 'idle_replication_slot_timeout'),
       (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'data_directory'),
       pg_catalog.inet_server_addr() IS NOT DISTINCT FROM pg_catalog.inet_client_addr()
"""

_MAY_LIST = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_ls_waldir()', 'execute')"
_WAL_BYTES = "SELECT sum(size)::int8 FROM pg_catalog.pg_ls_waldir()"
_SYSTEM = "SELECT system_identifier FROM pg_catalog.pg_control_system()"


@dataclass(frozen=True, slots=True)
class WalRoom:
    """What bounds the WAL that a slot may keep.

    Attributes:
        keep_bytes: max_slot_wal_keep_size; None where it is unlimited.
        wal_bytes: All files in pg_wal; None where we may not list them.
        free_bytes: On the disk of pg_wal; None unless the server runs on this host and we may look.
        freeze_max_age: Transactions after which vacuum has to freeze, whatever it costs.
        idle_timeout_s: idle_replication_slot_timeout of 18 and later; None where slots may idle.
    """

    keep_bytes: int | None
    wal_bytes: int | None
    free_bytes: int | None
    freeze_max_age: int
    idle_timeout_s: int | None


def wal_room(connection: Connection) -> WalRoom:
    """Read a server's room for WAL."""
    row = connection.execute(_ROOM).fetchone()
    keep, freeze, idle, directory, same_host = row or (None, 0, None, None, False)
    free = _free_bytes(connection, Path(directory)) if directory and same_host else None
    return WalRoom(keep, _wal_bytes(connection), free, int(freeze), idle)


def _wal_bytes(connection: Connection) -> int | None:
    """Return the size of pg_wal, which members of pg_monitor may list; a file may go while they are listed."""
    if not scalar(connection, _MAY_LIST):
        return None
    try:
        return int(scalar(connection, _WAL_BYTES) or 0)
    except psycopg.errors.UndefinedFile:
        return None


def _free_bytes(connection: Connection, directory: Path) -> int | None:
    """Return what is free beside the WAL, if that directory on this host is this very server's.

    A container's path may exist here too, with another server's files: the system identifier tells them apart.
    """
    with suppress(OSError, struct.error, psycopg.errors.InsufficientPrivilege):
        with (directory / "global" / "pg_control").open("rb") as control:
            (system,) = struct.unpack("=Q", control.read(8))
        if system == int(scalar(connection, _SYSTEM)) % 2**64:
            disk = os.statvfs(directory / "pg_wal")
            return disk.f_bavail * disk.f_frsize
    return None
