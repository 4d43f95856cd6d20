"""Writes docs/reference/runbook-example.md: the runbook of the demo's marketplace on the eve of its cutover.

`python docs/runbook_example.py` starts embedded PostgreSQL and, where it is installed, a PgBouncer, and copies,
verifies and rehearses a small marketplace, within a minute. The page is what `shardmig runbook` prints there, but for
the folder of the throw-away servers and the machine's name. Not part of `make docs`: its figures are measured.
"""

from __future__ import annotations

import getpass
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from fixia_shardmig.cutover.pooler_files import databases_ini
from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.demo.generator import populate
from fixia_shardmig.demo.pooler import Pooler, find_pgbouncer
from fixia_shardmig.mapping.shard_map import PgBouncer
from fixia_shardmig.runner.context import Context, load
from fixia_shardmig.runner.copying import CopyOptions, copy
from fixia_shardmig.runner.runbook import make_runbook
from fixia_shardmig.runner.switching import cut_over
from fixia_shardmig.runner.tailing import tail, tail_running
from fixia_shardmig.runner.verifying import verify_now

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "reference" / "runbook-example.md"
MAPPING = DOCS.parent / "mappings" / "fixia.yaml"
USERS = 500
MAX_PAUSE_S = 5.0
USER, PASSWORD = "fixia_app", "throw-away"
URLS = {"professionals": "PROFESSIONALS_DB_URL", "clients": "CLIENTS_DB_URL", "shared": "SHARED_DB_URL"}

NOTE = "<!-- Printed by `shardmig runbook` for the demo's marketplace; made anew by docs/runbook_example.py. -->\n\n"


def main() -> int:
    """Tell the story up to the eve of the cutover, and write the page."""
    with tempfile.TemporaryDirectory(prefix="shardmig-runbook-", ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        place.chmod(0o755)
        with _environment(place) as env:
            populate(env["PRIMARY_DATABASE_URL"], users=USERS)
            text = _told(load(MAPPING, say=lambda line: print(line, file=sys.stderr), env=env))  # noqa: T201  progress
        actor = f"{getpass.getuser()}@{socket.gethostname()}"
        PAGE.write_text(NOTE + text.replace(folder, "/etc").replace(actor, "you@your-host"), "utf-8")
    return 0


def _told(context: Context) -> str:
    copy(context, CopyOptions())
    tail(context, caught_up=True)
    verify_now(context)
    with tail_running(context):
        cut_over(context, dry_run=True, max_pause_s=MAX_PAUSE_S)
        return make_runbook(context).text


@contextmanager
def _environment(place: Path) -> Iterator[dict[str, str]]:
    """Start the servers; gives the variables that the mapping reads."""
    with Cluster.create(place / "source") as source, Cluster.create(place / "shards") as shards:
        env = {"PRIMARY_DATABASE_URL": source.create_database("fixia")}
        env |= {variable: shards.create_database(f"fixia_{shard}") for shard, variable in URLS.items()}
        if find_pgbouncer() is None:
            yield env
            return
        for cluster in (source, shards):
            with psycopg.connect(cluster.url(), autocommit=True) as connection:
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN SUPERUSER PASSWORD {}").format(
                        sql.Identifier(USER), sql.Literal(PASSWORD)
                    )
                )
        with Pooler(place / "pgbouncer", user=USER, password=PASSWORD) as pooler:
            aliases = PgBouncer("", str(pooler.databases_file), {shard: f"fixia_{shard}" for shard in URLS})
            pooler.start(databases_ini("fixia", env["PRIMARY_DATABASE_URL"], aliases))
            env["PGBOUNCER_ADMIN_URL"] = pooler.admin_url
            env["PGBOUNCER_DATABASES_FILE"] = str(pooler.databases_file)
            yield env


if __name__ == "__main__":
    raise SystemExit(main())
