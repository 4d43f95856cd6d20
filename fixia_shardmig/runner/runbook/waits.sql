-- name: waiting
-- Returns each session of this database that waits for a lock, and for whom: pid, application, user, seconds, pids.
SELECT a.pid, coalesce(nullif(a.application_name, ''), 'no application name'), coalesce(a.usename, '?'),
       extract(epoch FROM clock_timestamp() - a.query_start)::float8, pg_blocking_pids(a.pid)
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.wait_event_type = 'Lock' AND cardinality(pg_blocking_pids(a.pid)) > 0
ORDER BY 4 DESC NULLS LAST LIMIT 20

-- name: long_transactions
-- Returns open transactions older than so many seconds: pid, application, user, state, seconds, whether it wrote.
SELECT a.pid, coalesce(nullif(a.application_name, ''), 'no application name'), coalesce(a.usename, '?'),
       coalesce(a.state, '?'), extract(epoch FROM clock_timestamp() - a.xact_start)::float8, a.backend_xid IS NOT NULL
FROM pg_stat_activity a
WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
  AND a.xact_start < clock_timestamp() - make_interval(secs => %s)
ORDER BY 5 DESC LIMIT 20
