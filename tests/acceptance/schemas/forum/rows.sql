INSERT INTO users (username, trust_level, admin, custom_fields, company_id)
SELECT 'User' || n, CASE WHEN n % 11 > 0 THEN n % 5 END, n % 20 = 0, hstore('n', n::text), 1 + n % 12 FROM generate_series(1, 200) n;
INSERT INTO res_company (name, create_uid, parent_id) SELECT 'c' || n, n * 7, CASE WHEN n > 3 THEN n / 2 END FROM generate_series(1, 40) n;
INSERT INTO topics (user_id, title, tags) SELECT CASE WHEN n % 13 > 0 THEN 1 + n % 220 END, 'topic ' || n, ARRAY[n::text] FROM generate_series(1, 300) n;
INSERT INTO posts (topic_id, user_id, reply_to_post_id, raw, post_number)
SELECT CASE WHEN n % 10 > 0 THEN 1 + n % 320 END, CASE WHEN n % 9 > 0 THEN 1 + n % 210 END, n - 1, repeat('text ', n % 50), n FROM generate_series(1, 1000) n;
INSERT INTO posts (topic_id, user_id, raw) VALUES (2147483647, -1, 'far away');
INSERT INTO likes SELECT 1 + n % 1100, 1 + n % 7 FROM generate_series(1, 500) n;
INSERT INTO likes SELECT 5, 5 FROM generate_series(1, 4);
INSERT INTO audit SELECT '2024-01-01'::timestamp + n * interval '1 s', CASE WHEN n % 7 > 0 THEN 1 + n % 230 ELSE 9000000000 + n END, '{"a":  1}', '10.0.0.1',
       CASE WHEN n % 3 = 0 THEN 'users'::regclass END, '-0' FROM generate_series(1, 100) n;
INSERT INTO audit SELECT * FROM audit WHERE who < 20;
INSERT INTO notes (noteable_type, noteable_id, author_id, note) SELECT (ARRAY['Topic', 'Post', 'User'])[1 + n % 3], n, n * 2, 'note' FROM generate_series(1, 150) n;
INSERT INTO groups (name, owner_name) SELECT 'g' || n, 'User' || n * 3 FROM generate_series(1, 80) n;
INSERT INTO group_users SELECT -n, n FROM generate_series(1, 90) n;
INSERT INTO sessions SELECT 's' || n, n + 0.0, jsonb_build_object('n', n) FROM generate_series(1, 60) n;
INSERT INTO site_settings (name, value) VALUES ('title', 'x'), ('empty', NULL);
INSERT INTO ar_internal_metadata VALUES ('environment', 'production');
ANALYZE;
