//! The settings of a session, as they are laid on the servers that serve it.
//!
//! An immutable, ordered map from a setting's name to the statement that sets it: the client's own
//! SET, word for word, so that nothing is lost in a translation. Two maps are compared by number.
//! Knows nothing of transactions; `session` keeps those.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

/// Settings that a SET accepted once can never refuse later on another node of the cluster, so
/// that the request need not wait for the answer. All others are laid and checked first: a SET ROLE
/// that failed unseen would run the request with another role's rights.
const SURE: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "jit",
    "lock_timeout",
    "search_path",
    "standard_conforming_strings",
    "statement_timeout",
    "synchronous_commit",
    "timezone",
    "work_mem",
];

/// Settings whose value is a list of quoted names (`GUC_LIST_QUOTE` in PostgreSQL's guc.c): one
/// string constant after SET would be one name.
const QUOTED_LISTS: &[&str] = &[
    "createrole_self_grant",
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// PL/pgSQL's own settings.
const OF_PLPGSQL: &[&str] = &[
    "check_asserts",
    "extra_errors",
    "extra_warnings",
    "print_strict_params",
    "variable_conflict",
];

/// Whose rights a session has, in the order in which they are taken.
const RIGHTS: [&str; 2] = ["session_authorization", "role"];

/// Settings under which every text means the same.
const WITHOUT_MEANING: &[&str] = &[
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "lock_timeout",
    "statement_timeout",
    "synchronous_commit",
    "work_mem",
];

/// A session's settings. Cheap to clone and to compare.
#[derive(Debug, Clone)]
pub struct Laid(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    statements: BTreeMap<Box<str>, Bytes>,
    number: u64,
    meaning: u64,
}

impl Default for Laid {
    fn default() -> Self {
        Self::from_statements(BTreeMap::new())
    }
}

impl PartialEq for Laid {
    fn eq(&self, other: &Self) -> bool {
        self.is(other) || self.0.number == other.0.number && self.0.statements == other.0.statements
    }
}

impl Eq for Laid {}

impl Laid {
    fn from_statements(statements: BTreeMap<Box<str>, Bytes>) -> Self {
        let hash = |only_meaning: bool| {
            let mut hasher = rustc_hash::FxBuildHasher.build_hasher();
            let mut counted = 0;
            for entry in &statements {
                if !(only_meaning && WITHOUT_MEANING.contains(&&**entry.0)) {
                    entry.hash(&mut hasher);
                    counted += 1;
                }
            }
            if counted == 0 { 0 } else { hasher.finish() }
        };
        let (number, meaning) = (hash(false), hash(true));
        Self(Arc::new(Inner { statements, number, meaning }))
    }

    /// Whether the two are one copy.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.statements.is_empty()
    }

    /// The statement that sets `name`, if it is set.
    #[must_use]
    pub fn statement(&self, name: &str) -> Option<&Bytes> {
        self.0.statements.get(name)
    }

    /// Every setting with the statement that sets it, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Bytes)> {
        self.0.statements.iter().map(|(name, statement)| (&**name, statement))
    }

    /// A number that is the same for settings under which a text means the same: all but those
    /// that only bound or label a statement. Statements prepared under one are not used under
    /// another (a constant's meaning is settled when a text is analysed).
    #[must_use]
    pub fn meaning(&self) -> u64 {
        self.0.meaning
    }

    /// The same with `name` set by `statement`.
    #[must_use]
    pub fn with(&self, name: &str, statement: Bytes) -> Self {
        let mut statements = self.0.statements.clone();
        if name == "session_authorization" {
            // SET SESSION AUTHORIZATION sets the role as well.
            statements.remove("role");
        }
        statements.insert(name.into(), statement);
        Self::from_statements(statements)
    }

    /// The same with `name` set to `value`, a string as a start-up packet carries it.
    #[must_use]
    pub fn with_value(&self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.with(name, statement_for(name, value))
    }

    /// Whether a statement has bytes that mean something else in another encoding.
    #[must_use]
    pub fn depends_on_encoding(&self) -> bool {
        self.0.statements.values().any(|statement| !statement.is_ascii())
    }

    /// `applied`, after the encoding of these settings was laid on it. What is laid then must not be in one query with
    /// it: PostgreSQL reads a query in the encoding that it begins in.
    #[must_use]
    pub fn encoding_first(&self, applied: &Self) -> Option<Self> {
        const ENCODING: &str = "client_encoding";
        let (ours, theirs) = (self.statement(ENCODING), applied.statement(ENCODING));
        if ours == theirs || !self.depends_on_encoding() {
            return None;
        }
        Some(match ours {
            Some(statement) => applied.with(ENCODING, statement.clone()),
            None => applied.without(ENCODING),
        })
    }

    /// The same without `name`.
    #[must_use]
    pub fn without(&self, name: &str) -> Self {
        if !self.0.statements.contains_key(name) {
            return self.clone();
        }
        let mut statements = self.0.statements.clone();
        statements.remove(name);
        Self::from_statements(statements)
    }

    /// Appends the statements that turn a server with `applied` into one with these settings, and
    /// tells whether all of them are sure to succeed. What a session set before it took a role may
    /// need the rights that it had then: whenever anything else changes, role and authorization are
    /// given up first and taken again last.
    pub fn difference(&self, applied: &Self, out: &mut BytesMut) -> bool {
        let (ours, theirs) = (&self.0.statements, &applied.0.statements);
        let is_rights = |name: &str| RIGHTS.contains(&name);
        let changed = |name: &str| ours.get(name) != theirs.get(name);
        let others = ours.keys().chain(theirs.keys()).any(|name| !is_rights(name) && changed(name));
        let rights = RIGHTS.iter().any(|name| changed(name));
        if others || rights {
            // The authorization goes first and takes the role with it.
            if theirs.contains_key("session_authorization") {
                out.put_slice(b"RESET SESSION AUTHORIZATION;");
            } else if theirs.contains_key("role") {
                out.put_slice(b"RESET ROLE;");
            }
        }
        let mut sure = self.put_others(applied, out);
        if others || rights {
            for statement in RIGHTS.iter().filter_map(|name| ours.get(*name)) {
                out.put_slice(statement);
                out.put_slice(b"\n;");
                sure = false;
            }
        }
        sure
    }

    /// The same for all but role and authorization.
    fn put_others(&self, applied: &Self, out: &mut BytesMut) -> bool {
        let (ours, theirs) = (&self.0.statements, &applied.0.statements);
        let mut sure = true;
        for name in theirs.keys().filter(|name| !RIGHTS.contains(&&***name)) {
            if !ours.contains_key(name) {
                out.put_slice(b"RESET ");
                put_name(out, name);
                out.put_u8(b';');
                sure &= !is_misplaced(name);
            }
        }
        for (name, statement) in ours {
            if RIGHTS.contains(&&**name) || theirs.get(name) == Some(statement) {
                continue;
            }
            if &**name == "datestyle" && theirs.contains_key(name) {
                // A value may name only one of its two parts; the other must not be a leftover.
                out.put_slice(b"RESET \"datestyle\";");
            }
            out.put_slice(statement);
            out.put_slice(b"\n;");
            sure &= is_sure(name) && statement.is_ascii();
        }
        sure
    }
}

