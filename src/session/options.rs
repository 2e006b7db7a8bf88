//! What a session's settings mean to Causeway itself.

use std::time::Duration;

use crate::config::settings::Consistency;
use crate::protocol::ErrorReport;
use crate::routing::decide::consistency_of;
use crate::server::Laid;
use crate::sql::statement::{Lexis, RouteHint};
use crate::sql::{self, SetValue};

/// Settings of Causeway's own. They are PostgreSQL settings like any other (custom ones), so SET,
/// SHOW, rollback and start-up options work on them as on all.
const OWN: &[&str] =
    &["causeway.route", "causeway.consistency", "causeway.max_lag", "causeway.explain"];

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
    /// `search_path`
    pub search_path: Option<String>,
    /// `application_name`
    pub application_name: String,
    /// The role that SET ROLE or SET SESSION AUTHORIZATION asked for.
    pub role: Option<String>,
    /// `default_transaction_isolation` is serializable.
    pub serializable: bool,
}

impl Options {
    /// Reads them out of what is laid.
    #[must_use]
    pub fn of(laid: &Laid) -> Self {
        let value = |name: &str| value_of(laid, name);
        let own = |name: &str| value(name).map(|value| value.to_ascii_lowercase());
        Self {
            route: own("causeway.route").and_then(|value| route(&value)),
            consistency: own("causeway.consistency").and_then(|value| consistency_of(&value)),
            max_lag: own("causeway.max_lag").and_then(|value| duration(&value)),
            explain: own("causeway.explain").is_some_and(|value| is_on(&value)),
            search_path: value("search_path"),
            application_name: value("application_name").unwrap_or_default(),
            role: value("role").or_else(|| value("session_authorization")),
            serializable: own("default_transaction_isolation")
                .is_some_and(|value| value.contains("serializable")),
        }
    }
}

/// Refuses a SET of one of Causeway's own settings that means nothing.
///
/// # Errors
/// With PostgreSQL's SQLSTATE for an invalid value, or for an unknown setting.
pub fn check(name: &str, statement: &[u8]) -> Result<(), ErrorReport> {
    if !name.starts_with("causeway.") {
        return Ok(());
    }
    if !OWN.contains(&name) {
        let known = OWN.join(", ");
        let message = format!("unrecognized configuration parameter \"{name}\"");
        return Err(ErrorReport::error("42704", message)
            .with_hint(format!("Causeway's own settings are {known}.")));
    }
    let Some(value) = value_in(statement).map(|value| value.to_ascii_lowercase()) else {
        return Ok(());
    };
    let (good, expected) = match name {
        "causeway.route" => (
            matches!(value.as_str(), "primary" | "replica" | "default" | ""),
            "primary, replica, default",
        ),
        "causeway.consistency" => {
            (consistency_of(&value).is_some(), "eventual, session, global, primary")
        }
        "causeway.max_lag" => (duration(&value).is_some(), "a time with its unit, such as 500ms"),
        _ => (is_on(&value) || is_off(&value), "on, off"),
    };
    if good {
        return Ok(());
    }
    let message = format!("invalid value for parameter \"{name}\": \"{value}\"");
    Err(ErrorReport::error("22023", message).with_hint(format!("Available values: {expected}.")))
}

fn value_of(laid: &Laid, name: &str) -> Option<String> {
    value_in(laid.statement(name)?)
}

/// The value in a SET, or in the set_config() that Causeway itself writes.
fn value_in(statement: &[u8]) -> Option<String> {
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
        assert_eq!(options.application_name, "it's");
        assert!(options.serializable && !options.explain);
        let laid = Laid::default().with_value("causeway.explain", "on");
        assert!(Options::of(&laid).explain, "as the audit lays it");
        let listed = Laid::default().with_value("search_path", "a, b");
        assert_eq!(Options::of(&listed).search_path.as_deref(), Some("a, b"));
    }

    #[test]
    fn own_settings_are_checked() {
        assert!(check("causeway.route", b"SET causeway.route = primary").is_ok());
        assert!(check("timezone", b"SET timezone = nonsense").is_ok());
        let wrong = check("causeway.max_lag", b"SET causeway.max_lag = 'soon'").unwrap_err();
        assert_eq!(wrong.sqlstate, "22023");
        assert_eq!(check("causeway.rout", b"SET causeway.rout = 1").unwrap_err().sqlstate, "42704");
    }
}
