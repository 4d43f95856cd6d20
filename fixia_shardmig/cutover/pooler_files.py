"""The files of a PgBouncer: the one databases file that shardmig owns, and a pgbouncer.ini to start from.

On a line of the databases file only host, port and dbname are ours; whatever else stands there (`user`, `password`,
`pool_size`, …) stays as its author wrote it, so no password has to be known here, and none is ever shown. The file is
replaced as a whole or not at all: PgBouncer may read it at any moment, and a crash leaves the old one or the new.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from psycopg import conninfo

from fixia_shardmig.mapping.load import MappingFile
from fixia_shardmig.mapping.shard_map import PgBouncer, ShardMap
from fixia_shardmig.model.errors import RefusedError

Direction = Literal["forward", "back"]

DATABASES_FILE: Final = "/etc/pgbouncer/shardmig.ini"
PORT: Final = 5432
ADMIN: Final = "pgbouncer"
"""Who may PAUSE, where the mapping does not say it yet."""

QUERY_WAIT_TIMEOUT_S: Final = 60
"""How long a client may wait for a server: longer than any pause, so that a cutover is one to nobody but the clock."""

_LINE = re.compile(r"^(\s*)(?P<name>[0-9A-Za-z_.-]+)(\s*=\s*)(?P<parts>.*?)\s*$")
_PART = re.compile(r"(?P<key>\w+)\s*=\s*(?P<value>'(?:[^']|'')*'|\S*)")
_OURS: Final = ("host", "port", "dbname")
_PLAIN = re.compile(r"[0-9A-Za-z_.:/-]+")


@dataclass(frozen=True, slots=True)
class Target:
    """Where a line of the databases file leads. An empty host is the server's local socket."""

    host: str
    port: int
    database: str

    def __str__(self) -> str:
        """Return it as a line has it."""
        host = f"host={_quoted(self.host)} " if self.host else ""
        return f"{host}port={self.port} dbname={_quoted(self.database)}"


def target_of(url: str) -> Target:
    """Return where a normalized URL leads.

    Raises:
        RefusedError: It names several hosts: libpq tries them in order, PgBouncer takes them in turns.
    """
    parts = {name: str(value) for name, value in conninfo.conninfo_to_dict(url).items()}
    host = parts.get("host") or parts.get("hostaddr", "")
    if "," in host:
        raise RefusedError(
            "the URL names several hosts, which PgBouncer would take in turns",
            hint="give the database one host, the primary's, or re-point PgBouncer by hooks.on_switch",
        )
    return Target(host, int(parts.get("port") or PORT), parts.get("dbname") or parts.get("user", ""))


def targets(shard_map: ShardMap, pooler: PgBouncer, direction: Direction) -> dict[str, Target]:
    """Return where each alias of a pooler leads when the shards, or the source, have the writes."""
    back = target_of(shard_map.source.url)
    return {
        alias: target_of(shard_map.shards[shard].url) if direction == "forward" else back
        for shard, alias in pooler.aliases.items()
    }


def listed(text: str) -> dict[str, Target]:
    """Return where each line of a databases file leads."""
    found: dict[str, Target] = {}
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and not line.lstrip().startswith((";", "#", "%", "[")):
            parts = {part["key"]: _unquoted(part["value"]) for part in _PART.finditer(match["parts"])}
            database = parts.get("dbname") or match["name"]
            found[match["name"]] = Target(parts.get("host", ""), int(parts.get("port") or PORT), database)
    return found


def rewritten(text: str, wanted: Mapping[str, Target]) -> str:
    """Return a databases file in which these aliases lead where they are wanted; new ones come last.

    Comments, other lines, and what else stands on an alias's own line stay.
    """
    left = dict(wanted)
    lines = [_rewritten_line(line, left) for line in text.splitlines()]
    if left and not any(line.strip() == "[databases]" for line in lines):
        lines.insert(0, "[databases]")
    lines += [f"{alias} = {target}" for alias, target in left.items()]
    return "\n".join(lines) + "\n"


def without(text: str, aliases: frozenset[str]) -> str:
    """Return a databases file without the lines of these aliases."""
    lines = [line for line in text.splitlines() if not ((match := _LINE.match(line)) and match["name"] in aliases)]
    return "\n".join(lines) + "\n"


def _rewritten_line(line: str, left: dict[str, Target]) -> str:
    match = _LINE.match(line)
    if not match or match["name"] not in left:
        return line
    target = left.pop(match["name"])
    kept = [part[0] for part in _PART.finditer(match["parts"]) if part["key"] not in _OURS]
    return f"{match[1]}{match['name']}{match[3]}{' '.join([str(target), *kept])}"


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else "'" + value.replace("'", "''") + "'"


def _unquoted(value: str) -> str:
    return value[1:-1].replace("''", "'") if value.startswith("'") else value


