-- name: objects
-- Returns each object that belongs to a relation, with that relation: (class_oid, oid, schema, relation, relation_kind, name, detail).
-- detail: contype of a constraint and of its index ('p', 'u', 'f', …), 'identity' for the replica identity's,
-- 'populated' for a materialized view with rows, 'ours' for a trigger of the fence.
SELECT 'pg_class'::regclass::oid::int8 AS class_oid, c.oid::int8 AS oid, n.nspname::text AS schema,
       c.relname::text AS relation, c.relkind::text AS relation_kind, c.relname::text AS name,
       CASE WHEN c.relkind = 'm' AND c.relispopulated THEN 'populated' ELSE '' END AS detail
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardmig')
UNION ALL
SELECT 'pg_class'::regclass::oid::int8, i.indexrelid::int8, n.nspname, c.relname, c.relkind::text, ic.relname,
       CASE WHEN i.indisreplident THEN 'identity' WHEN i.indisprimary THEN 'p'
            ELSE coalesce((SELECT k.contype::text FROM pg_constraint k WHERE k.conindid = i.indexrelid
                           AND k.conrelid = i.indrelid AND k.contype IN ('u', 'x')), '') END
FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
UNION ALL
SELECT 'pg_constraint'::regclass::oid::int8, k.oid::int8, n.nspname, c.relname, c.relkind::text, k.conname,
       CASE WHEN i.indisreplident THEN 'identity' ELSE k.contype::text END
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_index i ON i.indexrelid = k.conindid AND k.contype IN ('p', 'u', 'x')
UNION ALL
SELECT 'pg_attrdef'::regclass::oid::int8, d.oid::int8, n.nspname, c.relname, c.relkind::text, a.attname, ''
FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
UNION ALL
SELECT 'pg_trigger'::regclass::oid::int8, t.oid::int8, n.nspname, c.relname, c.relkind::text, t.tgname,
       CASE WHEN EXISTS (SELECT FROM pg_proc p WHERE p.oid = t.tgfoid AND p.pronamespace = to_regnamespace('shardmig'))
            THEN 'ours' ELSE '' END
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT t.tgisinternal
UNION ALL
SELECT 'pg_rewrite'::regclass::oid::int8, w.oid::int8, n.nspname, c.relname, c.relkind::text, w.rulename, ''
FROM pg_rewrite w JOIN pg_class c ON c.oid = w.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
UNION ALL
SELECT 'pg_policy'::regclass::oid::int8, p.oid::int8, n.nspname, c.relname, c.relkind::text, p.polname, ''
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
UNION ALL
SELECT 'pg_statistic_ext'::regclass::oid::int8, s.oid::int8, n.nspname, c.relname, c.relkind::text, s.stxname, ''
FROM pg_statistic_ext s JOIN pg_class c ON c.oid = s.stxrelid JOIN pg_namespace n ON n.oid = c.relnamespace

-- name: uses
-- Returns what needs a given set of relations to exist: (class_oid, oid, schema, relation) with the relation needed.
-- Sequences do not hand the need on, since a default of another table may share one; a rule hands it to its view only.
WITH RECURSIVE absent AS (
    SELECT unnest(%(oids)s::int8[])::oid AS oid
), needs(classid, objid, needed) AS (
    SELECT 'pg_class'::regclass::oid, oid, oid FROM absent
    UNION
    SELECT step.classid, step.objid, needs.needed
    FROM needs CROSS JOIN LATERAL (
        SELECT d.classid, d.objid FROM pg_depend d
        WHERE d.refclassid = needs.classid AND d.refobjid = needs.objid AND d.deptype IN ('n', 'a', 'i', 'P', 'S')
          AND NOT EXISTS (SELECT FROM pg_class s WHERE needs.classid = 'pg_class'::regclass
                          AND s.oid = needs.objid AND s.relkind = 'S')
        UNION ALL
        SELECT 'pg_class'::regclass, w.ev_class FROM pg_rewrite w JOIN pg_class v ON v.oid = w.ev_class
        WHERE needs.classid = 'pg_rewrite'::regclass AND w.oid = needs.objid AND v.relkind IN ('v', 'm')
        UNION ALL
        SELECT 'pg_type'::regclass, t.oid FROM pg_type t
        WHERE needs.classid = 'pg_class'::regclass AND t.typrelid = needs.objid
        UNION ALL
        SELECT 'pg_type'::regclass, t.typarray FROM pg_type t
        WHERE needs.classid = 'pg_type'::regclass AND t.oid = needs.objid AND t.typarray <> 0
    ) AS step
)
SELECT DISTINCT ON (needs.classid, needs.objid) needs.classid::int8 AS class_oid, needs.objid::int8 AS oid,
       n.nspname::text AS schema, c.relname::text AS relation
