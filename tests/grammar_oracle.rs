//! PostgreSQL's own grammar (`pg_query`) as the oracle of `causeway::sql`.
//!
//! Over the project's corpus, over nested queries that proptest makes up, and over any corpus of
//! JSON lines in the directory that `CAUSEWAY_CORPUS` names: no statement whose tree writes, locks
//! or creates is called a read; every function and relation of a read's tree is among its facts.

use std::path::Path;

use causeway::sql::statement::Class;
use causeway::sql::{Lexis, Statement, analyze, split};
use proptest::prelude::*;

/// What PostgreSQL's tree of one statement says.
struct Truth {
    /// Its tree, printed, with the contents of strings taken out.
    bare: String,
    /// Its tree, printed.
    full: String,
}

/// Functions that the grammar itself puts in place of a syntax.
const SYNTAX: [&str; 16] = [
    "extract",
    "overlay",
    "position",
    "substring",
    "btrim",
    "ltrim",
    "rtrim",
    "timezone",
    "normalize",
    "is_normalized",
    "like_escape",
    "similar_to_escape",
    "overlaps",
    "xmlexists",
    "pg_collation_for",
    "system_user",
];

impl Truth {
    fn of(text: &str) -> Option<Vec<Self>> {
        let parsed = pg_query::parse(text).ok()?;
        let print = |statement: &pg_query::protobuf::RawStmt| {
            let full = format!("{:?}", statement.stmt);
            Self { bare: without_strings(&full), full }
        };
        Some(parsed.protobuf.stmts.iter().map(print).collect())
    }

    /// What no read has anywhere in it.
    fn objection(&self) -> Option<&'static str> {
        const NEVER: [&str; 7] = [
            "InsertStmt {",
            "UpdateStmt {",
            "DeleteStmt {",
            "MergeStmt {",
            "LockingClause {",
            "into_clause: Some(",
            "CreateTableAsStmt {",
        ];
        const READS: [&str; 3] = ["SelectStmt", "ExplainStmt", "CopyStmt"];
        let top = self.bare.strip_prefix("Some(Node { node: Some(").unwrap_or_default();
        if !READS.iter().any(|known| top.starts_with(known)) {
            return Some("is no query");
        }
        if top.starts_with("CopyStmt")
            && (self.bare.contains("is_from: true") || self.bare.contains("is_program: true"))
        {
            return Some("copies in, or through a program");
        }
        NEVER.into_iter().find(|kind| self.bare.contains(kind))
    }

    /// The names that a constructor like `RangeVar {` holds in the fields that `read` finds.
    fn each<'a>(&'a self, kind: &'static str) -> impl Iterator<Item = &'a str> {
        self.full.match_indices(kind).map(|(at, _)| &self.full[at + kind.len()..])
    }

    fn functions(&self) -> Vec<String> {
        self.each("FuncCall { funcname: [")
            .map(|rest| {
                let names = rest.split(']').next().unwrap_or_default();
                let function = names.rsplit("sval: \"").next().unwrap_or_default();
                let name = function.split('"').next().unwrap_or_default().to_owned();
                let system = names.contains("sval: \"pg_catalog\"");
                (name, system)
            })
            .filter(|(name, system)| !(*system && SYNTAX.contains(&name.as_str())))
            .map(|(name, _)| name)
            .collect()
    }

    fn relations(&self) -> Vec<String> {
        self.each("RangeVar { ")
            .filter_map(|rest| rest.split("relname: \"").nth(1)?.split('"').next())
            .map(ToOwned::to_owned)
            .collect()
    }

    fn ctes(&self) -> Vec<String> {
        self.each("CommonTableExpr { ctename: \"")
            .filter_map(|rest| rest.split('"').next())
            .map(ToOwned::to_owned)
            .collect()
    }
}

fn without_strings(printed: &str) -> String {
    let mut bare = String::with_capacity(printed.len());
    let mut inside = false;
    let mut escaped = false;
    for character in printed.chars() {
        match character {
            _ if escaped => escaped = false,
            '\\' if inside => escaped = true,
            '"' => inside = !inside,
            _ if !inside => bare.push(character),
            _ => {}
        }
    }
    bare
}

/// Holds the facts of a text against its tree; says what is wrong.
fn compare(text: &str) -> Result<(), String> {
    let Some(truths) = Truth::of(text) else { return Ok(()) };
    let script = analyze(text.as_bytes(), Lexis::default());
    if script.statements.len() != truths.len() {
        return Err(format!("{} statements, not {}", script.statements.len(), truths.len()));
    }
    if split(text.as_bytes(), Lexis::default()).len() != truths.len() {
        return Err("split finds another number of statements".into());
    }
    for (statement, truth) in script.statements.iter().zip(&truths) {
        compare_one(statement, truth)?;
    }
    Ok(())
}

fn compare_one(statement: &Statement, truth: &Truth) -> Result<(), String> {
    if statement.class != Class::Read {
        return Ok(());
    }
    if let Some(objection) = truth.objection() {
        return Err(format!("called a read, but {objection}"));
    }
    for name in truth.functions() {
        if !statement.calls.iter().any(|call| *call.name.name == *name) {
            return Err(format!("function {name} is missing from {:?}", statement.calls));
        }
    }
    let ctes = truth.ctes();
    for name in truth.relations() {
        let known = statement.relations.iter().any(|relation| *relation.name == *name);
        if !known && !ctes.contains(&name) {
            return Err(format!("relation {name} is missing from {:?}", statement.relations));
        }
    }
    Ok(())
}

