//! Tables of statements in plain words and what the text alone says of them; of their names, in [`names`].

mod names;

use super::statement::{
    Class, Isolation, Modes, RouteHint, Script, SessionEffect as Effect, Statement, Transaction,
};
use super::{Lexis, SetValue, analyze, set_value};

fn script(text: &str) -> Script {
    analyze(text.as_bytes(), Lexis::default())
}

fn one(text: &str) -> Statement {
    let mut statements = script(text).statements;
    assert_eq!(statements.len(), 1, "{text}");
    statements.remove(0)
}

fn classes(text: &str) -> Vec<Class> {
    script(text).statements.iter().map(|statement| statement.class).collect()
}

#[track_caller]
fn all_are(class: Class, texts: &[&str]) {
    for text in texts {
        let statement = one(text);
        assert_eq!(statement.class, class, "{text}\n{statement:?}");
    }
}

#[test]
fn reads_are_reads() {
    all_are(
        Class::Read,
        &[
            "select",
            "SELECT 1",
            "select from t",
            "(select 1)",
            "((select a from t) union all (values (1)))",
            "values (1), (2)",
            "table t",
            "(table only t)",
            "with x as (select 1) select * from x",
            "with recursive r(n) as (select 1 union all select n + 1 from r) table r",
            "with x as materialized (select 1), y as not materialized (table x) (select * from y)",
            "/* insert into t */ select 1 -- delete from t",
            "/* a /* nested */ insert into t values (1) */ select 1",
            "select 'for update', $$insert into t$$, $q$ $$ ; drop table t $$ $q$",
            "select \"insert\" from \"Insert Into\" where \"for update\" = \"into\"",
            "select E'it\\'s; delete from t'",
            "select t.v insert from t",
            "select update, delete, t.into from t as merge",
            "select 1 as into",
            "select a as for from t",
            "with \"insert\" as (select 1) select * from \"insert\"",
            "with update as (select 1) select * from update",
            "select substring(a from 1 for 2), trim(both from b), extract(year from c) from t",
            "select a is distinct from b from t",
            "explain select 1",
            "explain (analyze, buffers) select 1",
            "explain analyze verbose (select 1)",
            "explain (select 1)",
            "explain (costs off, format json) with x as (select 1) table x",
            "copy t to stdout",
            "copy binary t to stdout with delimiter ','",
            "copy public.t (a, b) to stdout (format csv, header)",
            "copy (select * from t) to stdout",
            "copy (with x as (select 1) table x) to stdin",
            "select (a).* , (array[1,2])[1:2] from t",
            "select * from rows from (f(1), g(2)) with ordinality as x(a, b, c)",
            "select similar from t where a similar to 'x' escape '!'",
            "select sum(a) filter (where b) over (partition by c order by d groups between 1 preceding \
             and current row exclude ties) from t window w as (order by e)",
            "select xmlparse(document '<a/>'), f(variadic array[1])",
            "select 1 operator(pg_catalog.+) 2",
            "select 1_000, 0x1F, 1.5e-3, .5, $1",
        ],
    );
}

#[test]
fn what_writes_or_locks_is_no_read() {
    all_are(
        Class::Write,
        &[
            "insert into t values (1)",
            "INSERT INTO t DEFAULT VALUES",
            "update t set a = 1",
            "delete from t",
            "merge into t using s on t.a = s.a when matched then delete",
            "truncate t",
            "with x as (insert into t values (1) returning *) select * from x",
            "with x as (select 1) delete from t using x",
            "with x as (select 1) update only t set a = 1",
            "with x as (select 1), y as (with z as (delete from t returning 1) table z) select 1",
            "with recursive r as (select 1 a) search depth first by a set o update t set a = 1",
            "explain insert into t values (1)",
            "explain analyze update t set a = 1",
            "explain (analyze off) delete from t",
            "copy (insert into t values (1) returning a) to stdout",
            "copy (with x as (delete from t returning a) table x) to stdout",
            "select * from (with x as (update \"T\" set a = 1 returning a) table x) y",
        ],
    );
    all_are(
        Class::LockingRead,
        &[
            "select * from t for update",
            "select * from t for no key update of t nowait",
            "select * from t for share skip locked",
            "select for key share",
            "select for share",
            "select * from (select * from t for update) q",
            "select (select a from t limit 1 for update)",
            "with x as (select * from t for update) select 1",
            "(select * from t for update)",
            "explain select * from t for update",
            "copy (select * from t for update) to stdout",
            "select/**/1 from t for/**/update",
        ],
    );
    all_are(
        Class::Ddl,
        &[
            "select * into t2 from t",
            "select into t2",
            "select 1 into temp t2",
            "with x as (select 1) select * into t2 from x",
            "(select 1 into t2)",
            "create table t2 as select 1",
            "explain create table t2 as select 1",
            "create view v as select 1",
            "drop table t",
            "grant select on t to u",
            "comment on table t is 'x'",
            "alter table t add b int",
            "create function f() returns int begin atomic select 1; select 2; end",
        ],
    );
}

