//! Decisions over a small database described in rows: kinds of statements in our own words
//! (`corpus/routing.txt`), precedence, search paths, and the memory of the router.

use std::sync::Arc;
use std::time::Duration;

use causeway::catalog::Catalog;
use causeway::catalog::body::{Body, Words};
use causeway::catalog::node_tree::References;
use causeway::catalog::rows::{Function, Operator, Relation, Rows, Type};
use causeway::config::settings::{Balance, Consistency, Routing, Rule, RuleTarget};
use causeway::routing::{
    Asked, Decision, LearnedShapes, Reason, Router, SessionView, Target, decide,
};
use causeway::sql::statement::{Lexis, RouteHint, Script};

const CORPUS: &str = include_str!("corpus/routing.txt");
const NEXTVAL: u32 = 1574;
const APP: u32 = 20_000;
const OTHER: u32 = 20_001;
const WATCHED: u32 = 40_000;

fn function(oid: u32, schema: u32, name: &str, volatile: bool, arguments: u16) -> Function {
    Function {
        oid,
        name: name.into(),
        schema,
        volatile,
        shipped: oid < 16_384,
        fewest: arguments,
        most: arguments,
        argument_types: Vec::new(),
        defaults: None,
        body: None,
    }
}

fn relation(oid: u32, schema: u32, name: &str, kind: u8, persistence: u8) -> Relation {
    Relation { oid, name: name.into(), schema, kind, persistence, row_type: oid + 10_000 }
}

fn calls(function: u32) -> References {
    References { functions: vec![function], ..References::default() }
}

fn functions(words: &mut Words) -> Vec<Function> {
    let mut sourced = |mut of: Function, source: &str| {
        of.body = Some(Body::read(source, false, words));
        of
    };
    vec![
        function(NEXTVAL, 11, "nextval", true, 1),
        function(30_000, APP, "steady", false, 1),
        sourced(
            function(30_001, APP, "place_order", true, 1),
            "begin insert into orders values ($1); return 1; end",
        ),
        sourced(
            function(30_002, APP, "reader", true, 0),
            "begin raise notice 'delete'; return (select count(*) from items); end",
        ),
        sourced(function(30_003, APP, "liar", false, 0), "begin return nextval('order_ids'); end"),
        sourced(function(30_004, APP, "caller", true, 0), "begin return place_order(1); end"),
        sourced(
            function(30_012, APP, "circle_a", true, 1),
            "begin return case when $1 > 0 then circle_b($1 - 1) end; end",
        ),
        sourced(function(30_013, APP, "circle_b", true, 1), "begin return circle_a($1); end"),
        sourced(
            function(30_014, APP, "circle_c", true, 1),
            "begin return circle_c($1 - 1) + place_order(1); end",
        ),
        sourced(function(30_015, APP, "understated", false, 0), "begin return opaque(1, 2); end"),
        function(30_005, APP, "overloaded", false, 1),
        function(30_006, APP, "overloaded", true, 2),
        function(30_007, OTHER, "lower", true, 1),
        function(30_008, APP, "opaque", true, 2),
        function(30_009, OTHER, "elsewhere", true, 0),
        function(30_010, APP, "vouched_by_rule", true, 0),
        function(30_011, APP, "vouched", true, 0),
    ]
}

