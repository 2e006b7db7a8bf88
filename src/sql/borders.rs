//! Where one statement of a query string ends and the next begins.
//!
//! A semicolon is a border unless it stands in parentheses (`CREATE RULE ... DO (a; b)`) or in the
//! body of a routine (`CREATE FUNCTION ... BEGIN ATOMIC a; b; END`). Follows `gram.y`, where such a
//! body begins with exactly these two words and CASE ... END nests in it.

use std::ops::Range;

use super::scan::{Kind, Scanner, Token};
use super::statement::Lexis;

/// More statements than this in one string are not told apart: the rest of the string counts as
/// one statement that was not understood. Bounds the memory that one query string can ask for.
pub const MAX_STATEMENTS: usize = 4096;

/// How far the words read so far may still be the head of CREATE [OR REPLACE] FUNCTION.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Head {
    #[default]
    Empty,
    Create,
    CreateOr,
    Routine,
    Other,
}

/// Tells the borders from a stream of tokens.
#[derive(Debug, Default)]
pub struct Borders {
    head: Head,
    depth: usize,
    /// Open BEGIN ATOMIC and CASE.
    blocks: usize,
    after_begin: bool,
    /// The last token was a dot or AS: a keyword after it is only a name.
    name_next: bool,
}

impl Borders {
    /// Takes the next token (never a comment); true if it is a semicolon that ends a statement.
    #[inline]
    pub fn on_token(&mut self, text: &[u8], token: Token) -> bool {
        match token.kind {
            Kind::Semicolon if self.depth == 0 && self.blocks == 0 => {
                *self = Self::default();
                return true;
            }
            Kind::Open => self.depth += 1,
            Kind::Close => self.depth = self.depth.saturating_sub(1),
            Kind::Word if self.head != Head::Other => {
                self.on_word(&text[token.start..token.end]);
                return false;
            }
            Kind::Dot => {
                self.name_next = true;
                return false;
            }
            _ if self.head == Head::Empty => self.head = Head::Other,
            _ => {}
        }
        self.after_begin = false;
        self.name_next = false;
        false
    }

    fn on_word(&mut self, word: &[u8]) {
        let is = |known: &str| word.eq_ignore_ascii_case(known.as_bytes());
        let name = std::mem::replace(&mut self.name_next, is("as"));
        match self.head {
            Head::Empty => self.head = if is("create") { Head::Create } else { Head::Other },
            Head::Create if is("or") => self.head = Head::CreateOr,
            Head::CreateOr if is("replace") => self.head = Head::Create,
            Head::Create if is("function") || is("procedure") => self.head = Head::Routine,
            Head::Create | Head::CreateOr => self.head = Head::Other,
            Head::Routine if self.blocks > 0 && !name => {
                if is("case") {
                    self.blocks += 1;
                } else if is("end") {
                    self.blocks -= 1;
                }
            }
            Head::Routine => {
                if self.after_begin && self.depth == 0 && is("atomic") {
                    self.blocks = 1;
                }
                self.after_begin = is("begin") && !name;
            }
            Head::Other => {}
        }
    }
}

/// The byte ranges of the statements in a query string, empty ones left out: same number and order
/// as [`Script::statements`](super::Script::statements). A range reaches from a statement's first
/// token to its last; comments before and after it, and the semicolon, are outside.
#[must_use]
pub fn split(text: &[u8], lexis: Lexis) -> Vec<Range<usize>> {
    let mut ranges: Vec<Range<usize>> = Vec::new();
    let mut current: Option<Range<usize>> = None;
    let mut borders = Borders::default();
    for token in Scanner::new(text, lexis) {
        if token.kind == Kind::Comment {
            continue;
        }
        if borders.on_token(text, token) {
            if ranges.len() + 1 < MAX_STATEMENTS {
                ranges.extend(current.take());
            }
            continue;
        }
        current = match current {
            Some(range) => Some(range.start..token.end),
            // A semicolon that is no border stands inside something that has begun.
            None => Some(token.start..token.end),
        };
    }
    ranges.extend(current);
    ranges
}

#[cfg(test)]
mod tests {
    use super::{MAX_STATEMENTS, split};
    use crate::sql::Lexis;

    fn parts(text: &str) -> Vec<&str> {
        split(text.as_bytes(), Lexis::default()).into_iter().map(|range| &text[range]).collect()
    }

    #[test]
    fn semicolons_part_statements_only_where_the_grammar_says_so() {
        let table: &[(&str, &[&str])] = &[
            ("", &[]),
            (" ;; /* c */ ; -- d", &[]),
            ("select 1", &["select 1"]),
            ("select 1;;select 2; ", &["select 1", "select 2"]),
            ("select ';' ; select \";\"", &["select ';'", "select \";\""]),
            ("select $a$;$a$;select 2", &["select $a$;$a$", "select 2"]),
            ("/* ; */ select 1 /* x */;select 2", &["select 1", "select 2"]),
            (
                "create rule r as on insert to t do (select 1; select 2); select 3",
                &["create rule r as on insert to t do (select 1; select 2)", "select 3"],
            ),
            (
                "create or replace function f() returns int begin atomic select 1; select case when \
                 true then 1 end; end; select 4",
                &[
                    "create or replace function f() returns int begin atomic select 1; select case \
                     when true then 1 end; end",
                    "select 4",
                ],
            ),
            ("begin; select 1; end", &["begin", "select 1", "end"]),
            ("begin; update atomic set x = 1", &["begin", "update atomic set x = 1"]),
            (
                "create procedure p() begin atomic select t.end from t; end; select 1",
                &["create procedure p() begin atomic select t.end from t; end", "select 1"],
            ),
            (
                "create table begin (atomic int); select 1",
                &["create table begin (atomic int)", "select 1"],
            ),
            ("select 'open; select 2", &["select 'open; select 2"]),
        ];
        for (text, expected) in table {
            assert_eq!(parts(text), *expected, "{text}");
        }
    }

    #[test]
    fn the_number_of_statements_is_bounded() {
        let text = "select 1;".repeat(MAX_STATEMENTS + 10);
        let ranges = split(text.as_bytes(), Lexis::default());
        assert_eq!(ranges.len(), MAX_STATEMENTS);
        assert!(ranges.last().is_some_and(|range| range.len() > 50));
    }
}
