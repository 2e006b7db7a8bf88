//! `[[access]]` and `[auth_query]`: who may enter from where, and where users are looked up.

use std::time::Duration;

use toml::Spanned;

use super::error::Complaint;
use super::file::{AccessTable, AuthQuerySection};
use super::network::Network;
use super::password::PasswordKeys;
use super::reader::{Reader, Span};
use super::settings::{AccessRule, AuthQuery, Method, Monitor, Origin, UserPassword};
use super::value::{Key, OneOf, OneOrMany, Word, cut_name};

/// What is asked where the file gives no query: it takes a superuser.
const DEFAULT_QUERY: &str = "SELECT rolname, rolpassword, rolvaliduntil, rolcanlogin \
                             FROM pg_catalog.pg_authid WHERE rolname = $1";

impl Word for Method {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("scram-sha-256", Self::Scram),
        ("md5", Self::Md5),
        ("cert", Self::Cert),
        ("password", Self::Password),
        ("trust", Self::Trust),
        ("reject", Self::Reject),
    ];
}

impl Reader<'_> {
    pub(super) fn networks(&mut self, key: Key<OneOrMany>) -> Vec<Network> {
        let (name, span) = ("proxy.proxy_protocol_from", key.span.clone());
        let mut networks = Vec::new();
        for text in self.optional(name, key).map_or(Vec::new(), |texts| texts.0) {
            match Network::parse(&text) {
                Some(network) => networks.push(network),
                None => self.complain(name, &span, Complaint::NotANetwork { text }),
            }
        }
        networks
    }

    pub(super) fn access(&mut self, tables: Vec<Spanned<AccessTable>>) -> Vec<AccessRule> {
        let mut rules = Vec::with_capacity(tables.len());
        for table in tables {
            let span = Some(table.span());
            rules.extend(self.access_rule(table.into_inner(), &span));
        }
        rules
    }

    fn access_rule(&mut self, table: AccessTable, span: &Span) -> Option<AccessRule> {
        let from_span = table.from.span.clone();
        let example = "from = \"10.0.0.0/8\"";
        let texts = self.required("access.from", table.from, span, example);
        let method_span = table.method.span.clone();
        let example = "method = \"scram-sha-256\"";
        let method = self.required("access.method", table.method, span, example);
        let tls = self.optional("access.tls", table.tls);
        let users = self.names("access.user", table.user);
        let databases = self.names("access.database", table.database);
        let (texts, OneOf(method)) = (texts?, method?);
        let mut from = Vec::with_capacity(texts.0.len());
        for text in texts.0 {
            match origin(&text) {
                Some(origin) => from.push(origin),
                None => self.complain("access.from", &from_span, Complaint::NotAnOrigin { text }),
            }
        }
        if method == Method::Trust && !from.iter().all(is_this_machine) {
            self.complain("access.method", &method_span, Complaint::TrustFromElsewhere);
        }
        if matches!(method, Method::Password | Method::Cert) && tls != Some(true) {
            let complaint = Complaint::MethodNeedsTls { method: method.as_str() };
            self.complain("access.method", &method_span, complaint);
        }
        Some(AccessRule { from, users, databases, tls, method })
    }

    /// Names, of which "all" means every one.
    fn names(&mut self, name: &str, key: Key<OneOrMany>) -> Vec<String> {
        let names = self.optional(name, key).map_or(Vec::new(), |names| names.0);
        if names.iter().any(|name| name == "all") {
            return Vec::new();
        }
        names.into_iter().map(cut_name).collect()
    }

    pub(super) fn auth_query(
        &mut self,
        section: AuthQuerySection,
        monitor: Option<&Monitor>,
    ) -> Option<AuthQuery> {
        let keys = PasswordKeys {
            plain: section.password,
            file: section.password_file,
            env: section.password_env,
        };
        let password =
            self.password("auth_query", keys).and_then(|(password, span)| match password {
                UserPassword::Plain(secret) => Some(secret),
                UserPassword::Verifier(_) | UserPassword::Md5(_) => {
                    self.complain("auth_query.password", &span, Complaint::VerifierForMonitor);
                    None
                }
            });
        let query_span = section.query.span.clone();
        let query = self.optional("auth_query.query", section.query);
        if query.as_ref().is_some_and(|query| !query.contains("$1")) {
            let complaint = Complaint::AuthQueryWithoutParameter;
            self.complain("auth_query.query", &query_span, complaint);
        }
        let keep = self.time(
            "auth_query.keep",
            section.keep,
            Duration::ZERO..=Duration::from_secs(24 * 60 * 60),
            Duration::from_secs(60),
        );
        let database = self.optional("auth_query.database", section.database);
        // The role is what turns it on.
        let user = self.optional("auth_query.user", section.user)?;
        Some(AuthQuery {
            user,
            password,
            database: database
                .or_else(|| monitor.map(|monitor| monitor.database.clone()))
                .unwrap_or_default(),
            query: query.unwrap_or_else(|| DEFAULT_QUERY.to_owned()),
            keep,
        })
    }
}

fn origin(text: &str) -> Option<Origin> {
    match text.trim() {
        "all" => Some(Origin::All),
        "local" => Some(Origin::Local),
        "loopback" => Some(Origin::Loopback),
        other => Network::parse(other).map(Origin::Network),
    }
}

fn is_this_machine(origin: &Origin) -> bool {
    match origin {
        Origin::Local | Origin::Loopback => true,
        Origin::Network(network) => network.is_loopback(),
        Origin::All => false,
    }
}
