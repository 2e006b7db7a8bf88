-- What the statements beside this file are about. Run by a superuser; `app` may use all of it.
CREATE EXTENSION postgres_fdw;
CREATE EXTENSION dblink;
CREATE TABLE orders (id serial PRIMARY KEY, customer int, total numeric, due date, note text, doc jsonb);
INSERT INTO orders (customer, total, due, note, doc)
    SELECT n % 7, n * 1.5, date '2024-01-01' + n, 'note ' || n, jsonb_build_object('n', n, 'tags', array[n, n + 1])
    FROM generate_series(1, 60) n;
CREATE TABLE items (id int PRIMARY KEY, order_id int REFERENCES orders, name text, doubled int GENERATED ALWAYS AS (id * 2) STORED);
INSERT INTO items SELECT n, n % 60 + 1, 'item ' || n FROM generate_series(1, 120) n;
CREATE INDEX ON items (lower(name));
CREATE TABLE "update" (a int, "select" text);
INSERT INTO "update" VALUES (1, 'one'), (2, 'two');
CREATE UNLOGGED TABLE cache (k text PRIMARY KEY, v text);
INSERT INTO cache VALUES ('a', 'b');
CREATE SEQUENCE ticket;
CREATE TABLE parted (a int, b text) PARTITION BY LIST (a);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
INSERT INTO parted VALUES (1, 'x'), (2, 'y');
CREATE TABLE half_parted (a int) PARTITION BY LIST (a);
CREATE UNLOGGED TABLE half_parted_1 PARTITION OF half_parted FOR VALUES IN (1);
CREATE TABLE parent (a int);
CREATE TABLE child (b int) INHERITS (parent);
INSERT INTO child VALUES (1, 2);
CREATE MATERIALIZED VIEW totals AS SELECT customer, sum(total) AS total FROM orders GROUP BY customer;
CREATE SCHEMA "Odd Schema";
CREATE TABLE "Odd Schema"."Odd; Table" ("a b" int);
INSERT INTO "Odd Schema"."Odd; Table" VALUES (7);

CREATE FUNCTION steady(n int) RETURNS int LANGUAGE sql STABLE AS 'SELECT $1 + 1';
CREATE FUNCTION reader() RETURNS bigint LANGUAGE plpgsql AS $$
    DECLARE found_rows bigint; BEGIN SELECT count(*) INTO found_rows FROM items; RETURN found_rows; END $$;
