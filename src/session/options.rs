//! What a session's settings mean to Causeway itself.

use std::time::Duration;

use crate::cluster::Lsn;
use crate::config::settings::Consistency;
use crate::protocol::ErrorReport;
use crate::routing::decide::consistency_of;
use crate::server::Laid;
use crate::sql::statement::{Lexis, RouteHint};
use crate::sql::{self, SetValue};

/// Settings of Causeway's own. They are PostgreSQL settings like any other (custom ones), so SET,
/// SHOW, rollback and start-up options work on them as on all.
const OWN: &[&str] = &[
    "causeway.route",
    "causeway.consistency",
    "causeway.max_lag",
    "causeway.explain",
    AFTER_LSN,
    SESSION_KEY,
    LSN,
];
/// The position that others must not fall behind; cannot be set.
pub(super) const LSN: &str = "causeway.lsn";
/// What connections share that are one session.
pub(super) const SESSION_KEY: &str = "causeway.session_key";
/// Such a position of another session.
const AFTER_LSN: &str = "causeway.after_lsn";

/// The settings that routing looks at.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Options {
    /// `causeway.route`
    pub route: Option<RouteHint>,
    /// `causeway.consistency`
    pub consistency: Option<Consistency>,
    /// `causeway.max_lag`
    pub max_lag: Option<Duration>,
    /// `causeway.explain`
    pub explain: bool,
    /// `causeway.after_lsn`; 0 where it is not set.
    pub after_lsn: Lsn,
    /// `causeway.session_key`
    pub session_key: Option<Box<str>>,
    /// `search_path`
    pub search_path: Option<Box<str>>,
    /// `application_name`
    pub application_name: Box<str>,
    /// The role that SET ROLE or SET SESSION AUTHORIZATION asked for.
    pub role: Option<Box<str>>,
    /// `default_transaction_isolation` is serializable.
    pub serializable: bool,
    /// `idle_session_timeout`, where it is not zero.
    pub idle_session: Option<Duration>,
    /// `idle_in_transaction_session_timeout`, where it is not zero.
    pub idle_in_transaction: Option<Duration>,
}

impl Options {
    /// Reads them out of what is laid.
    #[must_use]
    pub fn of(laid: &Laid) -> Self {
        let value = |name: &str| value_of(laid, name);
        let kept = |name: &str| value(name).map(String::into_boxed_str);
        let own = |name: &str| value(name).map(|value| value.to_ascii_lowercase());
        Self {
            route: own("causeway.route").and_then(|value| route(&value)),
            consistency: own("causeway.consistency").and_then(|value| consistency_of(&value)),
            max_lag: own("causeway.max_lag").and_then(|value| duration(&value)),
            explain: own("causeway.explain").is_some_and(|value| is_on(&value)),
            after_lsn: value(AFTER_LSN).and_then(|value| value.parse().ok()).unwrap_or_default(),
            session_key: kept(SESSION_KEY).filter(|key| !key.is_empty()),
            search_path: kept("search_path"),
            application_name: kept("application_name").unwrap_or_default(),
            role: kept("role").or_else(|| kept("session_authorization")),
            serializable: own("default_transaction_isolation")
                .is_some_and(|value| value.contains("serializable")),
            idle_session: value("idle_session_timeout").and_then(|value| timeout(&value)),
            idle_in_transaction: value("idle_in_transaction_session_timeout")
                .and_then(|value| timeout(&value)),
        }
    }

    /// Whether the client may not be silent for as long as it likes.
    #[must_use]
    pub fn limits_silence(&self) -> bool {
        self.idle_session.is_some() || self.idle_in_transaction.is_some()
    }
}

/// Why a value of one of Causeway's own settings is not taken.
#[derive(Debug)]
pub enum Fault {
    /// It means nothing.
    Refused(ErrorReport),
    /// Nobody knows until the primary has been asked how far it is.
    Unknown,
}

/// Longest `causeway.session_key`, in bytes.
const KEY_MOST: usize = 256;

