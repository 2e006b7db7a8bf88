//! The second reader: a bounded look at the statement through `sqlparser`, which may only make the
//! first one stricter.
//!
//! `sqlparser` keeps its trees on the heap but drops, visits and partly parses them by recursion: a
//! long chain of operators or subscripts overflows the stack and aborts the process. So it sees a
//! statement only within [`MAX_TOKENS`] and [`MAX_DEPTH`], which a test shows to be safe on a stack
//! half the size of a worker's. What it cannot parse is left to the scanner: it fails on much that
//! `PostgreSQL` accepts. What it takes for harmless proves nothing: it accepts `SELECT INTO` and
//! `SELECT FOR SHARE` with an empty list as plain reads.

use std::ops::ControlFlow;

use smallvec::SmallVec;
use sqlparser::ast::{
    ObjectName, ObjectNamePart, Query, Select, SetExpr, Statement as Tree, Visit, Visitor,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;

use super::scan::Kind;
use super::statement::{Class, Name, Statement};
use super::tokens::Tokens;
use super::words;

/// More tokens than this are never given to `sqlparser`.
pub const MAX_TOKENS: usize = 1000;
/// Deeper parentheses and brackets than this are never given to `sqlparser`.
pub const MAX_DEPTH: usize = 40;
/// More joins than this that wait for their condition (`a JOIN b JOIN c ON x ON y`) are never given
/// to `sqlparser`: each is a level of recursion, and costs it some 25 KiB of stack.
pub const MAX_JOINS: usize = 6;

/// What the tree says.
#[derive(Debug, Default)]
struct Seen {
    writes: bool,
    into: bool,
    locks: bool,
    relations: Vec<Name>,
}

/// Lets the tree of a read speak against it, and adds the relations that only the tree shows.
pub fn check(tokens: Tokens<'_>, statement: &mut Statement) {
    if statement.class != Class::Read || !is_bounded(tokens) {
        return;
    }
    let (Some(first), Some(last)) = (tokens.list.first(), tokens.list.last()) else { return };
    let Ok(text) = std::str::from_utf8(&tokens.text[first.start..last.end]) else { return };
    let Some(seen) = look(text) else { return };
    if seen.writes {
        statement.class = Class::Write;
    } else if seen.into {
        statement.class = Class::Ddl;
    } else if seen.locks {
        statement.class = Class::LockingRead;
    }
    for name in seen.relations {
        // A name the scanner saw, as a relation, a function in FROM, or a CTE in its scope.
        // `FROM ONLY (t)` it takes for a relation called only.
        let known = words::is_reserved(name.name.as_bytes())
            || statement.relations.contains(&name)
            || statement.calls.iter().any(|call| call.name.name == name.name)
            || (name.schema.is_none() && statement.identifiers.contains(&name.name));
        if !known {
            statement.relations.push(name);
        }
    }
}

/// Whether `sqlparser` may see a statement at all.
fn is_bounded(tokens: Tokens<'_>) -> bool {
    if tokens.list.len() > MAX_TOKENS {
        return false;
    }
    // Per open parenthesis, the joins that wait for their condition.
    let mut levels: SmallVec<[usize; 8]> = SmallVec::from_elem(0, 1);
    let mut waiting = 0_usize;
    for (at, token) in tokens.list.iter().enumerate() {
        let joins = levels.last().copied().unwrap_or(0);
        let change = match token.kind {
            Kind::Open | Kind::OpenBracket => {
                levels.push(0);
                0
            }
            Kind::Close | Kind::CloseBracket if levels.len() > 1 => {
                waiting -= joins;
                levels.pop();
                0
            }
            Kind::Word => match tokens.word(at) {
                b"join" => 1,
                b"on" | b"using" if joins > 0 => -1,
                _ => 0,
            },
            _ => 0,
        };
        waiting = waiting.saturating_add_signed(change);
        if let Some(joins) = levels.last_mut() {
            *joins = joins.saturating_add_signed(change);
        }
        if waiting > MAX_JOINS || levels.len() > MAX_DEPTH + 1 {
            return false;
        }
    }
    true
}

/// Parses and visits; nothing if `sqlparser` does not know the syntax.
fn look(text: &str) -> Option<Seen> {
    let trees = Parser::parse_sql(&PostgreSqlDialect {}, text).ok()?;
    let mut seen = Seen::default();
    let _: ControlFlow<()> = trees.visit(&mut seen);
    Some(seen)
}

impl Visitor for Seen {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.locks |= !query.locks.is_empty();
        self.writes |= matches!(
            *query.body,
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_)
        );
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.into |= select.into.is_some();
        ControlFlow::Continue(())
    }

    fn pre_visit_statement(&mut self, statement: &Tree) -> ControlFlow<()> {
        self.writes |= matches!(
            statement,
            Tree::Insert(_) | Tree::Update(_) | Tree::Delete(_) | Tree::Merge(_)
        );
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        let mut parts = relation.0.iter().rev().map_while(|part| match part {
            ObjectNamePart::Identifier(identifier) => Some(identifier.value.as_str()),
            ObjectNamePart::Function(_) => None,
        });
        if let Some(name) = parts.next() {
            let schema = parts.next().map(Into::into);
            self.relations.push(Name { schema, name: name.into() });
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_DEPTH, MAX_JOINS, MAX_TOKENS};
    use crate::sql::{Lexis, analyze};

    /// As much as the bounds allow of everything that makes `sqlparser` recurse.
    fn deep_texts() -> Vec<String> {
        let chain = |head: &str, link: &str, tokens: usize, tail: &str| {
            format!("{head}{}{tail}", link.repeat((MAX_TOKENS - 8) / tokens))
        };
        let nest = |open: &str, inside: &str, close: &str, levels: usize| {
            format!("select {}{inside}{}", open.repeat(levels), close.repeat(levels))
        };
        let mut texts = vec![
            chain("select 1", "+1", 2, ""),
            chain("select 1 from t where a", " or a=1", 4, ""),
            chain("select a", "[1]", 3, ""),
            chain("select a", "::int", 2, ""),
            chain("select ", "not ", 1, "a"),
            chain("select ", "- ", 1, "a"),
            chain("select a", ".b", 2, ""),
            chain("select a", " is null", 2, ""),
            chain("select a", " collate c", 2, ""),
            chain("select a", " at time zone b", 4, ""),
            chain("select a", " in (1)", 4, ""),
            chain("select a", " between 1 and 2", 4, ""),
            chain("select a", "->'b'", 2, ""),
            chain("select 1", " union select 1", 3, ""),
            chain("select 1", " union all values (1)", 6, ""),
            chain("select ", "case when a then b else ", 5, "c"),
            chain("select * from a", " join b on true", 4, ""),
            chain("select * from a", " join b", 2, ""),
            chain("select * from a", ", b", 2, ""),
            format!(
                "select * from a{}{}",
                " join b".repeat(MAX_JOINS),
                " on true".repeat(MAX_JOINS)
            ),
            chain("select * from a", " natural join b", 3, ""),
            chain("", "explain ", 1, "select 1"),
            chain("select ", "interval ", 1, "'1'"),
            chain("select ", "a(", 2, ""),
            chain("", "with x as (", 4, ""),
            chain("", "(", 1, "select 1"),
        ];
        for levels in [MAX_DEPTH, MAX_DEPTH + 10] {
            texts.extend([
                format!(
                    "select * from {}b{}",
                    "(a join ".repeat(levels),
                    " on true)".repeat(levels)
                ),
                format!("select * from {}a{}", "(".repeat(levels), ")".repeat(levels)),
                nest("* from a left join (select ", "1", ") q on true", levels),
                nest("(", &format!("1{}", "*2".repeat(400)), ")", levels),
                nest("f(", &format!("a{}", " and b".repeat(400)), ")", levels),
                nest("(", "1", ")", levels),
                nest("f(", "1", ")", levels),
                nest("(select ", "1", ")", levels),
                nest("array[", "1", "]", levels),
                nest("case when (", "a", ") then b end", levels),
                nest("a in (select ", "1", ")", levels),
                nest("1 + (2 * ", "3", ")", levels),
                nest("* from (select ", "1", ") q", levels),
                nest("exists (with x as (values (1)) select ", "1", ")", levels),
            ]);
        }
        texts
    }

    #[test]
    fn the_bounds_are_safe_on_a_small_stack() {
        // A worker has 2 MiB; half of it must do, in the profile without optimisation too.
        let worker = std::thread::Builder::new().stack_size(1 << 20).spawn(|| {
            for text in deep_texts() {
                for text in [text.clone(), format!("select * from ({text}) q")] {
                    let script = analyze(text.as_bytes(), Lexis::default());
                    assert_eq!(script.statements.len(), 1, "{text}");
                }
            }
        });
        worker.expect("a thread").join().expect("no text overflows the stack");
    }

    /// `sqlparser` tries several readings of a parenthesis; nested in each other, wrong ones must not
    /// multiply within the bounds.
    #[test]
    fn the_bounds_are_safe_in_time() {
        for (open, inside, close) in [
            ("(", "1 1", ")"),
            ("f(", "1 1", ")"),
            ("(select ", "1 1 1", ")"),
            ("array[", "1 1", "]"),
            ("case when (", "a a", ") then b end"),
            ("a in (", "1 1", ")"),
            ("cast(", "1", " as)"),
            ("* from (", "a a a", ")"),
        ] {
            for levels in 1..=super::MAX_DEPTH {
                let text =
                    format!("select {}{inside}{}", open.repeat(levels), close.repeat(levels));
                let started = std::time::Instant::now();
                let _ = analyze(text.as_bytes(), Lexis::default());
                assert!(
                    started.elapsed() < std::time::Duration::from_secs(2),
                    "{levels} of {open}"
                );
            }
        }
    }

    #[test]
    fn giants_are_read_by_the_scanner_alone() {
        for text in [
            format!("select 1{}", "+1".repeat(100_000)),
            format!("select a from t where b{}", " or a=1".repeat(100_000)),
            format!("select a{}", "[1]".repeat(100_000)),
            format!("select {}1{}", "(".repeat(100_000), ")".repeat(100_000)),
            format!("select {}1{}", "f(".repeat(100_000), ")".repeat(100_000)),
        ] {
            assert_eq!(analyze(text.as_bytes(), Lexis::default()).statements.len(), 1);
        }
    }
}
