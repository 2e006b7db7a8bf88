//! What statements name: calls with their arity, relations, identifiers and operators.

use super::super::{Lexis, analyze};
use super::one;

/// `schema.name/arity`, with `?` for an arity that is not known.
fn calls(text: &str) -> Vec<String> {
    let statement = one(text);
    statement
        .calls
        .iter()
        .map(|call| {
            let schema = call.name.schema.as_ref().map_or(String::new(), |s| format!("{s}."));
            let arity = call.arity.map_or("?".to_owned(), |arity| arity.to_string());
            format!("{schema}{}/{arity}", call.name.name)
        })
        .collect()
}

fn relations(text: &str) -> Vec<String> {
    one(text)
        .relations
        .iter()
        .map(|name| match &name.schema {
            Some(schema) => format!("{schema}.{}", name.name),
            None => name.name.to_string(),
        })
        .collect()
}

#[test]
fn calls_are_found_with_their_arity() {
    let table: &[(&str, &[&str])] = &[
        ("select f(), g(1), h(1, (2), array[3, 4])", &["f/0", "g/1", "h/3"]),
        ("select count(*), count(distinct a), sum(all b)", &["count/0", "count/1", "sum/1"]),
        ("select array_agg(a order by b, c), f(variadic x)", &["array_agg/1", "f/?"]),
        ("select percentile_cont(0.5) within group (order by a)", &["percentile_cont/?"]),
        ("select S.F(1), \"Q\".\"G\"(1)", &["s.f/1", "Q.G/1"]),
        ("select f(g(1, 2), h())", &["f/2", "g/2", "h/0"]),
        (
            "select coalesce(f(1)), greatest(1), cast(g(1) as numeric(3)), exists (select h())",
            &["f/1", "g/1", "h/0"],
        ),
        ("select a::numeric(3), a::foo(4), a::s.foo(4), cast(a as bar(3))", &[]),
        ("select a::character varying(3), 'x'::varchar(4), interval '1' second(3)", &[]),
        ("select * from f(1) as x(a, b), lateral g(x.a) y(c), t z(d)", &["f/1", "g/1"]),
        ("select * from a join b on f(a.x) = g(b.x), h(1)", &["f/1", "g/1", "h/1"]),
        ("select * from t tablesample bernoulli (10) repeatable (f(1))", &["bernoulli/1", "f/1"]),
        ("with x(a, b) as (select f(1)), y (c) as (select 1) select g(a) from x", &["f/1", "g/1"]),
        (
            "with x as (select 1) (select f(1), g(2)) order by h(1), i(2)",
            &["f/1", "g/1", "h/1", "i/1"],
        ),
        ("select distinct on (a) f(b) from t", &["f/1"]),
        ("select a from t where b in (1) and c like ('x') and not d ilike ('y')", &[]),
        (
            "select a from t group by rollup (a, f(b)), cube(c), grouping sets ((), rollup(d))",
            &["f/1"],
        ),
        ("select rollup(1)", &["rollup/1"]),
        (
            "select sum(a) over (partition by f(b)), sum(a) filter (where g(c)) from t",
            &["sum/1", "f/1", "g/1"],
        ),
        ("select * from json_to_recordset('[]') as x(a int, b foo(3))", &["json_to_recordset/1"]),
        ("select * from xmltable('/a' passing f(x) columns b text default g(1))", &["f/1", "g/1"]),
        ("explain (costs off) select f(1)", &["f/1"]),
        ("explain verbose (select f(1))", &["f/1"]),
        ("copy (select f(1)) to stdout (format csv, force_quote (a))", &["f/1"]),
        ("copy t (a, b) to stdout with (header)", &[]),
        ("select a from t order by (b), f(c) limit g(1) offset h(2)", &["f/1", "g/1", "h/1"]),
        (
            "insert into t (a, b) values (f(1), 2) on conflict (a) do update set b = g(1), c = h(2)",
            &["f/1", "g/1", "h/1"],
        ),
        ("insert into t select * from s on conflict (a) do update set b = 1, c = h(2)", &["h/1"]),
        ("select t.f(1)", &["t.f/1"]),
        ("select 1 operator(pg_catalog.+) f(2)", &["f/1"]),
        ("select operator(1)", &["operator/1"]),
        (
            "select substring(a, 1), substring(b from 2), overlay(c placing d from 3)",
            &["substring/2", "substring/?", "overlay/?"],
        ),
        ("call p(f(1))", &["p/1", "f/1"]),
        ("execute p(f(1))", &["f/1"]),
        ("declare c cursor for select f(1)", &["f/1"]),
        ("prepare p as select f(1)", &[]),
    ];
    for (text, expected) in table {
        assert_eq!(calls(text), *expected, "{text}");
    }
}

