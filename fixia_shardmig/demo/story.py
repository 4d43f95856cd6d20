"""`shardmig demo`: a marketplace is split while its users keep writing, and an oracle judges the outcome.

It drives the same functions as the commands. The servers, data and writers are this room's; the judgement shares no
code with the migration. Whatever happens, nothing is left running, unless it is asked to.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import psycopg
from psycopg import sql

from fixia_shardmig.cutover.pooler_files import databases_ini
from fixia_shardmig.cutover.result import CutoverResult
from fixia_shardmig.demo.clusters import Cluster
from fixia_shardmig.demo.generator import populate
from fixia_shardmig.demo.ledger import Entry
from fixia_shardmig.demo.moves import Moves, PooledMoves
from fixia_shardmig.demo.oracle import SOURCE, Judgement, judge
from fixia_shardmig.demo.pooler import Pooler, find_pgbouncer
from fixia_shardmig.demo.writers import HomeOf, Writers
from fixia_shardmig.lookup import ShardRouter
from fixia_shardmig.mapping.shard_map import PgBouncer
from fixia_shardmig.model.errors import RefusedError, RowNotFoundError, ShardmigError
from fixia_shardmig.runner.barrier import Moment, own_snapshot
from fixia_shardmig.runner.context import Context, load
from fixia_shardmig.runner.copying import CopyOptions, CopyResult, copy
from fixia_shardmig.runner.planning import make
from fixia_shardmig.runner.progress import mib
from fixia_shardmig.runner.switching import cut_over, roll_back
from fixia_shardmig.runner.tailing import TailResult, tail, tail_running
from fixia_shardmig.runner.verifying import compare, verify_now
from fixia_shardmig.verify.result import VerifyResult

SHARDS = {
    "professionals": "PROFESSIONALS_DB_URL",
    "clients": "CLIENTS_DB_URL",
    "shared": "SHARED_DB_URL",
}
MAPPING_FILES = (
    Path(__file__).parent / "fixia.yaml",
    Path(__file__).parent.parent.parent / "mappings" / "fixia.yaml",
)
WRITERS = 3
TRANSACTIONS_PER_S = 150.0
"""A busy marketplace of this size; the machine that runs the demo runs four databases and the tool as well."""

SECONDS_AFTER = 5.0
"""How long the writers write to the shards before they go back."""

SECONDS_SPLIT = 2.0
"""How long they use the pooler's aliases while those are the one database."""

SECONDS_BACK = 2.0
"""How long they write to the old database after that."""

MAX_PAUSE_S = 5.0
FINDINGS_SHOWN_MAX = 20


@dataclass(slots=True)
class Outcome:
    """What the demo measured and what the oracle found."""

    rows: int = 0
    transactions: int = 0
    changes_during: int = 0
    pause_ms: int = 0
    seconds: float = 0.0
    copy: CopyResult | None = None
    tail: TailResult | None = None
    verify: VerifyResult | None = None
    after: VerifyResult | None = None
    cutover: CutoverResult | None = None
    rollback: CutoverResult | None = None
    back: VerifyResult | None = None
    rollback_pause_ms: int = 0
    judgement: Judgement = field(default_factory=Judgement)
    writer_errors: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def misplaced(self) -> int:
        """Return the rows that the oracle found on a wrong shard, or where none belongs."""
        return len(self.judgement.misplaced) + len(self.judgement.extra)

    @property
    def misrouted(self) -> int:
        """Return how often the router sent a user elsewhere than where a writer had met them."""
        return self.writer_errors.get("misrouted", 0)

    @property
    def good(self) -> bool:
        """Whether nothing was lost, doubled, misplaced, misrouted or changed, and both verifies agree."""
        verified = all(result is not None and result.equal for result in (self.verify, self.after, self.back))
        switched = all(result is not None and result.switched for result in (self.cutover, self.rollback))
        return verified and switched and self.judgement.faultless and self.misrouted == 0

    def to_json(self) -> dict[str, Any]:
        """Return the contract's `demo` part."""
        return {
            "rows": self.rows,
            "changes_during": self.changes_during,
            "transactions_during": self.transactions,
            "lost": len(self.judgement.lost),
            "duplicated": len(self.judgement.doubled),
            "misplaced": self.misplaced,
            "misrouted": self.misrouted,
            "differing": len(self.judgement.differing),
            "judged_rows": self.judgement.rows,
            "pause_ms": self.pause_ms,
            "rollback_pause_ms": self.rollback_pause_ms,
            "seconds": round(self.seconds, 1),
            "copy": self.copy.to_json() if self.copy else None,
            "tail": self.tail.to_json() if self.tail else None,
            "verify": self.verify.to_json() if self.verify else None,
            "verify_after_cutover": self.after.to_json() if self.after else None,
            "verify_at_rollback": self.back.to_json() if self.back else None,
            "cutover": self.cutover.to_json() if self.cutover else None,
            "rollback": self.rollback.to_json() if self.rollback else None,
            "writer_errors": self.writer_errors,
        }

    def text(self) -> str:
        """Return the verdict for people."""
        judged = self.judgement
        lines = [
            (
                f"judged {judged.rows:,} rows by an oracle of its own:"
                f" lost {len(judged.lost)}, doubled {len(judged.doubled)}, misplaced {self.misplaced},"
                f" differing {len(judged.differing)}; users misrouted by the router {self.misrouted}"
            ),
            (
                f"the writers made {self.transactions:,} transactions ({self.changes_during:,} row changes) meanwhile;"
                f" their longest pause was {self.pause_ms} ms at the cutover, {self.rollback_pause_ms} ms at the"
                " rollback"
            ),
            f"all in {self.seconds:.0f} s: {'everything is where it belongs' if self.good else 'SOMETHING IS WRONG'}",
        ]
        found = [*judged.lost, *judged.doubled, *judged.misplaced, *judged.differing, *judged.extra]
        return "\n".join([*lines, *(f"  {finding}" for finding in found[:FINDINGS_SHOWN_MAX])])


