"""What a migration would do, and why it may not: preflight, counts, cost. Changes nothing anywhere."""

from fixia_shardmig.plan.findings import Finding, Severity
from fixia_shardmig.plan.make import make_plan
from fixia_shardmig.plan.plan import CrossShardReference, Estimate, Plan, ShardShare, TablePlan
from fixia_shardmig.plan.render import render_text

__all__ = [
    "CrossShardReference",
    "Estimate",
    "Finding",
    "Plan",
    "Severity",
    "ShardShare",
    "TablePlan",
    "make_plan",
    "render_text",
]
