//! `[tls]` and `[node_tls]`: which files there must be for what. Does not open them.

use std::path::PathBuf;

use super::error::Complaint;
use super::file::{NodeTlsSection, TlsSection};
use super::reader::{Reader, Span};
use super::settings::{CertificateName, Node, NodeTls, NodeTlsMode, Tls, TlsMode, Ways};
use super::value::{Key, OneOrMany, Word, cut_name};

impl Word for TlsMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("require", Self::Require),
        ("verify-full", Self::VerifyFull),
    ];
}

impl Word for NodeTlsMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("disable", Self::Disable),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];
}

impl Reader<'_> {
    pub(super) fn tls(&mut self, section: TlsSection) -> Tls {
        let mode_span = section.mode.span.clone();
        let mode = self.word("tls.mode", section.mode, TlsMode::Disable);
        let (certificate, key) = self.identity(
            "tls",
            section.certificate,
            section.key,
            &mode_span,
            mode != TlsMode::Disable,
        );
        let client_root = self.path("tls.client_root", section.client_root);
        let crl_span = section.client_crl.span.clone();
        let client_crl = self.path("tls.client_crl", section.client_crl);
        if client_root.is_none() && (mode == TlsMode::VerifyFull || client_crl.is_some()) {
            let place = if client_crl.is_some() { &crl_span } else { &mode_span };
            let example = "client_root = \"clients.crt\"";
            self.complain("tls.client_root", place, Complaint::Missing { example });
        }
        let mut names = Vec::with_capacity(section.name.len());
        for table in section.name {
            let span = Some(table.span());
            let table = table.into_inner();
            let certificate = self.required(
                "tls.name.certificate",
                table.certificate,
                &span,
                "certificate = \"reports.example\"",
            );
            let user = self.required("tls.name.user", table.user, &span, "user = \"reports\"");
            if let (Some(certificate), Some(user)) = (certificate, user) {
                names.push(CertificateName { certificate, user: cut_name(user) });
            }
        }
        Tls { mode, certificate, key, client_root, client_crl, names }
    }

    pub(super) fn node_tls(&mut self, section: NodeTlsSection, nodes: &[Node]) -> NodeTls {
        let mode_span = section.mode.span.clone();
        let (root_span, crl_span) = (section.root.span.clone(), section.crl.span.clone());
        let mode = self.word("node_tls.mode", section.mode, NodeTlsMode::Prefer);
        let root = self.path("node_tls.root", section.root);
        let crl = self.path("node_tls.crl", section.crl);
        let verifies = matches!(mode, NodeTlsMode::VerifyCa | NodeTlsMode::VerifyFull);
        if verifies && root.is_none() {
            let example = "root = \"nodes.crt\"";
            self.complain("node_tls.root", &mode_span, Complaint::Missing { example });
        }
        for (name, given, span) in
            [("node_tls.root", &root, &root_span), ("node_tls.crl", &crl, &crl_span)]
        {
            if !verifies && given.is_some() {
                let word = NodeTlsMode::WORDS.iter().find(|(_, meaning)| *meaning == mode);
                let complaint =
                    Complaint::WithoutVerifying { mode: word.map_or("", |word| word.0) };
                self.complain(name, span, complaint);
            }
        }
        let (certificate, key) =
            self.identity("node_tls", section.certificate, section.key, &mode_span, false);
        let ways_span = section.require_auth.span.clone();
        let require_auth = self.ways("node_tls.require_auth", section.require_auth);
        if require_auth == Some(Ways::PASSWORD)
            && !verifies
            && let Some(node) = nodes.iter().find(|node| !node.address.is_this_machine())
        {
            let complaint = Complaint::OnlyInPlain { node: node.name.to_string() };
            self.complain("node_tls.require_auth", &ways_span, complaint);
        }
        NodeTls { mode, root, crl, certificate, key, require_auth }
    }

    fn ways(&mut self, name: &str, key: Key<OneOrMany>) -> Option<Ways> {
        let span = key.span.clone();
        let mut ways: Option<Ways> = None;
        for text in self.optional(name, key)?.0 {
            let way = match text.as_str() {
                "scram-sha-256" => Ways::SCRAM,
                "md5" => Ways::MD5,
                "password" => Ways::PASSWORD,
                "none" => Ways::NONE,
                _ => {
                    self.complain(name, &span, Complaint::NotAWay { text });
                    continue;
                }
            };
            ways = Some(ways.map_or(way, |ways| ways.with(way)));
        }
        ways
    }

    /// A certificate and its key: both or neither, and both if they are needed.
    fn identity(
        &mut self,
        section: &str,
        certificate: Key<String>,
        key: Key<String>,
        span: &Span,
        needed: bool,
    ) -> (Option<PathBuf>, Option<PathBuf>) {
        let (certificate_name, key_name) =
            (format!("{section}.certificate"), format!("{section}.key"));
        let given = certificate.value.is_some() || key.value.is_some();
        let place = certificate.span.clone().or(key.span.clone()).or(span.clone());
        let lacks = |key: &Key<String>| (given || needed) && key.value.is_none();
        for (name, lacks, example) in [
            (&certificate_name, lacks(&certificate), "certificate = \"causeway.crt\""),
            (&key_name, lacks(&key), "key = \"causeway.key\""),
        ] {
            if lacks {
                self.complain(name, &place, Complaint::Missing { example });
            }
        }
        (self.path(&certificate_name, certificate), self.path(&key_name, key))
    }

    fn path(&mut self, name: &str, key: Key<String>) -> Option<PathBuf> {
        let text = self.optional(name, key)?;
        Some(self.base_dir.join(text))
    }
}