CREATE FUNCTION ping(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN IF n <= 0 THEN RETURN 0; END IF; RETURN pong(n - 1); END';
CREATE FUNCTION pong(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN ping(n); END';
CREATE FUNCTION atomic_reader() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM items; END;
CREATE FUNCTION writer(n int) RETURNS int LANGUAGE plpgsql AS
    'BEGIN INSERT INTO parent VALUES (n); RETURN n; END';
CREATE FUNCTION atomic_writer() RETURNS int LANGUAGE sql BEGIN ATOMIC INSERT INTO parent VALUES (9) RETURNING a; END;
CREATE FUNCTION calls_writer(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN writer(n); END';
CREATE FUNCTION dynamic(text) RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE $1; END';
CREATE FUNCTION liar() RETURNS bigint LANGUAGE plpgsql STABLE AS 'BEGIN RETURN nextval(''ticket''); END';
CREATE FUNCTION by_default(n bigint DEFAULT nextval('ticket')) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT $1';
CREATE FUNCTION overloaded(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION overloaded(int, int) RETURNS int LANGUAGE sql AS 'INSERT INTO parent VALUES ($1 + $2) RETURNING a';
CREATE FUNCTION set_writer() RETURNS SETOF int LANGUAGE sql AS 'INSERT INTO parent VALUES (1), (2) RETURNING a';
CREATE FUNCTION total_of(orders) RETURNS numeric LANGUAGE sql STABLE AS 'SELECT $1.total';
CREATE FUNCTION touched(orders) RETURNS int LANGUAGE sql AS 'INSERT INTO parent VALUES ($1.id) RETURNING a';
CREATE FUNCTION add_writing(int, int) RETURNS int LANGUAGE sql AS 'INSERT INTO parent VALUES ($1) RETURNING a + $2';
CREATE FUNCTION add_plain(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + $2';
CREATE AGGREGATE sum_writing (int) (sfunc = add_writing, stype = int, initcond = '0');
CREATE AGGREGATE sum_plain (int) (sfunc = add_plain, stype = int, initcond = '0');
CREATE OPERATOR @+@ (function = add_writing, leftarg = int, rightarg = int);
CREATE OPERATOR @-@ (function = add_plain, leftarg = int, rightarg = int);
CREATE FUNCTION checked(int) RETURNS boolean LANGUAGE plpgsql AS
    'BEGIN INSERT INTO parent VALUES ($1); RETURN true; END';
CREATE DOMAIN watched AS int CHECK (checked(VALUE));
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE duo AS (a int, b int);
CREATE TYPE pair AS (a int, b int);
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE FUNCTION pair_of(int) RETURNS pair LANGUAGE sql AS 'INSERT INTO parent VALUES ($1) RETURNING ROW($1, $1)::pair';
CREATE CAST (int AS pair) WITH FUNCTION pair_of(int);
CREATE PROCEDURE tidy() LANGUAGE plpgsql AS 'BEGIN NULL; END';

CREATE VIEW plain_view AS SELECT o.id, o.total, i.name FROM orders o JOIN items i ON i.order_id = o.id;
CREATE VIEW over_view AS SELECT id, sum(total) FROM plain_view GROUP BY id;
CREATE VIEW barrier WITH (security_barrier) AS SELECT * FROM orders WHERE customer > 1;
CREATE VIEW locking_view AS SELECT * FROM orders WHERE id < 3 FOR UPDATE;
CREATE VIEW over_locking_view AS SELECT id FROM locking_view;
CREATE VIEW ticket_view AS SELECT nextval('ticket') AS n;
CREATE VIEW over_ticket_view AS SELECT * FROM ticket_view, orders;
CREATE VIEW cache_view AS SELECT * FROM cache;
CREATE VIEW writer_view AS SELECT writer(id) FROM orders WHERE id = 1;
CREATE VIEW operator_view AS SELECT id @+@ 1 FROM orders WHERE id = 1;
CREATE VIEW aggregate_view AS SELECT sum_writing(id) FROM orders WHERE id = 1;
CREATE VIEW domain_view AS SELECT id::watched FROM orders WHERE id = 1;
CREATE VIEW lock_view AS SELECT pg_try_advisory_lock(1) AS locked;
CREATE VIEW activity_view AS SELECT pid FROM pg_stat_activity;
CREATE TABLE ruled (a int);
CREATE RULE ruled_also AS ON INSERT TO ruled DO ALSO INSERT INTO parent VALUES (NEW.a);
INSERT INTO ruled VALUES (1);

CREATE TABLE guarded (a int, owner text);
INSERT INTO guarded VALUES (1, 'app'), (2, 'else');
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON guarded USING (owner = current_user);
CREATE TABLE watched_rows (a int);
INSERT INTO watched_rows VALUES (1);
ALTER TABLE watched_rows ENABLE ROW LEVEL SECURITY;
CREATE POLICY watch ON watched_rows USING (checked(a));
CREATE VIEW over_policy AS SELECT * FROM watched_rows;
ALTER VIEW over_policy OWNER TO app;

CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1');
CREATE USER MAPPING FOR PUBLIC SERVER elsewhere;
CREATE FOREIGN TABLE remote (a int) SERVER elsewhere;
CREATE TABLE part_remote (a int) PARTITION BY LIST (a);
CREATE FOREIGN TABLE part_remote_1 PARTITION OF part_remote FOR VALUES IN (1) SERVER elsewhere;

CREATE SCHEMA other;
CREATE FUNCTION other.lower(text) RETURNS text LANGUAGE sql AS 'INSERT INTO public.parent VALUES (1) RETURNING $1';
CREATE UNLOGGED TABLE other.orders (id int);

GRANT ALL ON SCHEMA public, other, "Odd Schema" TO app;
GRANT ALL ON ALL TABLES IN SCHEMA public, other, "Odd Schema" TO app;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app;