#[test]
fn commands_have_their_class_and_verb() {
    use Class::{
        CopyFile, CopyIn, Cursor, Ddl, LockTable, Maintenance, Notify, Procedure, Read, Session,
        Show, Transaction as Control, Unknown, Write,
    };
    let table = [
        ("copy t from stdin", CopyIn, "COPY"),
        ("copy t (a) from stdin with (format csv) where a > 1", CopyIn, "COPY"),
        ("copy t to '/tmp/x'", CopyFile, "COPY"),
        ("copy t from '/tmp/x'", CopyFile, "COPY"),
        ("copy t to program 'cat'", CopyFile, "COPY"),
        ("copy (select 1) to '/tmp/x'", CopyFile, "COPY"),
        ("do $$begin end$$", Procedure, "DO"),
        ("call p(1)", Procedure, "CALL"),
        ("lock table t in share mode", LockTable, "LOCK TABLE"),
        ("listen c", Notify, "LISTEN"),
        ("unlisten *", Notify, "UNLISTEN"),
        ("notify c, 'x'", Notify, "NOTIFY"),
        ("vacuum (analyze) t", Maintenance, "VACUUM"),
        ("analyze", Maintenance, "ANALYZE"),
        ("checkpoint", Maintenance, "CHECKPOINT"),
        ("alter system set work_mem = '1MB'", Maintenance, "ALTER SYSTEM"),
        ("refresh materialized view v", Maintenance, "REFRESH MATERIALIZED VIEW"),
        ("set work_mem = '1MB'", Session, "SET"),
        ("reset all", Session, "RESET"),
        ("discard all", Session, "DISCARD ALL"),
        ("show work_mem", Show, "SHOW"),
        ("prepare p as select 1", Session, "PREPARE"),
        ("execute p", Session, "EXECUTE"),
        ("deallocate p", Session, "DEALLOCATE"),
        ("load 'auto_explain'", Session, "LOAD"),
        ("declare c cursor for select 1", Cursor, "DECLARE CURSOR"),
        ("fetch 10 from c", Cursor, "FETCH"),
        ("move c", Cursor, "MOVE"),
        ("close all", Cursor, "CLOSE CURSOR"),
        ("begin", Control, "BEGIN"),
        ("end", Control, "COMMIT"),
        ("create unique index on t (a)", Ddl, "CREATE INDEX"),
        (
            "create or replace function f() returns int language sql as 'select 1'",
            Ddl,
            "CREATE FUNCTION",
        ),
        ("create temp table x (a int)", Ddl, "CREATE TABLE"),
        ("drop materialized view v", Ddl, "DROP MATERIALIZED VIEW"),
        ("create user u", Ddl, "CREATE ROLE"),
        ("with x as (select 1) insert into t table x", Write, "INSERT"),
        ("with x as (select 1) select 1", Read, "SELECT"),
        ("frobnicate", Unknown, ""),
        ("'literal first'", Unknown, ""),
        (")", Unknown, ""),
    ];
    for (text, class, verb) in table {
        let statement = one(text);
        assert_eq!((statement.class, statement.verb), (class, verb), "{text}");
        assert_eq!(statement.understood, class != Unknown, "{text}");
    }
}

#[test]
fn what_is_not_understood_is_no_read() {
    for text in [
        "select 'open",
        "select \"open",
        "select $a$ open",
        "select 1 /* open",
        "select (1",
        "select 1)",
        "select \"\"",
        "select \u{1}",
        "select U&\"\\d800\"",
        "select 'a\0b'",
        "begin nonsense",
        "begin read only,",
        "set",
        "set x",
        "reset",
        "discard everything",
        "show",
        "explain explain explain explain select 1",
    ] {
        let statement = one(text);
        assert!(!statement.understood, "{text}: {statement:?}");
        assert_ne!(statement.class, Class::Read, "{text}");
    }
}