def tell(*, users: int, seconds: float | None, keep: bool, say: Callable[[str], None], stop: Event) -> Outcome:
    """Play the whole story.

    Args:
        users: Of the marketplace; a hundred rows each.
        seconds: Let the writers write at least so long between the copy and the cutover.
        keep: Leave the servers running at the end until a signal comes.
        say: Takes the story's lines.
        stop: Ends it early.
    """
    began = time.monotonic()
    outcome = Outcome()
    with _servers(say) as setting:
        source_url = setting.source_url
        say(f"a marketplace with {users:,} users opens on one PostgreSQL")
        outcome.rows = populate(source_url, users=users)
        say(f"it has {outcome.rows:,} rows in 38 tables")
        env = _env(setting)
        context = load(_mapping_file(), say=lambda line: say(f"  {line}"), stop=stop, env=env)
        writers = Writers(source_url, threads=WRITERS, seed=users, transactions_per_s=TRANSACTIONS_PER_S)
        with ExitStack() as stack:
            router = stack.enter_context(ShardRouter.from_mapping(_mapping_file(), env))
            stack.callback(writers.stop)  # before the router is closed, which the writers ask
            writers.start()
            say(f"{WRITERS} writers sign up, deal, change their kind, move things, delete, roll back, and never stop")
            _migrate(context, writers, outcome, wait_s=seconds or 0.0)
            moves = setting.moves(writers, _home_of(router))
            _split(context, moves)
            moments = [
                _live_on_shards(context, writers, outcome, moves, stack),
                _go_back(context, writers, outcome, moves, stack),
            ]
            _judge(context, moves.ledger(), outcome, moments)
        counters = writers.counters()
        outcome.transactions, outcome.changes_during = counters.transactions, counters.changes
        outcome.writer_errors = dict(counters.errors)
        outcome.seconds = time.monotonic() - began
        if keep:
            _keep(env, say, stop)
    return outcome


def _migrate(context: Context, writers: Writers, outcome: Outcome, *, wait_s: float) -> None:
    """Plan, copy, catch up and verify, all under the writers."""
    context.say("plan")
    plan = make(context, estimates=True)
    if plan.has_blockers:
        raise RefusedError("the plan has a blocker", hint="shardmig plan")
    context.say(f"  {len(plan.tables)} tables, {len(plan.cross_shard_references)} references end at the split")
    context.say("copy")
    outcome.copy = copy(context, CopyOptions())
    context.say(f"  {outcome.copy.rows:,} rows, {mib(outcome.copy.bytes)} in {outcome.copy.seconds:.1f} s")
    context.say("tail")
    outcome.tail = tail(context, caught_up=True)
    context.say(
        f"  caught up: {outcome.tail.changes:,} changes, {outcome.tail.moved_rows:,} rows moved with their owners"
    )
    with tail_running(context):
        context.stop.wait(wait_s)
        context.refuse_if_stopped("following", "shardmig demo")
    context.say("verify")
    outcome.verify = verify_now(context)
    rows = sum(table.source_rows for table in outcome.verify.tables)
    verdict = "equal" if outcome.verify.equal else f"{outcome.verify.differences_total} DIFFERENCES"
    context.say(f"  {rows:,} rows compared at {outcome.verify.at_lsn} under writes: {verdict}")
    if writers.counters().transactions == 0:
        raise ShardmigError("the writers wrote nothing, so this shows nothing", hint="see the servers' logs")


