-- What PostgreSQL 18 brought: temporal keys and references, virtual columns, constraints that are named, not enforced
-- or not valid, uuids by time.
CREATE EXTENSION btree_gist;
CREATE TABLE people (
    id uuid DEFAULT uuidv7() PRIMARY KEY, kind text CONSTRAINT "kind is needed" NOT NULL, born date,
    shout text GENERATED ALWAYS AS (upper(kind)) VIRTUAL, shown text GENERATED ALWAYS AS (kind || '!') STORED,
    boss uuid REFERENCES people NOT ENFORCED
);
ALTER TABLE people ADD CONSTRAINT "born at all" NOT NULL born NOT VALID;
ALTER TABLE people ADD CONSTRAINT later CHECK (born > '1900-01-01') NOT ENFORCED;
CREATE TABLE jobs (
    person uuid, during daterange, title text, PRIMARY KEY (person, during WITHOUT OVERLAPS),
    FOREIGN KEY (person) REFERENCES people ON DELETE CASCADE
);
CREATE TABLE leaves (
    id int PRIMARY KEY, person uuid, during daterange, FOREIGN KEY (person, PERIOD during) REFERENCES jobs (person, PERIOD during)
);
CREATE TABLE old (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE old_1 PARTITION OF old FOR VALUES FROM (0) TO (1000);

ALTER TABLE leaves ADD FOREIGN KEY (id) REFERENCES old NOT VALID;
