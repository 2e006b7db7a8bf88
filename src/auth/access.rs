//! Who may try to enter: the first `[[access]]` rule that matches decides.
//!
//! Pure. Where no rule matches, a client from this machine proves itself by SCRAM-SHA-256, and one from
//! anywhere else is refused: Causeway is closed by default.

use std::net::IpAddr;

use crate::config::settings::{AccessRule, Method, Origin};
use crate::protocol::ErrorReport;

/// Who asks to enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visitor<'a> {
    /// Where from; `None` over a Unix socket.
    pub address: Option<IpAddr>,
    /// The role asked for.
    pub user: &'a str,
    /// The database asked for.
    pub database: &'a str,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// A visitor who may not even try.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} {}, user \"{user}\", database \"{database}\", {}",
    if *.rejected { "an [[access]] rule rejects connection for" } else { "no [[access]] rule for" },
    from(*.address),
    if *.tls { "SSL encryption" } else { "no encryption" }
)]
pub struct Refusal {
    /// A rule said so; else none spoke.
    pub rejected: bool,
    /// Where it comes from; `None` over a Unix socket.
    pub address: Option<IpAddr>,
    /// Whom it wants to be.
    pub user: String,
    /// Where it wants to go.
    pub database: String,
    /// Whether it came encrypted.
    pub tls: bool,
}

fn from(address: Option<IpAddr>) -> String {
    address.map_or("host \"[local]\"".to_owned(), |address| format!("host \"{address}\""))
}

impl Refusal {
    /// What the client hears: PostgreSQL's words about `pg_hba.conf`, about our own rules.
    #[must_use]
    pub fn report(&self) -> ErrorReport {
        ErrorReport::fatal("28000", self.to_string())
    }
}

/// How the visitor is to prove who it is.
///
/// # Errors
/// If it may not enter at all.
pub fn admit(rules: &[AccessRule], visitor: &Visitor<'_>) -> Result<Method, Refusal> {
    let method = match rules.iter().find(|rule| matches(rule, visitor)) {
        Some(rule) => Some(rule.method),
        None if visitor.is_on_this_machine() => Some(Method::Scram),
        None => None,
    };
    match method {
        Some(Method::Reject) | None => Err(Refusal {
            rejected: method.is_some(),
            address: visitor.address,
            user: visitor.user.to_owned(),
            database: visitor.database.to_owned(),
            tls: visitor.tls,
        }),
        Some(method) => Ok(method),
    }
}

/// Whether any rule could let a client in that comes from there, whoever it is.
#[must_use]
pub fn awaits(rules: &[AccessRule], address: Option<IpAddr>) -> bool {
    let visitor = Visitor { address, user: "", database: "", tls: false };
    for rule in rules.iter().filter(|rule| comes_from(rule, &visitor)) {
        if rule.method != Method::Reject {
            return true;
        }
        if rule.users.is_empty() && rule.databases.is_empty() && rule.tls.is_none() {
            return false;
        }
    }
    visitor.is_on_this_machine()
}

impl Visitor<'_> {
    fn is_on_this_machine(&self) -> bool {
        self.address.is_none_or(|address| address.to_canonical().is_loopback())
    }
}

fn matches(rule: &AccessRule, visitor: &Visitor<'_>) -> bool {
    let named = |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
    comes_from(rule, visitor)
        && rule.tls.is_none_or(|tls| tls == visitor.tls)
        && named(&rule.users, visitor.user)
        && named(&rule.databases, visitor.database)
}