/// Whether a SET that succeeded once is sure to on any server.
fn is_sure(name: &str) -> bool {
    SURE.contains(&name) || name.contains('.') && !is_misplaced(name)
}

/// Whether a custom setting is under the prefix of a library that some servers have loaded and is none
/// of the library's: there it is refused, and where the library is loaded later it goes with a warning.
#[must_use]
pub fn is_misplaced(name: &str) -> bool {
    name.strip_prefix("plpgsql.").is_some_and(|name| !OF_PLPGSQL.contains(&name))
}

/// A statement that sets `name` to the string `value`.
#[must_use]
pub fn statement_for(name: &str, value: impl AsRef<[u8]>) -> Bytes {
    let mut out = BytesMut::new();
    if QUOTED_LISTS.contains(&name) {
        out.put_slice(b"SELECT pg_catalog.set_config(");
        put_literal(&mut out, name);
        out.put_u8(b',');
        put_literal(&mut out, &value);
        out.put_slice(b",false)");
    } else {
        match name {
            "role" => out.put_slice(b"SET ROLE "),
            "session_authorization" => out.put_slice(b"SET SESSION AUTHORIZATION "),
            _ => {
                out.put_slice(b"SET ");
                put_name(&mut out, name);
                out.put_slice(b" TO ");
            }
        }
        put_literal(&mut out, &value);
    }
    out.freeze()
}

/// A setting's name, each of its parts quoted.
fn put_name(out: &mut BytesMut, name: &str) {
    for (number, part) in name.split('.').enumerate() {
        if number > 0 {
            out.put_u8(b'.');
        }
        out.put_u8(b'"');
        out.put_slice(part.replace('"', "\"\"").as_bytes());
        out.put_u8(b'"');
    }
}