FROM needs JOIN pg_class c ON c.oid = needs.needed JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY needs.classid, needs.objid, n.nspname, c.relname

-- name: owners
-- Returns the statement that gives each object its owner: (class_oid, oid, name, statement).
SELECT 'pg_class'::regclass::oid::int8 AS class_oid, c.oid::int8 AS oid, c.oid::regclass::text AS name,
       format('ALTER %s %I.%I OWNER TO %I', CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
              WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, n.nspname, c.relname, pg_get_userbyid(c.relowner)) AS statement
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND c.relpersistence <> 't'
  AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardmig')
  AND NOT (c.relkind = 'S' AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
           AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')))
UNION ALL
SELECT 'pg_proc'::regclass::oid::int8, p.oid::int8, p.oid::regprocedure::text,
       format('ALTER %s %s OWNER TO %I', CASE p.prokind WHEN 'a' THEN 'AGGREGATE' ELSE 'ROUTINE' END,
              p.oid::regprocedure, pg_get_userbyid(p.proowner))
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardmig')
UNION ALL
SELECT 'pg_type'::regclass::oid::int8, t.oid::int8, t.oid::regtype::text,
       format('ALTER TYPE %s OWNER TO %I', t.oid::regtype, pg_get_userbyid(t.typowner))
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
LEFT JOIN pg_class c ON c.oid = t.typrelid
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardmig')
  AND (t.typtype IN ('d', 'e', 'r') OR c.relkind = 'c')
UNION ALL
SELECT 'pg_namespace'::regclass::oid::int8, n.oid::int8, quote_ident(n.nspname),
       format('ALTER SCHEMA %I OWNER TO %I', n.nspname, pg_get_userbyid(n.nspowner))
FROM pg_namespace n
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardmig', 'public')

-- name: definitions
-- Returns what a database's user schemas define, as text that two databases can be compared by:
-- (class_oid, oid, kind, schema, relation, name, definition). class_oid and oid tell a column's table.
WITH relations AS (
    SELECT c.*, n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardmig') AND c.relpersistence <> 't'
      AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
)
SELECT 'pg_class'::regclass::oid::int8 AS class_oid, r.oid::int8 AS oid,
       'table' AS kind, r.nspname::text AS schema, r.relname::text AS relation, '' AS name,
       concat_ws(' ', CASE r.relkind WHEN 'p' THEN 'partitioned by ' || pg_get_partkeydef(r.oid) ELSE 'ordinary' END,
                 CASE r.relpersistence WHEN 'u' THEN 'unlogged' END, pg_get_expr(r.relpartbound, r.oid),
                 'identity ' || r.relreplident::text,
                 CASE WHEN r.relrowsecurity THEN 'row security' END,
                 CASE WHEN r.relforcerowsecurity THEN 'forced row security' END) AS definition
FROM relations r WHERE r.relkind IN ('r', 'p')
UNION ALL
SELECT 'pg_class'::regclass::oid::int8, r.oid::int8, 'column', r.nspname, r.relname, a.attname,
       concat_ws(' ', format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'not null' END,
                 CASE WHEN a.attcollation <> t.typcollation THEN 'collate ' || a.attcollation::regcollation::text END,
                 'identity ' || nullif(a.attidentity::text, ''), 'generated ' || nullif(a.attgenerated::text, ''),
                 'default ' || pg_get_expr(d.adbin, d.adrelid))
FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE r.relkind IN ('r', 'p')
UNION ALL
SELECT 'pg_class'::regclass::oid::int8, i.indexrelid::int8, 'index', r.nspname, r.relname, ic.relname,
       concat_ws(' ', pg_get_indexdef(i.indexrelid), CASE WHEN i.indisreplident THEN 'replica identity' END,
                 CASE WHEN NOT i.indisvalid THEN 'invalid' END)
FROM relations r JOIN pg_index i ON i.indrelid = r.oid JOIN pg_class ic ON ic.oid = i.indexrelid
UNION ALL
SELECT 'pg_constraint'::regclass::oid::int8, k.oid::int8, CASE k.contype WHEN 'f' THEN 'foreign key' ELSE 'constraint' END, r.nspname, r.relname, k.conname,
       pg_get_constraintdef(k.oid)
FROM relations r JOIN pg_constraint k ON k.conrelid = r.oid
WHERE k.contype IN ('p', 'u', 'x', 'c') OR (k.contype = 'f' AND k.conparentid = 0)
UNION ALL
SELECT 'pg_trigger'::regclass::oid::int8, t.oid::int8, 'trigger', r.nspname, r.relname, t.tgname, pg_get_triggerdef(t.oid) || ' state ' || t.tgenabled::text
FROM relations r JOIN pg_trigger t ON t.tgrelid = r.oid JOIN pg_proc p ON p.oid = t.tgfoid
WHERE NOT t.tgisinternal AND p.pronamespace IS DISTINCT FROM to_regnamespace('shardmig')
UNION ALL
SELECT 'pg_policy'::regclass::oid::int8, p.oid::int8, 'policy', r.nspname, r.relname, p.polname,
       concat_ws(' ', p.polcmd::text, p.polpermissive::text,
                 'to ' || (SELECT string_agg(CASE WHEN role = 0 THEN 'public' ELSE pg_get_userbyid(role)::text END, ', '
                                             ORDER BY role) FROM unnest(p.polroles) AS role), pg_get_expr(p.polqual, p.polrelid),
                 'check ' || pg_get_expr(p.polwithcheck, p.polrelid))
FROM relations r JOIN pg_policy p ON p.polrelid = r.oid
UNION ALL
SELECT 'pg_rewrite'::regclass::oid::int8, w.oid::int8, 'rule', r.nspname, r.relname, w.rulename, pg_get_ruledef(w.oid)
FROM relations r JOIN pg_rewrite w ON w.ev_class = r.oid WHERE r.relkind IN ('r', 'p')
UNION ALL
SELECT 'pg_class'::regclass::oid::int8, r.oid::int8, CASE r.relkind WHEN 'v' THEN 'view' ELSE 'materialized view' END, r.nspname, r.relname, '', pg_get_viewdef(r.oid)
FROM relations r WHERE r.relkind IN ('v', 'm')
UNION ALL
SELECT 'pg_class'::regclass::oid::int8, r.oid::int8, 'sequence', r.nspname, r.relname, '', format_type(s.seqtypid, NULL)
FROM relations r JOIN pg_sequence s ON s.seqrelid = r.oid
UNION ALL
SELECT 'pg_statistic_ext'::regclass::oid::int8, s.oid::int8, 'statistics', r.nspname, r.relname, s.stxname, pg_get_statisticsobjdef(s.oid)
FROM relations r JOIN pg_statistic_ext s ON s.stxrelid = r.oid
UNION ALL
SELECT 'pg_type'::regclass::oid::int8, t.oid::int8, CASE t.typtype WHEN 'e' THEN 'enum' ELSE 'domain' END, n.nspname, t.typname, '',
       CASE t.typtype
           WHEN 'e' THEN (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder)
                          FROM pg_enum WHERE enumtypid = t.oid)
           ELSE format_type(t.typbasetype, t.typtypmod)
       END
FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE t.typtype IN ('e', 'd') AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardmig')
  AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = 'pg_type'::regclass AND x.objid = t.oid AND x.deptype = 'e')
UNION ALL
SELECT 'pg_proc'::regclass::oid::int8, p.oid::int8, 'function', n.nspname, p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')', '',
       coalesce(md5(p.prosrc), '') || ' ' || p.prokind::text
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'shardmig')
  AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = 'pg_proc'::regclass AND x.objid = p.oid
                  AND x.deptype IN ('e', 'i'))  -- of an extension, or made with a range type
ORDER BY 3, 4, 5, 6
