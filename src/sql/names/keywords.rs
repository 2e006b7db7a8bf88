//! What a keyword says: of the statement, and of the names that may follow.
//!
//! Owns the words that change data, lock rows or make a table, at any depth, and those that open and
//! close a clause. Takes in no name. A word is a keyword by what stands around it, so that a column or a
//! label of that spelling is none.

use super::super::scan::Kind;
use super::super::words;
use super::Reader;

impl Reader<'_> {
    /// What an unquoted word means if it is a keyword here.
    pub(super) fn keyword(&mut self, word: &[u8], at: usize) {
        let next = self.tokens.word(at + 1);
        match word {
            b"for" => {
                let after = self.tokens.word(at + 2);
                self.found.locks |= matches!(next, b"update" | b"share")
                    || (next == b"no" && after == b"key")
                    || (next == b"key" && after == b"share");
                let level = self.level();
                level.unknown_arity |= level.from_is_not_a_clause;
                self.end_from();
            }
            b"into" => self.into(at),
            b"from" => {
                let distinct = self.previous_word(at) == b"distinct";
                let level = self.level();
                level.unknown_arity |= level.from_is_not_a_clause;
                if !level.from_is_not_a_clause && !distinct {
                    level.in_from = true;
                    level.expects = true;
                    level.in_on = false;
                }
            }
            b"join" => {
                let level = self.level();
                level.expects = level.in_from;
                level.in_on = false;
            }
            b"on" => self.level().in_on = true,
            b"using" if self.tokens.kind(at + 1) != Some(Kind::Open) => {
                let level = self.level();
                // The CYCLE clause of a CTE.
                if level.in_with {
                    return;
                }
                level.in_from = true;
                level.expects = true;
                level.in_on = false;
            }
            b"table" => {
                let level = self.level();
                level.in_with = false;
                level.expects = true;
                level.relation_only = true;
            }
            b"select" | b"values" => {
                let level = self.level();
                level.in_with = false;
                level.in_group = false;
                level.in_from = false;
                level.expects = false;
            }
            b"with" => self.with(at),
            b"recursive" if self.previous_word(at) == b"with" => self.level().with_recursive = true,
            b"group" => {
                // Also WITHIN GROUP, whose parenthesis follows at once.
                self.end_from();
                self.level().in_group = true;
            }
            b"order" => {
                self.end_from();
                let level = self.level();
                level.in_group = false;
                level.arguments_over = true;
            }
            b"variadic" => self.level().unknown_arity = true,
            b"where" | b"having" | b"window" | b"union" | b"intersect" | b"except" | b"limit"
            | b"offset" | b"fetch" | b"when" | b"returning" | b"do" => {
                self.end_from();
                self.level().in_group = false;
            }
            _ => {}
        }
    }

    fn end_from(&mut self) {
        let level = self.level();
        level.in_from = false;
        level.expects = false;
        level.in_on = false;
        level.in_with = false;
    }

    /// Whether an unquoted word is a command that changes data; by what follows it, so that a
    /// column or label of that name is none.
    pub(super) fn command(&mut self, word: &[u8], at: usize) -> bool {
        let next = self.tokens.word(at + 1);
        let is_command = match word {
            b"insert" | b"merge" => next == b"into",
            b"delete" => next == b"from",
            b"update" => self.is_update(at),
            _ => false,
        };
        if is_command {
            self.found.writes = true;
            let level = self.level();
            level.in_with = false;
            // ON CONFLICT DO UPDATE SET, WHEN MATCHED THEN UPDATE SET name no relation.
            level.expects = word == b"update" && next != b"set";
            level.relation_only = level.expects;
        }
        is_command
    }

    /// UPDATE is a command if a relation follows; in FOR UPDATE and ON UPDATE it is not.
    fn is_update(&self, at: usize) -> bool {
        let clause = match self.previous_word(at) {
            b"for" | b"on" | b"do" => true,
            b"key" => at > 1 && self.tokens.word(at - 2) == b"no",
            _ => false,
        };
        let next = self.tokens.word(at + 1);
        match self.tokens.kind(at + 1) {
            Some(Kind::Quoted) => !clause,
            Some(Kind::Word) => !clause && (next == b"only" || !words::is_reserved(next)),
            _ => false,
        }
    }

    fn into(&mut self, at: usize) {
        let level = self.level();
        level.expects = true;
        level.relation_only = true;
        if matches!(self.previous_word(at), b"insert" | b"merge") {
            self.level().in_with = false;
            return;
        }
        self.found.into = true;
        let mut next = at + 1;
        if matches!(self.tokens.word(next), b"local" | b"global") {
            next += 1;
        }
        self.found.into_temp |= matches!(self.tokens.word(next), b"temp" | b"temporary");
    }

    /// WITH opens a list of CTEs where a query may begin, and means other things elsewhere.
    fn with(&mut self, at: usize) {
        let next = self.tokens.word(at + 1);
        let list = self.tokens.is_name(at + 1)
            && !matches!(next, b"ordinality" | b"ties" | b"hold" | b"no" | b"data" | b"check");
        let after = if next == b"recursive" { at + 2 } else { at + 1 };
        // A CTE's name is followed by its columns or by AS.
        let declares = list
            && self.tokens.is_name(after)
            && (self.tokens.word(after + 1) == b"as"
                || self.tokens.kind(after + 1) == Some(Kind::Open));
        if declares {
            let level = self.level();
            level.in_with = true;
            level.with_recursive = false;
            level.in_from = false;
            level.expects = false;
        }
    }
}
