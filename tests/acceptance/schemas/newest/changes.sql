-- phase: before the tail
UPDATE people SET kind = 'b' WHERE born < '2000-01-20';
UPDATE jobs SET title = 'z' WHERE title = 'y' AND lower(during) > '2000-05-01';
-- phase: during the tail
INSERT INTO jobs SELECT id, daterange(born + 300, born + 400), 'new' FROM people WHERE kind = 'a';
UPDATE jobs SET during = daterange(lower(during), upper(during) + 1) WHERE title = 'new';
-- phase: after the indexes
INSERT INTO people (kind, born, boss) VALUES ('a', '1800-01-01', uuidv7());
INSERT INTO jobs SELECT id, daterange(born + 500, born + 600), 'later' FROM people;
UPDATE jobs SET during = daterange(lower(during), upper(during) + 1), title = 'l' WHERE title = 'later';
INSERT INTO leaves SELECT 1000 - row_number() OVER (), person, during FROM jobs WHERE title = 'l' LIMIT 20;
UPDATE people SET kind = 'c' WHERE kind = 'a';
DELETE FROM leaves WHERE id BETWEEN 10 AND 20;
