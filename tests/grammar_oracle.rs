//! PostgreSQL's own grammar (`pg_query`) as the oracle of `causeway::sql`.
//!
//! Over the project's corpus, over nested queries that proptest makes up, and over any corpus of
//! JSON lines in the directory that `CAUSEWAY_CORPUS` names: no statement whose tree writes, locks
//! or creates is called a read; every statement has the class that its tree has; every function,
//! relation, operator, type and field of a read's tree is among its facts.

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

    /// The classes that the tree's kind of statement may have; any, if it is nested in others.
    fn classes(&self) -> &'static [Class] {
        let kind = self.bare.strip_prefix("Some(Node { node: Some(").unwrap_or_default();
        match kind.split('(').next().unwrap_or_default() {
            "SelectStmt" => match self.objection() {
                None => &[Class::Read],
                Some("into_clause: Some(") => &[Class::Ddl, Class::Write],
                Some("LockingClause {") => &[Class::LockingRead, Class::Write, Class::Ddl],
                Some(_) => &[Class::Write, Class::LockingRead],
            },
            "InsertStmt" | "UpdateStmt" | "DeleteStmt" | "MergeStmt" | "TruncateStmt" => {
                &[Class::Write]
            }
            "CopyStmt" => &[
                Class::Read,
                Class::LockingRead,
                Class::Write,
                Class::Ddl,
                Class::CopyIn,
                Class::CopyFile,
            ],
            "TransactionStmt" => &[Class::Transaction],
            "VariableSetStmt" => &[Class::Session, Class::Transaction],
            "DiscardStmt" | "PrepareStmt" | "ExecuteStmt" | "DeallocateStmt" | "LoadStmt"
            | "ConstraintsSetStmt" => &[Class::Session],
            "VariableShowStmt" => &[Class::Show],
            "DeclareCursorStmt" | "FetchStmt" | "ClosePortalStmt" => &[Class::Cursor],
            "ListenStmt" | "UnlistenStmt" | "NotifyStmt" => &[Class::Notify],
            "LockStmt" => &[Class::LockTable],
            "DoStmt" | "CallStmt" => &[Class::Procedure],
            "VacuumStmt" | "ClusterStmt" | "ReindexStmt" | "CheckPointStmt"
            | "RefreshMatViewStmt" | "AlterSystemStmt" => &[Class::Maintenance],
            "ExplainStmt" => &[
                Class::Read,
                Class::Write,
                Class::LockingRead,
                Class::Ddl,
                Class::Maintenance,
                Class::Session,
            ],
            _ => &[Class::Ddl],
        }
    }

    /// The last names in the lists that `kind` begins, up to a bracket.
    fn names_in(&self, kind: &'static str) -> impl Iterator<Item = (String, bool)> {
        self.each(kind).filter_map(|rest| {
            let list = rest.split(']').next().unwrap_or_default();
            let name = list.rsplit("sval: \"").next()?.split('"').next()?;
            // Debug escapes what is in a name: not compared.
            let plain = !name.is_empty() && !name.contains('\\') && list.contains("sval: ");
            let plain = plain && !list.contains("Sval(");
            plain.then(|| (name.to_owned(), list.contains("sval: \"pg_catalog\"")))
        })
    }

    fn operators(&self) -> Vec<String> {
        let kinds = [
            "AExpr { kind: AexprOp, name: [",
            "AExpr { kind: AexprOpAny, name: [",
            "use_op: [",
            "oper_name: [",
        ];
        kinds.into_iter().flat_map(|kind| self.names_in(kind)).map(|(name, _)| name).collect()
    }

    fn types(&self) -> Vec<String> {
        let types = self.names_in("TypeName { names: [");
        types.filter(|(_, system)| !system).map(|(name, _)| name).collect()
    }

    fn fields(&self) -> Vec<String> {
        let kinds = ["ColumnRef { fields: [", "indirection: ["];
        kinds.into_iter().flat_map(|kind| self.names_in(kind)).map(|(name, _)| name).collect()
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
    // What was not understood is for the primary, whatever it is.
    if statement.class != Class::Unknown && !truth.classes().contains(&statement.class) {
        return Err(format!("is {:?}, not one of {:?}", statement.class, truth.classes()));
    }
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
    for name in truth.operators() {
        let same = |known: &str| known == name || (known == "!=" && name == "<>");
        let mut known = statement.operators.iter().map(|known| &**known);
        if !known.any(same) && !statement.builtin_operators.iter().any(|known| same(known)) {
            return Err(format!("operator {name} is missing"));
        }
    }
    for name in truth.types().into_iter().chain(truth.fields()) {
        if !statement.identifiers.iter().any(|known| **known == *name) {
            return Err(format!("name {name} is missing from {:?}", statement.identifiers));
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
    let leaf = prop::sample::select(vec![
        "1",
        "a",
        "t.update",
        "'for update; insert into t'",
        "$q$ delete from t $q$",
        "\"insert\"",
        "$1",
        "null /* ; */",
        "E'\\''",
        "U&\"d\\0061t\"",
        "(a).b",
        "(a).c[1:2].d",
        "a[1]",
        "array[1, 2]",
        "row(a, b)",
        "current_date",
        "interval '1' day",
        "s.y 'text'",
        "g.*",
    ]);
    leaf.prop_map(str::to_owned).prop_recursive(3, 16, 3, |inner| {
        let one = prop::sample::select(vec![
            "f(@)",
            "(@)::s.mine",
            "cast(@ as mine[])",
            "- @",
            "@ is not distinct from 1",
            "extract(year from @)",
            "count(@) filter (where true) over (partition by a order by f(b) rows 1 preceding)",
            "mode(2) within group (order by @)",
            "f(variadic @)",
            "f(x => @, distinct_ => 1)",
            "array(select @)",
            "exists (select @ from t)",
            "trim(both from @)",
            "xmlelement(name x, xmlattributes(@ as y), h(1))",
            "@ at time zone 'UTC'",
            "@ is json",
            "json_value(@, '$.x')",
        ]);
        let two = prop::sample::select(vec![
            "s.\"G\"(@, #)",
            "(@ + #)",
            "(@ @+@ #)",
            "(@ operator(s.<->) #)",
            "(@ = any (#))",
            "@ in (#, 2)",
            "case when @ then # end",
            "substring(@ from #)",
            "overlay(@ placing # from 1)",
            "coalesce(@, count(*), #)",
            "(@ like # escape 'x')",
            "@ between # and 3",
            "array_agg(distinct @ order by #)",
        ]);
        prop_oneof![
            (one, inner.clone()).prop_map(|(form, a)| form.replace('@', &a)),
            (two, inner.clone(), inner).prop_map(|(form, a, b)| {
                // The operator's own at-signs are no places.
                let form = form.replace("@+@", "\u{1}").replace('#', "\u{2}").replace('@', &a);
                form.replace('\u{2}', &b).replace('\u{1}', "@+@")
            }),
        ]
    })
}

fn query() -> impl Strategy<Value = String> {
    let table = prop::sample::select(vec![
        "t",
        "s.\"T\"",
        "only u",
        "only (u)",
        "u *",
        "g(1) as x(a)",
        "g(1) with ordinality as x(a, b)",
        "update",
        "rows from (g(1), h(2)) as x",
        "t tablesample own(1) repeatable (2)",
        "t natural join u as k(a, b) cross join lateral g(2)",
        "(t left join u on f(1) and true) as j",
        "json_table('[]', '$[*]' columns (a int path '$.a')) as x",
        "xmltable('/r' passing p(1) columns a int) as x",
        "generate_series(1, 2) as (a int, b mine)",
    ]);
    let simple = (expression(), table, expression())
        .prop_map(|(list, from, condition)| format!("select {list} from {from} where {condition}"));
    simple.prop_recursive(4, 24, 3, |inner| {
        let one = prop::sample::select(vec![
            "select 1 where exists (@) order by f(1), g(2) using operator(s.<)",
            "select * from (@) q for no key update",
            "select * from (@) q for share of q skip locked limit 1",
            "(@) for key share",
            "select (@ for update)",
            "select 1 into z from (@) q",
            "select into temp z from (@) q",
            "with d as (insert into t @ returning *) table d",
            "with d as not materialized (update t set a = 1 returning a) @",
            "with d as (update only t as x set (a, b) = (@) from u returning x.a) select 1",
            "with d as (delete from t using u returning a) select (@)",
            "with d as (merge into t using u on true when matched then delete returning t.a) @",
            "with a as (with b as (delete from t returning 1) select 2) @",
            "values ((@)), (1)",
            "select a, count(*) from (@) q group by grouping sets ((a), rollup (a, b), ()) having f(1)",
            "select * from (@) as q(d) window w as (order by f(d)) offset 1 fetch first 2 rows only",
            "select distinct on (f(1)) x from (@) x",
            "select * from u where (a, b) in (@)",
            "select * from u, lateral (@) as l",
        ]);
        let two = prop::sample::select(vec![
            "(@) union all (#)",
            "(@) except (#) order by 1",
            "with x as (@), y(c) as (#) select f(1) from x, v",
            "with recursive x as materialized (@) (#)",
            "with recursive x(n) as (@ union all #) cycle n set c using p select * from x, x2",
            "select (@ limit 1) from (#) as q(d) join w using (e)",
        ]);
        prop_oneof![
            (one, inner.clone()).prop_map(|(form, a)| form.replace('@', &a)),
            (two, inner.clone(), inner)
                .prop_map(|(form, a, b)| form.replace('#', "\u{2}").replace('@', &a).replace('\u{2}', &b)),
        ]
    })
}

fn text() -> impl Strategy<Value = String> {
    let form = prop::sample::select(vec![
        "@",
        "@",
        "@",
        "explain (analyze, costs off) @",
        "explain (costs, verbose off, format json) @",
        "explain analyze verbose @",
        "copy (@) to stdout with (format csv)",
        "declare c no scroll cursor with hold for @",
        "prepare p (int, mine) as @",
        "create table n as @",
        "create view n as @",
        "insert into t @ on conflict (a) do update set a = 1",
        "explain declare c cursor for @",
    ]);
    // What stands between words, for the text itself does not depend on it.
    let blank = prop::sample::select(vec![
        " ",
        " ",
        "  ",
        "\n",
        "\t",
        " /* for update */ ",
        " /* a /* b */ ; */ ",
        " -- insert into t\n",
    ]);
    let statement =
        (form, query(), blank, any::<bool>()).prop_map(|(form, query, blank, upper)| {
            let text = form.replace('@', &query);
            let text = if upper { upper_words(&text) } else { text };
            spread(&text, blank)
        });
    prop::collection::vec(statement, 1..3).prop_map(|list| list.join("; "))
}

/// Outside of quotes, every blank becomes `blank`.
fn spread(text: &str, blank: &str) -> String {
    outside_quotes(text, |part| part.replace(' ', blank))
}

/// Outside of quotes, every letter in upper case: names fold back.
fn upper_words(text: &str) -> String {
    outside_quotes(text, str::to_uppercase)
}

/// Applies a change to the parts that are in no quotes; comments and dollar quotes count as such.
fn outside_quotes(text: &str, change: impl Fn(&str) -> String) -> String {
    use causeway::sql::scan::{Kind, Scanner};
    let mut changed = String::new();
    let mut at = 0;
    for token in Scanner::new(text.as_bytes(), Lexis::default()) {
        let quoted = matches!(
            token.kind,
            Kind::String | Kind::UnicodeString | Kind::Quoted | Kind::UnicodeQuoted | Kind::Comment
        );
        if quoted {
            changed += &change(&text[at..token.start]);
            changed += &text[token.start..token.end];
            at = token.end;
        }
    }
    changed + &change(&text[at..])
}

/// A few in every run; `PROPTEST_CASES=100000` for a long one.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn the_grammar_agrees_on_made_up_queries(text in text()) {
        if let Err(error) = compare(&text) {
            return Err(TestCaseError::fail(format!("{text}\n{error}")));
        }
    }
}

/// The made-up queries are worth something only if PostgreSQL's grammar takes most of them.
#[test]
fn most_made_up_queries_are_sql() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut sql, mut reads) = (0, 0);
    for _ in 0..500 {
        let text = text().new_tree(&mut runner).expect("a text").current();
        sql += usize::from(pg_query::parse(&text).is_ok());
        let script = analyze(text.as_bytes(), Lexis::default());
        reads += usize::from(script.statements.iter().all(|one| one.class == Class::Read));
    }
    assert!(sql > 350, "{sql} of 500 are SQL");
    assert!(reads > 50, "{reads} of 500 are called reads");
}
