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
    let mut depth = 0_usize;
    for token in tokens.list {
        match token.kind {
            Kind::Open | Kind::OpenBracket => depth += 1,
            Kind::Close | Kind::CloseBracket => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
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
