//! What the check has to say: what is wrong, and how to mend it.

use std::fmt;

use tokio_postgres::error::SqlState;

/// One thing to tell the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    wrong: bool,
    text: String,
}

impl Finding {
    /// Causeway would not work, or not as the file says.
    pub fn wrong(text: String) -> Self {
        Self { wrong: true, text }
    }

    /// It works, but could be better.
    pub fn note(text: String) -> Self {
        Self { wrong: false, text }
    }

    /// Whether the check fails because of it.
    pub fn is_wrong(&self) -> bool {
        self.wrong
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", if self.wrong { "wrong:" } else { "note: " }, self.text)
    }
}

/// Why a login failed, and what to do.
pub fn login_failed(
    error: &tokio_postgres::Error,
    user: &str,
    database: &str,
    key: &str,
) -> String {
    let Some(answer) = error.as_db_error() else {
        return unreachable(error);
    };
    let mend = match *answer.code() {
        SqlState::INVALID_PASSWORD => {
            format!("mend {key}, or: alter role {user} password '...'")
        }
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION if answer.message().contains("pg_hba") => {
            format!(
                "add to the node's pg_hba.conf, and reload it: host all {user} <this machine>/32 scram-sha-256"
            )
        }
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            format!("on the primary: create role {user} login password '...'")
        }
        SqlState::INVALID_CATALOG_NAME => format!("name a database that exists, not {database}"),
        SqlState::INSUFFICIENT_PRIVILEGE => {
            format!("on the primary: grant connect on database {database} to {user}")
        }
        SqlState::TOO_MANY_CONNECTIONS => "raise max_connections on the node".to_owned(),
        SqlState::CANNOT_CONNECT_NOW => {
            "wait until it has started; a replica needs hot_standby = on".to_owned()
        }
        _ => "see the node's log".to_owned(),
    };
    format!("{}; {mend}", answer.message())
}

fn unreachable(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    let mend = mend_of(cause);
    let mut text = cause.map_or_else(|| error.to_string(), ToString::to_string);
    if text == "error connecting to server" {
        "no connection".clone_into(&mut text);
    }
    format!("{text}; {mend}")
}

/// What to do about why there is no connection.
fn mend_of(cause: Option<&std::io::Error>) -> &'static str {
    use std::io::ErrorKind;
    match cause.map(std::io::Error::kind) {
        Some(ErrorKind::ConnectionRefused) => {
            "start PostgreSQL there, mend the address, or set its listen_addresses"
        }
        Some(ErrorKind::NotFound) => "mend the path of its socket, or start PostgreSQL there",
        // Of the operating system's own it has the number.
        Some(ErrorKind::PermissionDenied)
            if cause.is_some_and(|cause| cause.raw_os_error().is_none()) =>
        {
            "let its pg_hba.conf ask for scram-sha-256, verify it by node_tls.mode = \"verify-full\", or allow it \
             in node_tls.require_auth"
        }
        Some(ErrorKind::TimedOut) => "see whether a firewall is in between",
        _ => "mend the address, and see that PostgreSQL listens there",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_not_be_asked_for_is_told_from_what_may_not_be_opened() {
        let ours = std::io::Error::new(std::io::ErrorKind::PermissionDenied, "not allowed here");
        assert!(mend_of(Some(&ours)).contains("node_tls.require_auth"));
        let systems = std::io::Error::from_raw_os_error(13);
        assert_eq!(systems.kind(), ours.kind());
        assert!(!mend_of(Some(&systems)).contains("node_tls"));
    }
}
