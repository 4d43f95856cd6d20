-- What writes the backlog, whatever the five tables look like. Every key and value follows from the worker's number and a counter, so
-- the same call writes the same rows; workers share no row, so they do not wait for each other. Returns nothing. How a row of each
-- table is inserted, updated and deleted is a service's: backlog_market.sql, backlog_narrow.sql.

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

-- What is there before the slots are made: so many users a worker, and as many rows in each other table.
CREATE PROCEDURE bench.seed(worker int, users bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR n IN 1..users LOOP
        CALL bench.insert_user(worker, n);
        CALL bench.insert_service(worker, n, n);
        CALL bench.insert_project(worker, n, n);
        CALL bench.insert_proposal(worker, n, n, n);
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
            CALL bench.insert_proposal(worker, proposals_high, bench.pick(i, worker, 1, projects_high), someone);
        WHEN i % 20 IN (3, 6, 13, 16) THEN
            events_high := events_high + 1;
            CALL bench.insert_event(worker, events_high, someone);
        WHEN moves AND i % 100 = 8 THEN
            CALL bench.move_user(worker, someone, i);
        WHEN i % 20 = 8 THEN
            CALL bench.update_user(worker, someone, i);
        WHEN i % 20 = 4 THEN
            CALL bench.update_service(worker, bench.pick(i, worker, services_low, services_high), i);
        WHEN i % 20 = 7 THEN
            CALL bench.update_project(worker, bench.pick(i, worker, 1, projects_high), i);
        WHEN i % 20 = 17 THEN
            CALL bench.update_proposal(worker, bench.pick(i, worker, proposals_low, proposals_high), i);
        WHEN i % 20 IN (9, 18) THEN
            CALL bench.update_event(worker, bench.pick(i, worker, events_low, events_high), i);
        WHEN i % 20 = 14 THEN
            CALL bench.delete_event(worker, events_low);
            events_low := events_low + 1;
        WHEN i % 40 = 19 THEN
            CALL bench.delete_service(worker, services_low);
            services_low := services_low + 1;
        ELSE
            CALL bench.delete_proposal(worker, proposals_low);
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
