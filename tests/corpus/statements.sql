--- read: every statement of the line is a read by its text
select 1
SELECT
select from accounts
(select 7)
(((values (1, 'one'), (2, 'two'))))
values (1)
table accounts
table only accounts
(table accounts) order by 1
select all a, b as c, d e from accounts
select distinct on (owner) owner, balance from accounts order by owner, balance desc
select a.id, b.* from accounts a inner join branches b on a.branch = b.id
select * from accounts natural left join branches
select * from accounts cross join branches, tellers
select * from accounts full outer join branches using (id)
select * from accounts as a (x, y, z) where x between symmetric 5 and 1
select * from only accounts
select * from accounts tablesample bernoulli (10) repeatable (1)
select * from generate_series(1, 10) with ordinality as g(n, i)
select * from rows from (generate_series(1, 2), unnest(array[1, 2])) as r(a, b)
select * from lateral (select 1) q
select * from accounts a, lateral (select * from branches b where b.id = a.branch) q
select * from (accounts a join branches b on true) join tellers t on true
select * from json_to_recordset('[{"a":1}]') as r(a int, b text)
select * from xmltable('/a/b' passing '<a/>'::xml columns c int path 'c' default 0)
select count(*), sum(distinct balance), max(balance) filter (where balance > 0) from accounts
select array_agg(id order by id desc), string_agg(name, ',' order by name) from accounts
select percentile_cont(0.5) within group (order by balance) from accounts
select rank() over w, lag(balance, 1, 0) over (partition by owner order by id) from accounts window w as (order by id)
select sum(a) over (order by b rows between unbounded preceding and current row exclude current row) from t
select sum(a) over (order by b groups between 1 preceding and 1 following exclude ties) from t
select a, b from t group by a, b having count(*) > 1
select a, grouping(a) from t group by rollup (a), cube (b, c), grouping sets ((a), (), (b))
select a from t group by distinct a
select * from t order by a using <, b nulls first, c desc nulls last limit 10 offset 5
select * from t limit all
select * from t offset 2 rows fetch next 3 rows with ties
select * from t fetch first row only
select 1 union select 2 union all select 3 except select 4 intersect select 5
(select 1 limit 1) union (select 2 order by 1)
with a as (select 1) select * from a
with a as (select 1), b (x) as (select * from a) select * from b
with a as materialized (select 1), b as not materialized (select 2) table b
with recursive r (n) as (values (1) union all select n + 1 from r where n < 10) select * from r
with recursive r as (select 1 as a union select a from r) search depth first by a set o select * from r
with recursive r as (select 1 as a union select a from r) cycle a set c using p select * from r
with a as (with b as (select 1) select * from b) select * from a
select * from (with a as (select 1) table a) q
select (select 1), array(select 2), exists (select 3), 4 in (select 5), 6 = any (select 7)
select case when a then b else c end, case d when 1 then 2 end from t
select coalesce(a, b), nullif(a, b), greatest(a, b), least(a, b) from t
select cast(a as numeric(10, 2)), a::text, a::character varying(30), 'x'::varchar(3), a::int[] from t
select date '2020-01-01', interval '1 day', interval '1' year, interval(3) '1.5 s', time '10:00'
select timestamp with time zone '2020-01-01 00:00+00' at time zone 'UTC'
select extract(epoch from ts), extract('year' from ts) from t
select substring(a from 1 for 2), substring(a similar 'x' escape '#'), overlay(a placing b from 1) from t
select trim(both 'x' from a), trim(leading from a), trim(a), position('a' in b) from t
select a is null, a is not null, a isnull, a notnull, a is true, a is not unknown from t
select a is distinct from b, a is not distinct from b from t
select a like 'x%' escape '!', a not ilike 'y', a similar to 'z', a ~ 'q', a !~* 'r' from t
select (a, b) = (1, 2), row(1, 2) < row(3, 4), (a, b) overlaps (c, d) from t
select (a).b, (a).*, (f(x)).c, a[1], a[1:2], a[:2], (array[[1, 2], [3, 4]])[1][2] from t
select t.*, t, t.a from t
select a collate "C", b collate pg_catalog."default" from t
select 1 operator(pg_catalog.+) 2, 3 operator(pg_catalog.*) 4
select -1, +2, - 3, @ -4, 6
select a -> 'b' ->> 'c', a #> '{d}', a @> '{}', a ? 'e', a ?| array['f'], a @? '$.g', a @@ '$.h' from t
select 1 <> 2, 1 != 2, 1 <= 2, 1 >= 2, 1 << 2, 1 >> 2, 1 | 2, 1 & 2, 1 # 2, ~1, 2 ^ 3, |/ 4
select 0x1F, 0o17, 0b101, 1_000_000, 1.5e10, .5, 5., 1e-3
select 'it''s', E'it\'s', E'\\', U&'d\0061t\+000061', U&'d!0061' uescape '!', B'101', X'1F', N'n'
select 'a' 'b'
select $$it's$$, $tag$ $$ $tag$, $_1$x$_1$
select 'insert into t values (1)', 'for update', $$delete from t$$
select "select", "from", "insert into t", "for update", "a""b", U&"d\0061ta", U&"d!0061ta" uescape '!' from "table"
select a /* insert into t */, b -- delete from t
select a /* outer /* inner */ still */ from t
select/**/1/**/from/**/t
select a from t where b = $1 and c = $2::int and d = any ($3)
select insert, update, delete, merge, truncate from commands
select t.insert, t.into, t.for from t
select v insert from t
select 1 as into, 2 as "for", 3 as insert, 4 as select, 5 as table
select 1 as for from t
select data, name, value, type, key, role, user_id, text, temp, set from t
select temp, begin, commit, lock, listen, notify, share from temp
with insert as (select 1) select * from insert
with update as (select 1) select * from update
select f(insert), f(update), g(delete) from t
select current_date, current_time(3), current_timestamp, localtime, localtimestamp(2), current_user, session_user, current_schema, current_catalog
select now(), clock_timestamp(), version(), pg_sleep(0), random(), gen_random_uuid()
select json_build_object('a', 1), jsonb_agg(x), to_jsonb(t), json_object('{a,1}') from t
select xmlelement(name a, xmlattributes(b as c), 'd'), xmlforest(e as f), xmlconcat(g, h), xmlpi(name i) from t
select xmlparse(document '<a/>'), xmlserialize(content x as text), xmlroot(x, version '1.0'), x is document from t
select f(a := 1, b => 2), g(variadic array[1, 2]), h(distinct a), k(all b) from t
select * from t where a in (1, 2, 3) and b not in ('x', 'y') and (c, d) in ((1, 2), (3, 4))
select * from t where exists (select 1 from u where u.id = t.id and not exists (select from v))
select relname from pg_catalog.pg_class c left join pg_namespace n on n.oid = c.relnamespace where c.relkind in ('r', 'p')
select pg_get_viewdef('v'::regclass), to_regclass('nope'), format_type(23, null), obj_description(1)
select has_table_privilege('t', 'insert'), has_schema_privilege('s', 'create')
select a from t where b = 'for share' and c ilike '%into%'
select 1 from t where f(a) = g(b) order by h(c) limit k(1) offset l(2)
select normalize('x', nfc), 'x' is normalized, 'y' is nfd normalized
select json_value(j, '$.a'), json_query(j, '$.b'), json_exists(j, '$.c') from t
select json_object('a': 1), json_array(1, 2), json_arrayagg(a), json_objectagg(a: b) from t
select * from json_table('[1]', '$[*]' columns (a int path '$', nested path '$.b' columns (c text))) jt
select merge_action from t
explain select 1
EXPLAIN ANALYZE SELECT * FROM accounts
explain verbose select 1
explain analyze verbose select 1
explain (analyze, buffers, format json) select * from t
explain (costs off, timing false) with a as (select 1) select * from a
explain (select 1)
explain ((select 1) union (select 2))
explain values (1)
explain table t
explain (analyze off, verbose) select f(1)
copy accounts to stdout
copy public.accounts (id, owner) to stdout with (format csv, header true, force_quote (owner))
copy accounts to stdout csv header
copy binary accounts to stdout
copy accounts to stdin
copy (select * from accounts) to stdout
copy (table accounts) to stdout (format binary)
copy (values (1)) to stdout
copy (with a as (select 1) select * from a) to stdout with csv
select 1; select 2
select 1;; /* nothing */ ; table t;
; select 1
select '1'; -- the end
/* causeway: replica */ select 1
/*+ SeqScan(t) */ select * from t
--- other: at least one statement of the line is no read
insert into accounts values (1)
insert into accounts (id, owner) values (1, 'a'), (2, 'b') returning id
insert into accounts default values
insert into accounts select * from old_accounts
insert into accounts values (1) on conflict (id) do update set owner = excluded.owner
insert into accounts as a values (1) on conflict do nothing
update accounts set balance = balance + 1 where id = 1
update only accounts as a set (b, c) = (1, 2) from branches where a.id = 3 returning *
delete from accounts
delete from only accounts using branches where true returning *
merge into accounts a using deltas d on a.id = d.id when matched then update set balance = 1 when not matched then insert values (1)
truncate accounts, branches restart identity cascade
with a as (insert into t values (1) returning *) select * from a
with a as (update t set b = 1 returning *) select * from a
with a as (delete from t returning *) select count(*) from a
with a as (select 1) insert into t select * from a
with a as (select 1) update t set b = 1
with a as (select 1) delete from t
with a as (select 1), b as (with c as (delete from t returning 1) select * from c) select 1
with recursive r as (select 1 as a union select a from r) search breadth first by a set o insert into t select 1
with recursive r as (select 1 as a union select a from r) cycle a set c using p delete from t
with a as (merge into t using s on true when matched then delete returning 1) select 1
(with a as (delete from t returning 1) select * from a)
values ((select 1)), (2); delete from t
select * from t for update
select * from t for no key update
select * from t for share
select * from t for key share
select * from t for update of t skip locked
select * from t for update nowait
select * from t order by a limit 1 for update
select * from t for update limit 1
select for share
select from t for key share
select * from (select * from t for update) q
select (select a from t limit 1 for share)
with a as (select * from t for update) select 1
select * from t where a in (select b from u for key share)
(select * from t) for update
select * from t for/* */update
select * into n from t
select into n from t
select 1 into n
select 1 into temp n
select 1 into temporary table n
select 1 into unlogged n
select a into table n from t
with a as (select 1) select * into n from a
create table n as select 1
create table n as table t with no data
create temp table n on commit drop as select 1
create unlogged table n as values (1)
create materialized view m as select 1
create table n as execute p
create table n (id serial primary key, a text default 'x' check (a <> ''))
create temp table n (a int)
create temporary view v as select 1
create or replace view v as select * from t with check option
create recursive view v (n) as select 1
create index concurrently on t (lower(a)) where b
create unique index i on t using btree (a desc nulls last) include (b)
create sequence s
create schema s create table t (a int) create view v as select 1
create function f(a int) returns int language sql as 'select 1'
create function f() returns int begin atomic select 1; select case when true then 2 end; end
create or replace procedure p() begin atomic insert into t values (1); delete from t; end
create function f() returns int return 1
create function f() returns trigger language plpgsql as $$ begin insert into t values (1); return new; end $$
create rule r as on insert to t do instead (delete from u; notify c)
create rule r as on select to t do instead select * from u
create trigger g before update on t for each row execute function f()
create type c as (a int, b text)
create type e as enum ('a', 'b')
create domain d as int check (value > 0)
create extension hstore
create role r login password 'x'
create user u
create database d
create policy p on t for select using (a = current_user)
create operator @+@ (leftarg = int, rightarg = int, function = f)
create aggregate g (int) (sfunc = f, stype = int)
create cast (a as b) with function f(a)
create publication p for all tables
create foreign table ft (a int) server s
create statistics s on a, b from t
create text search configuration c (parser = p)
alter table t add column b int default 1, alter column a drop not null
alter sequence s restart
alter role r set work_mem = '1MB'
alter system set work_mem = '1MB'
alter default privileges grant select on tables to r
drop table if exists t, u cascade
drop function f(int)
drop owned by r
comment on table t is 'for the select'
grant select, insert on t to r with grant option
revoke all on t from r
reassign owned by a to b
security label on table t is 'x'
import foreign schema s from server v into w
refresh materialized view concurrently m
vacuum
vacuum (full, analyze) t
analyze t (a, b)
cluster t using i
reindex table concurrently t
checkpoint
lock t
lock table only t in access share mode nowait
do $$ begin perform 1; end $$
do language plpgsql 'begin end'
call p(1, 2)
notify c
notify c, 'payload'
listen c
unlisten *
copy t from stdin
copy t (a, b) from stdin with (format csv) where a > 1
copy t from '/tmp/file'
copy t to '/tmp/file'
copy t from program 'cat'
copy t to program 'cat'
copy (select 1) to '/tmp/file'
copy (insert into t values (1) returning a) to stdout
copy (update t set a = 1 returning a) to stdout
copy (delete from t returning a) to stdout
copy (select * from t for update) to stdout
copy (with a as (delete from t returning b) select * from a) to stdout
explain insert into t values (1)
explain analyze insert into t values (1)
explain (analyze) update t set a = 1
explain (analyze false) delete from t
explain (costs off, analyze on) merge into t using s on true when matched then delete
explain analyze create table n as select 1
explain select * from t for update
explain with a as (delete from t returning 1) select * from a
explain execute p(1)
explain refresh materialized view m
explain analyze verbose delete from t
begin
begin work
begin transaction isolation level serializable, read write, deferrable
begin read only
start transaction isolation level repeatable read read only
commit
commit work and no chain
end
end transaction and chain
rollback
rollback and chain
abort
savepoint s
release savepoint s
release s
rollback to savepoint s
rollback work to s
prepare transaction 'x'
commit prepared 'x'
rollback prepared 'x'
set transaction read only
set transaction isolation level serializable
set transaction snapshot 'x'
set local transaction read write
set session characteristics as transaction isolation level read committed
set work_mem = '1MB'
set work_mem to default
set search_path = a, "B", 'c'
set local statement_timeout = 100
set session x.y to on
set time zone 'UTC'
set time zone local
set time zone interval '1' hour to minute
set local time zone -7
set names 'utf8'
set role r
set role none
set session authorization default
set session authorization "r"
set xml option content
set schema 's'
set constraints all immediate
set constraints a, s.b deferred
reset all
reset work_mem
reset time zone
reset session authorization
reset transaction isolation level
show all
show work_mem
show time zone
show transaction isolation level
discard all
discard plans
discard sequences
discard temp
prepare p as select 1
prepare p (int, text) as insert into t values ($1, $2)
prepare p as with a as (delete from t returning 1) select * from a
execute p
execute p(1, 'a')
deallocate p
deallocate prepare all
declare c cursor for select 1
declare c binary insensitive no scroll cursor with hold for select * from t
declare c cursor for select * from t for update
fetch c
fetch forward 10 from c
move absolute 5 in c
close c
close all
load 'auto_explain'
select 1; insert into t values (1)
insert into t values (1); select 1
begin; select 1; commit
select 1; set x = 1
select E'\\'; delete from t
select 'a\'; delete from t --'
select '$$'; delete from t where a = '$$'
select 1 /* x */; lock t
select 1 /* -- */; delete from t
select $a$;$a$; drop table t
select 1 as "a;b"; vacuum
