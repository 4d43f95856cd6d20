-- helper
CREATE TEMP VIEW home_customer AS
SELECT customer_id, CASE WHEN activebool THEN 'north' WHEN NOT activebool THEN 'south' ELSE 'hub' END AS home FROM sales.customer
-- helper
CREATE TEMP VIEW home_store AS
SELECT store_id, CASE store_id WHEN 1 THEN 'north' WHEN 2 THEN 'south' ELSE 'hub' END AS home FROM sales.store
-- table: sales.language
SELECT z, 'every' FROM sales.language z
-- table: sales.film
SELECT z, 'every' FROM sales.film z
-- table: sales.film_actor
SELECT z, 'every' FROM sales.film_actor z
-- table: sales.store
SELECT z, home FROM sales.store z JOIN home_store USING (store_id)
-- table: sales.staff
SELECT z, home FROM sales.staff z JOIN home_store USING (store_id)
-- table: sales.customer
SELECT z, h.home FROM sales.customer z JOIN home_customer h USING (customer_id)
-- table: sales.inventory
SELECT z, coalesce(home, 'south') FROM sales.inventory z LEFT JOIN home_store USING (store_id)
-- table: sales.rental
SELECT z, CASE WHEN z.customer_id IS NOT NULL THEN c.home ELSE coalesce(s.home, 'south') END FROM sales.rental z
LEFT JOIN home_customer c USING (customer_id) LEFT JOIN sales.inventory i USING (inventory_id) LEFT JOIN home_store s ON s.store_id = i.store_id
-- table: sales.payment
SELECT z, coalesce(home, 'south') FROM sales.payment z LEFT JOIN home_customer USING (customer_id)
-- table: sales.visit
SELECT z, home FROM sales.visit z JOIN home_customer USING (customer_id)
-- table: sales.step
SELECT z, home FROM sales.step z JOIN home_customer USING (customer_id)
-- table: sales.item
SELECT z, home FROM ONLY sales.item z JOIN home_customer USING (customer_id)
-- table: sales.book
SELECT z, coalesce(home, 'north') FROM ONLY sales.book z LEFT JOIN home_customer USING (customer_id)
-- table: sales.rare_book
SELECT z, CASE WHEN price > '$1.50' THEN 'south' WHEN position('''' IN label) > 0 OR mod(isbn::int, 2) = 0 THEN 'hub' ELSE 'north' END
FROM ONLY sales.rare_book z
-- table: sales.places
SELECT z, 'hub' FROM sales.places z
-- table: sales.everything
SELECT whole, coalesce(home, 'hub') FROM sales.everything whole LEFT JOIN home_customer USING (customer_id)
