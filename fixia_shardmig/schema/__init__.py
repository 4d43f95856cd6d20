"""The targets' DDL: taken from the source, sorted into stages, applied, compared."""

from fixia_shardmig.schema.apply import Progress, apply_pre_data, notes, pending, run_stage
from fixia_shardmig.schema.build import build, build_all
from fixia_shardmig.schema.diff import Problem, SchemaDifference, diff
from fixia_shardmig.schema.shard_schema import STAGES, NotMoved, ShardSchema, Statement

__all__ = [
    "STAGES",
    "NotMoved",
    "Problem",
    "Progress",
    "SchemaDifference",
    "ShardSchema",
    "Statement",
    "apply_pre_data",
    "build",
    "build_all",
    "diff",
    "notes",
    "pending",
    "run_stage",
]
