"""Plans a migration, and proposes a mapping for a database that has none."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fixia_shardmig.mapping.init import propose
from fixia_shardmig.mapping.urls import normalize
from fixia_shardmig.model.errors import RefusedError
from fixia_shardmig.plan.make import make_plan
from fixia_shardmig.plan.plan import Plan
from fixia_shardmig.plan.render import render_text
from fixia_shardmig.postgres.catalog import read_catalog
from fixia_shardmig.postgres.sessions import session
from fixia_shardmig.runner.context import Context

BLOCKERS_SHOWN_MAX = 10


def propose_mapping(url: str, *, name: str, shards: tuple[str, ...] = ()) -> str:
    """Return a commented mapping for a live database; `url` may be the name of an environment variable."""
    with session(normalize(os.environ.get(url, url)), "init") as source:
        catalog = read_catalog(source)
    return propose(catalog, name=name, shards=shards or None)


def make(context: Context, *, estimates: bool = False, only_blockers: bool = False) -> Plan:
    """Return the plan of a migration, begun or not."""
    return make_plan(
        context.shard_map,
        context.shard_map.source.url,
        estimates=estimates,
        running=has_begun(context),
        only_blockers=only_blockers,
        on_progress=context.say,
    )


def has_begun(context: Context) -> bool:
    """Whether the journal has this migration; a journal that cannot be reached says no, and the plan says why."""
    try:
        with context.journal() as journal:
            return journal.find() is not None
    except RefusedError:
        return False


def refuse_blockers(context: Context) -> None:
    """Refuse to begin a migration whose plan has a blocker. Counts by samples: the copy itself looks at every row."""
    plan = make(context, estimates=True, only_blockers=True)
    blockers = [finding for finding in plan.findings if finding.severity.value == "blocker"]
    if not blockers:
        return
    shown = "\n  ".join(f"{finding.code}: {finding.message}" for finding in blockers[:BLOCKERS_SHOWN_MAX])
    more = len(blockers) - BLOCKERS_SHOWN_MAX
    rest = f"\n  and {more} more" if more > 0 else ""
    raise RefusedError(f"the plan has {len(blockers)} blockers:\n  {shown}{rest}", hint=blockers[0].hint)


def write_plan(plan: Plan, path: str) -> None:
    """Write a plan as JSON."""
    Path(path).write_text(json.dumps(plan.to_json(), indent=2) + "\n", "utf-8")


def render(plan: Plan) -> str:
    """Return a plan as text."""
    return render_text(plan)
