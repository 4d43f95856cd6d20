INSERT INTO "Role" VALUES ('r1', 'OWNER', '{"a": 1.10}'), ('r2', 'member', '{}'), ('r3', 'Guest user', '[1e400]'),
    ('r4', 'it''s "odd", 100%', 'null');
INSERT INTO "User" ("id", "email", "roleId", "user", "%s", "100%")
SELECT 'u' || n, 'U' || n || '@Example.org', CASE WHEN n % 6 < 4 THEN 'r' || 1 + n % 6 END,
       CASE n % 3 WHEN 0 THEN E'tab\there\\N' END, repeat('%s', n % 4), n % 100
FROM generate_series(1, 200) n;
UPDATE "User" SET "managerId" = 'u' || (substr("id", 2)::int % 50 + 1) WHERE "id" < 'u5';
INSERT INTO "Organization" ("slug", "ownerId", "parentId")
SELECT 'org-' || n, 'u' || n, CASE WHEN n > 10 THEN n / 2 END FROM generate_series(1, 60) n;
UPDATE "User" SET "primaryOrgId" = substr("id", 2)::int % 60 + 1;
INSERT INTO "_OrganizationToUser" SELECT 1 + n % 60, 'u' || 1 + n % 199 FROM generate_series(1, 300) n ON CONFLICT DO NOTHING;
INSERT INTO "order" ("userId", "number", "group", "table", "table.column", "naïve ünïcode ☃")
SELECT 'u' || 1 + n % 200, n, (ARRAY['a%s', 'b%%', 'c"d', '%(x)s'])[1 + n % 4]::"100% type",
       '{"b":  1, "a": [1,  2], "b": "\u00e9"}', NULL, ARRAY['ä', NULL, '"', '', '{}', n::text]
FROM generate_series(1, 400) n;
INSERT INTO "order item" ("order.user", "order.number", "order.group", "price", "note")
SELECT "userId", "number", "group", ("number" * 1.5)::numeric::money, CASE WHEN "number" % 2 = 0 THEN '' END FROM "order", generate_series(1, 2);
INSERT INTO "order item" ("note") SELECT NULL FROM generate_series(1, 20);
INSERT INTO t (t, u, n, c0, p, home, v, excluded) SELECT 't' || n, 'u', n, CASE WHEN n % 5 > 0 THEN 'u' || n END, 'p', 'north', n, NULL FROM generate_series(1, 100) n;
INSERT INTO u SELECT 't' || n, n, n, n FROM generate_series(1, 90) n;
INSERT INTO "placed" SELECT 't' || n, n FROM generate_series(1, 80) n;
INSERT INTO shardmig SELECT n, (ARRAY['a', '%s%%', 'it''s', 's%'])[1 + n % 4] FROM generate_series(1, 100) n;
INSERT INTO shardmig_staging SELECT n, n FROM generate_series(1, 10) n;
INSERT INTO "My.Schema %s"."a table with exactly sixty-three bytes in its name, as is allow" ("who?", "%(named)s", "{}")
SELECT CASE WHEN n % 4 = 0 THEN 'nobody' || n ELSE 'u' || n END, 'a%s', '{' || n FROM generate_series(1, 60) n;
INSERT INTO "My.Schema %s"."User" SELECT unnest(enum_range(NULL::"100% type")), 'x';
INSERT INTO "My.Schema %s"."kind%d" SELECT n, CASE WHEN n % 5 > 0 THEN (enum_range(NULL::"100% type"))[n % 5] END FROM generate_series(1, 50) n;
INSERT INTO "nothing" DEFAULT VALUES;
INSERT INTO "nothing" DEFAULT VALUES;
INSERT INTO "onlyKey" SELECT generate_series(1, 30);
INSERT INTO "_prisma_migrations" VALUES (gen_random_uuid()::text, md5('x'), now(), 1);
REFRESH MATERIALIZED VIEW "per Role";
ANALYZE;
