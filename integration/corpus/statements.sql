-- Statements and the truth about them, which integration/corpus holds against a real primary and replica.
-- A line that begins with a blank goes on with the statement before it.
--
-- reads: the same rows on a replica, and Causeway sends them there
select * from orders where id = 7
select o.id, count(*), sum(total) over (partition by customer order by due rows between 1 preceding and current row)
  from orders o left join items i on i.order_id = o.id group by o.id order by 1
values (1, 'insert into orders'), (2, $$delete from orders$$)
table orders
(table orders)
((select 1) union all (values (2))) order by 1 limit 1
with a as (select 1 as n), b (n) as materialized (select n + 1 from a) select * from b
with recursive t(n) as (values (1) union all select n + 1 from t where n < 5) select sum(n) from t
with recursive g(id) as (select 1 union all select id + 1 from g where id < 3) search depth first by id set seen select * from g
with recursive g(id, next) as (select 1, 2 union all select g.next, g.id from g) cycle id set looped using path
  select * from g
select * from only (orders) where id < 4
select * from only orders as o where o.id < 4
select * from orders *
select * from orders tablesample bernoulli (100) repeatable (7)
select * from rows from (generate_series(1, 2), unnest(array['a', 'b'])) with ordinality as r(n, s, o)
select * from generate_series(1, 3) g(n), lateral (select n * 2 as d) l
select * from json_to_recordset('[{"a":1,"b":"x"}]') as r(a int, b text)
select * from xmltable('/r/x' passing ('<r><x a="1"/></r>'::xml) columns a int path '@a', o for ordinality)
select xmlelement(name foo, xmlattributes(1 as a), xmlforest('b' as c), xmlagg(x)) from (values ('<q/>'::xml)) v(x)
select xmlserialize(content '<a/>'::xml as text), '<a/>'::xml is document, xmlexists('/a' passing by value '<a/>')
select grouping(customer), customer, due, count(*) from orders group by grouping sets ((customer), (due), ()) order by 1, 2, 3
select customer, count(*) from orders group by rollup (customer) order by 1
select customer, due, count(*) from orders group by cube (customer, due) order by 1, 2, 3
select customer, percentile_cont(0.5) within group (order by total) filter (where id > 3) from orders group by 1
select string_agg(distinct note, ',' order by note) from orders
select rank() over w, lag(total, 1, 0) over w from orders window w as (partition by customer order by id groups 1 preceding exclude ties)
select (row(1, 2)::duo).a, ((1, 2)::duo).*
select (array[1, 2, 3])[2:3], doc -> 'tags' ->> 0, doc #>> '{tags,1}', doc @> '{"n": 1}', doc ? 'n' from orders
select ('{"a":1}'::jsonb)['a'], jsonb_path_query(doc, '$.tags[*]') from orders where id = 1
select case id when 1 then 'one' else 'other' end, coalesce(note, 'x'), nullif(id, 1), greatest(1, id), least(2, id) from orders
select id between symmetric 5 and 1, id is distinct from 3, note is null, note isnull, note notnull from orders
select note like 'note 1%' escape '!', note ilike 'NOTE%', note similar to 'n%', note ~ '^n', note !~* 'q' from orders
select extract(year from due), date_part('month', due), due at time zone 'UTC', due::timestamptz from orders
select substring(note from 2 for 3), substring(note, 2, 3), overlay(note placing 'x' from 1 for 2), trim(both 'n' from note),
  position('e' in note), collation for (note), normalize(note, nfc), note is nfc normalized from orders
select interval '1' day, timestamp with time zone '2024-01-01 00:00+00', date '2024-01-01', b'01', x'1f', n'x', e'a\'b', U&'\0061'
select U&"\0069d", "id", U&"!0069d" uescape '!' from orders
select 1 as "for update", 'for update' as "insert into", 2 as "delete" from orders -- for update
select /* delete from orders /* nested */ for share */ 1
select 'a'
  'b', $tag$ $$ update orders set $$ $tag$