fn database() -> Catalog {
    let mut words = Words::default();
    let functions = functions(&mut words);
    let reads = |oid| References { relations: vec![oid], ..References::default() };
    let rows = Rows {
        schemas: vec![(11, "pg_catalog".into()), (APP, "app".into()), (OTHER, "other".into())],
        functions,
        words,
        relations: vec![
            relation(50_000, APP, "orders", b'r', b'p'),
            relation(50_001, APP, "items", b'r', b'p'),
            relation(50_002, APP, "order_ids", b'S', b'p'),
            relation(50_003, APP, "cache", b'r', b'u'),
            relation(50_004, APP, "remote", b'f', b'p'),
            relation(50_005, APP, "summary", b'v', b'p'),
            relation(50_006, APP, "counted", b'v', b'p'),
            relation(50_007, APP, "on_cache", b'v', b'p'),
            relation(50_008, APP, "locking", b'v', b'p'),
            relation(50_009, APP, "guarded", b'r', b'p'),
            relation(50_010, OTHER, "orders", b'r', b'u'),
            relation(50_011, APP, "totals", b'm', b'p'),
            relation(50_012, APP, "partitioned", b'p', b'p'),
            relation(50_013, APP, "hot", b'r', b'p'),
        ],
        children: vec![(50_012, 50_003)],
        views: vec![
            (50_005, reads(50_000)),
            (50_006, calls(NEXTVAL)),
            (50_007, reads(50_003)),
            (50_008, References { row_lock: true, ..reads(50_000) }),
        ],
        policies: vec![(50_009, calls(30_001))],
        operators: vec![Operator {
            name: "@+@".into(),
            function: 30_008,
            left: 23,
            right: 23,
            shadows: false,
        }],
        types: vec![Type { oid: WATCHED, name: "watched".into(), relation: 0, made_of: 23 }],
        checks: vec![(WATCHED, calls(30_001))],
        default_search_path: Some("\"$user\", app".into()),
        search_paths: vec![(Some("wanderer".into()), "other".into())],
        ..Rows::default()
    };
    Catalog::build(rows, 1)
}

fn routing() -> Routing {
    let rule =
        |name: &str, target| Rule { name: name.into(), target: Some(target), ..Rule::default() };
    Routing {
        consistency: Consistency::Eventual,
        balance: Balance::RoundRobin,
        primary_reads: true,
        catchup_wait: Duration::ZERO,
        safe_functions: vec!["app.vouched".into()],
        rules: vec![
            Rule { table: Some("hot".into()), ..rule("hot", RuleTarget::Primary) },
            Rule { function: Some("vouched_by_rule".into()), ..rule("f", RuleTarget::Replica) },
            Rule {
                application_name: Some("report".into()),
                max_lag: Some(Duration::from_secs(60)),
                name: "report".into(),
                ..Rule::default()
            },
            Rule {
                statement: Some("select id from items where id = 1".into()),
                ..rule("shape", RuleTarget::Node("n2".into()))
            },
        ],
    }
}

fn script(text: &str) -> Script {
    causeway::sql::analyze(text.as_bytes(), Lexis::default())
}

fn router() -> Router {
    Router::new(&routing(), Arc::new(LearnedShapes::default()), |text| script(text).shape)
}

fn view(catalog: Option<&Catalog>) -> SessionView<'_> {
    SessionView {
        catalog,
        database: "shop",
        user: "app",
        application_name: "",
        search_path: None,
        route: None,
        consistency: None,
        max_lag: None,
        default_isolation_serializable: false,
        names_are_utf8: true,
        temp_names_possible: false,
    }
}

fn said(decision: Decision) -> (Target, Reason) {
    (decision.target, decision.reason)
}

