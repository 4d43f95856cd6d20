-- phase: before the tail
UPDATE users SET trust_level = trust_level + 1 WHERE id BETWEEN 1 AND 30;
-- then: users that topics waited for
INSERT INTO users (username, trust_level) SELECT 'Late' || n, 1 FROM generate_series(201, 215) n;
-- then: one row of several equal ones
DELETE FROM likes WHERE ctid = (SELECT min(ctid) FROM likes WHERE post_id = 5 AND user_id = 5);
UPDATE likes SET user_id = 6 WHERE ctid = (SELECT max(ctid) FROM likes WHERE post_id = 5 AND user_id = 5);
-- then: a keyless row moves to another parent
UPDATE likes SET post_id = 77 WHERE post_id = 10;
UPDATE audit SET what = '{"b" : 2}', price = 'NaN' WHERE who BETWEEN 10 AND 14;
-- then
DELETE FROM users WHERE id BETWEEN 40 AND 45;
DELETE FROM topics WHERE id BETWEEN 30 AND 39;
-- phase: during the tail
UPDATE topics SET user_id = 3 WHERE id % 20 = 0;
UPDATE posts SET topic_id = 3, user_id = NULL WHERE id BETWEEN 600 AND 620;
UPDATE posts SET topic_id = NULL WHERE id BETWEEN 621 AND 640;
-- then
UPDATE users SET id = id + 1000 WHERE id BETWEEN 60 AND 70;
-- then
UPDATE notes SET noteable_type = 'Topic' WHERE noteable_type = 'Post' AND id % 2 = 0;
UPDATE groups SET name = name || '5' WHERE id % 7 = 0;
UPDATE groups SET id = id - 500 WHERE id % 5 = 0;
-- then
DELETE FROM audit WHERE who > 9000000000 AND price = '-0' AND who % 2 = 0;
UPDATE sessions SET sid = 'x' || sid, data = '{}' WHERE user_id < 10.5;
-- phase: after the indexes
INSERT INTO users (username, trust_level) SELECT 'New' || n, n % 6 FROM generate_series(300, 340) n;
UPDATE users SET trust_level = NULL WHERE username LIKE 'New3_1';
-- then
INSERT INTO audit (at, who, what, target) SELECT '2025-01-01', n, '[]', 'posts' FROM generate_series(1, 230) n;
DELETE FROM users WHERE trust_level = 4;
-- then
UPDATE sessions SET sid = CASE sid WHEN 's20' THEN 's21' ELSE 's20' END WHERE sid IN ('s20', 's21');
-- then
UPDATE users SET trust_level = 4 - trust_level WHERE trust_level BETWEEN 0 AND 4;
-- then
INSERT INTO group_users SELECT -n, 5 FROM generate_series(6, 100) n;
DELETE FROM groups WHERE id BETWEEN -20 AND -10;
-- then
TRUNCATE topics RESTART IDENTITY;
INSERT INTO topics (user_id, title) SELECT 1 + n, 'fresh' FROM generate_series(1, 50) n;
UPDATE topics SET title = 'newer' WHERE id < 5;
-- then
UPDATE likes SET at = 'infinity' WHERE user_id = 3;