#[test]
fn relations_are_found_in_their_places() {
    let table: &[(&str, &[&str])] = &[
        ("select * from a", &["a"]),
        (
            "select * from A, s.B as x, \"C d\" y join e using (f) left join g on h = i, j",
            &["a", "s.b", "C d", "e", "g", "j"],
        ),
        ("select * from only a, only (b)", &["a", "b"]),
        (
            "select * from (a join b on true) cross join lateral (select * from c) d",
            &["a", "b", "c"],
        ),
        ("select extract(year from a), substring(b from 1), trim(both from c) from t", &["t"]),
        ("select a is distinct from b from t", &["t"]),
        (
            "select (select max(x) from u), array(select y from v) from t where exists (table w)",
            &["u", "v", "t", "w"],
        ),
        ("table t union table only u", &["t", "u"]),
        ("with x as (select * from t) select * from x join u on true", &["t", "u"]),
        ("with t as (select * from t) select * from t", &["t"]),
        ("with recursive r as (select 1 union select * from r) select * from r", &[]),
        ("with x as (select 1), y as (select * from x) select * from y, z", &["z"]),
        ("(with x as (select 1) select * from x) union select * from x", &["x"]),
        ("select * from (with x as (select 1) table x) q, x", &["x"]),
        ("with x as (select 1) select * from s.x", &["s.x"]),
        ("with recursive x(a) as (select 1) cycle a set c using p select * from x", &[]),
        ("select * from f(1) a, rows from (g(2)) b, t", &["t"]),
        ("select * from temp", &["temp"]),
        ("select * from a.b.c", &["b.c"]),
        ("insert into t (a) select * from u", &["t", "u"]),
        ("update only t set a = 1 from u where true", &["t", "u"]),
        ("delete from t using u, v where true", &["t", "u", "v"]),
        ("merge into t using s on true when matched then update set a = 1, b = 2", &["t", "s"]),
        ("copy s.t (a) to stdout", &["s.t"]),
        ("copy (select * from t) to stdout", &["t"]),
        ("select 1 into temp x from t", &["x", "t"]),
        ("explain select * from t", &["t"]),
        ("select a from t for update of t", &["t"]),
    ];
    for (text, expected) in table {
        assert_eq!(relations(text), *expected, "{text}");
    }
}

#[test]
fn identifiers_and_operators_are_found() {
    let statement = one("select t.attr, (t).other, \"X\" @+@ 1 -> 'a' operator(s.+) 2 from t");
    let names: Vec<&str> = statement.identifiers.iter().map(|name| &**name).collect();
    assert_eq!(names, ["t", "attr", "other", "X", "s"]);
    assert_eq!(statement.operators, ["@+@".into(), "+".into()] as [Box<str>; 2]);
    assert_eq!(statement.builtin_operators, ["->"]);
    let long = "x".repeat(80);
    assert_eq!(&*one(&format!("select {long}")).identifiers[0], &long[..63]);
    assert!(one("select é").non_ascii && !one("select e").non_ascii);
    let latin = analyze(b"select \xe9", Lexis::default());
    assert!(!latin.statements[0].understood, "a name that is no UTF-8 cannot be looked up");
}
