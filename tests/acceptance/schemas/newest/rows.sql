INSERT INTO people (kind, born) SELECT (ARRAY['a', 'b', 'c'])[1 + n % 3], '2000-01-01'::date + n FROM generate_series(1, 60) n;
INSERT INTO jobs SELECT id, daterange(born, born + n * 10), 'x' FROM people, generate_series(1, 1) n;
INSERT INTO jobs SELECT id, daterange(born + 100, born + 200), 'y' FROM people;
INSERT INTO old SELECT generate_series(1, 999);
INSERT INTO leaves SELECT row_number() OVER (), person, daterange(lower(during) + 1, lower(during) + 3) FROM jobs;
