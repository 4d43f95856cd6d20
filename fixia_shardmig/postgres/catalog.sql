-- name: database
SELECT current_database()::text AS name,
       (SELECT system_identifier::text FROM pg_control_system()) AS system_identifier,
       pg_encoding_to_char(encoding)::text AS encoding,
       datcollate::text AS collation,
       (SELECT count(*) FROM pg_largeobject_metadata) AS large_objects
FROM pg_database WHERE datname = current_database()

-- name: tables
WITH RECURSIVE wanted AS (
    SELECT c.* FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
      AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardmig')
), climb(oid, ancestor) AS (
    SELECT oid, oid FROM wanted
    UNION ALL
    SELECT climb.oid, i.inhparent FROM climb
    JOIN pg_class p ON p.oid = climb.ancestor AND p.relispartition
    JOIN pg_inherits i ON i.inhrelid = p.oid
), roots AS (
    SELECT climb.oid, climb.ancestor AS root FROM climb JOIN pg_class a ON a.oid = climb.ancestor AND NOT a.relispartition
)
SELECT c.oid::int8 AS oid, n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
       c.relpersistence::text AS persistence, c.relispartition AS is_partition,
       rn.nspname::text AS root_schema, r.relname::text AS root_name,
       c.relreplident::text AS replica_identity, c.reltuples::float8 AS rows,
       coalesce(pg_table_size(c.oid), 0) AS size_bytes,
       (CASE WHEN c.relkind = 'r' THEN pg_relation_size(c.oid) ELSE 0 END
           / current_setting('block_size')::int)::int8 AS pages,
       c.relrowsecurity AS row_security, c.relforcerowsecurity AS force_row_security,
       pg_get_userbyid(c.relowner)::text AS owner,
       (SELECT e.extname::text FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
        WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
          AND d.refclassid = 'pg_extension'::regclass) AS extension,
       (SELECT array_agg(x ORDER BY i.inhseqno, k) FROM pg_inherits i
        JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
        CROSS JOIN LATERAL (VALUES (1, pn.nspname::text), (2, p.relname::text)) AS v(k, x)
        WHERE i.inhrelid = c.oid) AS parents,
       (SELECT array_agg(tgname::text ORDER BY tgname) FROM pg_trigger t
        WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) AS trigger_names,
       (SELECT array_agg(tgenabled::text ORDER BY tgname) FROM pg_trigger t
        WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) AS trigger_states,
       (SELECT array_agg(rulename::text ORDER BY rulename) FROM pg_rewrite w WHERE w.ev_class = c.oid) AS rules
FROM wanted c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN roots ON roots.oid = c.oid
JOIN pg_class r ON r.oid = roots.root
JOIN pg_namespace rn ON rn.oid = r.relnamespace
ORDER BY 2, 3

-- name: columns
WITH RECURSIVE unwrapped(oid, base) AS (
    SELECT oid, oid FROM pg_type WHERE typtype <> 'd'
    UNION ALL
    SELECT t.oid, u.base FROM pg_type t JOIN unwrapped u ON t.typbasetype = u.oid WHERE t.typtype = 'd'
)
SELECT a.attrelid::int8 AS table_oid, a.attname::text AS name, a.attnum::int AS number,
       format_type(a.atttypid, a.atttypmod) AS type_text,
       b.typname::text AS base_type, b.typtype::text AS type_kind,
       coalesce(el.typnamespace, b.typnamespace) = 'pg_catalog'::regnamespace AS type_builtin,
       el.typname::text AS element_type,
       a.attnotnull AS not_null, a.atthasdef AND a.attgenerated = '' AS has_default,
       a.attgenerated::text AS generated, a.attidentity::text AS identity,
       coalesce(co.collisdeterministic, true) AS collation_deterministic,
       CASE WHEN b.typtype = 'e' THEN (SELECT array_agg(enumlabel::text ORDER BY enumsortorder)
                                       FROM pg_enum e WHERE e.enumtypid = b.oid) END AS enum_labels,
       b.typsend <> 0 AND b.typreceive <> 0 AS binary_io
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN unwrapped u ON u.oid = a.atttypid
JOIN pg_type b ON b.oid = u.base
LEFT JOIN pg_type el ON el.oid = b.typelem AND b.typcategory = 'A'
LEFT JOIN pg_collation co ON co.oid = a.attcollation
WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardmig')
ORDER BY a.attrelid, a.attnum