def replace_file(path: Path, text: str) -> None:
    """Put a new text in the place of a file, at once and durably; its mode and owner stay.

    Others may not read a file with a password in it, whatever its mode was. A symbolic link stays one.

    Raises:
        RefusedError: The directory or the file does not let us.
    """
    place = Path(os.path.realpath(path))
    temporary = place.with_name(f".{place.name}.shardmig-{os.getpid()}")
    try:
        before = place.stat()
        mode = stat.S_IMODE(before.st_mode) & ~(0o007 if "password" in text else 0)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            made = os.fstat(descriptor)
            if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
                os.fchown(descriptor, before.st_uid, before.st_gid)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        temporary.replace(place)
        _sync_directory(place.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RefusedError(
            f"cannot replace {path}: {(error.strerror or str(error)).lower()}",
            hint="let this user write into its directory and keep the file's owner (run as that owner, or as root)",
        ) from None


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exported(mapping_file: MappingFile) -> dict[str, str]:
    """Return the files to start each pooler of a mapping with, by file name: all aliases lead to the one database.

    A mapping that names no pooler gets one with an alias for each shard. One whose console's URL is not known yet,
    since its variable is not set, is written all the same: this comes first.
    """
    files: dict[str, str] = {}
    for number, pooler in enumerate(_poolers(mapping_file), 1):
        file = Path(pooler.databases_file or DATABASES_FILE)
        suffix = f"-{number}" if number > 1 else ""
        user = conninfo.conninfo_to_dict(pooler.admin_url).get("user") if pooler.admin_url else None
        files[f"pgbouncer{suffix}.ini"] = pgbouncer_ini(file, admin=str(user or ADMIN))
        name, source = mapping_file.document.name, mapping_file.source.url
        files[f"{file.stem}{suffix}{file.suffix}"] = databases_ini(name, source, pooler)
    return files


def _poolers(mapping_file: MappingFile) -> list[PgBouncer]:
    section = mapping_file.document.pgbouncer
    if section is None:
        aliases = {shard: f"{mapping_file.document.name}_{shard}" for shard in mapping_file.shards}
        return [PgBouncer("", DATABASES_FILE, aliases)]
    known = list(mapping_file.pgbouncers)
    sections = section if isinstance(section, list) else [section]
    return (
        known if len(known) == len(sections) else [PgBouncer("", s.databases_file, dict(s.aliases)) for s in sections]
    )


def databases_ini(name: str, source_url: str, pooler: PgBouncer) -> str:
    """Return the databases file of a pooler before the split: every alias is the one database."""
    target = target_of(source_url)
    lines = "\n".join(f"{alias} = {target}" for alias in pooler.aliases.values())
    return _DATABASES.format(name=name, lines=lines)


def pgbouncer_ini(databases_file: Path, *, admin: str, settings: Mapping[str, str] | None = None) -> str:
    """Return a pgbouncer.ini that includes a databases file; `settings` replace or add to those of the text."""
    text = _INI.format(databases_file=databases_file, admin=admin, query_wait_timeout=QUERY_WAIT_TIMEOUT_S)
    for name, value in (settings or {}).items():
        line = f"{name} = {value}"
        text, found = re.subn(rf"(?m)^;?{re.escape(name)} = .*$", line.replace("\\", r"\\"), text)
        text += "" if found else f"{line}\n"
    return text


_DATABASES: Final = """\
;; Owned by shardmig (migration {name}): cutover and rollback rewrite host, port and dbname of these lines, then RELOAD.
;; What else you add to a line (user, pool_size, ...) stays. Until the cutover every alias is the one database.
[databases]
{lines}
"""

_INI: Final = """\
;; PgBouncer in front of a database that is to be split: the application already talks to one alias a shard.

;; The one file that shardmig rewrites. It begins with its own [databases].
%include {databases_file}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 6432

;; A server connection belongs to a client for one transaction. In session pooling PAUSE would wait until every client
;; has gone, and there would be no cutover without a disconnect. What needs a session (LISTEN, SET, advisory locks that
;; outlive a transaction, named prepared statements before PgBouncer 1.21) needs a URL past PgBouncer.
pool_mode = transaction

;; Who may connect: "user" "secret" a line. A plain password works with every server; a SCRAM secret (rolpassword of
;; pg_authid) only where the role has the very same secret on the source and on every shard.
auth_type = scram-sha-256
auth_file = /etc/pgbouncer/userlist.txt
;; Or ask the server; then the role and the function have to be on the source and on every shard:
;auth_user = pgbouncer_auth
;auth_query = SELECT usename, passwd FROM pgbouncer.user_lookup($1)

;; Who may PAUSE, RELOAD and RESUME: the user of pgbouncer.admin_url in the mapping.
admin_users = {admin}

;; Sizes for 1,000 clients. A pool is one alias and one user; while all aliases are one database, that database sees the
;; sum of them, so its max_connections has to be above aliases x max_db_connections, or these lower until the cutover.
max_client_conn = 1000
default_pool_size = 25
min_pool_size = 5
reserve_pool_size = 5
reserve_pool_timeout = 5
max_db_connections = 100

;; A login that fails is tried again after so long, and clients get an error meanwhile. The usual 15 s would turn one
;; login that a PAUSE has cut off into an outage.
server_login_retry = 1

;; How long a client waits for a server before it gets an error: longer than --max-pause, or the cutover is no pause.
query_wait_timeout = {query_wait_timeout}

;; Some drivers send it at the start; PgBouncer cannot keep it and would refuse them.
ignore_startup_parameters = extra_float_digits
"""
