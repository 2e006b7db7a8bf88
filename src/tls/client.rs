//! TLS toward nodes: what is asked of them, and what proves them.
//!
//! A [`Connector`] is made of `[node_tls]` at start and at each reload. It is one for all: servers,
//! cancel requests, the monitor and the catalog's connections.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ClientConfig;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName};

use super::verify::{NodeVerifier, Trust};
use super::{ALPN, Identity, TlsError, certificates, provider, revocation, roots};
use crate::config::settings::{Address, NodeTls, NodeTlsMode, Ways};

const CRL: &str = "node_tls.crl";

/// How nodes are spoken to. Cheap to clone; equal to another that was made of the same files.
#[derive(Debug, Clone, Default)]
pub struct Connector {
    tls: Option<Arc<Inner>>,
    /// How nodes may ask us to prove ourselves, if the file says.
    require_auth: Option<Ways>,
}

#[derive(Debug)]
struct Inner {
    required: bool,
    config: Arc<ClientConfig>,
    /// All that it was made of, to see at a reload whether that changed.
    made_of: MadeOf,
}

#[derive(Debug, PartialEq, Eq)]
struct MadeOf {
    settings: NodeTls,
    roots: Vec<CertificateDer<'static>>,
    crl: Vec<CertificateRevocationListDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
}

impl PartialEq for Connector {
    fn eq(&self, other: &Self) -> bool {
        if self.require_auth != other.require_auth {
            return false;
        }
        match (&self.tls, &other.tls) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one.made_of == other.made_of,
            _ => false,
        }
    }
}

/// What is asked of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// No TLS.
    Plain,
    /// TLS if it offers it.
    Prefer,
    /// TLS, or no connection.
    Require,
}

impl Connector {
    /// Without TLS.
    #[must_use]
    pub const fn disabled() -> Self {
        Self { tls: None, require_auth: None }
    }

    /// Loads what `[node_tls]` names.
    ///
    /// # Errors
    /// When a file cannot be read or used.
    pub fn load(settings: &NodeTls) -> Result<Self, TlsError> {
        let require_auth = settings.require_auth;
        let (required, names) = match settings.mode {
            NodeTlsMode::Disable => return Ok(Self { tls: None, require_auth }),
            NodeTlsMode::Prefer => (false, false),
            NodeTlsMode::Require | NodeTlsMode::VerifyCa => (true, false),
            NodeTlsMode::VerifyFull => (true, true),
        };
        let provider = provider();
        let crl = match &settings.crl {
            Some(path) => revocation::lists(CRL, path)?,
            None => Vec::new(),
        };
        let (found, trust) = match &settings.root {
            Some(path) => {
                let found = certificates("node_tls.root", path)?;
                let roots = Arc::new(roots("node_tls.root", &found, path)?);
                let revocation = match &settings.crl {
                    Some(path) => Some(
                        WebPkiServerVerifier::builder_with_provider(
                            roots.clone(),
                            provider.clone(),
                        )
                        .with_crls(crl.iter().cloned())
                        .enforce_revocation_expiration()
                        .build()
                        .map_err(|error| revocation::unusable(CRL, path, error))?,
                    ),
                    None => None,
                };
                let trust = Trust { roots, revocation, pinned: found.clone(), names };
                (found, Some(trust))
            }
            None => (Vec::new(), None),
        };
        let verifier = NodeVerifier::new(trust, provider.signature_verification_algorithms);
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|reason| TlsError::Setup { section: "node_tls", reason: Box::new(reason) })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut chain = Vec::new();
        let mut config = match (&settings.certificate, &settings.key) {
            (Some(certificate), Some(key)) => {
                let identity = Identity {
                    certificate_key: "node_tls.certificate",
                    certificate,
                    key_key: "node_tls.key",
                    key,
                };
                let key = identity.load(&provider)?;
                chain.clone_from(&key.cert);
                let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(key));
                builder.with_client_cert_resolver(resolver)
            }
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        let made_of = MadeOf { settings: settings.clone(), roots: found, crl, chain };
        let tls = Some(Arc::new(Inner { required, config: Arc::new(config), made_of }));
        Ok(Self { tls, require_auth })
    }

    /// How the node at `address` may ask us to prove ourselves: as the file says, else as it likes where nobody
    /// can stand in its place (verified TLS, or a process of this machine's), and where somebody can only so that our
    /// password is of no use to them. As it is, it is said to nobody of whom that is not known, whatever the file says.
    #[must_use]
    pub fn ways(&self, address: &Address) -> Ways {
        let verifies = |inner: &Arc<Inner>| inner.made_of.settings.root.is_some();
        let is_known = address.is_this_machine() || self.tls.as_ref().is_some_and(verifies);
        match self.require_auth {
            Some(ways) if is_known => ways,
            Some(ways) => ways.without(Ways::PASSWORD),
            None if is_known => Ways::ALL,
            None => Ways::SCRAM.with(Ways::NONE),
        }
    }

    /// What is asked of the node at `address`. Nothing over Unix sockets, as PostgreSQL offers nothing
    /// there.
    #[must_use]
    pub fn want(&self, address: &Address) -> Want {
        match &self.tls {
            Some(_) if address.host.starts_with('/') => Want::Plain,
            None => Want::Plain,
            Some(inner) if inner.required => Want::Require,
            Some(_) => Want::Prefer,
        }
    }

    /// What rustls needs for a handshake; `None` where TLS is disabled.
    #[must_use]
    pub fn config(&self) -> Option<Arc<ClientConfig>> {
        self.tls.as_ref().map(|inner| inner.config.clone())
    }
}

/// The connector of the moment: a reload swaps it, and whoever connects next uses it. Clones are one cell.
#[derive(Debug, Clone, Default)]
pub struct ConnectorCell(Arc<ArcSwap<Connector>>);

impl ConnectorCell {
    /// A cell with this in it.
    #[must_use]
    pub fn new(connector: Connector) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(connector)))
    }

    /// What is in it now.
    #[must_use]
    pub fn load(&self) -> Connector {
        Connector::clone(&self.0.load())
    }

    /// Swaps it.
    pub fn store(&self, connector: Connector) {
        self.0.store(Arc::new(connector));
    }
}

/// The name that a node must prove: its host, which is a DNS name or an address.
///
/// # Errors
/// When it is neither.
pub fn server_name(
    host: &str,
) -> Result<ServerName<'static>, rustls::pki_types::InvalidDnsNameError> {
    // An IPv6 zone ("fe80::1%eth0") is ours alone and in no certificate.
    let bare = host.split_once('%').map_or(host, |(bare, _)| bare);
    ServerName::try_from(bare.to_owned())
}
