//! Whether a node is what its certificate says, as far as `node_tls.mode` wants to know.
//!
//! The chain is rustls's to verify. Beside it, two habits of PostgreSQL's world are kept: a certificate
//! that stands itself in the root file is trusted as itself (self-signed ones usually carry the mark of
//! an authority, which a server's may not), and one without `subjectAltName` is known by its common name.
//! What stands in the root file is taken back by taking it out: no list is asked about it.
//!
//! Source: libpq's `fe-secure-common.c` (`pq_verify_peer_name_matches_certificate`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor, verify_server_name,
};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate::Certificate;

/// Whom to believe.
#[derive(Debug)]
pub(super) struct Trust {
    /// Authorities.
    pub(super) roots: Arc<RootCertStore>,
    /// The same authorities with the lists of what they have taken back, if there are any.
    pub(super) revocation: Option<Arc<WebPkiServerVerifier>>,
    /// The same file's certificates, as they are.
    pub(super) pinned: Vec<CertificateDer<'static>>,
    /// Whether the certificate must also be for the node's name.
    pub(super) names: bool,
}

/// The judge of nodes' certificates.
#[derive(Debug)]
pub(super) struct NodeVerifier {
    /// `None`: whoever holds the connection is believed.
    trust: Option<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl NodeVerifier {
    pub(super) fn new(trust: Option<Trust>, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { trust, algorithms }
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trust) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        if trust.pinned.iter().any(|pinned| pinned == end_entity) {
            holds_at(end_entity, now)?;
        } else {
            verify_server_cert_signed_by_trust_anchor(
                &parsed,
                &trust.roots,
                intermediates,
                now,
                self.algorithms.all,
            )?;
            if let Some(lists) = &trust.revocation {
                not_revoked(lists.verify_server_cert(
                    end_entity,
                    intermediates,
                    server_name,
                    &[],
                    now,
                ))?;
            }
        }
        if trust.names
            && let Err(error) = verify_server_name(&parsed, server_name)
            && !is_named(end_entity, server_name)
        {
            return Err(error);
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The judgement of rustls's own verifier, which knows the lists, less that of the name, which follows
/// other rules here.
fn not_revoked(judged: Result<ServerCertVerified, Error>) -> Result<(), Error> {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    match judged {
        Ok(_) | Err(Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn holds_at(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let read = Certificate::parse(certificate).ok_or(CertificateError::BadEncoding)?;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
    if at < read.not_before {
        Err(CertificateError::NotValidYet)
    } else if at > read.not_after {
        Err(CertificateError::Expired)
    } else {
        Ok(())
    }
}

/// Whether a certificate without `subjectAltName` has the name as its common name.
fn is_named(certificate: &CertificateDer<'_>, name: &ServerName<'_>) -> bool {
    let Some(read) = Certificate::parse(certificate) else { return false };
    if read.has_alternative_names {
        return false;
    }
    read.common_name().is_some_and(|common| matches(common, &name.to_str()))
}

/// A name, or one with `*` for its first label, as libpq compares them.
fn matches(pattern: &str, name: &str) -> bool {
    if pattern.eq_ignore_ascii_case(name) {
        return true;
    }
    let is_address = name.parse::<std::net::IpAddr>().is_ok();
    match (pattern.strip_prefix("*."), name.split_once('.')) {
        (Some(wanted), Some((first, rest))) => {
            !is_address
                && !first.is_empty()
                && wanted.contains('.')
                && wanted.eq_ignore_ascii_case(rest)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_names_are_compared_as_libpq_does() {
        for (pattern, name, same) in [
            ("db.example", "db.example", true),
            ("DB.example", "db.EXAMPLE", true),
            ("db.example", "other.example", false),
            ("*.db.example", "one.db.example", true),
            ("*.db.example", "db.example", false),
            ("*.db.example", "a.b.db.example", false),
            ("*.example", "db.example", false),
            ("*", "db", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("*.0.0.1", "127.0.0.1", false),
            ("", "db", false),
        ] {
            assert_eq!(matches(pattern, name), same, "{pattern} {name}");
        }
    }
}
