-- phase: before the tail
UPDATE "User" SET "roleId" = 'r2' WHERE "id" = 'u6';
UPDATE "User" SET "roleId" = NULL WHERE "id" IN ('u7', 'u8');
-- then
UPDATE "User" SET "id" = 'U;6%' WHERE "id" = 'u6';
-- then: a cycle in one transaction, the child first
INSERT INTO "Organization" ("slug", "ownerId") VALUES ('new %s', 'late');
INSERT INTO "User" ("id", "email", "roleId", "primaryOrgId")
    VALUES ('late', 'late@x', 'r2', (SELECT "id" FROM "Organization" WHERE "slug" = 'new %s'));
INSERT INTO "_OrganizationToUser" SELECT "id", 'late' FROM "Organization" WHERE "slug" = 'new %s';
-- then: one role goes, another one takes its kind, so that all its users move
DELETE FROM "Role" WHERE "id" = 'r4';
-- then
UPDATE "Role" SET "id" = 'R%4', "name" = 'it''s "odd", 100%' WHERE "id" = 'r3';
-- then
INSERT INTO "nothing" DEFAULT VALUES;
INSERT INTO "onlyKey" VALUES (31), (32);
-- then
UPDATE "onlyKey" SET "id" = "id" + 101 WHERE "id" < 10;
DELETE FROM "onlyKey" WHERE "id" = 32;
-- then: identities that are always generated anew
UPDATE "Organization" SET "ordinal" = DEFAULT WHERE "id" < 5;
-- then
UPDATE "User" SET "primaryOrgId" = NULL WHERE "primaryOrgId" = 60;
DELETE FROM "_OrganizationToUser" WHERE "A" = 60;
UPDATE "Organization" SET "id" = DEFAULT WHERE "id" = 60;
-- phase: during the tail
UPDATE "order" SET "group" = 'c"d', "number" = "number" + 1000 WHERE "number" BETWEEN 5 AND 60;
-- then
DELETE FROM "User" WHERE "id" IN ('u20', 'u21', 'u22');
-- then
UPDATE "My.Schema %s"."User" SET "user" = 'y';
UPDATE "My.Schema %s"."kind%d" SET "User" = 'b%%' WHERE "id" % 2 = 0;
-- then
DELETE FROM "My.Schema %s"."User" WHERE "User" = 'c"d';
-- then: parents that were missing come, and one goes
INSERT INTO "User" ("id", "email", "roleId") VALUES ('nobody4', 'n4', 'r1'), ('nobody8', 'n8', NULL), ('nobody12', 'n12', 'r2');
DELETE FROM "User" WHERE "id" = 'u33';
-- then
UPDATE t SET t = 'T%' || t, c0 = 'u' || 100 + n WHERE n BETWEEN 10 AND 30;
UPDATE t SET c0 = NULL WHERE n BETWEEN 40 AND 45;
-- then
UPDATE shardmig SET "shardmig split value" = 'it''s' WHERE shardmig BETWEEN 20 AND 60;
UPDATE shardmig SET shardmig = shardmig + 1000 WHERE shardmig BETWEEN 10 AND 40;
-- phase: after the indexes
INSERT INTO "User" ("id", "email", "roleId") SELECT 'v' || n, 'v' || n, 'r' || 1 + n % 2 FROM generate_series(1, 20) n;
INSERT INTO "order" ("userId", "number", "group") SELECT 'v' || n, 3000 + n, 'a%s' FROM generate_series(1, 20) n;
INSERT INTO "order item" ("order.user", "order.number", "order.group", "note") SELECT "userId", "number", "group", 'new' FROM "order" WHERE "number" > 3000;
-- then
UPDATE "User" SET "roleId" = 'r2' WHERE "id" LIKE 'v%';
UPDATE "User" SET "id" = 'w' || "id" WHERE "id" LIKE 'v1%';
-- then
INSERT INTO shardmig VALUES (5001, 'it''s'), (5002, 'x'), (5003, 'y');
UPDATE shardmig SET shardmig = 5005, "shardmig split value" = '%s%%' WHERE shardmig = 5001;
DELETE FROM shardmig WHERE shardmig = 5002;
-- then
INSERT INTO shardmig_staging VALUES (11, 'x');
UPDATE shardmig_staging SET ddl = 12 WHERE ddl = 11;
-- then
UPDATE "Organization" SET "ownerId" = 'wv1', "id" = DEFAULT WHERE "id" = 44 AND NOT EXISTS (SELECT FROM "User" WHERE "primaryOrgId" = 44);
UPDATE "Organization" SET "ownerId" = 'wv10' WHERE "id" BETWEEN 20 AND 25;
-- then
DELETE FROM "order item" WHERE "order.user" IS NULL AND "id" % 2 = 0;
UPDATE "order item" SET "order.user" = NULL, "order.number" = NULL, "order.group" = NULL WHERE "order.number" BETWEEN 100 AND 120;
-- then: positions are shifted onto each other; the constraint is deferrable
UPDATE "order" SET "position" = "position" + 5;
-- then
SET CONSTRAINTS "position" DEFERRED;
UPDATE "order" SET "position" = 5 WHERE "number" = 300;
UPDATE "order" SET "position" = 6 WHERE "number" = 301;
UPDATE "order" SET "position" = 11 - "position" WHERE "number" IN (300, 301);
-- then
TRUNCATE "onlyKey", "nothing";
INSERT INTO "nothing" DEFAULT VALUES;
INSERT INTO "onlyKey" VALUES (7), (8);
-- then
TRUNCATE t CASCADE;
INSERT INTO t (t, c0) VALUES ('again', 'u2');
INSERT INTO u (u) VALUES ('again');
