"""A PgBouncer of our own for the demo, the benchmarks and the tests: configured by what `export pgbouncer` writes.

It runs as a user that is not root, on a port of its own, and ends with us.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import quote

from fixia_shardmig.cutover.pooler_files import pgbouncer_ini
from fixia_shardmig.model.errors import ShardmigError

START_S_MAX = 20.0
STOP_S_MAX = 20.0
POLL_S = 0.01

# Ends a PgBouncer whose owner is gone, kill -9 included: the pipe's other end closes with the owner.
_WATCHDOG = 'read -r _; kill -TERM "$0" 2>/dev/null'


def find_pgbouncer() -> Path | None:
    """Return the program, or None where it is not installed."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    return Path(found) if found else None


class Pooler:
    """One PgBouncer process, in transaction pooling.

    Attributes:
        databases_file: The one file that a cutover rewrites.
        settings: Written to pgbouncer.ini at each start.
    """

    def __init__(self, directory: Path, *, user: str, password: str, settings: Mapping[str, str] | None = None) -> None:
        """Describe it; the one user who may connect, to the console too, is a role on all servers."""
        self.directory = directory
        self.databases_file = directory / "shardmig.ini"
        self.settings = dict(settings or {})
        self._user = user
        self._password = password
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Give itself; it is started by `start`, since its databases have to be known first."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    @property
    def admin_url(self) -> str:
        """The URL of the console; a secret."""
        return self.url("pgbouncer")

    @property
    def log_file(self) -> Path:
        """What it wrote, over all its starts."""
        return self.directory / "pgbouncer.log"

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid if self._process else 0

    def url(self, alias: str) -> str:
        """Return the URL of an alias; a secret."""
        return (
            f"postgresql://{quote(self._user)}:{quote(self._password, safe='')}@127.0.0.1:{self._port}/{quote(alias)}"
        )

    def claim_port(self) -> None:
        """Choose a port, so that URLs are known before the start."""
        if not self._port:
            with socket.create_server(("127.0.0.1", 0)) as free:
                self._port = free.getsockname()[1]

    def start(self, databases: str | None = None) -> None:
        """Write the files and start; without a text the databases file stays as it is."""
        program = find_pgbouncer()
        if program is None:
            raise ShardmigError("PgBouncer is not installed here", hint="apt-get install pgbouncer")
        self.claim_port()
        self._write(databases)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [str(program), *_as_user(), str(self.directory / "pgbouncer.ini")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._watchdog = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return
            time.sleep(POLL_S)
        raise ShardmigError(f"PgBouncer did not start: {self.log_file.read_text()[-2000:]}", hint="look at its log")

    def stop(self) -> None:
        """End it and wait; nothing if it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Crash."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.kill()
            self._watchdog.wait()
            self._watchdog.stdin.close()

    def _write(self, databases: str | None) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        users = f'"{self._user}" "{self._password}"\n'
        users_file = self.directory / "users.txt"
        settings = {
            "listen_port": str(self._port),
            "auth_file": str(users_file),
            "unix_socket_dir": "",
            **self.settings,
        }
        ini = pgbouncer_ini(self.databases_file, admin=self._user, settings=settings)
        texts = {users_file: users, self.directory / "pgbouncer.ini": ini}
        if databases is not None:
            texts[self.databases_file] = databases
        for path, text in texts.items():
            path.touch(mode=0o600)
            path.write_text(text)
            if os.geteuid() == 0:
                os.chown(path, _account().pw_uid, _account().pw_gid)
        if os.geteuid() == 0:
            os.chown(self.directory, _account().pw_uid, _account().pw_gid)


def _as_user() -> tuple[str, ...]:
    return ("-u", _account().pw_name) if os.geteuid() == 0 else ()


def _account() -> pwd.struct_passwd:
    """Return whom PgBouncer becomes, since it refuses root."""
    return pwd.getpwnam("nobody")