#[test]
fn scripts_have_their_statements_in_order() {
    assert_eq!(classes(""), []);
    assert_eq!(classes(" ; ;; -- x"), []);
    assert_eq!(classes("select 1; -- c\n/* d */"), [Class::Read]);
    assert_eq!(classes("select 1; insert into t values (1)"), [Class::Read, Class::Write]);
    assert_eq!(classes("select E'\\\\'; insert into t values ('e')"), [Class::Read, Class::Write]);
    assert_eq!(
        classes("select 'a\\'; insert into t values ('e') --'"),
        [Class::Read, Class::Write]
    );
    let off = Lexis { standard_conforming_strings: false };
    let text = b"select 'a\\'; insert into t values (1) --'";
    assert_eq!(analyze(text, off).statements.len(), 1);
    assert_eq!(
        classes("begin; set local x to 1; commit"),
        [Class::Transaction, Class::Session, Class::Transaction]
    );
    assert_eq!(
        classes(
            "create rule r as on insert to t do also (insert into u values (1); notify c); select 1"
        ),
        [Class::Ddl, Class::Read]
    );
}

fn modes(read_only: Option<bool>, isolation: Option<Isolation>, deferrable: Option<bool>) -> Modes {
    Modes { read_only, isolation, deferrable }
}

#[test]
fn transaction_control_in_every_spelling() {
    use Isolation::{ReadCommitted, ReadUncommitted, RepeatableRead, Serializable};
    use Transaction::{
        Begin, Commit, CommitPrepared, Prepare, Release, Rollback, RollbackPrepared, RollbackTo,
        Savepoint, Set, SetCharacteristics, SetSnapshot,
    };
    let plain = Modes::default();
    let table = [
        ("begin", Begin(plain)),
        ("BEGIN WORK", Begin(plain)),
        ("begin transaction read only", Begin(modes(Some(true), None, None))),
        (
            "start transaction isolation level repeatable read, read only, deferrable",
            Begin(modes(Some(true), Some(RepeatableRead), Some(true))),
        ),
        (
            "begin isolation level serializable read write not deferrable",
            Begin(modes(Some(false), Some(Serializable), Some(false))),
        ),
        ("begin isolation level read committed", Begin(modes(None, Some(ReadCommitted), None))),
        ("begin read only read write", Begin(modes(Some(false), None, None))),
        ("commit", Commit { chain: false }),
        ("commit work and chain", Commit { chain: true }),
        ("end transaction and no chain", Commit { chain: false }),
        ("rollback", Rollback { chain: false }),
        ("abort and chain", Rollback { chain: true }),
        ("savepoint \"A b\"", Savepoint("A b".into())),
        ("release savepoint A", Release("a".into())),
        ("release a", Release("a".into())),
        ("rollback to a", RollbackTo("a".into())),
        ("rollback work to savepoint a", RollbackTo("a".into())),
        ("prepare transaction 'x'", Prepare),
        ("commit prepared 'x'", CommitPrepared),
        ("rollback prepared 'x'", RollbackPrepared),
        (
            "set transaction isolation level read uncommitted",
            Set(modes(None, Some(ReadUncommitted), None)),
        ),
        ("set local transaction read only", Set(modes(Some(true), None, None))),
        ("set transaction snapshot '1'", SetSnapshot),
        (
            "set session characteristics as transaction read only",
            SetCharacteristics(modes(Some(true), None, None)),
        ),
    ];
    for (text, expected) in table {
        let statement = one(text);
        assert_eq!(statement.transaction, Some(expected), "{text}");
        assert_eq!(statement.class, Class::Transaction, "{text}");
        assert!(statement.understood, "{text}");
    }
}

