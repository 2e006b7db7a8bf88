//! TLS toward clients: Causeway's own certificate, and what a client's says.
//!
//! An [`Acceptor`] is made of `[tls]` at start and at each reload, and is immutable: a connection keeps
//! the one that it began with.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{CommonState, RootCertStore, ServerConfig};

use super::certificate::Certificate;
use super::{ALPN, Identity, TlsError, certificates, channel_binding, provider, revocation, roots};
use crate::config::settings::{CertificateName, Tls, TlsMode};

const CLIENT_CRL: &str = "tls.client_crl";

/// What clients are offered.
#[derive(Debug)]
pub struct Acceptor {
    mode: TlsMode,
    config: Arc<ServerConfig>,
    end_point: Option<Vec<u8>>,
    names: Vec<CertificateName>,
}

impl Acceptor {
    /// Loads what `[tls]` names; `None` where TLS is disabled.
    ///
    /// # Errors
    /// When a file cannot be read or used.
    pub fn load(settings: &Tls) -> Result<Option<Self>, TlsError> {
        let (Some(certificate), Some(key)) = (&settings.certificate, &settings.key) else {
            return Ok(None);
        };
        if settings.mode == TlsMode::Disable {
            return Ok(None);
        }
        let provider = provider();
        let identity =
            Identity { certificate_key: "tls.certificate", certificate, key_key: "tls.key", key };
        let key = identity.load(&provider)?;
        let end_point = channel_binding::tls_server_end_point(&key.cert[0]);
        let client_roots = match &settings.client_root {
            Some(path) => {
                let found = certificates("tls.client_root", path)?;
                Some(roots("tls.client_root", &found, path)?)
            }
            None => None,
        };
        let verifier = match client_roots {
            Some(roots) => verifier(&provider, roots, settings.client_crl.as_deref())?,
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let resolver = Arc::new(SingleCertAndKey::from(key));
        let config = configure(provider, resolver, verifier)?;
        Ok(Some(Self {
            mode: settings.mode,
            config: Arc::new(config),
            end_point,
            names: settings.names.clone(),
        }))
    }

    /// What rustls needs for a handshake.
    #[must_use]
    pub fn config(&self) -> &Arc<ServerConfig> {
        &self.config
    }

    /// Whether a client over TCP must come with TLS.
    #[must_use]
    pub fn is_required(&self) -> bool {
        matches!(self.mode, TlsMode::Require | TlsMode::VerifyFull)
    }

    /// Whether a client over TCP must show a certificate of its user's.
    #[must_use]
    pub fn wants_certificate(&self) -> bool {
        self.mode == TlsMode::VerifyFull
    }

    /// The channel binding (`tls-server-end-point`) of connections made with this; `None` where the
    /// certificate's signature allows none.
    #[must_use]
    pub fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }

    /// Whether a certificate with this common name may log in as `user`: by `[[tls.name]]`, if there
    /// is any, else if the two are the same.
    #[must_use]
    pub fn may_be(&self, common_name: &str, user: &str) -> bool {
        if self.names.is_empty() {
            return common_name == user;
        }
        self.names.iter().any(|name| name.certificate == common_name && name.user == user)
    }
}

/// The common name in the certificate that a client has shown. What it has shown was verified in the
/// handshake.
#[must_use]
pub fn common_name(agreed: &CommonState) -> Option<&str> {
    Certificate::parse(agreed.peer_certificates()?.first()?)?.common_name()
}

/// Who judges the certificates that clients show.
fn verifier(
    provider: &Arc<CryptoProvider>,
    roots: RootCertStore,
    crl: Option<&Path>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    // Who needs a certificate and has none hears of it in PostgreSQL's words, not in an alert.
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated();
    let Some(path) = crl else {
        return builder.build().map_err(|error| setup(rustls::Error::General(error.to_string())));
    };
    builder
        .with_crls(revocation::lists(CLIENT_CRL, path)?)
        .enforce_revocation_expiration()
        .build()
        .map_err(|error| revocation::unusable(CLIENT_CRL, path, error))
}

fn configure(
    provider: Arc<CryptoProvider>,
    resolver: Arc<SingleCertAndKey>,
    verifier: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(setup)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn setup(reason: rustls::Error) -> TlsError {
    TlsError::Setup { section: "tls", reason: Box::new(reason) }
}
