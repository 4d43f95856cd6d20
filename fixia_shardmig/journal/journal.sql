-- name: positions
CREATE SCHEMA IF NOT EXISTS shardmig;
CREATE TABLE IF NOT EXISTS shardmig.position (
    stream text PRIMARY KEY,
    applied_lsn pg_lsn NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- name: on_every_shard
CREATE TABLE IF NOT EXISTS shardmig.copied_chunk (
    chunk_id int PRIMARY KEY,
    snapshot_epoch int NOT NULL,
    rows bigint NOT NULL
);
CREATE TABLE IF NOT EXISTS shardmig.copy_fence (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    epoch_min int NOT NULL DEFAULT 0
);
INSERT INTO shardmig.copy_fence DEFAULT VALUES ON CONFLICT DO NOTHING;

-- name: on_the_journal_shard
CREATE TABLE IF NOT EXISTS shardmig.migration (
    name text PRIMARY KEY,
    format int NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    phase text NOT NULL,
    routing_epoch int NOT NULL DEFAULT 0,
    mapping_fingerprint text NOT NULL,
    catalog_fingerprint text NOT NULL,
    source_system text NOT NULL,
    source_database text NOT NULL,
    source_timeline int NOT NULL,
    shard_names text[] NOT NULL,
    slot text NOT NULL,
    publication text NOT NULL,
    slot_lsn pg_lsn,
    consistent_lsn pg_lsn,
    schema_stage text NOT NULL DEFAULT '',
    evidence jsonb NOT NULL DEFAULT '{}',
    rules jsonb NOT NULL DEFAULT '{}'
);
CREATE TABLE IF NOT EXISTS shardmig.event (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor text NOT NULL,
    event text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'
);
CREATE TABLE IF NOT EXISTS shardmig.snapshot_epoch (
    epoch int PRIMARY KEY,
    snapshot text NOT NULL,
    lsn pg_lsn NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE IF NOT EXISTS shardmig.chunk (
    id int PRIMARY KEY,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    first_page bigint NOT NULL,
    end_page bigint,
    size_bytes bigint NOT NULL,
    keyed boolean NOT NULL,
    done_at timestamptz,
    done_epoch int,
    rows bigint,
    bytes bigint
);
CREATE TABLE IF NOT EXISTS shardmig.batch_record (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    start_lsn pg_lsn NOT NULL,
    end_lsn pg_lsn NOT NULL,
    decisions bytea NOT NULL
);
CREATE TABLE IF NOT EXISTS shardmig.batch_part (
    number int PRIMARY KEY,
    decisions bytea NOT NULL
);
CREATE TABLE IF NOT EXISTS shardmig.barrier (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    held_at timestamptz,
    lsn pg_lsn,
    reached_at timestamptz,
    released_at timestamptz
);
CREATE TABLE IF NOT EXISTS shardmig.control (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    paused boolean NOT NULL DEFAULT false,
    rate_bytes_per_s bigint,
    jobs int
);
INSERT INTO shardmig.control DEFAULT VALUES ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS shardmig.tail_state (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    updated_at timestamptz NOT NULL,
    applied_lsn pg_lsn NOT NULL,
    source_lsn pg_lsn NOT NULL,
    applied_commit_time timestamptz,
    transactions bigint NOT NULL,
    changes bigint NOT NULL,
    moved_rows bigint NOT NULL,
    conflicts bigint NOT NULL,
    changes_per_s double precision NOT NULL,
    stopped_by text NOT NULL DEFAULT ''
);

-- name: files
CREATE TABLE IF NOT EXISTS shardmig.table_file (
    schema_name text,
    table_name text,
    file bigint NOT NULL,
    PRIMARY KEY (schema_name, table_name)
);
