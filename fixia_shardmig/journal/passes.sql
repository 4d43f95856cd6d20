-- name: tables
CREATE TABLE IF NOT EXISTS shardmig.verify_pass (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    what text NOT NULL
);
CREATE TABLE IF NOT EXISTS shardmig.verified_table (
    schema_name text NOT NULL,
    table_name text NOT NULL,
    results jsonb NOT NULL,
    PRIMARY KEY (schema_name, table_name)
);

-- name: begin
INSERT INTO shardmig.verify_pass (what) VALUES (%s) RETURNING began_at;

-- name: current
SELECT began_at, what FROM shardmig.verify_pass;

-- name: keep
INSERT INTO shardmig.verified_table
SELECT %s, %s, %s FROM shardmig.verify_pass WHERE began_at = %s
ON CONFLICT (schema_name, table_name) DO UPDATE SET results = excluded.results;

-- name: kept
SELECT results FROM shardmig.verified_table;

-- name: forget
TRUNCATE shardmig.verified_table, shardmig.verify_pass;
