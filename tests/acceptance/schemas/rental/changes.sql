-- phase: before the tail
UPDATE sales.customer SET activebool = NOT activebool WHERE customer_id % 10 = 4;
-- then: rows of everything move with their customer, whose large values are not in the WAL
UPDATE sales.customer SET activebool = true WHERE customer_id BETWEEN 20 AND 40;
-- then
UPDATE sales.everything SET a = B'00000', c = 'y' WHERE id % 2 = 0;
UPDATE sales.everything SET p = -p, q = -q, id = id + 50000 WHERE id BETWEEN 10050 AND 10060;
-- then: rows change their partition, and their home with it
UPDATE sales.payment SET payment_date = payment_date + interval '1 year' WHERE payment_id BETWEEN 100 AND 200;
UPDATE sales.payment SET customer_id = 3 WHERE payment_id BETWEEN 150 AND 250;
-- then
DELETE FROM sales.payment WHERE payment_id BETWEEN 300 AND 310;
UPDATE sales.payment SET extra = '{"b":2 }', amount = 1.10 WHERE payment_id > 480;
-- then
UPDATE sales.rental SET customer_id = NULL WHERE rental_id % 7 = 0;
UPDATE sales.rental SET customer_id = 1 WHERE rental_id = 14;
-- phase: during the tail

SET CONSTRAINTS ALL DEFERRED;
INSERT INTO sales.store VALUES (4, 100, NULL, NULL, NULL, NULL);
INSERT INTO sales.staff (staff_id, store_id, username) VALUES (100, 4, 'Late');

-- then: a store whose inventory was there before it
UPDATE sales.inventory SET store_id = 2 WHERE store_id = 1;
-- then
UPDATE sales.visit SET number = number + 1000 WHERE customer_id % 4 = 1;
UPDATE sales.visit SET "text" = 'y' WHERE number % 2 = 0;
-- then
DELETE FROM sales.visit WHERE customer_id = 7;
-- then
UPDATE sales.item SET label = 'all' WHERE item_id < 10;
UPDATE sales.rare_book SET price = '$2', label = 'it''s' WHERE item_id BETWEEN 5 AND 15;
UPDATE ONLY sales.book SET customer_id = 5 WHERE item_id > 25;
DELETE FROM sales.item WHERE item_id = 20;
-- phase: after the indexes
INSERT INTO sales.customer (store_id, email, activebool, active, home) SELECT 1, 'new' || n || '@x', n % 2 = 0, n, '(s,z,,)'::types.address FROM generate_series(1, 20) n;
UPDATE sales.customer SET activebool = NULL, home = ROW('moved', NULL, '{}', 'G') WHERE email = 'NEW3@X';
UPDATE sales.customer SET email = upper(email::text) WHERE customer_id < 20;
-- then
INSERT INTO sales.payment SELECT 1000 + n, 121 + n % 20, n, '2024-05-05', NULL FROM generate_series(1, 40) n;
UPDATE sales.payment SET payment_date = '2026-01-01' WHERE payment_id BETWEEN 1000 AND 1010;
UPDATE sales.payment SET customer_id = 100000 WHERE payment_id = 1020;
DELETE FROM sales.payment WHERE payment_id BETWEEN 1030 AND 1033;
-- then
UPDATE sales.customer SET activebool = NOT coalesce(activebool, false) WHERE customer_id > 30;
-- then
INSERT INTO sales.places VALUES (30, 'q', NULL);
DELETE FROM sales.places WHERE id IN (1, 2);
-- then
UPDATE sales.rental SET rental_period = tstzrange(lower(rental_period) - '1 hour'::interval, upper(rental_period) - '1 hour'::interval);
UPDATE sales.film SET film_id = film_id + 100 WHERE film_id NOT IN (SELECT film_id FROM sales.inventory WHERE film_id IS NOT NULL);
UPDATE sales.film SET info = info || 'x=>1', ages = NULL, special_features = '{}' WHERE film_id % 2 = 0;
-- then
TRUNCATE sales.visit CASCADE;
INSERT INTO sales.visit VALUES (1, 1, NULL, NULL);
INSERT INTO sales.step VALUES (1, 1, 1);
-- then
TRUNCATE archive.payment_2023, sales.payment_2024_rest;
INSERT INTO sales.payment VALUES (5000, 1, 1, '2023-01-01', '[]'), (5001, 60, 2, '2024-01-01 00:00+00', 'null');
-- then
TRUNCATE sales.item RESTART IDENTITY;
INSERT INTO sales.item (customer_id, label) VALUES (3, 'first');
