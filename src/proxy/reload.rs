//! Reload: all or nothing, and no client is dropped.

use std::path::Path;
use std::sync::Arc;

use crate::auth::Credentials;
use crate::auth::credentials::CredentialsError;
use crate::catalog::Roles;
use crate::catalog::source::NodeToAsk;
use crate::cluster::Cluster;
use crate::config::settings::{Listen, Method};
use crate::config::{self, ConfigError, Settings};
use crate::routing::Router;
use crate::routing::learned::LearnedShapes;
use crate::session::shared::balancer;
use crate::session::{Rules, Shared};
use crate::sql;
use crate::sql::statement::Lexis;
use crate::tls::{Acceptor, Connector, ConnectorCell, TlsError};

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// A verifier.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A certificate, a key or a root.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// What is made of settings; the second for a reload.
///
/// # Errors
/// If a user's verifier or a file of `[tls]` cannot be read.
pub fn rules(
    settings: Settings,
    previous: Option<&Rules>,
    node: &NodeToAsk,
    connector: &ConnectorCell,
) -> Result<Rules, ReloadError> {
    let credentials = Credentials::build(&settings, previous.map(|rules| &rules.credentials))?;
    let roles = settings.auth_query.as_ref().map(|query| {
        let known = previous.and_then(|rules| rules.roles.as_ref());
        match known.filter(|roles| roles.settings() == query) {
            Some(roles) => roles.clone(),
            None => Arc::new(Roles::new(query, connector.clone(), node.clone())),
        }
    });
    warn_of_access(&settings);
    let learned = previous
        .map_or_else(|| Arc::new(LearnedShapes::default()), |rules| rules.router.learned().clone());
    let shape_of = |text: &str| sql::analyze(text.as_bytes(), Lexis::default()).shape;
    let router = Router::new(&settings.routing, learned, shape_of);
    let balancer = balancer(
        settings.routing.balance,
        previous.map(|rules| (&rules.settings, &rules.balancer)),
    );
    let tls = Acceptor::load(&settings.tls)?;
    Ok(Rules { settings, credentials, roles, tls, router, balancer })
}

/// Says loudly what lets people in without proof, and what lets nobody in.
fn warn_of_access(settings: &Settings) {
    for rule in settings.access.iter().filter(|rule| rule.method == Method::Trust) {
        let whom = |names: &[String]| match names {
            [] => "all".to_owned(),
            names => names.join(", "),
        };
        tracing::warn!(
            users = whom(&rule.users),
            databases = whom(&rule.databases),
            "an [[access]] rule trusts whoever is on this machine: they enter WITHOUT A PASSWORD"
        );
    }
    let open =
        |listen: &Listen| matches!(listen, Listen::Tcp(address) if !address.ip().is_loopback());
    if settings.access.is_empty() && settings.proxy.listen.iter().any(open) {
        tracing::warn!(
            "proxy.listen is open to other machines, but there is no [[access]] rule: they are refused"
        );
    }
}

/// Tells the node at which roles and catalogs are looked up: the primary, or while there is none a replica.
#[must_use]
pub fn some_node(cluster: &Arc<Cluster>) -> NodeToAsk {
    let cluster = cluster.clone();
    Arc::new(move || {
        let topology = cluster.load();
        let replica = || topology.eligible_replicas().next().map(|node| node.id);
        topology.primary.or_else(replica).map(|id| topology.node(id).address.clone())
    })
}

/// Reads the file again and swaps what is made of it.
///
/// # Errors
/// If anything in the file is wrong; nothing has changed then.
pub fn reload(shared: &Shared, path: &Path) -> Result<(), ReloadError> {
    let settings = config::load(path)?;
    let current = shared.rules.load_full();
    let (old, new) = (&current.settings.proxy, &settings.proxy);
    if old.listen != new.listen || old.http != new.http || old.workers != new.workers {
        tracing::warn!("proxy.listen, proxy.http and proxy.workers change only with a restart");
    }
    if current.settings.limits.http_connections != settings.limits.http_connections {
        tracing::warn!("limits.http_connections changes only with a restart");
    }
    let connector = Connector::load(&settings.node_tls)?;
    let next = rules(settings, Some(&current), &some_node(&shared.cluster), &shared.connector)?;
    shared.connector.store(connector.clone());
    shared.cluster.apply(&next.settings, &connector);
    shared.pools.set_bounds(|user| Shared::bounds(&next.settings, user));
    // Sessions that are there open servers with a new password as well. One that is the same is left alone: what the
    // nodes have had the last word on goes before it.
    shared.pools.adopt(|user| {
        let secret = next.credentials.server_secret(user, None);
        (secret != current.credentials.server_secret(user, None)).then_some(secret).flatten()
    });
    shared.rules.store(Arc::new(next));
    Ok(())
}