-- name: indexes
SELECT i.indrelid::int8 AS table_oid, ic.relname::text AS name,
       CASE WHEN i.indexprs IS NULL THEN
           (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(i.indkey) WITH ORDINALITY k(attnum, n)
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum WHERE k.n <= i.indnkeyatts)
       END AS columns,
       i.indisunique AS is_unique, i.indisprimary AS is_primary, i.indpred IS NOT NULL AS partial,
       i.indimmediate AS immediate, i.indisvalid AS valid, i.indnullsnotdistinct AS nulls_not_distinct,
       i.indisreplident AS replica_identity, pg_get_indexdef(i.indexrelid) AS definition,
       (SELECT conname::text FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')
           AND k.conrelid = i.indrelid) AS constraint_name
FROM pg_index i
JOIN pg_class ic ON ic.oid = i.indexrelid
JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardmig')
ORDER BY i.indrelid, ic.relname

-- name: foreign_keys
SELECT k.conname::text AS name, n.nspname::text AS schema, c.relname::text AS table_name,
       (SELECT array_agg(a.attname::text ORDER BY u.n) FROM unnest(k.conkey) WITH ORDINALITY u(attnum, n)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum) AS columns,
       rn.nspname::text AS referenced_schema, rc.relname::text AS referenced_name,
       (SELECT array_agg(a.attname::text ORDER BY u.n) FROM unnest(k.confkey) WITH ORDINALITY u(attnum, n)
        JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum) AS referenced_columns,
       k.confdeltype::text AS on_delete, k.confupdtype::text AS on_update,
       k.condeferrable AS is_deferrable, k.convalidated AS validated,
       coalesce((to_jsonb(k) ->> 'conperiod')::boolean, false) AS period  -- a column of 18 and newer
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class rc ON rc.oid = k.confrelid JOIN pg_namespace rn ON rn.oid = rc.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND n.nspname NOT IN ('information_schema', 'shardmig')
ORDER BY 2, 3, 1

-- name: sequences
SELECT n.nspname::text AS schema, c.relname::text AS name, format_type(s.seqtypid, NULL) AS data_type,
       s.seqstart AS start_value, s.seqincrement AS increment_by, s.seqmin AS min_value, s.seqmax AS max_value,
       s.seqcycle AS cycle, pg_sequence_last_value(c.oid) AS last_value,
       own.schema AS owner_schema, own.table_name AS owner_table, own.column_name AS owner_column,
       coalesce(own.deptype = 'i', false) AS is_identity,
       (SELECT array_agg(x ORDER BY d.objid, k) FROM pg_depend d
        JOIN pg_attrdef ad ON ad.oid = d.objid AND d.classid = 'pg_attrdef'::regclass
        JOIN pg_class tc ON tc.oid = ad.adrelid JOIN pg_namespace tn ON tn.oid = tc.relnamespace
        JOIN pg_attribute a ON a.attrelid = ad.adrelid AND a.attnum = ad.adnum
        CROSS JOIN LATERAL (VALUES (1, tn.nspname::text), (2, tc.relname::text), (3, a.attname::text)) AS v(k, x)
        WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid) AS used_by
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_sequence s ON s.seqrelid = c.oid
LEFT JOIN LATERAL (
    SELECT tn.nspname::text AS schema, tc.relname::text AS table_name, a.attname::text AS column_name,
           d.deptype::text AS deptype
    FROM pg_depend d JOIN pg_class tc ON tc.oid = d.refobjid JOIN pg_namespace tn ON tn.oid = tc.relnamespace
    JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
      AND d.deptype IN ('a', 'i')
    LIMIT 1
) own ON true
WHERE c.relkind = 'S' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardmig')
  AND c.relpersistence <> 't'
ORDER BY 1, 2

-- name: others
SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'foreign table' END AS kind,
       n.nspname::text AS schema, c.relname::text AS name,
       CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) ELSE '' END AS definition,
       (SELECT array_agg(x ORDER BY q.oid, k) FROM (
            SELECT DISTINCT tc.oid, tn.nspname::text AS ts, tc.relname::text AS tt FROM pg_rewrite r
            JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> c.oid
            JOIN pg_class tc ON tc.oid = d.refobjid JOIN pg_namespace tn ON tn.oid = tc.relnamespace
            WHERE r.ev_class = c.oid) q
        CROSS JOIN LATERAL (VALUES (1, q.ts), (2, q.tt)) AS v(k, x)) AS depends_on
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('v', 'm', 'f') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardmig')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 2, 3

-- name: extensions
SELECT e.extname::text AS name, e.extversion AS version, n.nspname::text AS schema
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname <> 'plpgsql' ORDER BY 1
