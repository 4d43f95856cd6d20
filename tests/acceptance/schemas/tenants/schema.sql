-- A multi-tenant application as Prisma makes it, and what grew around it: camelCase and reserved names, quotes, dots,
-- blanks and percent signs, names that an SQL writer likes as aliases, a cycle, text and composite keys.
CREATE TYPE "RoleName" AS ENUM ('OWNER', 'member', 'Guest user', 'it''s "odd", 100%');
CREATE TYPE "100% type" AS ENUM ('a%s', 'b%%', 'c"d', '%(x)s');
CREATE DOMAIN "Slug" AS text CHECK (VALUE ~ '^[^/]*$');
CREATE SEQUENCE "shared Seq" INCREMENT BY -5 MINVALUE -1000000 MAXVALUE 1000000 START WITH 100000;

CREATE FUNCTION "isFine%"(value text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT value IS DISTINCT FROM 'bad' $$;

CREATE TABLE "Role" (
    "id" text PRIMARY KEY,
    "name" "RoleName" NOT NULL UNIQUE,
    "permissions" jsonb NOT NULL DEFAULT '{}'
);

CREATE TABLE "User" (
    "id" text DEFAULT gen_random_uuid()::text,
    "email" text NOT NULL,
    "roleId" text REFERENCES "Role" ("id") ON UPDATE CASCADE ON DELETE SET NULL,
    "primaryOrgId" int,
    "user" text,
    "select" int DEFAULT 1,
    "%s" text,
    "100%" numeric(6, 2) CHECK ("100%" <= 100),
    "emailLower" text GENERATED ALWAYS AS (lower("email")) STORED,
    "createdAt" timestamp(3) NOT NULL DEFAULT CURRENT_TIMESTAMP,
    "managerId" text,
    CONSTRAINT "User_pkey" PRIMARY KEY ("id") INCLUDE ("roleId")
);
ALTER TABLE "User" ADD UNIQUE ("id");
CREATE UNIQUE INDEX "User_emailLower_key" ON "User" ("emailLower") WHERE "email" <> '';
CREATE INDEX ON "User" (("user" || "%s"), ("100%" % 7));

CREATE TABLE "Organization" (
    "id" int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    "slug" "Slug" NOT NULL UNIQUE,
    "ownerId" text NOT NULL,
    "parentId" int REFERENCES "Organization" ("id") ON UPDATE CASCADE ON DELETE SET NULL,
    "ordinal" int GENERATED ALWAYS AS IDENTITY (INCREMENT BY -1)
);
ALTER TABLE "Organization" ADD CONSTRAINT "owner's ""fkey""" FOREIGN KEY ("ownerId") REFERENCES "User" ("id")
    ON UPDATE CASCADE ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE "User" ADD FOREIGN KEY ("primaryOrgId") REFERENCES "Organization" ("id") ON DELETE SET NULL DEFERRABLE;
ALTER TABLE "User" ADD FOREIGN KEY ("managerId") REFERENCES "User" ("id") ON UPDATE CASCADE ON DELETE SET NULL;

-- an implicit many-to-many relation, keyed by a unique index
CREATE TABLE "_OrganizationToUser" (
    "A" int NOT NULL REFERENCES "Organization" ("id") ON UPDATE CASCADE ON DELETE CASCADE,
    "B" text NOT NULL REFERENCES "User" ("id") ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE UNIQUE INDEX "_OrganizationToUser_AB_unique" ON "_OrganizationToUser" ("A", "B");
CREATE INDEX "_OrganizationToUser_B_index" ON "_OrganizationToUser" ("B");
ALTER TABLE "_OrganizationToUser" REPLICA IDENTITY USING INDEX "_OrganizationToUser_AB_unique";

-- composite keys, and a reference to a key that is no primary key
CREATE TABLE "order" (
    "userId" text NOT NULL REFERENCES "User" ON UPDATE CASCADE ON DELETE CASCADE,
    "number" smallint NOT NULL,
    "group" "100% type" NOT NULL,
    "table" json,
    "table.column" xml,
    "naïve ünïcode ☃" text[] NOT NULL DEFAULT '{}',
    "position" int NOT NULL DEFAULT nextval('"shared Seq"'),
    PRIMARY KEY ("number", "userId"),
    CONSTRAINT "position" UNIQUE ("position") DEFERRABLE INITIALLY IMMEDIATE,
    UNIQUE ("group", "number", "userId")
);
CREATE TABLE "order item" (
    "id" bigint DEFAULT nextval('"shared Seq"') PRIMARY KEY,
    "order.user" text,
    "order.number" smallint,
    "order.group" "100% type",
    "price" money,
    "note" varchar(5),
    FOREIGN KEY ("order.group", "order.number", "order.user") REFERENCES "order" ("group", "number", "userId")
        MATCH FULL ON UPDATE CASCADE ON DELETE CASCADE
);

-- column and table names that queries like as aliases
CREATE TABLE t (
    t text PRIMARY KEY, u text, n int, c0 text REFERENCES "User" ("id") ON DELETE CASCADE ON UPDATE CASCADE,
    p text, home text, v int, bucket text, hash text, "t.t" text, excluded text, key text, r text, k1 int, s text
);
CREATE TABLE u (u text PRIMARY KEY REFERENCES t (t) ON UPDATE CASCADE ON DELETE CASCADE, n int, c0 int, c1 int);
CREATE TABLE "placed" ("home" text PRIMARY KEY REFERENCES u (u) ON UPDATE CASCADE ON DELETE CASCADE, "count" int);
CREATE TABLE shardmig (shardmig int PRIMARY KEY, "shardmig split value" text NOT NULL);
CREATE TABLE shardmig_staging (ddl int PRIMARY KEY, chunk_id text);
CREATE TABLE "copied_chunk"";drop table u;--" (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), "a""b" text);

CREATE SCHEMA "My.Schema %s";
CREATE TABLE "My.Schema %s"."a table with exactly sixty-three bytes in its name, as is allow" (
    "a column with exactly sixty-three bytes in its name as is alloe" bigserial PRIMARY KEY,
    "who?" text NOT NULL, "%(named)s" "100% type", "{}" text
);
CREATE INDEX "an index with exactly sixty-three bytes in its name, as is allo"
    ON "My.Schema %s"."a table with exactly sixty-three bytes in its name, as is allow" ("{}" DESC NULLS LAST);
CREATE TABLE "My.Schema %s"."User" ("User" "100% type" PRIMARY KEY, "user" text);
CREATE TABLE "My.Schema %s"."kind%d" (
    "id" int PRIMARY KEY, "User" "100% type" REFERENCES "My.Schema %s"."User" ("User") ON UPDATE CASCADE ON DELETE CASCADE
);

-- hardly any columns
CREATE TABLE "nothing" ();
ALTER TABLE "nothing" REPLICA IDENTITY FULL;
CREATE TABLE "onlyKey" ("id" int PRIMARY KEY, "twice" int GENERATED ALWAYS AS ("id" * 2) STORED);
CREATE TABLE "_prisma_migrations" (
    "id" varchar(36) PRIMARY KEY, "checksum" varchar(64) NOT NULL, "finished_at" timestamptz, "applied_steps_count" int
);

-- row level security that binds the owner too
ALTER TABLE "order" ENABLE ROW LEVEL SECURITY;
ALTER TABLE "order" FORCE ROW LEVEL SECURITY;
CREATE POLICY "own; orders" ON "order" USING ("userId" = current_setting('app.user%id', true));
ALTER TABLE t ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON t AS RESTRICTIVE FOR SELECT TO PUBLIC USING ((SELECT count(*) FROM "User") > 0);

-- views, triggers, rules, statistics, comments
CREATE VIEW "Owners" AS SELECT u."id", u."email", o."slug" FROM "User" u JOIN "Organization" o ON o."ownerId" = u."id";
CREATE VIEW "Owners of Owners" WITH (security_barrier) AS SELECT * FROM "Owners" WHERE "slug" LIKE '%s%%';
CREATE MATERIALIZED VIEW "per Role" AS
    SELECT r."name", count(u."id") AS "%" FROM "Role" r LEFT JOIN "User" u ON u."roleId" = r."id" GROUP BY 1;
CREATE UNIQUE INDEX ON "per Role" ("name");
CREATE FUNCTION "touch"() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN
    NEW."user" := coalesce(NEW."user", 'touched %' || NEW."id");
    RETURN NEW;
END $f$;
CREATE TRIGGER "touch it" BEFORE INSERT OR UPDATE ON "User" FOR EACH ROW EXECUTE FUNCTION "touch"();
CREATE FUNCTION "log_item"() RETURNS trigger LANGUAGE plpgsql AS $f$
BEGIN
    INSERT INTO "copied_chunk"";drop table u;--" ("a""b") VALUES (TG_OP || coalesce(NEW."note", ''));
    RETURN NULL;
END $f$;
CREATE TRIGGER "log" AFTER INSERT OR UPDATE ON "order item" FOR EACH ROW EXECUTE FUNCTION "log_item"();
CREATE RULE "no silent update" AS ON UPDATE TO shardmig WHERE NEW.shardmig < 0 DO INSTEAD NOTHING;
CREATE RULE "also" AS ON INSERT TO shardmig_staging DO ALSO NOTIFY "shardmig %s";
CREATE STATISTICS "st at" (dependencies, ndistinct) ON "userId", "number" FROM "order";
COMMENT ON TABLE "order" IS 'it''s an $$ order; with "quotes" -- and 100%';
COMMENT ON COLUMN "order"."table.column" IS E'two\nlines';
COMMENT ON TRIGGER "touch it" ON "User" IS 'Berührung';
