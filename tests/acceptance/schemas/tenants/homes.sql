-- table: "Role"
SELECT r, 'every' FROM "Role" r
-- table: "User"
SELECT r, CASE (SELECT x."name"::text FROM "Role" x WHERE x."id" = r."roleId")
    WHEN 'OWNER' THEN 'north' WHEN 'member' THEN 'south' WHEN 'it''s "odd", 100%' THEN 'south' ELSE 'hub' END FROM "User" r
-- table: "Organization"
SELECT r, h.home FROM "Organization" r JOIN home_user h ON h."id" = r."ownerId"
-- table: "_OrganizationToUser"
SELECT r, h.home FROM "_OrganizationToUser" r JOIN "Organization" o ON o."id" = r."A" JOIN home_user h ON h."id" = o."ownerId"
-- table: "order"
SELECT r, h.home FROM "order" r JOIN home_user h ON h."id" = r."userId"
-- table: "order item"
SELECT r, coalesce(h.home, 'north') FROM "order item" r LEFT JOIN home_user h ON h."id" = r."order.user"
-- table: t
SELECT whole, coalesce(h.home, 'south') FROM t whole LEFT JOIN home_user h ON h."id" = whole.c0
-- table: u
SELECT whole, coalesce(h.home, 'south') FROM u whole JOIN t x ON x.t = whole.u LEFT JOIN home_user h ON h."id" = x.c0
-- table: "placed"
SELECT whole, coalesce(h.home, 'south') FROM "placed" whole JOIN t x ON x.t = whole."home" LEFT JOIN home_user h ON h."id" = x.c0
-- table: shardmig
SELECT r, CASE WHEN left("shardmig split value", 2) = '%s' OR mod(shardmig, 3) = 0 THEN 'north'
               WHEN "shardmig split value" = 'it''s' THEN 'south' ELSE 'hub' END
FROM (SELECT x AS r, x.* FROM shardmig x) y
-- table: shardmig_staging
SELECT r, 'south' FROM shardmig_staging r
-- table: "copied_chunk"";drop table u;--"
SELECT r, 'hub' FROM "copied_chunk"";drop table u;--" r
-- table: "My.Schema %s"."a table with exactly sixty-three bytes in its name, as is allow"
SELECT r, coalesce(h.home, 'south')
FROM "My.Schema %s"."a table with exactly sixty-three bytes in its name, as is allow" r LEFT JOIN home_user h ON h."id" = r."who?"
-- table: "My.Schema %s"."User"
SELECT r, (ARRAY['north', 'south', 'hub', 'south'])[array_position(enum_range(NULL::"100% type"), r."User")]
FROM "My.Schema %s"."User" r
-- table: "My.Schema %s"."kind%d"
SELECT r, coalesce((ARRAY['north', 'south', 'hub', 'south'])[array_position(enum_range(NULL::"100% type"), r."User")], 'north')
FROM "My.Schema %s"."kind%d" r
-- table: "nothing"
SELECT r, 'north' FROM "nothing" r
-- table: "onlyKey"
SELECT r, CASE WHEN r."id" & 1 = 0 THEN 'north' ELSE 'south' END FROM "onlyKey" r
-- table: "_prisma_migrations"
SELECT r, 'every' FROM "_prisma_migrations" r
-- helper
CREATE TEMP VIEW home_user AS
SELECT u."id", CASE (SELECT x."name"::text FROM "Role" x WHERE x."id" = u."roleId")
    WHEN 'OWNER' THEN 'north' WHEN 'member' THEN 'south' WHEN 'it''s "odd", 100%' THEN 'south' ELSE 'hub' END AS home
FROM "User" u
