//! TLS toward clients and toward nodes, through rustls.
//!
//! Owns the keys and certificates that the file names ([`server`] for clients, [`client`] for nodes),
//! the judgement of a peer's certificate (with [`revocation`] lists), channel binding, and the stream that encrypts. Opens no socket
//! and says nothing of PostgreSQL's own negotiation, which is the logins'. Invariants: what is loaded
//! has been checked (a key fits its certificate, a root is a root); no session is resumed and no early
//! data is taken, as with PostgreSQL; secrets never show in `Debug` or in an error.
//!
//! The cryptography is ring's: it builds with a C compiler alone, in less than half of aws-lc's time.

pub mod certificate;
pub mod channel_binding;
pub mod client;
mod connector;
pub mod revocation;
pub mod server;
pub mod stream;
mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::client::VerifierBuilderError;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

pub use client::{Connector, ConnectorCell, Want};
pub use connector::ToNode;
pub use server::Acceptor;
pub use stream::{ClientSide, ServerSide, TlsStream};

/// What PostgreSQL's protocol is called where TLS negotiates protocols (ALPN).
pub const ALPN: &[u8] = b"postgresql";

/// Why a certificate, a key or a root that the file names cannot be used. The reason is in the message, and so not its
/// source as well: whoever prints both would say it twice.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read.
    #[error("{key}: cannot read {}: {reason}", path.display())]
    Unreadable {
        /// The key of the configuration that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// It is not PEM, or has another thing inside.
    #[error("{key}: {} has no {wanted} in PEM form{}", path.display(), hint(wanted))]
    NotPem {
        /// The key of the configuration that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What should be in it.
        wanted: &'static str,
    },
    /// A certificate that cannot be used as what it is given for.
    #[error("{key}: a certificate in {} cannot be used: {reason}", path.display())]
    Certificate {
        /// The key of the configuration that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What rustls says.
        reason: Box<rustls::Error>,
    },
    /// A key of an unsupported kind, or one that does not belong to the certificate.
    #[error(
        "{key}: the key in {} cannot be used with the certificate in {}: {reason}",
        path.display(), certificate.display()
    )]
    Key {
        /// The key of the configuration that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
        /// What rustls says.
        reason: Box<rustls::Error>,
    },
    /// A list of revoked certificates that cannot be used.
    #[error("{key}: a list in {} cannot be used: {reason}", path.display())]
    RevocationList {
        /// The key of the configuration that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What rustls says.
        reason: Box<VerifierBuilderError>,
    },
    /// A list of revoked certificates in a form of before 1999: what OpenSSL writes unless it is told to put in
    /// extensions.
    #[error(
        "{key}: a list in {} is of version 1, and must be of version 2 (openssl ca: set crl_extensions)",
        path.display()
    )]
    OldRevocationList {
        /// The key of the configuration that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// What was loaded does not make a configuration.
    #[error("{section}: TLS cannot be set up: {reason}")]
    Setup {
        /// The section of the file.
        section: &'static str,
        /// What rustls says.
        reason: Box<rustls::Error>,
    },
}

fn hint(wanted: &str) -> &'static str {
    if wanted == PRIVATE_KEY { " (a key that asks for a passphrase cannot be read)" } else { "" }
}

const PRIVATE_KEY: &str = "private key";

/// The one source of cryptography.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Until when the first certificate in a file holds, if there is one that can be read.
#[must_use]
pub fn valid_until(path: &Path) -> Option<SystemTime> {
    let text = std::fs::read(path).ok()?;
    let der = CertificateDer::from_pem_slice(&text).ok()?;
    Some(certificate::Certificate::parse(&der)?.not_after)
}

/// The certificates in a file, at least one.
fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = read(key, path)?;
    let wanted = "certificate";
    let not_pem = |_| TlsError::NotPem { key, path: path.to_owned(), wanted };
    let found = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, pem::Error>>()
        .map_err(not_pem)?;
    if found.is_empty() {
        return Err(TlsError::NotPem { key, path: path.to_owned(), wanted });
    }
    Ok(found)
}

/// The certificates in a file, as roots of trust.
fn roots(
    key: &'static str,
    certificates: &[CertificateDer<'static>],
    path: &Path,
) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(|reason| TlsError::Certificate {
            key,
            path: path.to_owned(),
            reason: Box::new(reason),
        })?;
    }
    Ok(roots)
}

/// Where a certificate and its key are, and which keys of the configuration say so.
#[derive(Debug, Clone, Copy)]
struct Identity<'a> {
    certificate_key: &'static str,
    certificate: &'a Path,
    key_key: &'static str,
    key: &'a Path,
}

impl Identity<'_> {
    /// The certificate with its chain, and the key that fits it.
    fn load(self, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let chain = certificates(self.certificate_key, self.certificate)?;
        let text = read(self.key_key, self.key)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|_| TlsError::NotPem {
            key: self.key_key,
            path: self.key.to_owned(),
            wanted: PRIVATE_KEY,
        })?;
        // The key's fit is told by reading the certificate, so that one is looked at first.
        if let Err(error) = rustls::server::ParsedCertificate::try_from(&chain[0]) {
            return Err(TlsError::Certificate {
                key: self.certificate_key,
                path: self.certificate.to_owned(),
                reason: Box::new(error),
            });
        }
        CertifiedKey::from_der(chain, key, provider).map_err(|reason| TlsError::Key {
            key: self.key_key,
            path: self.key.to_owned(),
            certificate: self.certificate.to_owned(),
            reason: Box::new(reason),
        })
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|reason| TlsError::Unreadable {
        key,
        path: path.to_owned(),
        reason,
    })
}
