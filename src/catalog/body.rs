//! What the source of an SQL or PL/pgSQL function names.
//!
//! Most functions are VOLATILE only because nobody said otherwise, and some that claim to be
//! STABLE call `nextval`. The source tells: if none of its words can change anything and none of
//! the names in it is a hazard, running it on a replica is as good as running the queries in it.
//! Words are taken one by one, wherever they stand, so that this errs toward the primary. Dynamic
//! SQL (`EXECUTE`) is one of the words.

use rustc_hash::FxHashMap;

use crate::sql::scan::{Kind, Scanner};
use crate::sql::statement::Lexis;

/// Words with which a statement begins that a replica must not run, or that hide one.
const CHANGING: &[&str] = &[
    "alter",
    "analyze",
    "call",
    "checkpoint",
    "cluster",
    "commit",
    "copy",
    "create",
    "deallocate",
    "delete",
    "discard",
    "do",
    "drop",
    "execute",
    "grant",
    "import",
    "insert",
    "listen",
    "load",
    "lock",
    "merge",
    "notify",
    "prepare",
    "reassign",
    "refresh",
    "reindex",
    "release",
    "reset",
    "revoke",
    "rollback",
    "savepoint",
    "security",
    "set",
    "share",
    "truncate",
    "unlisten",
    "update",
    "vacuum",
];

/// Words with which a statement begins that leaves something with its session, or hides what does.
const LASTING: &[&str] = &[
    "call",
    "create",
    "deallocate",
    "discard",
    "do",
    "import",
    "listen",
    "load",
    "prepare",
    "reset",
    "set",
    "unlisten",
];

/// Words after which a statement begins, in PL/pgSQL and in SQL.
const BEGINNINGS: &[&str] = &["atomic", "begin", "else", "loop", "then"];

/// A word's number, the same for equal words of one load.
pub type WordId = u32;

/// Gives words numbers.
#[derive(Debug, Default)]
pub struct Words {
    numbers: FxHashMap<Box<str>, WordId>,
}

impl Words {
    fn number(&mut self, word: &str) -> WordId {
        if let Some(number) = self.numbers.get(word) {
            return *number;
        }
        let number = WordId::try_from(self.numbers.len()).unwrap_or(WordId::MAX);
        self.numbers.insert(word.into(), number);
        number
    }

    /// The number of a word that some source has.
    #[must_use]
    pub fn find(&self, word: &str) -> Option<WordId> {
        self.numbers.get(word).copied()
    }
}

/// The names in a function's source.
#[derive(Debug, Default)]
pub struct Body {
    /// It has a word that may change something, or could not be read.
    pub changing: bool,
    /// It has a statement that may leave something with its session, or could not be read.
    pub lasting: bool,
    /// Every word, quoted or not, and every operator; sorted.
    pub words: Vec<WordId>,
    /// The words before a parenthesis; sorted.
    pub called: Vec<WordId>,
}

impl Body {
    /// Reads a source. In SQL functions INTO creates a table, in PL/pgSQL it fills a variable.
    #[must_use]
    pub fn read(source: &str, plain_sql: bool, words: &mut Words) -> Self {
        let mut body = Self::default();
        let mut last = None;
        let (mut after_dot, mut after_comment) = (false, false);
        let (mut beginning, mut after_insert) = (true, false);
        for token in Scanner::new(source.as_bytes(), Lexis::default()) {
            let text = &source[token.start..token.end];
            let word = match token.kind {
                Kind::Comment => continue,
                Kind::Word => text.to_lowercase(),
                Kind::Quoted => text[1..text.len() - 1].replace("\"\"", "\""),
                Kind::Operator => {
                    // A label.
                    beginning = text == ">>";
                    text.to_owned()
                }
                Kind::Open => {
                    beginning = false;
                    body.called.extend(last.take());
                    continue;
                }
                Kind::Error | Kind::UnicodeQuoted => {
                    body.changing = true;
                    body.lasting = true;
                    continue;
                }
                kind => {
                    beginning = kind == Kind::Semicolon;
                    last = None;
                    after_dot = kind == Kind::Dot;
                    continue;
                }
            };
            // A field is no command; and COMMENT, a name that many columns have, goes on with ON.
            let keyword = token.kind == Kind::Word && !std::mem::take(&mut after_dot);
            body.changing |= keyword && CHANGING.contains(&word.as_str());
            body.changing |= keyword && plain_sql && word == "into";
            if token.kind != Kind::Operator {
                let begins = std::mem::take(&mut beginning);
                let inserts = std::mem::replace(&mut after_insert, keyword && word == "insert");
                // A text of its own, a cursor that is held, and a table that SELECT makes.
                body.lasting |= keyword
                    && (begins && LASTING.contains(&word.as_str())
                        || matches!(word.as_str(), "execute" | "hold")
                        || plain_sql && word == "into" && !inserts);
                beginning = keyword && BEGINNINGS.contains(&word.as_str());
            }
            body.changing |=
                std::mem::replace(&mut after_comment, word == "comment") && word == "on";
            let number = words.number(&word);
            body.words.push(number);
            last = (token.kind != Kind::Operator).then_some(number);
        }
        for list in [&mut body.words, &mut body.called] {
            list.sort_unstable();
            list.dedup();
            list.shrink_to_fit();
        }
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &str) -> (bool, Vec<String>) {
        let mut words = Words::default();
        let body = Body::read(source, false, &mut words);
        let mut called = Vec::new();
        for (name, number) in &words.numbers {
            if body.called.contains(number) {
                called.push(name.to_string());
            }
        }
        called.sort();
        (body.changing, called)
    }

    #[test]
    fn tells_sources_that_leave_something() {
        let lasting = |source, plain| Body::read(source, plain, &mut Words::default()).lasting;
        for source in [
            "begin new.changed = now(); insert into log values (new.id) on conflict do nothing; \
             update t set a = 1; return new; end",
            "begin if a then update t set b = 'set x'; end if; select 1 into n; end",
            "declare c cursor for select 1; begin perform pg_advisory_xact_lock(1); end",
        ] {
            assert!(!lasting(source, false), "{source}");
        }
        for source in [
            "begin set app.tenant = 1; end",
            "begin if a then reset all; end if; end",
            "begin loop create temp table x (); end loop; end",
            "begin execute 'listen a'; end",
            "begin <<a>> set x = 1; end",
            "begin open c for execute q; end",
            "begin return 'open; end",
        ] {
            assert!(lasting(source, false), "{source}");
        }
        assert!(lasting("set x = 1; select 1", true) && lasting("select 1 into temp x", true));
        assert!(!lasting("insert into t values (1); update t set a = 1", true));
    }

    #[test]
    fn tells_sources_that_only_read() {
        let source = "declare n int; begin -- insert nothing\n select count(*) into n from t \
                      where v = 'delete'; raise notice 'update %', n; return \"Lower\" (n); end";
        assert_eq!(read(source), (false, vec!["Lower".into(), "count".into()]));
        assert!(!read("begin return rec.comment || rec.lock || comment from t; end").0);
        for changing in [
            "begin insert into t values (1); end",
            "begin execute 'drop table ' || $1; end",
            "begin perform 1 from t for update; end",
            "begin perform 1 from t for key share; end",
            "begin set local work_mem = 1; end",
            "begin return 'open; end",
            "begin comment on table t is 'x'; end",
        ] {
            assert!(read(changing).0, "{changing}");
        }
        assert!(Body::read("select 1 into x", true, &mut Words::default()).changing);
    }
}
