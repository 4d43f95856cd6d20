-- name: on_the_source
CREATE TABLE IF NOT EXISTS shardmig.contested (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    key text[] NOT NULL,
    noted_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (schema_name, table_name, key)
);

-- name: contested
SELECT schema_name, table_name, key FROM shardmig.contested;

-- name: add_contested
INSERT INTO shardmig.contested (schema_name, table_name, key) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING;

-- name: drop_contested
DELETE FROM shardmig.contested WHERE schema_name = %s AND table_name = %s AND key = %s;

-- name: count_contested
SELECT count(*) FROM shardmig.contested;

-- name: standing
SELECT p.stream, p.applied_lsn::text, c.rows
FROM (SELECT count(*) AS rows FROM shardmig.contested) AS c LEFT JOIN shardmig.position AS p ON true;

-- name: state_table
CREATE TABLE IF NOT EXISTS shardmig.back_state (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    updated_at timestamptz NOT NULL,
    streams jsonb NOT NULL,
    transactions bigint NOT NULL,
    changes bigint NOT NULL,
    changes_per_s double precision NOT NULL,
    contested int NOT NULL,
    missed bigint NOT NULL,
    blocked_by text NOT NULL,
    stopped_by text NOT NULL
);

-- name: tell_state
INSERT INTO shardmig.back_state VALUES (true, clock_timestamp(), %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (single) DO UPDATE SET updated_at = excluded.updated_at, streams = excluded.streams,
    transactions = excluded.transactions, changes = excluded.changes, changes_per_s = excluded.changes_per_s,
    contested = excluded.contested, missed = excluded.missed, blocked_by = excluded.blocked_by,
    stopped_by = excluded.stopped_by;

-- name: state
SELECT extract(epoch FROM clock_timestamp() - updated_at)::float8, streams, transactions, changes, changes_per_s,
       contested, missed, blocked_by, stopped_by
FROM shardmig.back_state;

-- name: limit_table
CREATE TABLE IF NOT EXISTS shardmig.back_limit (
    barrier_id bigint NOT NULL,
    shard text NOT NULL,
    lsn pg_lsn NOT NULL,
    PRIMARY KEY (barrier_id, shard)
);

-- name: set_limit
INSERT INTO shardmig.back_limit (barrier_id, shard, lsn) VALUES (%s, %s, %s);

-- name: limits
SELECT shard, lsn::text FROM shardmig.back_limit WHERE barrier_id = %s;
