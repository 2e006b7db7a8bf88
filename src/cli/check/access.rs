//! Who could enter, in words.

use super::advice::Finding;
use crate::config::settings::{AccessRule, Listen, Method, Origin, Settings};

/// The rules in their order, and what holds where none speaks.
pub(super) fn explain(settings: &Settings) -> Vec<String> {
    let mut lines: Vec<_> = settings.access.iter().map(rule).collect();
    let rest = if lines.is_empty() { "" } else { "else " };
    lines.push(format!(
        "{rest}from this machine: every user, to every database, by scram-sha-256; from elsewhere: nobody"
    ));
    lines
}

fn rule(rule: &AccessRule) -> String {
    let from: Vec<_> = rule.from.iter().map(origin).collect();
    let names = |names: &[String], every: &str| match names {
        [] => every.to_owned(),
        names => names.join(", "),
    };
    let tls = match rule.tls {
        Some(true) => " with TLS",
        Some(false) => " without TLS",
        None => "",
    };
    let how = match rule.method {
        Method::Reject => "may not enter".to_owned(),
        Method::Trust => "WITHOUT A PASSWORD".to_owned(),
        method => format!("by {}", method.as_str()),
    };
    format!(
        "from {}{tls}: {}, to {}, {how}",
        from.join(" and "),
        names(&rule.users, "every user"),
        names(&rule.databases, "every database"),
    )
}

fn origin(origin: &Origin) -> String {
    match origin {
        Origin::All => "anywhere".to_owned(),
        Origin::Local => "Unix sockets".to_owned(),
        Origin::Loopback => "loopback".to_owned(),
        Origin::Network(network) => network.to_string(),
    }
}

/// What the rules do that nobody may have meant.
pub(super) fn findings(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let outside = |origin: &Origin| match origin {
        Origin::All => true,
        Origin::Network(network) => !network.is_loopback(),
        Origin::Local | Origin::Loopback => false,
    };
    let lets_in =
        |rule: &&AccessRule| rule.method != Method::Reject && rule.from.iter().any(outside);
    let open = settings.proxy.listen.iter().find_map(|listen| match listen {
        Listen::Tcp(address) if !address.ip().is_loopback() => Some(address),
        _ => None,
    });
    if let Some(address) = open
        && !settings.access.iter().any(|rule| lets_in(&rule))
    {
        findings.push(Finding::note(format!(
            "{address} is open to other machines, and no [[access]] rule lets anybody in from there; add \
             for example: from = \"10.0.0.0/8\", method = \"scram-sha-256\""
        )));
    }
    if settings.access.iter().any(|rule| rule.method == Method::Trust) {
        let text =
            "an [[access]] rule trusts whoever is on this machine: they enter without a password";
        findings.push(Finding::note(text.to_owned()));
    }
    for rule in settings.access.iter().filter(lets_in) {
        if rule.tls.is_none() && rule.users.is_empty() && rule.from.contains(&Origin::All) {
            let text =
                "every user may enter from anywhere in plain text; narrow from, or add tls = true";
            findings.push(Finding::note(text.to_owned()));
        }
    }
    // A rule behind one that takes everything from the same places is never asked.
    for (at, rule) in settings.access.iter().enumerate() {
        let hides = |before: &AccessRule| {
            before.users.is_empty()
                && before.databases.is_empty()
                && (before.tls.is_none() || before.tls == rule.tls)
                && (before.from.contains(&Origin::All)
                    || rule.from.iter().all(|origin| before.from.contains(origin)))
        };
        if settings.access[..at].iter().any(hides) {
            findings.push(Finding::wrong(format!(
                "[[access]] rule {} is never reached: one before it matches all that it matches",
                at + 1
            )));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(access: &str) -> Settings {
        let text = format!(
            "proxy.listen = \"0.0.0.0:6432\"\ncluster.nodes = [\"a\"]\nmonitor.user = \"m\"\n\
             user = [{{ name = \"u\" }}]\n{access}"
        );
        crate::config::parse(&text, Path::new("/")).unwrap()
    }

    #[test]
    fn who_could_enter_is_said_in_words() {
        let settings = read(
            "[[access]]\nfrom = [\"10.0.0.0/8\", \"local\"]\nuser = [\"a\", \"b\"]\ntls = true\nmethod = \"password\"\n\
             [[access]]\nfrom = \"loopback\"\ndatabase = \"x\"\nmethod = \"trust\"\n\
             [[access]]\nfrom = \"all\"\nmethod = \"reject\"",
        );
        assert_eq!(
            explain(&settings),
            [
                "from 10.0.0.0/8 and Unix sockets with TLS: a, b, to every database, by password",
                "from loopback: every user, to x, WITHOUT A PASSWORD",
                "from anywhere: every user, to every database, may not enter",
                "else from this machine: every user, to every database, by scram-sha-256; from elsewhere: nobody",
            ]
        );
        assert_eq!(findings(&settings).len(), 1);
    }

    #[test]
    fn rules_that_do_not_do_what_they_say_are_told_of() {
        let said = |access: &str| {
            let found = findings(&read(access));
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert!(said("").contains("no [[access]] rule lets anybody in"));
        assert!(said("[[access]]\nfrom = \"all\"\nmethod = \"md5\"").contains("plain text"));
        let hidden = "[[access]]\nfrom = \"all\"\nmethod = \"reject\"\n\
                      [[access]]\nfrom = \"10.0.0.0/8\"\nmethod = \"scram-sha-256\"";
        assert!(
            said(hidden).contains("wrong: [[access]] rule 2 is never reached"),
            "{}",
            said(hidden)
        );
        assert_eq!(said("[[access]]\nfrom = \"10.0.0.0/8\"\nmethod = \"scram-sha-256\""), "");
    }
}