fn comes_from(rule: &AccessRule, visitor: &Visitor<'_>) -> bool {
    rule.from.iter().any(|origin| match origin {
        Origin::All => true,
        Origin::Local => visitor.address.is_none(),
        Origin::Loopback => visitor.address.is_some() && visitor.is_on_this_machine(),
        Origin::Network(network) => {
            visitor.address.is_some_and(|address| network.contains(address))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::network::Network;

    fn rule(
        from: &str,
        users: &[&str],
        databases: &[&str],
        tls: Option<bool>,
        m: Method,
    ) -> AccessRule {
        let from = match from {
            "all" => Origin::All,
            "local" => Origin::Local,
            "loopback" => Origin::Loopback,
            range => Origin::Network(Network::parse(range).unwrap()),
        };
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        AccessRule {
            from: vec![from],
            users: owned(users),
            databases: owned(databases),
            tls,
            method: m,
        }
    }

    fn asks(rules: &[AccessRule], from: &str, user: &str, database: &str, tls: bool) -> String {
        let address = (from != "local").then(|| from.parse().unwrap());
        match admit(rules, &Visitor { address, user, database, tls }) {
            Ok(method) => method.as_str().to_owned(),
            Err(refusal) => if refusal.rejected { "rejected" } else { "no rule" }.to_owned(),
        }
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        use Method::{Cert, Md5, Password, Reject, Scram, Trust};
        let rules = [
            rule("local", &["backup"], &[], None, Trust),
            rule("10.1.0.0/16", &[], &[], None, Reject),
            rule("10.0.0.0/8", &["app", "web"], &["shop"], Some(true), Cert),
            rule("10.0.0.0/8", &["app"], &[], Some(true), Password),
            rule("10.0.0.0/8", &[], &["old"], Some(false), Md5),
            rule("2001:db8::/32", &[], &[], None, Scram),
            rule("loopback", &["monitor"], &[], None, Trust),
        ];
        for (from, user, database, tls, expected) in [
            ("local", "backup", "x", false, "trust"),
            ("local", "app", "x", false, "scram-sha-256"),
            ("10.1.2.3", "app", "shop", true, "rejected"),
            ("10.2.0.1", "app", "shop", true, "cert"),
            ("10.2.0.1", "web", "shop", true, "cert"),
            ("10.2.0.1", "app", "shop", false, "no rule"),
            ("10.2.0.1", "app", "other", true, "password"),
            ("10.2.0.1", "web", "other", true, "no rule"),
            ("10.2.0.1", "web", "old", false, "md5"),
            ("::ffff:10.2.0.1", "web", "old", false, "md5"),
            ("10.2.0.1", "APP", "shop", true, "no rule"),
            ("2001:db8::7", "anybody", "x", false, "scram-sha-256"),
            ("2001:db9::7", "anybody", "x", false, "no rule"),
            ("127.0.0.1", "monitor", "x", false, "trust"),
            ("::ffff:127.0.0.1", "monitor", "x", false, "trust"),
            ("127.9.9.9", "app", "x", false, "scram-sha-256"),
            ("::1", "app", "x", true, "scram-sha-256"),
            ("192.0.2.1", "app", "x", true, "no rule"),
        ] {
            assert_eq!(
                asks(&rules, from, user, database, tls),
                expected,
                "{from} {user} {database} {tls}"
            );
        }
    }

    #[test]
    fn whom_no_rule_could_let_in_is_known_by_the_address() {
        use Method::{Cert, Reject, Scram};
        let rules = [
            rule("10.1.0.0/16", &["app"], &[], None, Reject),
            rule("10.0.0.0/8", &["web"], &["shop"], Some(true), Cert),
            rule("192.0.2.0/24", &[], &[], Some(true), Reject),
            rule("198.51.100.0/24", &[], &[], None, Reject),
            rule("198.51.0.0/16", &[], &[], None, Scram),
            rule("::1", &[], &[], None, Reject),
        ];
        for (from, expected) in [
            ("10.1.0.1", true),
            ("::ffff:10.2.0.1", true),
            ("192.0.2.1", false),
            ("198.51.100.1", false),
            ("198.51.1.1", true),
            ("203.0.113.1", false),
            ("127.0.0.1", true),
            ("::1", false),
        ] {
            assert_eq!(awaits(&rules, Some(from.parse().unwrap())), expected, "{from}");
        }
        assert!(awaits(&rules, None));
        assert!(!awaits(&[rule("local", &[], &[], None, Reject)], None));
    }

    #[test]
    fn without_rules_only_this_machine_may_try() {
        for (from, expected) in [
            ("local", "scram-sha-256"),
            ("127.0.0.1", "scram-sha-256"),
            ("::1", "scram-sha-256"),
            ("10.0.0.1", "no rule"),
            ("::ffff:10.0.0.1", "no rule"),
            ("fe80::1", "no rule"),
        ] {
            assert_eq!(asks(&[], from, "app", "app", false), expected, "{from}");
        }
    }

    #[test]
    fn who_is_refused_is_told_in_postgresqls_words() {
        let visitor = Visitor {
            address: Some("192.0.2.7".parse().unwrap()),
            user: "app",
            database: "shop",
            tls: false,
        };
        let refusal = admit(&[], &visitor).unwrap_err();
        let report = refusal.report();
        assert_eq!(report.sqlstate, "28000");
        assert_eq!(
            report.message,
            "no [[access]] rule for host \"192.0.2.7\", user \"app\", database \"shop\", no encryption"
        );
        let reject = [rule("all", &[], &[], None, Method::Reject)];
        let refusal = admit(&reject, &Visitor { tls: true, ..visitor }).unwrap_err();
        assert!(refusal.to_string().starts_with("an [[access]] rule rejects connection for host"));
        assert!(refusal.to_string().ends_with("SSL encryption"));
    }
}