#[test]
fn every_kind_goes_where_it_must() {
    let (catalog, router) = (database(), router());
    let mut wrong = Vec::new();
    let lines = CORPUS.lines().filter(|line| !line.starts_with('#'));
    let mut count = 0;
    for line in lines {
        let mut parts = line.splitn(3, ' ');
        let (target, reason, text) =
            (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        let decision = router.decide(&script(text), &view(Some(&catalog)));
        if (decision.target.as_str(), decision.reason.as_str()) != (target, reason) {
            wrong.push(format!("{}/{} for {line}", decision.target.as_str(), decision.reason));
        }
        count += 1;
    }
    assert!(count > 80);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn without_a_catalog_the_primary_serves() {
    let router = router();
    let decide = |text| said(router.decide(&script(text), &view(None)));
    assert_eq!(decide("select 1"), (Target::Primary, Reason::CatalogNotLoaded));
    assert_eq!(decide("select txid_current()"), (Target::Primary, Reason::TransactionIdFunction));
    assert_eq!(decide("set a.b = 1"), (Target::Session, Reason::Set));
}

#[test]
fn names_are_looked_for_along_the_search_path() {
    let (catalog, router) = (database(), router());
    let decide = |text, path| {
        let view = SessionView { search_path: path, ..view(Some(&catalog)) };
        said(router.decide(&script(text), &view))
    };
    let read = (Target::Replica, Reason::Read);
    let unlogged = (Target::Primary, Reason::UnloggedRelation);
    assert_eq!(decide("select * from orders", None), read);
    assert_eq!(decide("select * from orders", Some("other, app")), unlogged);
    assert_eq!(decide("select * from orders", Some("not, a (list")), unlogged);
    assert_eq!(decide("select * from other.orders", None), unlogged);
    assert_eq!(decide("select lower('A')", None), read);
    assert_eq!(
        decide("select lower('A')", Some("other")),
        (Target::Primary, Reason::VolatileFunction)
    );
    // Out of the path, but the path may change before the statement runs.
    assert_eq!(decide("select elsewhere()", None), (Target::Primary, Reason::VolatileFunction));
    assert_eq!(decide("select vouched()", None), read);
    let wanderer = SessionView { user: "wanderer", ..view(Some(&catalog)) };
    assert_eq!(said(router.decide(&script("select * from orders"), &wanderer)), unlogged);
    assert_eq!(decide("select * from partitioned", None), unlogged);
}

#[test]
fn hints_outrank_the_route_and_the_route_outranks_rules() {
    let (catalog, router) = (database(), router());
    let by_route = |text, route| {
        let view = SessionView { route: Some(route), ..view(Some(&catalog)) };
        said(router.decide(&script(text), &view))
    };
    let hot = "select * from hot";
    assert_eq!(by_route(hot, RouteHint::Replica), (Target::Replica, Reason::SessionRoute));
    assert_eq!(
        by_route("/* causeway: primary */ select * from items", RouteHint::Replica),
        (Target::Primary, Reason::HintPrimary)
    );
    assert_eq!(by_route("delete from hot", RouteHint::Replica), (Target::Primary, Reason::Write));
    let report = SessionView { application_name: "report", ..view(Some(&catalog)) };
    let decision = router.decide(&script("select * from items"), &report);
    assert_eq!(said(decision), (Target::Replica, Reason::Read));
    assert_eq!(decision.max_lag, Some(Duration::from_secs(60)));
    let hinted = router.decide(&script("/* causeway: max_lag=5ms */ select * from items"), &report);
    assert_eq!(hinted.max_lag, Some(Duration::from_millis(5)));
    let shaped =
        router.decide(&script("SELECT id FROM items WHERE id = 77"), &view(Some(&catalog)));
    assert_eq!(said(shaped), (Target::Replica, Reason::Rule));
    assert!(shaped.rule.is_some());
    let level = router.decide(&script("/* causeway: consistency=primary */ select 1"), &report);
    assert_eq!(said(level), (Target::Primary, Reason::ConsistencyPrimary));
}

#[test]
fn what_a_replica_refused_is_remembered() {
    let (catalog, router) = (database(), router());
    let text = script("select steady(1)");
    let view = view(Some(&catalog));
    assert_eq!(router.decide(&text, &view).reason, Reason::Read);
    assert!(router.learned().learn("shop", text.shape));
    assert_eq!(said(router.decide(&text, &view)), (Target::Primary, Reason::LearnedPrimary));
    let elsewhere = SessionView { database: "other", ..view };
    assert_eq!(router.decide(&text, &elsewhere).reason, Reason::Read);
}

#[test]
fn the_memory_tells_circumstances_apart() {
    let (catalog, router) = (database(), router());
    let texts = ["select * from orders", "select lower('A')", "select elsewhere()", "select 1"];
    let plain = view(Some(&catalog));
    let views = [
        plain,
        SessionView { search_path: Some("other"), ..plain },
        SessionView { user: "wanderer", ..plain },
        SessionView { catalog: None, ..plain },
        SessionView { default_isolation_serializable: true, ..plain },
        SessionView { temp_names_possible: true, ..plain },
        SessionView { route: Some(RouteHint::Primary), ..plain },
    ];
    for _ in 0..2 {
        for text in texts.map(script) {
            for view in &views {
                let asked: Asked<'_> = router.asked(view);
                assert_eq!(router.decide(&text, view), decide(&text, &asked));
            }
        }
    }
}

/// A large application: what one costs in memory is bounded by what is kept of it.
#[test]
fn a_large_catalog_stays_small() {
    let mut words = Words::default();
    let mut rows =
        Rows { schemas: vec![(11, "pg_catalog".into()), (APP, "app".into())], ..Rows::default() };
    for number in 0..10_000 {
        let (oid, name) = (100_000 + number, format!("application_table_{number:05}"));
        rows.relations.push(relation(oid, APP, &name, b'r', b'p'));
        // Each has a type of its rows, and that one an array.
        for (array, oid) in [("", oid + 10_000), ("_", oid + 20_000)] {
            let name = format!("{array}{name}").into();
            rows.types.push(Type { oid, name, relation: 0, made_of: 0 });
        }
    }
    for number in 0..5_000 {
        let name = format!("application_function_{number:05}");
        let mut function = function(200_000 + number, APP, &name, number % 2 == 0, 3);
        let source = format!("begin update application_table_{number:05} set a = $1; end");
        function.body = Some(Body::read(&source, false, &mut words));
        rows.functions.push(function);
    }
    rows.words = words;
    let catalog = Catalog::build(rows, 1);
    assert_eq!(catalog.size(), (5_000, 10_000));
    let bytes = catalog.bytes();
    println!("10,000 relations and 5,000 functions: {bytes} bytes");
    assert!(bytes < 5 << 20, "{bytes} bytes");
}

/// A database in which things set something for the session, each by another way.
fn haunted() -> Catalog {
    let mut words = Words::default();
    let mut sourced = |oid, name: &str, source: &str| {
        let mut of = function(oid, APP, name, true, 1);
        of.body = Some(Body::read(source, false, &mut words));
        of
    };
    let functions = vec![
        sourced(30_000, "remember", "begin perform set_config('app.x', $1, false); return 1; end"),
        sourced(30_001, "by_another", "begin return remember($1); end"),
        sourced(30_002, "writes", "begin insert into quiet values ($1); return 1; end"),
        sourced(30_003, "writes_there", "begin insert into watched values ($1); return 1; end"),
        sourced(30_004, "log", "begin create temp table x (a int); return 1; end"),
    ];
    let mut functions = functions;
    // PostgreSQL's own, which trees name by their numbers.
    functions.push(function(2882, 11, "pg_try_advisory_lock", true, 1));
    functions.push(function(NEXTVAL, 11, "nextval", true, 1));
    let ticket = "begin return nextval('s'); end";
    let mut ticketing = function(30_005, APP, "next_ticket", true, 1);
    ticketing.body = Some(Body::read(ticket, false, &mut words));
    functions.push(ticketing);
    let mut serial = function(30_006, APP, "adds", true, 1);
    serial.body = Some(Body::read("begin insert into numbered values (1); end", false, &mut words));
    functions.push(serial);
    // Of an extension, in C.
    functions.push(Function { shipped: true, ..function(30_007, APP, "uuid_v7", true, 0) });
    let stamp = Body::read("begin new.changed = now(); return new; end", false, &mut words);
    let locks = Body::read("begin perform pg_advisory_lock(1); return new; end", false, &mut words);
    let tables = [
        "quiet",
        "watched",
        "given",
        "seen",
        "parent",
        "child",
        "referenced",
        "stamped",
        "claim",
        "numbers",
        "numbered",
    ];
    let tables = tables.iter().zip(50_000..);
    let rows = Rows {
        schemas: vec![(11, "pg_catalog".into()), (APP, "app".into())],
        functions,
        trigger_functions: vec![(31_000, Some(stamp)), (31_001, Some(locks))],
        words,
        relations: tables.map(|(name, oid)| relation(oid, APP, name, b'r', b'p')).collect(),
        triggers: vec![(50_001, 31_001), (50_005, 31_001), (50_007, 31_000)],
        attached: vec![(50_002, calls(30_001))],
        views: vec![(50_003, calls(30_000)), (50_008, calls(2882)), (50_009, calls(NEXTVAL))],
        moving: vec![("numbered".into(), false)],
        children: vec![(50_004, 50_005)],
        followers: vec![(50_006, 50_001)],
        operators: vec![Operator {
            name: "@@@".into(),
            function: 30_000,
            left: 23,
            right: 23,
            shadows: false,
        }],
        default_search_path: Some("app".into()),
        ..Rows::default()
    };
    Catalog::build(rows, 1)
}

#[test]
fn what_may_leave_something_with_its_session_is_known() {
    let catalog = haunted();
    let router = router();
    let view = SessionView { catalog: Some(&catalog), ..view(None) };
    let leaves = |text: &str| router.decide(&script(text), &view).leaves;
    for text in [
        "select remember(1)",
        "insert into quiet values (remember(1))",
        "select by_another(1) from quiet for update",
        "select writes_there(1)",
        "select log(1)",
        "select current_setting('x'), remember(1)",
        "/* causeway: replica */ select remember(1)",
        "select unheard_of(1)",
        "insert into watched values (1)",
        "delete from referenced",
        "update parent set a = 1",
        "insert into given default values",
        "select * from seen",
        "select 1 @@@ 2",
        "select query_to_xml('select 1', true, true, '')",
        "declare c cursor for select remember(1)",
        "call anything()",
        "do $$ begin end $$",
        "delete from quiet; insert into watched values (1)",
        "create table x as select remember(1)",
        "select * from claim",
        "select (1).remember",
        "select (1::bigint).pg_advisory_lock",
        "execute p(1); select 1",
        "create trigger x before insert on quiet execute function y(); insert into quiet values (1)",
    ] {
        assert!(leaves(text), "{text}");
    }
    for text in [
        "select 1",
        "insert into quiet (a) values (1) on conflict (a) do update set (a, b) = (1, 2)",
        "update stamped set a = now()",
        "select writes(1)",
        "select count(*) from quiet where a = abs(-1) for update",
        "select nextval('s'), set_config('a.b', 'c', true), pg_advisory_xact_lock(1)",
        "merge into quiet using stamped on true when not matched then insert (a) values (1)",
        "copy quiet from stdin",
        "create index on quiet (a)",
        "select watched.a, given.b from watched, given, referenced, parent",
        "insert into quiet values (uuid_v7())",
    ] {
        assert!(!leaves(text), "{text}");
    }
    let unknown = SessionView { catalog: None, ..view };
    let leaves = |text: &str| router.decide(&script(text), &unknown).leaves;
    assert!(leaves("delete from quiet"), "there may be a trigger");
    assert!(leaves("select * from quiet"), "it may be a view");
    assert!(!leaves("select 1 from pg_class") && !leaves("create table x (a int)"));
}

#[test]
fn what_may_move_a_sequence_is_known() {
    let catalog = haunted();
    let router = router();
    let view = SessionView { catalog: Some(&catalog), ..view(None) };
    let moves = |text: &str| router.decide(&script(text), &view).moves;
    for text in [
        "select next_ticket(1) from quiet for update",
        "select current_setting('TimeZone'), next_ticket(1)",
        "/* causeway: replica */ select next_ticket(1)",
        "select * from numbers",
        "select adds(1)",
        "insert into numbered default values",
        "select nextval('s')",
        "select unheard_of(1)",
        "do $$ begin end $$",
    ] {
        assert!(moves(text), "{text}");
    }
    for text in [
        "select * from numbered",
        "update numbered set a = 1",
        "insert into quiet values (1)",
        "select writes(1), remember(1)",
        "select lower('A')",
    ] {
        assert!(!moves(text), "{text}");
    }
}