#[test]
fn session_effects_in_every_spelling() {
    let set = |name: &str| Effect::Set { name: name.into(), local: false, to_default: false };
    let default = |name: &str| Effect::Set { name: name.into(), local: false, to_default: true };
    let local = |name: &str| Effect::Set { name: name.into(), local: true, to_default: false };
    let table: Vec<(&str, Vec<Effect>)> = vec![
        ("set work_mem = '4MB'", vec![set("work_mem")]),
        ("SET Search_Path TO a, \"B\"", vec![set("search_path")]),
        ("set session work_mem to default", vec![default("work_mem")]),
        ("set local my.setting = 'x'", vec![local("my.setting")]),
        ("set time zone 'UTC'", vec![set("timezone")]),
        ("set local time zone interval '1' hour to minute", vec![local("timezone")]),
        ("set time zone local", vec![default("timezone")]),
        ("set names 'utf8'", vec![set("client_encoding")]),
        ("set names", vec![default("client_encoding")]),
        ("set schema 'x'", vec![set("search_path")]),
        ("set role none", vec![set("role")]),
        ("set role to x", vec![set("role")]),
        ("set session authorization default", vec![default("session_authorization")]),
        ("set session session authorization x", vec![set("session_authorization")]),
        ("set local session authorization x", vec![local("session_authorization")]),
        ("set xml option document", vec![set("xmloption")]),
        ("set constraints all deferred", vec![Effect::Constraints]),
        ("reset all", vec![Effect::ResetAll]),
        ("reset TimeZone", vec![Effect::Reset("timezone".into())]),
        ("reset time zone", vec![Effect::Reset("timezone".into())]),
        ("reset session authorization", vec![Effect::Reset("session_authorization".into())]),
        ("reset role", vec![Effect::Reset("role".into())]),
        ("reset transaction isolation level", vec![Effect::Reset("transaction_isolation".into())]),
        ("discard temporary", vec![Effect::DiscardTemp]),
        ("discard plans", vec![Effect::DiscardPlans]),
        ("discard sequences", vec![Effect::DiscardSequences]),
        ("select pg_catalog.set_config('a', 'b', false)", vec![Effect::SetConfig]),
        ("insert into t select set_config('a', 'b', true)", vec![Effect::SetConfig]),
        ("prepare p (int) as select $1", vec![Effect::Prepare("p".into())]),
        ("execute p(1)", vec![Effect::Execute("p".into())]),
        ("explain execute p", vec![Effect::Execute("p".into())]),
        ("create table t as execute p(1)", vec![Effect::Execute("p".into())]),
        ("create trigger g before insert on t execute function f()", vec![]),
        ("deallocate prepare p", vec![Effect::Deallocate("p".into())]),
        ("deallocate prepare", vec![Effect::Deallocate("prepare".into())]),
        ("deallocate all", vec![Effect::DeallocateAll]),
        ("declare c cursor with hold for select 1", vec![Effect::Declare { hold: true }]),
        (
            "declare c no scroll cursor without hold for select 1",
            vec![Effect::Declare { hold: false }],
        ),
        ("close c", vec![Effect::CloseCursor]),
        ("listen c", vec![Effect::Listen]),
        ("unlisten c", vec![Effect::Unlisten]),
        ("create temp table x (a int)", vec![Effect::CreateTemp]),
        ("create local temporary view v as select 1", vec![Effect::CreateTemp]),
        ("create or replace temp view v as select 1", vec![Effect::CreateTemp]),
        ("create table pg_temp.x (a int)", vec![Effect::CreateTemp]),
        (
            "create function \"pg_temp\".f() returns int language sql as '1'",
            vec![Effect::CreateTemp],
        ),
        ("select 1 into temporary x", vec![Effect::CreateTemp]),
        ("select 1 into pg_temp.x", vec![Effect::CreateTemp]),
        ("drop table pg_temp.x", vec![]),
        ("select pg_advisory_lock(1)", vec![Effect::AdvisoryLock]),
        ("select pg_try_advisory_lock_shared(1)", vec![Effect::AdvisoryLock]),
        ("select pg_advisory_xact_lock(1)", vec![]),
        ("select pg_advisory_unlock_all()", vec![Effect::AdvisoryUnlock]),
        ("select nextval ('s')", vec![Effect::SequenceAdvance]),
        ("select \"nextval\"('s')", vec![Effect::SequenceAdvance]),
        ("select U&\"n\\0065xtval\"('s')", vec![Effect::SequenceAdvance]),
        ("select U&\"n!0065xtval\" uescape '!' ('s')", vec![Effect::SequenceAdvance]),
        ("values (setval('s', 1))", vec![Effect::SequenceAdvance]),
        ("select currval('s'), lastval()", vec![Effect::SequenceRead]),
        ("load 'x'", vec![Effect::Load]),
        ("do 'x'", vec![Effect::Opaque]),
        ("call p()", vec![Effect::Opaque]),
        ("select nextval, currval from lastval", vec![]),
    ];
    for (text, expected) in table {
        assert_eq!(one(text).session, expected, "{text}");
    }
}

