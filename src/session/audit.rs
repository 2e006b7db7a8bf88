//! Asking a server what a session has left on it.
//!
//! Much that a session does cannot be seen from its statements: a function may set, lock, listen or
//! create. When a transaction in which that is possible has ended, the server itself is asked, once,
//! before it could serve anybody else. The answer replaces what was believed: it pins, and it unpins
//! when the cause is gone.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;

use super::pins::{Pin, Pins};
use crate::protocol::{ErrorReport, frame, write};
use crate::server::laid::put_literal;
use crate::server::{Laid, ServerConn};

/// What is left of a session on its server. `pg_settings` shows every setting whose source is the
/// session, placeholders included; role and authorization are not in it. Whatever is in the temporary schema depends
/// on it, of whatever kind it is.
const QUESTION: &[u8] = b"SELECT name, setting FROM pg_catalog.pg_settings \
WHERE source = 'session' \
AND name NOT IN ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable') \
UNION ALL SELECT 'role', pg_catalog.current_setting('role') \
WHERE pg_catalog.current_setting('role') <> 'none' \
UNION ALL SELECT 'session_authorization', session_user::pg_catalog.text \
UNION ALL SELECT '+temp', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_depend \
WHERE refclassid = 'pg_catalog.pg_namespace'::pg_catalog.regclass \
AND refobjid = pg_catalog.pg_my_temp_schema()) \
UNION ALL SELECT '+listen', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels()) \
UNION ALL SELECT '+lock', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()) \
UNION ALL SELECT '+cursor', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
UNION ALL SELECT CASE WHEN pg_catalog.starts_with(name, own) THEN '+own' ELSE '+prepared' END, name \
FROM pg_catalog.pg_prepared_statements, (VALUES (";

/// What a server said.
#[derive(Debug, Default)]
pub struct Findings {
    /// The settings that the session has.
    pub laid: Laid,
    /// Those of them that are still on the server.
    pub on_server: Laid,
    /// What keeps the session there.
    pub pins: Pins,
    /// How many statements are prepared there under Causeway's own names.
    pub own: usize,
    /// Names of other prepared statements.
    pub prepared: Vec<Bytes>,
}

/// The server could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Its connection broke.
    #[error("the connection to the server broke while it was asked for the session's state")]
    Io(#[from] io::Error),
    /// It refused the question.
    #[error("the server refused to tell the session's state")]
    Refused(#[source] ErrorReport),
    /// It answered nonsense.
    #[error("the server's answer about the session's state is not understood")]
    Protocol,
}

/// What is asked, beside what is always asked.
#[derive(Debug, Default)]
pub struct Suspicion {
    /// Custom settings (`app.user`) that the session's texts name: `pg_settings` hides them, so they
    /// are asked for by name.
    pub custom: BTreeSet<Box<str>>,
    /// Those that functions name: whether one that is empty was set by the session nobody knows.
    pub hidden: BTreeSet<Box<str>>,
    /// It is asked for more than a want of the catalog, without which any table may have a trigger.
    pub firm: bool,
    /// Functions were called of which it is not known that they set nothing.
    pub called: bool,
    /// Code ran that may have set others, under names that nobody knows: the server is reset when
    /// it has answered, so that no other session ever sees them.
    pub opaque: bool,
}

impl Suspicion {
    /// `own` is what the names of Causeway's own statements begin with.
    fn question(&self, own: &str) -> BytesMut {
        let mut question = BytesMut::from(QUESTION);
        put_literal(&mut question, own);
        // What an error kept from being closed is closed before it is used again.
        question.extend_from_slice(b")) AS of (own) WHERE name <> 'cw_run'");
        let asked = self.custom.iter().map(|name| (name, &b", true) IS NOT NULL"[..]));
        let hidden = self.hidden.difference(&self.custom).map(|name| (name, &b", true) <> ''"[..]));
        for (name, condition) in asked.chain(hidden) {
            let mut literal = BytesMut::new();
            put_literal(&mut literal, &**name);
            for part in [
                &b" UNION ALL SELECT "[..],
                &literal,
                b", pg_catalog.current_setting(",
                &literal,
                b", true) WHERE pg_catalog.current_setting(",
                &literal,
                condition,
            ] {
                question.extend_from_slice(part);
            }
        }
        if self.opaque {
            question.extend_from_slice(b"; RESET ALL");
        }
        question
    }
}

/// Most names that are asked for: they are all in one query.
const NAMES_MOST: usize = 1000;

/// Finds the names of custom settings in a text's string constants and in a Bind's parameters.
pub fn custom_names(bytes: &[u8], names: &mut BTreeSet<Box<str>>) {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$');
    for word in bytes.split(|byte| !is_part(byte)) {
        let looks_right = word.len() < 128
            && word.first().is_some_and(|first| first.is_ascii_alphabetic() || *first == b'_')
            && word.contains(&b'.')
            && !word.ends_with(b".");
        if looks_right
            && names.len() < NAMES_MOST
            && let Ok(name) = std::str::from_utf8(word)
        {
            names.insert(name.to_ascii_lowercase().into());
        }
    }
}

/// Whether every `set_config()` in a text names its setting by a plain constant or a parameter, so that
/// [`custom_names`] finds it.
#[must_use]
pub fn names_settings(text: &[u8]) -> bool {
    const CALL: &[u8] = b"set_config";
    let named = |rest: &[u8]| -> Option<bool> {
        let mut rest = rest.trim_ascii_start();
        if let [b'"', more @ ..] = rest {
            rest = more.trim_ascii_start();
        }
        let rest = rest.strip_prefix(b"(")?.trim_ascii_start();
        let end = match rest {
            [b'\'', more @ ..] => more.iter().position(|byte| *byte == b'\'')? + 2,
            [b'$', more @ ..] => more.iter().position(|byte| !byte.is_ascii_digit())? + 1,
            _ => return Some(false),
        };
        Some(rest[end..].trim_ascii_start().starts_with(b","))
    };
    let mut calls =
        text.windows(CALL.len()).enumerate().filter(|(_, word)| word.eq_ignore_ascii_case(CALL));
    calls.all(|(at, _)| named(&text[at + CALL.len()..]).unwrap_or(false))
}

/// Asks a server that is outside of any transaction. `user` is the role it was opened as.
/// Notifications that come meanwhile are the client's: they are appended to `heard`.
///
/// # Errors
/// If the server is gone or refuses; it must be closed then, and its session told.
///
/// # Cancel safety
/// Not safe: the server must be closed.
pub async fn audit(
    server: &mut ServerConn,
    user: &str,
    suspicion: &Suspicion,
    heard: &mut BytesMut,
) -> Result<Findings, AuditError> {
    let question = suspicion.question(server.prepared.prefix());
    let rows = ask(server, &question, heard).await?;
    Ok(found(rows, user, suspicion.opaque))
}

/// What the rows say. Setting the authorization sets the role as well, so the role is taken in last.
fn found(mut rows: Vec<Row>, user: &str, opaque: bool) -> Findings {
    rows.sort_by_key(|(name, _)| name == "role");
    let mut findings = Findings::default();
    for (name, value) in rows {
        match name.as_str() {
            "+temp" => findings.pins.add(Pin::TempTable),
            "+listen" => findings.pins.add(Pin::Listen),
            "+lock" => findings.pins.add(Pin::AdvisoryLock),
            "+cursor" => findings.pins.add(Pin::HoldCursor),
            "+own" => findings.own += 1,
            "+prepared" => findings.prepared.push(value.into()),
            "session_authorization" if value == user.as_bytes() => {}
            _ => {
                let name = name.to_lowercase();
                findings.laid = findings.laid.with_value(&name, &value);
                if !opaque || matches!(&*name, "role" | "session_authorization") {
                    findings.on_server = findings.on_server.with_value(&name, &value);
                }
            }
        }
    }
    findings
}

/// Runs one statement of two text columns on a server that is quiet.
///
/// # Errors and cancel safety
/// Those of [`audit`].
pub(super) async fn ask(
    server: &mut ServerConn,
    question: &[u8],
    heard: &mut BytesMut,
) -> Result<Vec<Row>, AuditError> {
    // PostgreSQL drops the unnamed statement at every simple query.
    server.unnamed = None;
    let mut out = BytesMut::new();
    write::query(&mut out, question);
    server.stream.write_all(&out).await?;
    server.stream.flush().await?;
    let mut rows = Vec::new();
    let mut refused = None;
    loop {
        while let Some(header) = frame::backend(&server.input).map_err(|_| AuditError::Protocol)? {
            if server.input.len() < header.length {
                break;
            }
            let mut message = server.input.split_to(header.length);
            let body = &mut message[frame::HEADER..];
            match header.kind {
                b'D' => rows.push(two_columns(body).ok_or(AuditError::Protocol)?),
                b'A' => {
                    server.name_notifier(body);
                    heard.extend_from_slice(&message);
                }
                b'E' => refused = Some(ErrorReport::parse(body)),
                b'Z' => return refused.map_or(Ok(rows), |report| Err(AuditError::Refused(report))),
                _ => {}
            }
        }
        server.input.reserve(8 << 10);
        poll_fn(|cx| server.poll_read(false, cx)).await?;
    }
}

/// A name, and a value in the client's encoding.
pub(super) type Row = (String, Vec<u8>);

fn two_columns(mut body: &[u8]) -> Option<Row> {
    if body.try_get_u16().ok()? != 2 {
        return None;
    }
    let mut column = || {
        let length = usize::try_from(body.try_get_i32().ok()?).ok()?;
        let text = body.get(..length)?.to_vec();
        body = &body[length..];
        Some(text)
    };
    let name = column()?;
    Some((String::from_utf8_lossy(&name).into_owned(), column()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_custom_settings_are_found_wherever_they_stand() {
        let mut names = BTreeSet::new();
        custom_names(b"select set_config('app.User', $1, false), 1.5, a.", &mut names);
        custom_names(b"\0\0\0\x08my.tenant\0\0", &mut names);
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        assert_eq!(names, ["app.user", "my.tenant"]);
    }

    #[test]
    fn it_is_known_whether_a_text_names_what_it_sets() {
        for text in [
            "select set_config('app.user', $1, false)",
            "select pg_catalog.set_config ( $1 , 'x', false), SET_CONFIG('a', 'b.c', true)",
            "select \"set_config\"('a.b', current_setting('c.d'), false)",
            "select 1",
        ] {
            assert!(names_settings(text.as_bytes()), "{text}");
        }
        for text in [
            "select set_config('app.' || 'user', 'bob.x', false)",
            "select set_config(k, v, false) from prefs",
            "select set_config(lower($1), 'a.b', false)",
            "select set_config('a.b', 'x', false), set_config(E'\\x61.b', 'x', false)",
            "select set_config('it''s', 'x', false)",
            "select set_config",
        ] {
            assert!(!names_settings(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn a_role_is_found_beside_an_authorization() {
        let row = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        for opaque in [false, true] {
            let rows = vec![
                row("role", "reader"),
                row("TimeZone", "UTC"),
                row("session_authorization", "owner"),
            ];
            let found = found(rows, "app", opaque);
            for laid in [&found.laid, &found.on_server] {
                assert!(laid.statement("role").is_some(), "{laid:?}");
                assert!(laid.statement("session_authorization").is_some(), "{laid:?}");
            }
            assert_eq!(found.on_server.statement("timezone").is_some(), !opaque);
        }
        let own = super::found(vec![row("session_authorization", "app")], "app", false);
        assert!(own.laid.is_empty());
    }

    #[test]
    fn rows_are_two_texts_or_nothing() {
        let row = b"\0\x02\0\0\0\x01a\0\0\0\x02bc";
        assert_eq!(two_columns(row), Some(("a".into(), b"bc".to_vec())));
        for cut in 0..row.len() {
            assert_eq!(two_columns(&row[..cut]), None);
        }
        assert_eq!(two_columns(b"\0\x02\xff\xff\xff\xff\0\0\0\0"), None, "NULL");
    }
}
