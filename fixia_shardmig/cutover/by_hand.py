"""What an operator runs in psql when shardmig itself cannot run: SQL that looks at a fence, opens it, takes it away.

It refuses by itself to open a fence that is sealed: the other side may have the writes, and whatever were written here
would be lost (pitfall 63). Changes nothing; it only writes the text.
"""

from __future__ import annotations

import json
from string import Template
from typing import Final

from fixia_shardmig.cutover.fence import TRIGGER, FenceKind
from fixia_shardmig.cutover.fence_locks import FENCE_LOCK
from fixia_shardmig.journal.journal import LOCK_CLASS

_FENCE: Final = (
    "SELECT split_part(prosrc, chr(10), 1) FROM pg_proc WHERE proname = 'refuse_write'"
    " AND pronamespace = (SELECT oid FROM pg_namespace WHERE nspname = 'shardmig')"
)

_OPEN: Final = Template("""\
SET lock_timeout = '5s';
DO $$open$$
DECLARE
    although_sealed CONSTANT boolean := false;
    fence text;
BEGIN
    PERFORM pg_advisory_xact_lock($lock_class, $fence_lock);
    fence := ($fence);
    IF fence IS NULL THEN
        RAISE EXCEPTION 'there is no fence here';
    END IF;
    IF fence LIKE '%"kind": "sealed"%' AND NOT although_sealed THEN
        RAISE EXCEPTION 'the fence is sealed: the other side may have the writes';
    END IF;
    CREATE OR REPLACE FUNCTION shardmig.refuse_write() RETURNS trigger LANGUAGE plpgsql
        SET search_path TO pg_catalog, pg_temp AS $$body$$-- $about
BEGIN
    RETURN NULL;
END
$$body$$;
END $$open$$;
""")

_DROP: Final = Template("""\
SET lock_timeout = '2s';
DO $$drop$$
DECLARE
    fenced regclass;
BEGIN
    IF ($fence) NOT LIKE '%"kind": "open"%' THEN
        RAISE EXCEPTION 'the fence is not open: open it first';
    END IF;
    FOR fenced IN SELECT tgrelid FROM pg_trigger WHERE tgname = '$trigger' AND NOT tgisinternal LOOP
        EXECUTE format('DROP TRIGGER $trigger ON %s', fenced);
    END LOOP;
    DROP FUNCTION IF EXISTS shardmig.refuse_write();
END $$drop$$;
""")

_PHASE: Final = "SELECT name, phase, routing_epoch FROM shardmig.migration;"


def asks_phase() -> str:
    """Return the query that tells, on the shard with the journal, in which phase the migration is."""
    return f"{_PHASE}\n"


def asks_fence() -> str:
    """Return the query that shows what the fence of a database is: one line of JSON, or no row without one."""
    return f"{_FENCE};\n"


def opens_fence(migration: str) -> str:
    """Return what lets writers through at once, without waiting for any table; it refuses a sealed fence."""
    about = {"kind": FenceKind.OPEN.value, "migration": migration, "owner": "by hand", "expires": None, "back": False}
    return _OPEN.substitute(fence=_FENCE, about=json.dumps(about), lock_class=LOCK_CLASS, fence_lock=FENCE_LOCK)


def drops_fence() -> str:
    """Return what removes the triggers and the function of an open fence; it waits for readers, so it may be late."""
    return _DROP.substitute(fence=_FENCE, trigger=TRIGGER)
