-- name: source_server
-- Returns one row of what a source's server allows.
SELECT current_setting('wal_level') AS wal_level,
       current_setting('max_replication_slots')::int AS slots_max,
       (SELECT count(*) FROM pg_replication_slots)::int AS slots,
       current_setting('max_wal_senders')::int AS senders_max,
       (SELECT count(*) FROM pg_stat_replication)::int AS senders,
       (SELECT setting::int8 * 1024 * 1024 FROM pg_settings WHERE name = 'max_slot_wal_keep_size') AS slot_wal_bytes_max,
       (SELECT setting::int8 FROM pg_settings WHERE name = 'idle_replication_slot_timeout') AS idle_slot_timeout_s,
       pg_database_size(current_database()) AS database_bytes,
       pg_is_in_recovery() AS standby

-- name: role
-- Returns one row of what our role is and may do.
SELECT current_user::text AS name, r.rolsuper AS superuser, r.rolreplication AS replication, r.rolbypassrls AS bypassrls,
       EXISTS (SELECT FROM pg_roles m WHERE m.rolname IN ('rds_replication', 'rds_superuser', 'cloudsqlsuperuser')
               AND pg_has_role(m.oid, 'MEMBER')) AS managed_replication,
       has_database_privilege(current_database(), 'CREATE') AS creates,
       current_database()::text AS database,
       has_parameter_privilege('session_replication_role', 'SET') AS sets_replica_role,
       has_function_privilege('pg_replication_origin_create(text)', 'EXECUTE')
           AND has_function_privilege('pg_replication_origin_session_setup(text)', 'EXECUTE')
           AND has_function_privilege('pg_replication_origin_xact_setup(pg_lsn,timestamptz)', 'EXECUTE') AS origins
FROM pg_roles r WHERE r.rolname = current_user

-- name: unreadable_tables
-- Returns the tables among the given ones (by OID) that our role may not read, or whose owner it is not.
SELECT c.oid::int8 AS oid, NOT has_table_privilege(c.oid, 'SELECT') OR NOT has_schema_privilege(c.relnamespace, 'USAGE')
       AS unreadable, NOT pg_has_role(c.relowner, 'USAGE') AS not_owned
FROM pg_class c WHERE c.oid = ANY(%(oids)s::oid[])

-- name: prepared
-- Returns the prepared transactions of this database.
SELECT gid, owner::text AS owner, extract(epoch FROM now() - prepared)::float8 AS age_s
FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared

-- name: long_transactions
-- Returns the sessions of the whole server, whose transaction is older than the given seconds.
SELECT pid, coalesce(usename::text, '') AS who, coalesce(application_name, '') AS application,
       extract(epoch FROM now() - xact_start)::float8 AS age_s
FROM pg_stat_activity
WHERE xact_start < now() - make_interval(secs => %(seconds)s) AND pid <> pg_backend_pid() AND backend_type <> 'walsender'
ORDER BY xact_start

-- name: our_slots
-- Returns the slots that look like shardmig's.
SELECT slot_name::text AS name, active, coalesce(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), restart_lsn), 0)::int8 AS wal_bytes
FROM pg_replication_slots WHERE slot_name LIKE 'shardmig\_%%' AND NOT temporary ORDER BY 1

-- name: publications
-- Returns every publication of this database.
SELECT pubname::text AS name FROM pg_publication ORDER BY 1

-- name: other_slots
-- Returns the logical slots of this database that are not shardmig's.
SELECT slot_name::text AS name, plugin::text AS plugin, active FROM pg_replication_slots
WHERE slot_type = 'logical' AND database = current_database() AND slot_name NOT LIKE 'shardmig\_%%' ORDER BY 1

-- name: subscriptions
-- Returns how many subscriptions write into this database.
SELECT count(*)::int AS count FROM pg_subscription
WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())

-- name: event_triggers
-- Returns the event triggers.
SELECT evtname::text AS name FROM pg_event_trigger ORDER BY 1

-- name: database_settings
-- Returns settings that are kept with the database or with a role in it: `ALTER DATABASE SET`.
SELECT CASE WHEN s.setrole = 0 THEN '' ELSE pg_get_userbyid(s.setrole)::text END AS role, setting
FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS setting
WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1, 2

-- name: extension_tables
-- Returns the tables of extensions that are the user's to fill (their data does not come with CREATE EXTENSION).
SELECT e.extname::text AS extension, c.oid::regclass::text AS name, c.reltuples::float8 AS rows
FROM pg_extension e CROSS JOIN LATERAL unnest(e.extconfig) AS config(oid) JOIN pg_class c ON c.oid = config.oid
WHERE c.relkind = 'r' AND (c.reltuples > 0 OR pg_relation_size(c.oid) > 0) ORDER BY 1, 2

