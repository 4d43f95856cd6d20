-- A small service of five tables, and two procedures that write to it. Every key and value follows from the worker's number and a
-- counter, so the same call writes the same rows; workers share no row, so they do not wait for each other. Returns nothing.

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

CREATE SCHEMA bench;

CREATE FUNCTION bench.key(kind text, worker int, n bigint) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN md5(kind || worker || ':' || n)::uuid::text;

CREATE FUNCTION bench.pick(i bigint, worker int, low bigint, high bigint) RETURNS bigint LANGUAGE sql IMMUTABLE
    RETURN low + (hashint8extended(i, worker) & 9223372036854775807) % (high - low + 1);

CREATE FUNCTION bench.kind_of(n bigint) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN n % 10 < 5 THEN 'professional' WHEN n % 10 < 9 THEN 'client' ELSE 'admin' END;

CREATE FUNCTION bench.moment(i bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE
    RETURN '2024-01-01 00:00:00+00'::timestamptz + i * interval '1 second';

CREATE FUNCTION bench.words(i bigint) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN 'work ' || md5(i::text) || ' and more of it ' || i;

CREATE FUNCTION bench.document(i bigint) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('number', i, 'city', 'city ' || i % 300, 'tags', jsonb_build_array('a' || i % 7, 'b' || i % 11), 'note', md5(i::text));

CREATE PROCEDURE bench.insert_user(worker int, n bigint) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO users VALUES (
        bench.key('u', worker, n), bench.kind_of(n), 'u' || worker || '-' || n || '@example.org', 'user ' || n,
        bench.document(n), bench.moment(n), bench.moment(n));
END;
CREATE PROCEDURE bench.insert_service(worker int, n bigint, owner bigint) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO services VALUES (
        bench.key('s', worker, n), bench.key('u', worker, owner), bench.words(n), bench.document(n), n % 900 + 0.5,
        bench.moment(n), bench.moment(n));
END;
CREATE PROCEDURE bench.insert_project(worker int, n bigint, owner bigint) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO projects VALUES (
        bench.key('p', worker, n), bench.key('u', worker, owner), bench.words(n), 'open', bench.document(n),
        bench.moment(n), bench.moment(n));
END;
CREATE PROCEDURE bench.insert_proposal(worker int, n bigint, project bigint) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO proposals VALUES (
        bench.key('o', worker, n), bench.key('p', worker, project), bench.words(n), n % 500 + 0.25, 'pending',
        bench.moment(n), bench.moment(n));
END;
CREATE PROCEDURE bench.insert_event(worker int, n bigint, owner bigint) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO events VALUES (
        bench.key('e', worker, n), bench.key('u', worker, owner), 'kind ' || n % 9, bench.document(n), bench.moment(n));
END;

CREATE PROCEDURE bench.insert_last(its_id text) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO events SELECT its_id, min(u.id), 'last', '{}', '2030-01-01Z' FROM users AS u;
END;

-- What is there before the slots are made: so many users a worker, and as many rows in each other table.
CREATE PROCEDURE bench.seed(worker int, users bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1..users LOOP
        CALL bench.insert_user(worker, n);
        CALL bench.insert_service(worker, n, n);
        CALL bench.insert_project(worker, n, n);
        CALL bench.insert_proposal(worker, n, n);
        CALL bench.insert_event(worker, n, n);
    END LOOP;
END;
$$;

-- So many changes in transactions of five: of twenty, twelve insert, six update, two delete. With `moves`, one of a hundred gives a
-- user another type, and with it another home to all that is the user's. With `changes_per_s` above 0 it keeps to that rate.
CREATE PROCEDURE bench.write(worker int, seeded bigint, changes bigint, moves boolean, changes_per_s double precision)
LANGUAGE plpgsql AS $$
DECLARE
    began_s double precision := extract(epoch FROM clock_timestamp());
    users_high bigint := seeded;
    services_high bigint := seeded;
    services_low bigint := 1;
    projects_high bigint := seeded;
    proposals_high bigint := seeded;
    proposals_low bigint := 1;
    events_high bigint := seeded;
    events_low bigint := 1;
    someone bigint;
BEGIN
    FOR i IN 0..changes - 1 LOOP
        someone := bench.pick(i, worker, 1, users_high);
        CASE
        WHEN i % 20 = 0 THEN
            users_high := users_high + 1;
            CALL bench.insert_user(worker, users_high);
        WHEN i % 20 IN (1, 11) THEN
            services_high := services_high + 1;
            CALL bench.insert_service(worker, services_high, someone);
        WHEN i % 20 IN (2, 12) THEN
            projects_high := projects_high + 1;
            CALL bench.insert_project(worker, projects_high, someone);
        WHEN i % 20 IN (5, 10, 15) THEN
            proposals_high := proposals_high + 1;
            CALL bench.insert_proposal(worker, proposals_high, bench.pick(i, worker, 1, projects_high));
        WHEN i % 20 IN (3, 6, 13, 16) THEN
            events_high := events_high + 1;
            CALL bench.insert_event(worker, events_high, someone);
        WHEN moves AND i % 100 = 8 THEN
            UPDATE users SET user_type = CASE user_type WHEN 'client' THEN 'professional' ELSE 'client' END,
                updated_at = bench.moment(i) WHERE id = bench.key('u', worker, someone);
        WHEN i % 20 = 8 THEN
            UPDATE users SET name = bench.words(i), updated_at = bench.moment(i)
                WHERE id = bench.key('u', worker, someone);
        WHEN i % 20 = 4 THEN
            UPDATE services SET price = i % 700, details = bench.document(i), updated_at = bench.moment(i)
                WHERE id = bench.key('s', worker, bench.pick(i, worker, services_low, services_high));
        WHEN i % 20 = 7 THEN
            UPDATE projects SET status = 'status ' || i % 5, updated_at = bench.moment(i)
                WHERE id = bench.key('p', worker, bench.pick(i, worker, 1, projects_high));
        WHEN i % 20 = 17 THEN
            UPDATE proposals SET status = 'accepted', updated_at = bench.moment(i)
                WHERE id = bench.key('o', worker, bench.pick(i, worker, proposals_low, proposals_high));
        WHEN i % 20 IN (9, 18) THEN
            UPDATE events SET payload = bench.document(i)
                WHERE id = bench.key('e', worker, bench.pick(i, worker, events_low, events_high));
        WHEN i % 20 = 14 THEN
            DELETE FROM events WHERE id = bench.key('e', worker, events_low);
            events_low := events_low + 1;
        WHEN i % 40 = 19 THEN
            DELETE FROM services WHERE id = bench.key('s', worker, services_low);
            services_low := services_low + 1;
        ELSE
            DELETE FROM proposals WHERE id = bench.key('o', worker, proposals_low);
            proposals_low := proposals_low + 1;
        END CASE;
        IF i % 5 = 4 THEN
            COMMIT;
            IF changes_per_s > 0 THEN
                PERFORM pg_sleep(began_s + i / changes_per_s - extract(epoch FROM clock_timestamp()));
            END IF;
        END IF;
    END LOOP;
END;
$$;
