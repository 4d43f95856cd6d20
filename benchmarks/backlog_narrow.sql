-- A small service of five tables with narrow rows and few indexes, and how its rows are written. After backlog.sql; returns nothing.

CREATE TABLE users (
    id text PRIMARY KEY,
    user_type text NOT NULL,
    email text NOT NULL UNIQUE,
    name text NOT NULL,
    profile jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE TABLE services (
    id text PRIMARY KEY,
    professional_id text NOT NULL REFERENCES users ON DELETE CASCADE,
    title text NOT NULL,
    details jsonb NOT NULL,
    price numeric(10, 2) NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE TABLE projects (
    id text PRIMARY KEY,
    client_id text NOT NULL REFERENCES users ON DELETE CASCADE,
    title text NOT NULL,
    status text NOT NULL,
    details jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE TABLE proposals (
    id text PRIMARY KEY,
    project_id text NOT NULL REFERENCES projects ON DELETE CASCADE,
    message text NOT NULL,
    price numeric(10, 2) NOT NULL,
    status text NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE TABLE events (
    id text PRIMARY KEY,
    user_id text NOT NULL REFERENCES users ON DELETE CASCADE,
    kind text NOT NULL,
    payload jsonb NOT NULL,
    at timestamptz NOT NULL
);
CREATE INDEX services_professional_id ON services (professional_id);
CREATE INDEX projects_client_id ON projects (client_id);
CREATE INDEX proposals_project_id ON proposals (project_id);
CREATE INDEX events_user_id ON events (user_id);

CREATE FUNCTION bench.instant(i bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE
    RETURN bench.moment(i) AT TIME ZONE 'UTC';

CREATE PROCEDURE bench.insert_user(worker int, n bigint) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO users VALUES (
        bench.key('u', worker, n), bench.kind_of(n), 'u' || worker || '-' || n || '@example.org', 'user ' || n,
        bench.document(n), bench.instant(n), bench.instant(n));
END;
CREATE PROCEDURE bench.insert_service(worker int, n bigint, owner bigint) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO services VALUES (
        bench.key('s', worker, n), bench.key('u', worker, owner), bench.words(n), bench.document(n), n % 900 + 0.5,
        bench.instant(n), bench.instant(n));
END;
CREATE PROCEDURE bench.insert_project(worker int, n bigint, owner bigint) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO projects VALUES (
        bench.key('p', worker, n), bench.key('u', worker, owner), bench.words(n), 'open', bench.document(n),
        bench.instant(n), bench.instant(n));
END;
CREATE PROCEDURE bench.insert_proposal(worker int, n bigint, project bigint, someone bigint) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO proposals VALUES (
        bench.key('o', worker, n), bench.key('p', worker, project), bench.words(n), n % 500 + 0.25, 'pending',
        bench.instant(n), bench.instant(n));
END;
CREATE PROCEDURE bench.insert_event(worker int, n bigint, owner bigint) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO events VALUES (
        bench.key('e', worker, n), bench.key('u', worker, owner), 'kind ' || n % 9, bench.document(n), bench.instant(n));
END;

CREATE PROCEDURE bench.insert_last(its_id text) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO events SELECT its_id, min(u.id), 'last', '{}', '2030-01-01Z' FROM users AS u;
END;
CREATE PROCEDURE bench.move_user(worker int, n bigint, i bigint) LANGUAGE sql BEGIN ATOMIC
    UPDATE users SET user_type = CASE user_type WHEN 'client' THEN 'professional' ELSE 'client' END, updated_at = bench.instant(i)
        WHERE id = bench.key('u', worker, n);
END;
CREATE PROCEDURE bench.update_user(worker int, n bigint, i bigint) LANGUAGE sql BEGIN ATOMIC
    UPDATE users SET name = bench.words(i), updated_at = bench.instant(i) WHERE id = bench.key('u', worker, n);
END;
CREATE PROCEDURE bench.update_service(worker int, n bigint, i bigint) LANGUAGE sql BEGIN ATOMIC
    UPDATE services SET price = i % 700, details = bench.document(i), updated_at = bench.instant(i)
        WHERE id = bench.key('s', worker, n);
END;
CREATE PROCEDURE bench.update_project(worker int, n bigint, i bigint) LANGUAGE sql BEGIN ATOMIC
    UPDATE projects SET status = 'status ' || i % 5, updated_at = bench.instant(i)
        WHERE id = bench.key('p', worker, n);
END;
CREATE PROCEDURE bench.update_proposal(worker int, n bigint, i bigint) LANGUAGE sql BEGIN ATOMIC
    UPDATE proposals SET status = 'accepted', updated_at = bench.instant(i)
        WHERE id = bench.key('o', worker, n);
END;
CREATE PROCEDURE bench.update_event(worker int, n bigint, i bigint) LANGUAGE sql BEGIN ATOMIC
    UPDATE events SET payload = bench.document(i) WHERE id = bench.key('e', worker, n);
END;
CREATE PROCEDURE bench.delete_service(worker int, n bigint) LANGUAGE sql BEGIN ATOMIC
    DELETE FROM services WHERE id = bench.key('s', worker, n);
END;
CREATE PROCEDURE bench.delete_proposal(worker int, n bigint) LANGUAGE sql BEGIN ATOMIC
    DELETE FROM proposals WHERE id = bench.key('o', worker, n);
END;
CREATE PROCEDURE bench.delete_event(worker int, n bigint) LANGUAGE sql BEGIN ATOMIC
    DELETE FROM events WHERE id = bench.key('e', worker, n);
END;
