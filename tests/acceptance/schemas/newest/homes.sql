-- helper
CREATE TEMP VIEW home AS SELECT id, CASE kind WHEN 'a' THEN 'north' WHEN 'b' THEN 'south' ELSE 'hub' END AS home FROM people
-- table: people
SELECT z, home FROM people z JOIN home USING (id)
-- table: jobs
SELECT z, home FROM jobs z JOIN home ON id = person
-- table: leaves
SELECT z, home FROM leaves z JOIN home ON home.id = person
-- table: old
SELECT z, 'every' FROM old z
