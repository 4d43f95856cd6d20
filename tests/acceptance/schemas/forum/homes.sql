-- helper
CREATE TEMP VIEW home_user AS SELECT id, (ARRAY['north', 'south', 'north', 'south', 'hub', 'hub'])[coalesce(trust_level, 5) + 1] AS home FROM users
-- helper
CREATE TEMP VIEW home_topic AS SELECT t.id, coalesce(u.home, 'hub') AS home FROM topics t LEFT JOIN home_user u ON u.id = t.user_id
-- helper
CREATE TEMP VIEW home_post AS
SELECT p.id, coalesce(CASE WHEN topic_id IS NULL THEN u.home ELSE t.home END, 'north') AS home
FROM posts p LEFT JOIN home_topic t ON t.id = p.topic_id LEFT JOIN home_user u ON u.id = p.user_id
-- helper
CREATE TEMP VIEW home_group AS
SELECT id, CASE WHEN right(name, 1) = '5' THEN 'south' WHEN id & 1 = 0 THEN 'north' ELSE 'hub' END AS home FROM groups
-- table: users
SELECT z, h.home FROM users z JOIN home_user h USING (id)
-- table: res_company
SELECT z, coalesce(h.home, 'south') FROM res_company z LEFT JOIN home_user h ON h.id = z.create_uid
-- table: topics
SELECT z, h.home FROM topics z JOIN home_topic h USING (id)
-- table: posts
SELECT z, h.home FROM posts z JOIN home_post h USING (id)
-- table: likes
SELECT z, coalesce(h.home, 'hub') FROM likes z LEFT JOIN home_post h ON h.id = z.post_id
-- table: audit
SELECT z, coalesce(h.home, 'south') FROM audit z LEFT JOIN home_user h ON h.id = z.who
-- table: notes
SELECT z, CASE noteable_type WHEN 'Topic' THEN 'north' WHEN 'Post' THEN 'south' ELSE 'hub' END FROM notes z
-- table: groups
SELECT z, h.home FROM groups z JOIN home_group h USING (id)
-- table: group_users
SELECT z, coalesce(h.home, 'south') FROM group_users z LEFT JOIN home_group h ON h.id = z.group_id
-- table: sessions
SELECT z, 'north' FROM sessions z
-- table: site_settings
SELECT z, 'every' FROM site_settings z
-- table: ar_internal_metadata
SELECT z, 'every' FROM ar_internal_metadata z