def _split(context: Context, moves: Moves) -> None:
    """Split the application before its data, where a pooler makes that possible."""
    if done := moves.split():
        context.say(done)
        with tail_running(context):
            context.stop.wait(SECONDS_SPLIT)


def _live_on_shards(context: Context, writers: Writers, outcome: Outcome, moves: Moves, stack: ExitStack) -> Moment:
    """Cut over, send the writers to the shards, and compare the moment of the switch while they write there."""
    moments: list[Moment] = []
    context.say("cutover")

    def drained() -> None:
        moves.drained()
        moments.append(_moment(context, stack))

    writers.forget_gaps()
    outcome.cutover = cut_over(
        context,
        max_pause_s=MAX_PAUSE_S,
        on_drained=drained,
        on_switched=moves.on_switched,
    )
    _refuse_not_switched(outcome.cutover, "cutover")
    context.say(f"  switched; fenced for {outcome.cutover.pause_ms:.0f} ms, and the writers write to the shards")
    with tail_running(context):
        context.stop.wait(SECONDS_AFTER)
        outcome.pause_ms = _longest_gap_ms(writers)
        outcome.after = _compared(context, moments[0], "switch")
    return moments[0]


def _go_back(context: Context, writers: Writers, outcome: Outcome, moves: Moves, stack: ExitStack) -> Moment:
    """Roll back with all that was written since, let the writers write to the source again, compare that moment."""
    moments: list[Moment] = []
    context.say("rollback")

    def drained() -> None:
        moves.drained_back()
        moments.append(_moment(context, stack))

    writers.forget_gaps()
    outcome.rollback = roll_back(
        context,
        max_pause_s=MAX_PAUSE_S,
        on_drained=drained,
        on_open=moves.on_open,
    )
    _refuse_not_switched(outcome.rollback, "rollback")
    context.say(f"  back; fenced for {outcome.rollback.pause_ms:.0f} ms, and the writers write to the old database")
    context.stop.wait(SECONDS_BACK)
    outcome.rollback_pause_ms = _longest_gap_ms(writers)
    outcome.back = _compared(context, moments[0], "rollback")
    return moments[0]


def _compared(context: Context, moment: Moment, name: str) -> VerifyResult:
    context.say(f"verify the moment of the {name}")
    result = compare(context, moment, tables=None, jobs=2)
    context.say(f"  {'equal' if result.equal else 'DIFFERENCES'}")
    return result


def _refuse_not_switched(result: CutoverResult, name: str) -> None:
    if not result.switched:
        closed = [f"{gate.name}: {gate.detail}" for gate in result.gates if not gate.ok]
        raise ShardmigError(
            f"the {name} did not switch: {'; '.join(closed) or result.unfinished}", hint="run shardmig demo again"
        )


def _longest_gap_ms(writers: Writers) -> int:
    gap = writers.longest_gap()
    return round(gap.seconds * 1000) if gap else 0


def _judge(context: Context, written: list[Entry], outcome: Outcome, moments: Sequence[Moment]) -> None:
    """Have the oracle read every row at both moments.

    The shards at the rollback are the source at the switch and what the ledger says; the source at the rollback is the
    shards at that moment, each row once.
    """
    context.say("the oracle reads every row of every database, as it was at the switch and at the rollback")
    switched, back = moments
    shard_urls = {name: endpoint.url for name, endpoint in context.shard_map.shards.items()}
    at_rollback = {name: ref.snapshot_name or "" for name, ref in back.shards.items()}
    for source, ledger in ((switched.source, written), (back.source, [])):
        snapshots = at_rollback | {SOURCE: source.snapshot_name or ""}
        outcome.judgement.add(judge(source.url, shard_urls, ledger=ledger, snapshots=snapshots))


def _home_of(router: ShardRouter) -> HomeOf:
    """Return a user's home as the router knows it; each writer asks it about each user that it deals with."""

    def home_of(user: str) -> str | None:
        try:
            return router.shard_for("users", user)
        except RowNotFoundError:
            return None

    return home_of