/// The statements of the project's corpus: one a line, comments and empty lines apart.
fn own_corpus() -> impl Iterator<Item = (bool, &'static str)> {
    let mut read = false;
    include_str!("corpus/statements.sql").lines().filter_map(move |line| {
        match line.strip_prefix("--- ") {
            Some(section) => read = section.starts_with("read"),
            None if !line.is_empty() => return Some((read, line)),
            None => {}
        }
        None
    })
}

#[test]
fn the_grammar_agrees_on_the_own_corpus() {
    let mut count = 0;
    for (read, text) in own_corpus() {
        if let Err(error) = compare(text) {
            panic!("{text}\n{error}");
        }
        let script = analyze(text.as_bytes(), Lexis::default());
        let all_read = script.statements.iter().all(|one| one.class == Class::Read);
        assert_eq!(all_read, read, "{text}\n{:?}", script.statements);
        count += 1;
    }
    assert!(count >= 250, "the corpus has only {count} statements");
}

#[test]
fn the_grammar_agrees_on_a_corpus_from_elsewhere() {
    let Ok(directory) = std::env::var("CAUSEWAY_CORPUS") else { return };
    let mut wrong = Vec::new();
    let (mut reads, mut seen, mut expected, mut count) = (0, 0, 0, 0);
    for file in ["corpus.jsonl", "tricky.jsonl"] {
        let Ok(lines) = std::fs::read_to_string(Path::new(&directory).join(file)) else { continue };
        for line in lines.lines() {
            let row: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            let Some(text) = row["sql"].as_str() else { continue };
            count += 1;
            if let Err(error) = compare(text) {
                wrong.push(format!("{text}\n    {error}"));
            }
            let script = analyze(text.as_bytes(), Lexis::default());
            let read = script.statements.iter().all(|one| one.class == Class::Read);
            reads += usize::from(read);
            if row["truth"] == "replica-ok" {
                expected += 1;
                seen += usize::from(read);
                if !read && std::env::var("CAUSEWAY_VERBOSE").is_ok() {
                    println!(
                        "NOT A READ {text:?} {:?}",
                        script.statements.first().map(|s| (s.class, s.understood))
                    );
                }
            }
        }
    }
    println!(
        "{count} statements, {reads} called reads; {seen} of {expected} that may go to a replica"
    );
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Expressions, queries and statements by a grammar of their own.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("1".to_owned()),
        Just("a".to_owned()),
        Just("t.update".to_owned()),
        Just("'for update; insert into t'".to_owned()),
        Just("$q$ delete from t $q$".to_owned()),
        Just("\"insert\"".to_owned()),
        Just("$1".to_owned()),
        Just("null /* ; */".to_owned()),
        Just("E'\\''".to_owned()),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![
            inner.clone().prop_map(|a| format!("f({a})")),
            pair.clone().prop_map(|(a, b)| format!("s.\"G\"({a}, {b})")),
            pair.clone().prop_map(|(a, b)| format!("({a} + {b})")),
            pair.clone().prop_map(|(a, b)| format!("{a} in ({b}, 2)")),
            pair.clone().prop_map(|(a, b)| format!("case when {a} then {b} end")),
            pair.prop_map(|(a, b)| format!("substring({a} from {b})")),
            inner.prop_map(|a| format!("coalesce({a}, count(*))")),
        ]
    })
}

fn query() -> impl Strategy<Value = String> {
    let table = prop_oneof![
        Just("t"),
        Just("s.\"T\""),
        Just("only u"),
        Just("g(1) as x(a)"),
        Just("update"),
    ];
    let simple = (expression(), table, expression())
        .prop_map(|(list, from, condition)| format!("select {list} from {from} where {condition}"));
    simple.prop_recursive(4, 24, 3, |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![
            pair.clone().prop_map(|(a, b)| format!("({a}) union all ({b})")),
            pair.clone()
                .prop_map(|(a, b)| format!("with x as ({a}), y(c) as ({b}) select f(1) from x, v")),
            pair.clone().prop_map(|(a, b)| format!("with recursive x as materialized ({a}) ({b})")),
            pair.prop_map(|(a, b)| format!(
                "select ({a} limit 1) from ({b}) as q(d) join w using (e)"
            )),
            inner.clone().prop_map(|a| format!("select 1 where exists ({a}) order by f(1), g(2)")),
            inner.clone().prop_map(|a| format!("select * from ({a}) q for no key update")),
            inner.clone().prop_map(|a| format!("select 1 into z from ({a}) q")),
            inner
                .clone()
                .prop_map(|a| format!("with d as (insert into t {a} returning *) table d")),
            inner.clone().prop_map(|a| format!("with d as (update t set a = 1 returning a) {a}")),
            inner
                .clone()
                .prop_map(|a| format!("with d as (delete from t returning a) select ({a})")),
            inner.prop_map(|a| format!("values (({a})), (1)")),
        ]
    })
}

fn text() -> impl Strategy<Value = String> {
    let statement = (query(), 0..6).prop_map(|(query, kind)| match kind {
        0 => format!("explain (analyze, costs off) {query}"),
        1 => format!("copy ({query}) to stdout"),
        2 => format!("declare c cursor for {query}"),
        3 => format!("create table n as {query}"),
        _ => query,
    });
    prop::collection::vec(statement, 1..3).prop_map(|list| list.join("; "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_grammar_agrees_on_made_up_queries(text in text()) {
        if let Err(error) = compare(&text) {
            return Err(TestCaseError::fail(format!("{text}\n{error}")));
        }
    }
}
