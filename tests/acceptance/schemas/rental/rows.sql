INSERT INTO sales.language (name) VALUES ('English'), ('Deutsch ä'), ('');
INSERT INTO sales.film (title, release_year, language_id, rating, special_features, path, info, ages)
SELECT 'Film ' || n, 1990 + n, 1 + n % 3, (enum_range(NULL::types.rating))[1 + n % 4], ARRAY['a', NULL, '"x,y"']::text[], ('Top.Sub' || n)::ext.ltree,
       hstore('k' || n, CASE WHEN n % 2 = 0 THEN 'v=>"' END), types.ratings('G', 'R', '[]')
FROM generate_series(1, 30) n;
INSERT INTO sales.film_actor SELECT n, 'actor ' || n % 7 FROM generate_series(1, 30) n;

INSERT INTO sales.store VALUES (1, 10, ROW('Street, 1', '12345', ARRAY[ROW(1.10, '-0')::types.spot, NULL], 'R'), '[1,3]', '[1.5,2.5)', '{G,NULL}'),
    (2, 13, NULL, 'empty', '(,)', '{}'), (3, NULL, ROW(NULL, NULL, NULL, NULL), NULL, NULL, NULL);
INSERT INTO sales.staff (store_id, username, picture) VALUES (1, 'Mike', '\x00ff'), (2, 'Jon', NULL), (3, 'Ann', '');

INSERT INTO sales.customer (store_id, email, activebool, active, home)
SELECT 1 + n % 3, 'Mail' || n || '@X.org', CASE n % 4 WHEN 0 THEN true WHEN 1 THEN false END, CASE WHEN n % 5 > 0 THEN n % 2 END,
       CASE n % 3 WHEN 0 THEN ROW('a' || n, n, '{}', 'PG')::types.address WHEN 1 THEN ROW(NULL, NULL, NULL, NULL)::types.address END
FROM generate_series(1, 120) n;
INSERT INTO sales.inventory (film_id, store_id) SELECT 1 + n % 30, CASE WHEN n % 9 < 8 THEN 1 + n % 4 END FROM generate_series(1, 90) n;
INSERT INTO sales.rental SELECT n, tstzrange('2024-01-01'::timestamptz + n * '1 day'::interval, '2024-01-02'::timestamptz + n * '1 day'::interval),
       1 + n % 90, 1 + n % 120, 10 FROM generate_series(1, 200) n;
INSERT INTO sales.payment SELECT n, 1 + n % 120, n % 100, '2023-06-01'::timestamptz + n * '2 days'::interval, '{"a" :1}' FROM generate_series(1, 500) n;
INSERT INTO sales.visit SELECT 1 + n % 40, n, '2024-01-01', repeat('x', n) FROM generate_series(1, 200) n;
INSERT INTO sales.step SELECT n, 1 + n % 40, n FROM generate_series(1, 200) n;
INSERT INTO sales.item (customer_id, label) SELECT 1 + n, 'item' FROM generate_series(1, 30) n;
INSERT INTO sales.book (item_id, customer_id, label, isbn) SELECT n, 100 - n, 'book', n FROM generate_series(1, 30) n;
INSERT INTO sales.rare_book (item_id, customer_id, label, isbn, price) SELECT n, 50 + n, 'rare', n, '$1.00' FROM generate_series(1, 30) n;
INSERT INTO sales.places SELECT n, 'p', ROW(n, 'NaN'::float8)::types.spot FROM generate_series(1, 20) n;
UPDATE sales.everything SET a = B'10101', b = B'', c = 'x', d = 'name%', e = 4294967295, g = '10.0.0.1', h = '10.0.0.0/8', i = '08:00:2b:01:02:03:04:05',
    j = '$."a b"[*] ? (@ > 1)', k = '16/B374D848', l = '\x5c00', m = '-1 mons +2 days -03:04:05.678', n = '23:59:59.999+14:59', o = 'NaN',
    p = '-0', q = 'Infinity', r = '-1.5', s = '''a b'':1A,2 c', t = 'a & !(b | c:*)', u = '(1,-0)', v = '((0,0),(1,1),(1,0))',
    w = '{"a": 1.10, "b": [null, "\u2603"]}', x = ARRAY['{"a":  1}', 'null']::json[], y = ARRAY[ROW('a"b', 'z', NULL, 'R'), NULL]::types.address[],
    z = '[0:1][2:3]={{G,PG},{R,NULL}}', aa = '[5:6]={a,b}', ab = '{[1,3),[7,9)}', ac = '[0,Infinity]', ad = 'a=>NULL, "b c"=>"\"x\\"', ae = '{a.b,c}',
    af = 'Ä@b', ag = '18446744073709551615', ah = ARRAY[gen_random_uuid()], ai = '{infinity,"0044-03-15 00:00:00 BC"}', aj = 'int4',
    ak = '[G,R)', al = '5874897-12-31', am = '<(1,2),3>', an = '1 2 3', ao = '(0,1)', ap = '10:20:10,14', aq = 'NC-17'
WHERE id % 3 = 0;
UPDATE sales.everything SET o = '-Infinity', p = 'NaN', q = '-0', r = '92233720368547758.07', w = (SELECT jsonb_agg(repeat(md5(i::text), 5)) FROM generate_series(1, 40) i),
    l = convert_to(repeat('toast', 2000), 'UTF8'), n = '00:00-15:00', m = '178000000 years', al = '4714-11-24 BC', c = '' WHERE id % 3 = 1;
ANALYZE;