-- name: used_extensions
-- Returns the extensions that something of the user's depends on. Parts of an extension's own objects (the rule of
-- its view, the default of its table) are not the user's.
SELECT DISTINCT e.extname::text AS name
FROM pg_depend member JOIN pg_extension e ON e.oid = member.refobjid
JOIN pg_depend d ON d.refclassid = member.classid AND d.refobjid = member.objid AND d.deptype IN ('n', 'a')
WHERE member.refclassid = 'pg_extension'::regclass AND member.deptype = 'e'
  AND d.classid IN ('pg_class'::regclass, 'pg_attrdef'::regclass, 'pg_constraint'::regclass, 'pg_proc'::regclass,
                    'pg_type'::regclass, 'pg_trigger'::regclass, 'pg_rewrite'::regclass, 'pg_policy'::regclass)
  AND NOT EXISTS (SELECT FROM pg_depend own WHERE own.classid = d.classid AND own.objid = d.objid AND own.deptype = 'e')
  AND NOT EXISTS (SELECT FROM pg_depend part JOIN pg_depend own ON own.classid = part.refclassid
                      AND own.objid = part.refobjid AND own.deptype = 'e'
                  WHERE part.classid = d.classid AND part.objid = d.objid AND part.deptype IN ('i', 'a'))

-- name: roles
-- Returns the roles that own or may use something of the user's.
SELECT DISTINCT r.rolname::text AS name FROM (
    SELECT c.relowner AS role FROM pg_class c WHERE c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')
    UNION
    SELECT (aclexplode(c.relacl)).grantee FROM pg_class c
    WHERE c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema')
    UNION
    SELECT unnest(polroles) FROM pg_policy
) AS used JOIN pg_roles r ON r.oid = used.role ORDER BY 1

-- name: policy_roles
-- Returns the roles that policies of the user's tables are for.
SELECT DISTINCT r.rolname::text AS name FROM pg_policy p JOIN pg_roles r ON r.oid = ANY (p.polroles) ORDER BY 1

-- name: index_bytes
-- Returns the size of all indexes of the given tables (by OID).
SELECT coalesce(sum(pg_indexes_size(oid)), 0)::int8 AS bytes FROM unnest(%(oids)s::oid[]) AS oid

-- name: index_columns
-- Returns the key columns of each complete, valid index, in order: what a lookup can go by.
SELECT i.indrelid::int8 AS table_oid,
       (SELECT array_agg(coalesce(a.attname::text, '') ORDER BY k.n)
        FROM unnest(i.indkey) WITH ORDINALITY k(attnum, n)
        LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum AND k.attnum > 0
        WHERE k.n <= i.indnkeyatts) AS columns
FROM pg_index i WHERE i.indisvalid AND i.indpred IS NULL

-- name: target
-- Returns one row of what a target's database is.
-- The start time tells a server from one that was made as a copy of it and has its system identifier.
SELECT (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier, d.oid::int8 AS oid,
       pg_postmaster_start_time() AS started_at,
       d.datname::text AS database, pg_encoding_to_char(d.encoding)::text AS encoding, d.datcollate::text AS collation,
       d.datctype::text AS ctype, d.datlocprovider::text AS provider, current_setting('wal_level') AS wal_level,
       pg_is_in_recovery() AS standby, to_regclass('shardmig.ddl') IS NOT NULL AS prepared,
       current_setting('max_replication_slots')::int AS slots_max,
       (SELECT count(*) FROM pg_replication_slots)::int AS slots
FROM pg_database d WHERE d.datname = current_database()

-- name: target_tables
-- Returns the tables of user schemas that belong to no extension.
SELECT n.nspname::text AS schema, c.relname::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardmig')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2

-- name: available_extensions
-- Returns each extension a server could install, with the version it would take.
SELECT name::text AS name, default_version AS version FROM pg_available_extensions

-- name: existing_roles
-- Returns the names of all roles.
SELECT rolname::text AS name FROM pg_roles

-- name: casts_to_text
-- Returns the columns whose type has a cast to text that somebody wrote, and so another text than its own output.
SELECT n.nspname::text AS schema, c.relname::text AS table_name, a.attname::text AS column_name
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_cast k ON k.castsource = coalesce(nullif(t.typbasetype, 0), t.oid) AND k.casttarget = 'text'::regtype
WHERE a.attnum > 0 AND NOT a.attisdropped AND k.castmethod = 'f' AND k.oid >= 16384
