-- A forum and a back office after Discourse, GitLab and Odoo: serial ids and hardly a foreign key, rows that point to
-- nothing, polymorphic references, tables without a key, integers of other widths, roles, and types that name tables.
CREATE EXTENSION hstore;
CREATE EXTENSION pg_trgm;
CREATE SEQUENCE backwards INCREMENT BY -1 MINVALUE -100000 MAXVALUE -1 START -1 CYCLE;
CREATE TYPE state AS ENUM ('open', 'closed', 'on hold');

CREATE TABLE users (
    id serial8 PRIMARY KEY, username text, trust_level int, admin boolean DEFAULT false, custom_fields hstore,
    company_id int, partner_id int
);
CREATE UNIQUE INDEX index_users_on_username_lower ON users (lower(username));
CREATE INDEX index_users_on_username_trigram ON users USING gin (username gin_trgm_ops);
CREATE TABLE res_company (id serial PRIMARY KEY, name text, create_uid int, parent_id int REFERENCES res_company ON DELETE SET NULL);
CREATE TABLE topics (id bigserial PRIMARY KEY, user_id int, title text, closed state DEFAULT 'open', tags text[], search tsvector);
CREATE TABLE posts (
    id bigserial PRIMARY KEY, topic_id int, user_id int, reply_to_post_id bigint, raw text, cooked text,
    post_number smallint, created_at timestamptz DEFAULT now()
);
CREATE UNIQUE INDEX posts_number ON posts (topic_id, post_number) NULLS NOT DISTINCT WHERE post_number IS NOT NULL;
CREATE TABLE likes (post_id int NOT NULL, user_id int NOT NULL, at timestamptz DEFAULT '2024-01-01');  -- no key at all
CREATE INDEX ON likes (post_id);
ALTER TABLE likes REPLICA IDENTITY FULL;
CREATE TABLE audit (at timestamp, who bigint, what json, "where" inet, target regclass, price float8);
ALTER TABLE audit REPLICA IDENTITY FULL;
CREATE TABLE notes (id serial PRIMARY KEY, noteable_type text, noteable_id bigint, author_id bigint, note text);
CREATE TABLE groups (id int DEFAULT nextval('backwards') PRIMARY KEY, name text, owner_name text);
CREATE TABLE group_users (group_id int, user_id bigint, PRIMARY KEY (group_id, user_id));
CREATE TABLE sessions (sid varchar(12) PRIMARY KEY DEFERRABLE, user_id numeric, data jsonb);
ALTER TABLE sessions REPLICA IDENTITY FULL;
CREATE TABLE site_settings (id int DEFAULT nextval('backwards') PRIMARY KEY, name text UNIQUE, value text);
CREATE TABLE ar_internal_metadata (key varchar PRIMARY KEY, value varchar);
CREATE UNLOGGED TABLE cache (key text PRIMARY KEY, value bytea);

-- roles and their rights
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY readers ON notes TO "forum reader%" USING (true);
GRANT SELECT (id, note), UPDATE (note) ON notes TO "forum reader%";
GRANT USAGE ON SEQUENCE backwards TO "forum reader%";
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO "forum reader%";

CREATE FUNCTION search_topics() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.search := to_tsvector('simple', coalesce(NEW.title, ''));
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO audit (at, who, what) VALUES ('2024-01-01', NEW.user_id, json_build_object('topic', NEW.id));
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER search BEFORE INSERT OR UPDATE ON topics FOR EACH ROW EXECUTE FUNCTION search_topics();
CREATE VIEW popular AS SELECT p.id, count(*) FROM posts p JOIN likes l ON l.post_id = p.id GROUP BY p.id;
CREATE PROCEDURE tidy() LANGUAGE sql AS $$ DELETE FROM likes WHERE post_id IS NULL $$;