/// Refuses a SET of one of Causeway's own settings that means nothing.
///
/// # Errors
/// With PostgreSQL's SQLSTATE for an invalid value, or for an unknown setting.
///
/// `furthest`: how far the primary is, if that is known: no position ahead of it is taken.
pub fn check(name: &str, statement: &[u8], furthest: Option<Lsn>) -> Result<(), Fault> {
    if !name.starts_with("causeway.") {
        return Ok(());
    }
    if !OWN.contains(&name) {
        let known = OWN.join(", ");
        let message = format!("unrecognized configuration parameter \"{name}\"");
        let report = ErrorReport::error("42704", message)
            .with_hint(format!("Causeway's own settings are {known}."));
        return Err(Fault::Refused(report));
    }
    let Some(value) = value_in(statement).map(|value| value.to_ascii_lowercase()) else {
        return Ok(());
    };
    check_value(name, &value, furthest)
}

/// The same of all settings that a start-up packet asks for.
///
/// # Errors
/// As [`check`].
pub fn check_all(laid: &Laid, furthest: Option<Lsn>) -> Result<(), Fault> {
    laid.iter().try_for_each(|(name, statement)| check(name, statement, furthest))
}

/// The same of a value.
///
/// # Errors
/// As [`check`].
fn check_value(name: &str, value: &str, furthest: Option<Lsn>) -> Result<(), Fault> {
    if name == LSN {
        let message = format!("parameter \"{name}\" cannot be changed");
        let hint = "Set causeway.after_lsn to what SHOW causeway.lsn has shown elsewhere.";
        return Err(Fault::Refused(ErrorReport::error("55P02", message).with_hint(hint)));
    }
    if name == AFTER_LSN
        && let Ok(position) = value.parse::<Lsn>()
    {
        let Some(furthest) = furthest else { return Err(Fault::Unknown) };
        if position <= furthest {
            return Ok(());
        }
        let message = format!("invalid value for parameter \"{name}\": \"{value}\"");
        let detail = format!("The primary is at {furthest}: no session can have seen more.");
        return Err(Fault::Refused(ErrorReport::error("22023", message).with_detail(detail)));
    }
    let (good, expected) = match name {
        AFTER_LSN => (value.is_empty(), "a position such as 16/B374D848"),
        SESSION_KEY => (value.len() <= KEY_MOST, "a string of at most 256 bytes"),
        "causeway.route" => {
            (matches!(value, "primary" | "replica" | "default" | ""), "primary, replica, default")
        }
        "causeway.consistency" => {
            (consistency_of(value).is_some(), "eventual, session, global, primary")
        }
        "causeway.max_lag" => (duration(value).is_some(), "a time with its unit, such as 500ms"),
        _ => (is_on(value) || is_off(value), "on, off"),
    };
    if good {
        return Ok(());
    }
    let message = format!("invalid value for parameter \"{name}\": \"{value}\"");
    let report = ErrorReport::error("22023", message);
    Err(Fault::Refused(report.with_hint(format!("Available values: {expected}."))))
}

fn value_of(laid: &Laid, name: &str) -> Option<String> {
    value_in(laid.statement(name)?)
}

/// The value in a SET, or in the set_config() that Causeway itself writes.
pub(super) fn value_in(statement: &[u8]) -> Option<String> {
    if let Some(set) = sql::set_value(statement, Lexis::default()) {
        if let Some(plain) = set.plain() {
            return Some(plain);
        }
        let (SetValue::Source(source) | SetValue::TimeZone(source)) = &set.value else {
            return None;
        };
        // A list: what it names in single quotes, PostgreSQL takes for quoted names.
        return Some(String::from_utf8_lossy(source).replace('\'', "\""));
    }
    let text = std::str::from_utf8(statement).ok()?;
    let rest = text.strip_prefix("SELECT pg_catalog.set_config(")?;
    let (_, rest) = rest.split_once(',')?;
    Some(unquoted(rest.strip_suffix(",false)")?.trim()))
}

/// A single string constant without its quotes; anything else as it stands.
fn unquoted(source: &str) -> String {
    match source.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        Some(inside) if !inside.replace("''", "").contains('\'') => inside.replace("''", "'"),
        _ => source.to_owned(),
    }
}

fn route(value: &str) -> Option<RouteHint> {
    match value {
        "primary" => Some(RouteHint::Primary),
        "replica" => Some(RouteHint::Replica),
        _ => None,
    }
}