#[test]
fn inner_statements_have_facts_of_their_own() {
    let inner = |text: &str| one(text).inner.expect("it has an inner statement");
    assert_eq!(inner("prepare p as insert into t values (1)").class, Class::Write);
    let query = inner("prepare p (text, numeric(3)) as select nextval('s') from t");
    assert_eq!(
        (query.class, query.session.as_slice()),
        (Class::Read, &[Effect::SequenceAdvance][..])
    );
    assert_eq!(inner("declare c cursor for select * from t for update").class, Class::LockingRead);
    assert_eq!(one("explain declare c cursor for select 1").class, Class::Read);
    assert_eq!(
        one("show transaction isolation level").shown.as_deref(),
        Some("transaction_isolation")
    );
    assert_eq!(one("show Causeway.LSN").shown.as_deref(), Some("causeway.lsn"));
    assert_eq!(one("show all").shown.as_deref(), Some("all"));
}

#[test]
fn shapes_ignore_what_is_only_a_value() {
    let same = [
        ("select 1", "SELECT  2 -- x"),
        ("select 'a', 1.5, $1", "select E'b\\'' /* y */, 0x1F, $27"),
        ("select * from t where a in (1, 2, 3)", "select * from T where A in (4)"),
        ("select * from t where a in ($1,$2) and b", "select * from t where a in ($1) and b"),
        ("insert into t values (1, 'a'), (2, 'b')", "insert into t values (3, 'c')"),
        ("select array[1,2]", "select array[1,2,3,4]"),
        ("select 'a'\n'b'", "select 'c'"),
        ("select U&'a!0041' uescape '!'", "select $x$y$x$"),
        ("select U&\"\\0061b\"", "select \"ab\""),
        ("select 1;;", ";select 2"),
        ("select a+ 1", "select a+/* */1"),
    ];
    for (left, right) in same {
        assert_eq!(script(left).shape, script(right).shape, "{left} | {right}");
    }
    let differ = [
        ("select f(1)", "select f(1, 2)"),
        ("select \"A\"", "select a"),
        ("select a.b", "select a b"),
        ("select a in (1)", "select a in (1, f(2))"),
        ("select t.in (1)", "select t.in (1, 2)"),
        ("select 1", "/* causeway: primary */ select 1"),
        ("values (1)", "values (1, 2)"),
        ("values (1), (f(1))", "values (1)"),
        ("select 1; select 2", "select 1"),
        ("select u & 'a'", "select U&'a'"),
    ];
    for (left, right) in differ {
        assert_ne!(script(left).shape, script(right).shape, "{left} | {right}");
    }
    let hinted = script("select 1 /*causeway='replica,max_lag=1s'*/");
    assert_eq!(hinted.hints.route, Some(RouteHint::Replica));
}

#[test]
fn the_value_of_a_set_can_be_said_again() {
    let table = [
        ("set work_mem = '4MB'", "SET \"work_mem\" TO '4MB'", Some("4MB")),
        (" /* c */ SET Search_Path TO a, \"B\" ; ", "SET \"search_path\" TO a, \"B\"", None),
        ("set x.y to -1.5", "SET \"x\".\"y\" TO -1.5", None),
        ("set local x to on", "SET LOCAL \"x\" TO on", Some("on")),
        ("set time zone interval '1' hour", "SET TIME ZONE interval '1' hour", None),
        ("set time zone default", "SET \"timezone\" TO DEFAULT", None),
        ("set names 'utf8'", "SET \"client_encoding\" TO 'utf8'", Some("utf8")),
        ("set role \"a\"\"b\"", "SET \"role\" TO \"a\"\"b\"", Some("a\"b")),
        ("set session authorization x", "SET \"session_authorization\" TO x", Some("x")),
        ("set a = 'it''s'", "SET \"a\" TO 'it''s'", Some("it's")),
        ("set a = OFF", "SET \"a\" TO OFF", Some("off")),
    ];
    for (text, replay, plain) in table {
        let set = set_value(text.as_bytes(), Lexis::default()).expect(text);
        assert_eq!(String::from_utf8(set.replay(set.local)).unwrap(), replay, "{text}");
        assert_eq!(set.plain().as_deref(), plain, "{text}");
    }
    for text in [
        "select 1",
        "set transaction read only",
        "set x = 1; set y = 2",
        "set x from current",
        "set x = 'open",
        "set constraints all deferred",
        "",
    ] {
        assert_eq!(set_value(text.as_bytes(), Lexis::default()), None, "{text}");
    }
    let names = set_value(b"set names", Lexis::default()).expect("a SET");
    assert_eq!(names.value, SetValue::Default);
}