/// A string constant that reads the same whatever `standard_conforming_strings` says.
pub fn put_literal(out: &mut BytesMut, text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    if text.contains(&b'\\') {
        out.put_slice(b" E");
    }
    out.put_u8(b'\'');
    for byte in text {
        if matches!(byte, b'\\' | b'\'') {
            out.put_u8(*byte);
        }
        out.put_u8(*byte);
    }
    out.put_u8(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(from: &Laid, to: &Laid) -> (String, bool) {
        let mut out = BytesMut::new();
        let sure = to.difference(from, &mut out);
        (String::from_utf8(out.to_vec()).unwrap(), sure)
    }

    #[test]
    fn only_the_difference_is_laid() {
        let empty = Laid::default();
        let one = empty.with_value("application_name", "it's").with_value("timezone", "UTC");
        let two = one.with_value("timezone", "CET").without("application_name");
        assert_eq!(difference(&one, &one), (String::new(), true));
        assert_eq!(
            difference(&empty, &one).0,
            "SET \"application_name\" TO 'it''s'\n;SET \"timezone\" TO 'UTC'\n;"
        );
        assert_eq!(
            difference(&one, &two),
            ("RESET \"application_name\";SET \"timezone\" TO 'CET'\n;".into(), true)
        );
    }

    #[test]
    fn equal_settings_are_equal_however_they_came_about() {
        let one = Laid::default().with_value("a.b", "1").with_value("timezone", "UTC");
        let two = Laid::default().with_value("timezone", "UTC").with_value("a.b", "1");
        assert_eq!(one, two);
        assert_ne!(one, two.without("a.b"));
        assert_eq!(one.without("a.b").without("timezone"), Laid::default());
    }

    #[test]
    fn the_authorization_comes_before_the_role_and_neither_is_ever_sure() {
        let empty = Laid::default();
        let to = empty.with_value("session_authorization", "x").with_value("role", "y");
        let (text, sure) = difference(&empty, &to);
        assert_eq!(text, "SET SESSION AUTHORIZATION 'x'\n;SET ROLE 'y'\n;");
        assert!(!sure);
        let other = empty.with_value("session_authorization", "z").with_value("role", "y");
        assert_eq!(
            difference(&to, &other).0,
            "RESET SESSION AUTHORIZATION;SET SESSION AUTHORIZATION 'z'\n;SET ROLE 'y'\n;"
        );
        assert_eq!(difference(&to, &empty).0, "RESET SESSION AUTHORIZATION;");
        let role = empty.with_value("role", "y");
        assert_eq!(difference(&role, &empty).0, "RESET ROLE;");
        assert_eq!(difference(&to, &to).0, "");
    }

    #[test]
    fn what_needs_the_rights_of_the_login_is_set_with_them() {
        let role = Laid::default().with_value("role", "x");
        let more = role.with_value("a.b", "1");
        assert_eq!(
            difference(&role, &more),
            ("RESET ROLE;SET \"a\".\"b\" TO '1'\n;SET ROLE 'x'\n;".into(), false)
        );
        assert_eq!(
            difference(&more, &role),
            ("RESET ROLE;RESET \"a\".\"b\";SET ROLE 'x'\n;".into(), false)
        );
    }

    #[test]
    fn what_an_encoding_gives_its_meaning_is_laid_after_it() {
        let latin1 =
            Laid::default().with_value("client_encoding", "LATIN1").with_value("a.b", b"Jos\xe9");
        let empty = Laid::default();
        let first = latin1.encoding_first(&empty).unwrap();
        assert_eq!(difference(&empty, &first).0, "SET \"client_encoding\" TO 'LATIN1'\n;");
        let mut rest = BytesMut::new();
        assert!(!latin1.difference(&first, &mut rest), "it is seen to succeed");
        assert_eq!(&rest[..], b"SET \"a\".\"b\" TO 'Jos\xe9'\n;");
        assert!(latin1.encoding_first(&first).is_none() && empty.encoding_first(&latin1).is_none());
    }

    #[test]
    fn lists_of_names_and_backslashes_survive() {
        assert_eq!(
            &statement_for("search_path", "a, \"B c\"")[..],
            b"SELECT pg_catalog.set_config('search_path','a, \"B c\"',false)"
        );
        assert_eq!(&statement_for("x.y", r"\'")[..], br#"SET "x"."y" TO  E'\\'''"#);
    }
}