select a, "select" from "update"
select "update".a from "update" where "update"."select" = 'one'
select "a b" from "Odd Schema"."Odd; Table"
select exists (select from items where order_id = orders.id), array(select id from items limit 2), (select max(id) from items) from orders
select id in (select order_id from items), id = any (array[1, 2]), id > all (select 0), (id, customer) in ((1, 1)) from orders
select * from orders where (id, total) = (select 3, 4.5)
select * from orders order by id fetch first 2 rows with ties
select distinct on (customer) customer, id from orders order by customer, id desc nulls last
select * from orders natural join (select 1 as id) q cross join parted p join parent using (a)
select * from orders o join items i on i.order_id = o.id and i.name = lower(i.name) where o.id = 1
select * from (orders o join items i on i.order_id = o.id) as j limit 1
select * from orders where id operator(pg_catalog.=) 1
select * from plain_view order by id limit 3
select * from over_view order by id limit 3
select id from barrier order by id
select * from totals order by 1
select * from parted
select * from parent
select doubled from items where lower(name) = 'item 1'
select steady(1), steady(n => 2), overloaded(3)
select reader(), atomic_reader()
select ping(3)
select sum_plain(id), 2 @-@ 3, 2 operator(public.@-@) 3 from orders
select o.total_of, total_of(o), o.id from orders o where id < 3
select 3::positive, 'glad'::mood, cast('1' as int), int '4', int4 '5', '(1,2)'::duo
select a from guarded
select a from ruled
select random() is not null, gen_random_uuid() is not null, clock_timestamp() is not null, pg_sleep(0), now() is not null
select current_user, current_database(), current_schema, session_user, current_date is not null, localtime is not null
select pg_typeof(1), format_type(23, -1), 'orders'::regclass::text, to_regclass('nowhere'), pg_get_viewdef('plain_view'::regclass) is not null
select has_table_privilege('orders', 'select'), pg_table_is_visible('orders'::regclass), obj_description('orders'::regclass)
select relname from pg_class where relname = 'orders'
select table_name from information_schema.tables where table_schema = 'public' and table_name like 'o%' order by 1
select n, i from information_schema._pg_expandarray(array[3, 4]) as p(n, i)
select count(*) > 0 from pg_catalog.pg_stats
select to_tsvector('english', note) @@ to_tsquery('english', 'note'), ts_rank(to_tsvector(note), 'note') from orders where id = 1
select format('%s %I %L', 1, 'a b', 'c'), concat_ws(',', 1, 2), md5('x'), encode(sha256('x'), 'hex'), regexp_replace('abc', 'b', 'x', 'g')
select generate_series(1, 3), unnest(array[1, 2, 3]), jsonb_each_text('{"a":1}')
select (jsonb_each_text(doc)).* from orders where id = 1
select * from orders where note = 'insert into t' or note in ('update', 'delete from x') limit 1
select count(*) filter (where id > 1), bool_and(id > 0), array_agg(id order by id desc) from orders
explain select * from orders where id = 1
explain (costs off, verbose, format json) select * from orders o join items i on i.order_id = o.id
explain (analyze, timing off, summary off, costs off) select count(*) from orders where id = 1
explain verbose select writer(1)
explain (analyze false, costs off) select calls_writer(id) from orders
copy orders (id, total) to stdout
copy (select id from orders order by id limit 2) to stdout with (format csv, header)
copy (values (1)) to stdout
copy "update" to stdout (format text)
show work_mem
show search_path
show server_version
show time zone
;; select 1 ; ;
select 1; select 2
select id from orders where id = 1; values (3)
-- refused: a replica refuses them
insert into parent values (1)
insert into orders (note) values ('x') on conflict (id) do update set note = excluded.note returning id
update orders set note = note where false
update only orders o set note = 'x' from items i where i.id = -1
delete from parent where false
delete from only parent as p using orders where false
merge into orders o using items i on o.id = i.id and false when matched then delete
truncate parent
with gone as (delete from parent where false returning a) select count(*) from gone
with a as (select 1), b as (with c as (insert into parent select 1 where false returning a) select * from c) select 1
with a as materialized (update orders set note = 'x' where false returning id) table a
with m as (select 1) update orders set note = 'x' where false
with recursive t as (insert into parent select 1 where false returning a) select * from t
explain analyze insert into parent values (1)
explain (costs off, analyze) with d as (delete from parent returning a) select * from d
explain (analyze off, analyze) update orders set note = note where false
copy (insert into parent values (1) returning a) to stdout
copy (with d as (delete from parent where false returning a) select * from d) to stdout
select * into copied from orders
select 1 as a into temp copied_temp
with a as (select 1 as n) select n into unlogged copied_unlogged from a
create table copied as select 1 as a
create temp table scratch (a int)
create view v as select 1
create index on orders (note)
drop table if exists parent_none, child
alter table orders add column more int
comment on table orders is 'x'
grant select on orders to public
refresh materialized view totals
vacuum orders
analyze orders
reindex table orders
select * from orders for update
select * from orders for no key update of orders skip locked
select * from orders for share nowait
select * from orders where id = 1 for key share
select * from (select * from orders for update) q
select (select id from orders limit 1 for share)
with a as (select * from orders for key share) select count(*) from a
(select * from orders for update)
(select id from orders) for update
values (1) union all select id from only orders where exists (select from items for update)
table orders for update
explain analyze select * from orders for share
select nextval('ticket')
select setval('ticket', 7)
values (nextval('ticket'))
select pg_catalog.nextval('ticket'::regclass)
select "nextval"('ticket'), U&"nextv\0061l"('ticket')
select ('ticket'::regclass).nextval
select * from nextval('ticket')
select id from orders where id < nextval('ticket')
select * from orders limit (select nextval('ticket'))
select case when true then nextval('ticket') end
select by_default()
select liar()
select writer(1)
select * from writer(2)
select * from set_writer()
select * from orders, lateral writer(orders.id) w where orders.id = 1
select public.writer(n => 1)
select calls_writer(1)
select atomic_writer()
select overloaded(1, 2)
select (o).touched from orders o where id = 1
select o.touched from orders o where id = 1
select touched(o) from orders o where id = 1
select sum_writing(id) from orders
select sum_writing(id) over (order by id) from orders
select 1 @+@ 2
select 1 operator(public.@+@) 2
select 3::watched
select cast(3 as watched), watched '4'
select 3::pair
select * from locking_view
select * from over_locking_view
select * from ticket_view
select count(*) from over_ticket_view
select * from writer_view
select * from operator_view
select * from aggregate_view
select * from domain_view
select * from watched_rows
select * from over_policy
select * from cache
select * from cache_view
select * from only cache
table cache
select * from half_parted
select * from other.orders
select other.lower('X')
select txid_current()
select pg_current_xact_id()
select pg_notify('jobs', 'x')
notify jobs
lock table orders in exclusive mode
select lo_create(0)
select dynamic('insert into parent values (1)')
do $$ begin insert into parent values (1); end $$
select 1; insert into parent values (1)
prepare transaction 'x'
commit prepared 'none'
-- silent: a replica takes them, or fails as the net does not catch, and they mean something else there, or may
lock table orders in access share mode
select pg_advisory_lock(1), pg_advisory_unlock(1)
select pg_try_advisory_xact_lock(7)
select * from lock_view
select pg_is_in_recovery()
select pg_backend_pid()
select pid from pg_stat_activity
select count(*) from activity_view
select * from pg_locks
select name, setting from pg_settings where name = 'port'
select current_setting('port')
show port
show in_hot_standby
select last_value from ticket
table ticket
select txid_current_snapshot()
select pg_current_snapshot()
select txid_current_if_assigned()
select pg_snapshot_xmax(pg_current_snapshot())
select inet_server_port()
select pg_postmaster_start_time()
select * from pg_stat_replication
select pg_last_wal_replay_lsn()
select query_to_xml('select 1', true, true, '')
select * from ts_stat('select to_tsvector(note) from orders')
select * from dblink('dbname=none', 'select 1') as t(a int)
select * from remote
select * from part_remote
do $$ begin null; end $$
call tidy()
explain insert into parent values (1)
explain (analyze false) update orders set note = 'x'
explain select * from orders for update
explain select nextval('ticket')
explain create table copied as select 1
copy cache to stdout
select id @+@ 1 from orders where false
select (3::pair).a from orders where false
select 1 as delete from orders
