-- Roles are of a whole server: on the source's and on the shards'.
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'forum reader%') THEN CREATE ROLE "forum reader%"; END IF;
END $$;
