//! ErrorResponse and NoticeResponse: reading them and writing our own
//! (<https://www.postgresql.org/docs/current/protocol-error-fields.html>).

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use super::frame;

/// One error or notice in PostgreSQL's fields. Texts of a server are kept as it sent them, with
/// bytes that are not UTF-8 replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{severity}: {message} (SQLSTATE {sqlstate})")]
pub struct ErrorReport {
    /// `ERROR`, `FATAL`, `PANIC`, `WARNING`, `NOTICE` ... (field V, else S).
    pub severity: Cow<'static, str>,
    /// Five characters (field C); `XX000` where a server gave none.
    pub sqlstate: Cow<'static, str>,
    /// Field M.
    pub message: Cow<'static, str>,
    /// Field D.
    pub detail: Option<Cow<'static, str>>,
    /// Field H.
    pub hint: Option<Cow<'static, str>>,
}

impl ErrorReport {
    /// An ERROR: the statement fails, the connection stays.
    pub fn error(sqlstate: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new("ERROR", sqlstate, message)
    }

    /// A FATAL: the connection is closed after it.
    pub fn fatal(sqlstate: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new("FATAL", sqlstate, message)
    }

    /// A report of any severity.
    pub fn new(
        severity: &'static str,
        sqlstate: &'static str,
        message: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            severity: severity.into(),
            sqlstate: sqlstate.into(),
            message: message.into(),
            detail: None,
            hint: None,
        }
    }

    /// With a DETAIL.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With a HINT.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Reads the body of an ErrorResponse or NoticeResponse (what follows the length).
    #[must_use]
    pub fn parse(body: &[u8]) -> Self {
        let mut report = Self::new("ERROR", "XX000", "");
        let mut unlocalized = false;
        let mut rest = body;
        while let [field, tail @ ..] = rest {
            if *field == 0 {
                break;
            }
            let end = memchr::memchr(0, tail).unwrap_or(tail.len());
            let text = || Cow::Owned(String::from_utf8_lossy(&tail[..end]).into_owned());
            match field {
                b'V' => {
                    report.severity = text();
                    unlocalized = true;
                }
                b'S' if !unlocalized => report.severity = text(),
                b'C' => report.sqlstate = text(),
                b'M' => report.message = text(),
                b'D' => report.detail = Some(text()),
                b'H' => report.hint = Some(text()),
                _ => {}
            }
            rest = tail.get(end + 1..).unwrap_or(&[]);
        }
        report
    }

    /// The SQLSTATE in the body of an ErrorResponse, without an allocation.
    #[must_use]
    pub fn sqlstate_of(body: &[u8]) -> Option<&[u8]> {
        let mut rest = body;
        while let [field, tail @ ..] = rest {
            let end = memchr::memchr(0, tail)?;
            match field {
                0 => return None,
                b'C' => return Some(&tail[..end]),
                _ => rest = tail.get(end + 1..)?,
            }
        }
        None
    }

    /// A field in the body of an ErrorResponse: V is the severity that no locale translates, R the
    /// routine.
    pub(super) fn field_of(body: &[u8], wanted: u8) -> Option<&[u8]> {
        let mut rest = body;
        while let [field, tail @ ..] = rest {
            let (text, next) = frame::cstr(tail)?;
            if *field == wanted {
                return Some(text);
            }
            rest = next;
        }
        None
    }

    /// Appends it as a whole ErrorResponse (or, for WARNING and below, NoticeResponse) message.
    pub fn encode(&self, out: &mut BytesMut) {
        let is_error = matches!(&*self.severity, "ERROR" | "FATAL" | "PANIC");
        out.put_u8(if is_error { b'E' } else { b'N' });
        let start = out.len();
        out.put_u32(0);
        let mut field = |code: u8, text: &str| {
            out.put_u8(code);
            out.put_slice(text.replace('\0', " ").as_bytes());
            out.put_u8(0);
        };
        field(b'S', &self.severity);
        field(b'V', &self.severity);
        field(b'C', &self.sqlstate);
        field(b'M', &self.message);
        if let Some(detail) = &self.detail {
            field(b'D', detail);
        }
        if let Some(hint) = &self.hint {
            field(b'H', hint);
        }
        out.put_u8(0);
        super::write::set_length(out, start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_writes() {
        let report = ErrorReport::fatal("53300", "sorry, too many clients already")
            .with_detail("all 10 places are taken")
            .with_hint("raise limits.clients");
        let mut out = BytesMut::new();
        report.encode(&mut out);
        assert_eq!(out[0], b'E');
        assert_eq!(u32::from_be_bytes(out[1..5].try_into().unwrap()) as usize, out.len() - 1);
        assert_eq!(ErrorReport::parse(&out[5..]), report);
        assert_eq!(ErrorReport::sqlstate_of(&out[5..]), Some(&b"53300"[..]));
    }

    #[test]
    fn a_report_without_fields_or_end_is_still_a_report() {
        for body in [&b""[..], b"\0", b"M", b"Mno end", b"C12345"] {
            let _ = ErrorReport::parse(body);
            let _ = ErrorReport::sqlstate_of(body);
        }
        assert_eq!(ErrorReport::parse(b"Mno end").message, "no end");
    }
}
