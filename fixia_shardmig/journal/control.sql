-- name: pace_table
CREATE TABLE IF NOT EXISTS shardmig.pace (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    updated_at timestamptz NOT NULL,
    held boolean NOT NULL,
    kind text NOT NULL,
    reason text NOT NULL,
    rate_bytes_per_s bigint,
    jobs int,
    since timestamptz,
    ending boolean NOT NULL
);

-- name: tell_pace
INSERT INTO shardmig.pace VALUES (true, clock_timestamp(), %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (single) DO UPDATE SET updated_at = excluded.updated_at, held = excluded.held, kind = excluded.kind,
    reason = excluded.reason, rate_bytes_per_s = excluded.rate_bytes_per_s, jobs = excluded.jobs,
    since = excluded.since, ending = excluded.ending;

-- name: pace
SELECT held, kind, reason, rate_bytes_per_s, jobs, since, ending,
       extract(epoch FROM clock_timestamp() - updated_at)::float8
FROM shardmig.pace;

-- name: control
SELECT paused, rate_bytes_per_s, jobs FROM shardmig.control;

-- name: lock_control
SELECT paused, rate_bytes_per_s, jobs FROM shardmig.control FOR UPDATE;

-- name: set_control
UPDATE shardmig.control SET paused = %s, rate_bytes_per_s = %s, jobs = %s;