def _moment(context: Context, stack: ExitStack) -> Moment:
    """Open a snapshot on each side while nobody may write."""
    shards = {name: own_snapshot(end.url, f"demo {name}", stack) for name, end in context.shard_map.shards.items()}
    source = own_snapshot(context.shard_map.source.url, "demo source", stack)
    with context.journal() as journal:
        state = journal.tail_state()
    return Moment(state.applied_lsn if state else _no_tail(), source, shards, 0)


def _no_tail() -> Any:  # noqa: ANN401  never returns
    raise ShardmigError("no tail has run", hint="shardmig demo")


@dataclass(frozen=True, slots=True)
class _Setting:
    """The servers of the story; its URLs are secrets."""

    source_url: str = field(repr=False)
    shard_urls: Mapping[str, str] = field(repr=False)
    pooler: Pooler | None

    def moves(self, writers: Writers, home_of: HomeOf) -> Moves:
        """Return how the writers come to the shards and back."""
        if self.pooler is None:
            return Moves(writers, source_url=self.source_url, shard_urls=self.shard_urls, home_of=home_of)
        aliases = {shard: self.pooler.url(f"fixia_{shard}") for shard in SHARDS}
        return PooledMoves(writers, source_url=self.source_url, shard_urls=aliases, home_of=home_of)


@contextmanager
def _servers(say: Callable[[str], None]) -> Iterator[_Setting]:
    """Start a source, one server with three databases as shards, and a PgBouncer; stop them whatever happens."""
    with tempfile.TemporaryDirectory(prefix="shardmig-demo-", ignore_cleanup_errors=True) as folder:
        place = Path(folder)
        place.chmod(0o755)
        with Cluster.create(place / "source") as source, Cluster.create(place / "shards") as shards:
            say(f"started PostgreSQL {source.major} as the source, and {shards.major} for three shards")
            source_url = source.create_database("fixia")
            shard_urls = {name: shards.create_database(f"fixia_{name}") for name in SHARDS}
            with _pooler(place / "pgbouncer", (source, shards), source_url, say) as pooler:
                yield _Setting(source_url, shard_urls, pooler)


@contextmanager
def _pooler(
    place: Path, clusters: Sequence[Cluster], source_url: str, say: Callable[[str], None]
) -> Iterator[Pooler | None]:
    """Start a PgBouncer whose three aliases are the source, as a role of all servers; None where none is installed."""
    if find_pgbouncer() is None:
        say("PgBouncer is not installed: the writers will be re-pointed by the demo, and meet the fence for a moment")
        yield None
        return
    password = secrets.token_hex(8)
    for cluster in clusters:
        with psycopg.connect(cluster.url(), autocommit=True) as connection:
            role = sql.SQL("CREATE ROLE fixia_app LOGIN SUPERUSER PASSWORD {}").format(sql.Literal(password))
            connection.execute(role)
    with Pooler(place, user="fixia_app", password=password) as pooler:
        aliases = PgBouncer("", str(pooler.databases_file), {shard: f"fixia_{shard}" for shard in SHARDS})
        pooler.start(databases_ini("fixia", source_url, aliases))
        say("started PgBouncer, whose three aliases all are the source")
        yield pooler


def _env(setting: _Setting) -> dict[str, str]:
    env = {"PRIMARY_DATABASE_URL": setting.source_url}
    env |= {SHARDS[name]: url for name, url in setting.shard_urls.items()}
    if setting.pooler is not None:
        env["PGBOUNCER_ADMIN_URL"] = setting.pooler.admin_url
        env["PGBOUNCER_DATABASES_FILE"] = str(setting.pooler.databases_file)
    return env


def _mapping_file() -> Path:
    for path in MAPPING_FILES:
        if path.is_file():
            return path
    raise ShardmigError("the demo's mapping is not installed", hint="install the package again")


def _keep(env: Mapping[str, str], say: Callable[[str], None], stop: Event) -> None:
    """Say where the servers are and wait; the passwords are those of throw-away servers on loopback."""
    path = Path(tempfile.gettempdir()) / f"shardmig-demo-{os.getpid()}.env"
    path.touch(mode=0o600)
    lines = [f"export {name}='{url}'" for name, url in env.items()]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    say(f"the servers run on; their URLs are in {path} (source it); Ctrl-C ends them")
    stop.wait()
    path.unlink(missing_ok=True)
