//! Whom CREATE, ALTER and DROP of roles and databases are about.
//!
//! Owns that one name, what stands in its place, and whether servers begin differently afterwards. What cannot be told
//! is about everybody and everything.

use super::scan::{Kind, Scanner, Token};
use super::statement::Lexis;
use super::tokens::{Cursor, Tokens};

/// Whom a statement is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The role or the database of this name.
    Named(Box<str>),
    /// Whoever asks: `CURRENT_USER` and its like, be it the role in force or the user behind it.
    Own,
    /// All, several, or one that cannot be told.
    All,
}

/// What stands for the role that asks.
const OWN: [&str; 4] = ["current_user", "current_role", "session_user", "user"];

/// The subject of a text that is one CREATE, ALTER or DROP of a role or a database.
#[must_use]
pub fn subject(text: &[u8], lexis: Lexis) -> Subject {
    let list: Vec<Token> = Scanner::new(text, lexis)
        .filter(|token| token.kind != Kind::Comment)
        .skip_while(|token| token.kind == Kind::Semicolon)
        .collect();
    // Words are compared in lower case; offsets are the same in both.
    let folded = text.to_ascii_lowercase();
    let mut cursor = Cursor::new(Tokens { text: &folded, list: &list });
    let verb = ["create", "alter", "drop"].into_iter().any(|word| cursor.eat(word));
    let kind = ["role", "user", "group", "database"].into_iter().any(|word| cursor.eat(word));
    if !verb || !kind {
        return Subject::All;
    }
    let _ = cursor.eat_all(&["if", "exists"]);
    if OWN.into_iter().any(|word| cursor.eat(word)) {
        return Subject::Own;
    }
    let named = if cursor.tokens.kind(cursor.at) == Some(Kind::Word) {
        if cursor.tokens.word(cursor.at) == b"all" { None } else { cursor.tokens.name(cursor.at) }
    } else {
        Tokens { text, list: &list }.name(cursor.at)
    };
    cursor.at += 1;
    // Of several names, and of a name that becomes another, more than one is concerned.
    let several = cursor.tokens.source(cursor.at) == b"," || cursor.eat_all(&["rename", "to"]);
    named.filter(|_| !several).map_or(Subject::All, Subject::Named)
}

/// Whether what new servers of a role begin with may be changed by a text that is one ALTER of it: by settings of its own,
/// or another name. A password, a limit or a right changes nothing for servers that are there.
#[must_use]
pub fn changes_beginnings(text: &[u8], lexis: Lexis) -> bool {
    // A word of these elsewhere costs no more than servers opened anew.
    Scanner::new(text, lexis).filter(|token| token.kind == Kind::Word).any(|token| {
        let word = &text[token.start..token.end];
        ["set", "reset", "rename"].iter().any(|it| word.eq_ignore_ascii_case(it.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_a_statement_is_about() {
        let named = |name: &str| Subject::Named(name.into());
        for (text, expected) in [
            ("ALTER ROLE nobody SET x = 1", named("nobody")),
            ("alter user /* who */ NoBody IN DATABASE app SET x TO app;", named("nobody")),
            ("ALTER ROLE \"NoBody\" CONNECTION LIMIT 3", named("NoBody")),
            ("ALTER GROUP staff ADD USER app", named("staff")),
            ("ALTER ROLE ALL SET x = 1", Subject::All),
            ("ALTER ROLE \"all\" SET x = 1", named("all")),
            ("ALTER ROLE CURRENT_USER PASSWORD 'x'", Subject::Own),
            ("ALTER USER SESSION_USER RESET ALL", Subject::Own),
            ("ALTER ROLE one RENAME TO two", Subject::All),
            ("DROP ROLE IF EXISTS one", named("one")),
            ("DROP ROLE one, two", Subject::All),
            ("CREATE USER one", named("one")),
            ("ALTER DATABASE mine SET x TO app", named("mine")),
            ("DROP DATABASE IF EXISTS \"a \"\"b\"\"\" WITH (FORCE)", named("a \"b\"")),
            ("ALTER ROLE U&\"n\\006fbody\" SET x = 1", Subject::All),
            ("ALTER ROLE", Subject::All),
            ("", Subject::All),
            ("ALTER TABLE t SET x = 1", Subject::All),
        ] {
            assert_eq!(subject(text.as_bytes(), Lexis::default()), expected, "{text}");
        }
    }

    #[test]
    fn what_changes_how_servers_begin() {
        for (text, expected) in [
            ("ALTER ROLE app SET x = 1", true),
            ("alter user app in database d reset all", true),
            ("ALTER ROLE app RENAME TO other", true),
            ("ALTER ROLE U&\"n\\006fbody\" SET x = 1", true),
            ("ALTER ROLE app PASSWORD 'set'", false),
            ("ALTER ROLE \"set\" VALID UNTIL 'infinity' /* reset */", false),
            ("ALTER GROUP staff ADD USER app", false),
        ] {
            assert_eq!(changes_beginnings(text.as_bytes(), Lexis::default()), expected, "{text}");
        }
    }
}
