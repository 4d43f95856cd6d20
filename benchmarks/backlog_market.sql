-- Two procedures that write to five tables of the marketplace. Every key and value follows from the worker's number and a counter, so
-- the same call writes the same rows; workers share no row, so they do not wait for each other. Returns nothing.

CREATE SCHEMA bench;

CREATE FUNCTION bench.key(kind text, worker int, n bigint) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN md5(kind || worker || ':' || n)::uuid::text;

CREATE FUNCTION bench.pick(i bigint, worker int, low bigint, high bigint) RETURNS bigint LANGUAGE sql IMMUTABLE
    RETURN low + (hashint8extended(i, worker) & 9223372036854775807) % (high - low + 1);

CREATE FUNCTION bench.kind_of(n bigint) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN n % 10 < 5 THEN 'professional' WHEN n % 10 < 9 THEN 'client' ELSE 'admin' END;

CREATE FUNCTION bench.moment(i bigint) RETURNS timestamp LANGUAGE sql IMMUTABLE
    RETURN '2024-01-01 00:00:00'::timestamp + i * interval '1 second';

CREATE FUNCTION bench.words(i bigint) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN 'work ' || md5(i::text) || ' and more of it ' || i;

CREATE FUNCTION bench.document(i bigint) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('number', i, 'city', 'city ' || i % 300, 'tags', jsonb_build_array('a' || i % 7, 'b' || i % 11), 'note', md5(i::text));

-- The kinds take turns in a user's number; these are the nearest below it of a kind.
CREATE FUNCTION bench.professional(n bigint) RETURNS bigint LANGUAGE sql IMMUTABLE
    RETURN greatest(1, n - n % 10 + n % 5);

CREATE FUNCTION bench.text_of(i bigint, bytes int) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN left(repeat(bench.words(i) || '. ', bytes / 40 + 1), bytes);

CREATE PROCEDURE bench.insert_user(worker int, n bigint) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO users (
        id, email, password_hash, name, avatar, user_type, location, verified, email_verified, phone, created_at, updated_at, birthdate,
        dni, gender, bio, timezone, is_professional_active
    ) VALUES (
        bench.key('u', worker, n), 'u' || worker || '-' || n || '@example.org', '$2b$12$' || md5(n::text) || md5(worker::text),
        'User ' || n, 'https://cdn.example.org/' || md5(n::text), bench.kind_of(n)::"UserType", 'city ' || n % 300, n % 3 = 0, true,
        '+54 9 11 ' || 10000000 + n, bench.moment(n), bench.moment(n), bench.moment(n) - interval '30 years', 'd' || worker || '-' || n,
        'other', bench.text_of(n, 120), 'America/Argentina/Buenos_Aires', n % 10 < 5);
END;
CREATE PROCEDURE bench.insert_service(worker int, n bigint, owner bigint) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO services (
        id, professional_id, title, description, price, main_image, gallery, tags, delivery_time_days, created_at, updated_at
    ) VALUES (
        bench.key('s', worker, n), bench.key('u', worker, bench.professional(owner)), bench.words(n), bench.text_of(n, 200),
        n % 900 + 0.5, 'https://cdn.example.org/' || md5(n::text), ARRAY['a' || n % 50, 'b' || n % 70], ARRAY['t' || n % 9, 't' || n % 7],
        n % 30, bench.moment(n), bench.moment(n));
END;
CREATE PROCEDURE bench.insert_project(worker int, n bigint, owner bigint) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO projects (
        id, client_id, title, description, budget_min, budget_max, deadline, location, skills_required, created_at, updated_at
    ) VALUES (
        bench.key('p', worker, n), bench.key('u', worker, owner), bench.words(n), bench.text_of(n, 240), n % 500 + 0.25, n % 900 + 600,
        bench.moment(n) + interval '30 days', 'city ' || n % 300, ARRAY['s' || n % 40, 's' || n % 31], bench.moment(n), bench.moment(n));
END;
CREATE PROCEDURE bench.insert_proposal(worker int, n bigint, project bigint, owner bigint) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO proposals (
        id, project_id, professional_id, message, quoted_price, delivery_time_days, created_at, updated_at
    ) VALUES (
        bench.key('o', worker, n), bench.key('p', worker, project), bench.key('u', worker, bench.professional(owner)),
        bench.text_of(n, 160), n % 500 + 0.25, n % 60, bench.moment(n), bench.moment(n));
END;
CREATE PROCEDURE bench.insert_activity(worker int, n bigint, owner bigint) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO user_activity (id, user_id, action, resource_type, resource_id, metadata, created_at) VALUES (
        bench.key('a', worker, n), bench.key('u', worker, owner), 'action ' || n % 40, 'project', bench.key('p', worker, n % 5000),
        bench.document(n), bench.moment(n));
END;

CREATE PROCEDURE bench.insert_last(its_id text) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO user_activity (id, user_id, action, metadata) SELECT its_id, min(u.id), 'last', '{}' FROM users AS u;
END;

-- What is there before the slots are made: so many users a worker, and as many rows in each other table.
CREATE PROCEDURE bench.seed(worker int, users bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1..users LOOP
        CALL bench.insert_user(worker, n);
        CALL bench.insert_service(worker, n, n);
        CALL bench.insert_project(worker, n, n);
        CALL bench.insert_proposal(worker, n, n, n);
        CALL bench.insert_activity(worker, n, n);
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
    activities_high bigint := seeded;
    activities_low bigint := 1;
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
            CALL bench.insert_proposal(worker, proposals_high, bench.pick(i, worker, 1, projects_high), someone);
        WHEN i % 20 IN (3, 6, 13, 16) THEN
            activities_high := activities_high + 1;
            CALL bench.insert_activity(worker, activities_high, someone);
        WHEN moves AND i % 100 = 8 THEN
            UPDATE users SET user_type = CASE user_type WHEN 'client' THEN 'professional' ELSE 'client' END::"UserType",
                updated_at = bench.moment(i) WHERE id = bench.key('u', worker, someone);
        WHEN i % 20 = 8 THEN
            UPDATE users SET name = bench.words(i), updated_at = bench.moment(i)
                WHERE id = bench.key('u', worker, someone);
        WHEN i % 20 = 4 THEN
            UPDATE services SET price = i % 700, view_count = view_count + 1, updated_at = bench.moment(i)
                WHERE id = bench.key('s', worker, bench.pick(i, worker, services_low, services_high));
        WHEN i % 20 = 7 THEN
            UPDATE projects SET proposals_count = proposals_count + 1, updated_at = bench.moment(i)
                WHERE id = bench.key('p', worker, bench.pick(i, worker, 1, projects_high));
        WHEN i % 20 = 17 THEN
            UPDATE proposals SET status = 'accepted', accepted_at = bench.moment(i), updated_at = bench.moment(i)
                WHERE id = bench.key('o', worker, bench.pick(i, worker, proposals_low, proposals_high));
        WHEN i % 20 IN (9, 18) THEN
            UPDATE user_activity SET metadata = bench.document(i)
                WHERE id = bench.key('a', worker, bench.pick(i, worker, activities_low, activities_high));
        WHEN i % 20 = 14 THEN
            DELETE FROM user_activity WHERE id = bench.key('a', worker, activities_low);
            activities_low := activities_low + 1;
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