fn duration(value: &str) -> Option<Duration> {
    humantime::parse_duration(value).ok()
}

/// A time as PostgreSQL reads it where the unit is a millisecond; `None` for zero, which is no limit.
fn timeout(value: &str) -> Option<Duration> {
    const UNITS: &[(&str, f64)] =
        &[("us", 0.001), ("ms", 1.0), ("s", 1e3), ("min", 6e4), ("h", 3.6e6), ("d", 8.64e7)];
    let value = value.trim();
    let digits = value.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let unit = &value[digits.len()..];
    let factor =
        if unit.is_empty() { 1.0 } else { UNITS.iter().find(|(name, _)| *name == unit)?.1 };
    let milliseconds = (digits.trim().parse::<f64>().ok()? * factor).round();
    let limit = Duration::try_from_secs_f64(milliseconds / 1e3).ok()?;
    (!limit.is_zero()).then_some(limit)
}

fn is_on(value: &str) -> bool {
    matches!(value, "on" | "true" | "yes" | "1")
}

fn is_off(value: &str) -> bool {
    matches!(value, "off" | "false" | "no" | "0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn values_are_read_as_the_client_wrote_them() {
        let laid = Laid::default()
            .with("search_path", Bytes::from_static(b"SET search_path TO app, public"))
            .with("causeway.route", Bytes::from_static(b"set causeway.route = 'Primary' ;"))
            .with_value("application_name", "it's")
            .with_value("default_transaction_isolation", "serializable");
        let options = Options::of(&laid);
        assert_eq!(options.search_path.as_deref(), Some("app, public"));
        assert_eq!(options.route, Some(RouteHint::Primary));
        assert_eq!(&*options.application_name, "it's");
        assert!(options.serializable && !options.explain);
        let laid = Laid::default().with_value("causeway.explain", "on");
        assert!(Options::of(&laid).explain, "as the audit lays it");
        let listed = Laid::default().with_value("search_path", "a, b");
        assert_eq!(Options::of(&listed).search_path.as_deref(), Some("a, b"));
    }

    #[test]
    fn limits_of_silence_are_read_as_postgresql_reads_them() {
        let read = |value: &str| {
            let text = format!("SET idle_session_timeout = {value}");
            Options::of(&Laid::default().with("idle_session_timeout", text.into())).idle_session
        };
        for (value, milliseconds) in [
            ("300", 300),
            ("'2s'", 2000),
            ("'1.5 min'", 90_000),
            ("'500us'", 1),
            ("'1d'", 86_400_000),
        ] {
            assert_eq!(read(value), Some(Duration::from_millis(milliseconds)), "{value}");
        }
        for none in ["0", "'0 min'", "DEFAULT", "'soon'", "-1", "'1 S'"] {
            assert_eq!(read(none), None, "{none}");
        }
    }

    #[test]
    fn own_settings_are_checked() {
        let refused = |name: &str, value: &str| {
            let text = format!("SET {name} = '{value}'");
            match check(name, text.as_bytes(), Some(Lsn(0x20))) {
                Ok(()) => None,
                Err(Fault::Refused(report)) => Some(report.sqlstate),
                Err(Fault::Unknown) => panic!("it was told"),
            }
        };
        assert_eq!(refused("causeway.route", "primary"), None);
        assert_eq!(refused("timezone", "nonsense"), None);
        assert_eq!(refused("causeway.max_lag", "soon").as_deref(), Some("22023"));
        assert_eq!(refused("causeway.rout", "1").as_deref(), Some("42704"));
        assert_eq!(refused("causeway.lsn", "0/1").as_deref(), Some("55P02"));
        assert_eq!(refused("causeway.after_lsn", "0/20"), None);
        assert_eq!(refused("causeway.after_lsn", "0/21").as_deref(), Some("22023"), "the future");
        assert_eq!(refused("causeway.after_lsn", "soon").as_deref(), Some("22023"));
        assert_eq!(refused("causeway.session_key", &"x".repeat(257)).as_deref(), Some("22023"));
        let unasked = check("causeway.after_lsn", b"SET causeway.after_lsn = '0/1'", None);
        assert!(matches!(unasked, Err(Fault::Unknown)));
    }
}
