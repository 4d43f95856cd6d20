-- How rows of five tables of the marketplace are written. After backlog.sql and the marketplace's own definitions; returns nothing.

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
CREATE PROCEDURE bench.insert_event(worker int, n bigint, owner bigint) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO user_activity (id, user_id, action, resource_type, resource_id, metadata, created_at) VALUES (
        bench.key('a', worker, n), bench.key('u', worker, owner), 'action ' || n % 40, 'project', bench.key('p', worker, n % 5000),
        bench.document(n), bench.moment(n));
END;

CREATE PROCEDURE bench.insert_last(its_id text) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO user_activity (id, user_id, action, created_at) SELECT its_id, min(u.id), 'last', '2030-01-01' FROM users AS u;
END;
CREATE PROCEDURE bench.move_user(worker int, n bigint, i bigint) LANGUAGE sql BEGIN ATOMIC
    UPDATE users SET user_type = CASE user_type WHEN 'client' THEN 'professional' ELSE 'client' END::"UserType", updated_at = bench.moment(i)
        WHERE id = bench.key('u', worker, n);
END;
CREATE PROCEDURE bench.update_user(worker int, n bigint, i bigint) LANGUAGE sql BEGIN ATOMIC
    UPDATE users SET name = bench.words(i), updated_at = bench.moment(i) WHERE id = bench.key('u', worker, n);
END;
CREATE PROCEDURE bench.update_service(worker int, n bigint, i bigint) LANGUAGE sql BEGIN ATOMIC
    UPDATE services SET price = i % 700, view_count = view_count + 1, updated_at = bench.moment(i)
        WHERE id = bench.key('s', worker, n);
END;
CREATE PROCEDURE bench.update_project(worker int, n bigint, i bigint) LANGUAGE sql BEGIN ATOMIC
    UPDATE projects SET proposals_count = proposals_count + 1, updated_at = bench.moment(i)
        WHERE id = bench.key('p', worker, n);
END;
CREATE PROCEDURE bench.update_proposal(worker int, n bigint, i bigint) LANGUAGE sql BEGIN ATOMIC
    UPDATE proposals SET status = 'accepted', accepted_at = bench.moment(i), updated_at = bench.moment(i)
        WHERE id = bench.key('o', worker, n);
END;
CREATE PROCEDURE bench.update_event(worker int, n bigint, i bigint) LANGUAGE sql BEGIN ATOMIC
    UPDATE user_activity SET metadata = bench.document(i) WHERE id = bench.key('a', worker, n);
END;
CREATE PROCEDURE bench.delete_service(worker int, n bigint) LANGUAGE sql BEGIN ATOMIC
    DELETE FROM services WHERE id = bench.key('s', worker, n);
END;
CREATE PROCEDURE bench.delete_proposal(worker int, n bigint) LANGUAGE sql BEGIN ATOMIC
    DELETE FROM proposals WHERE id = bench.key('o', worker, n);
END;
CREATE PROCEDURE bench.delete_event(worker int, n bigint) LANGUAGE sql BEGIN ATOMIC
    DELETE FROM user_activity WHERE id = bench.key('a', worker, n);
END;
