//! Reload: all or nothing, and no client is dropped.

use std::path::Path;
use std::sync::Arc;

use crate::auth::Credentials;
use crate::auth::credentials::CredentialsError;
use crate::config::{self, ConfigError, Settings};
use crate::routing::Router;
use crate::routing::learned::LearnedShapes;
use crate::session::shared::balancer;
use crate::session::{Rules, Shared};
use crate::sql;
use crate::sql::statement::Lexis;

/// Why a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// A verifier.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
}

/// What is made of settings; the second for a reload.
///
/// # Errors
/// If a user's verifier cannot be read.
pub fn rules(settings: Settings, previous: Option<&Rules>) -> Result<Rules, CredentialsError> {
    let credentials = Credentials::build(&settings, previous.map(|rules| &rules.credentials))?;
    let learned = previous
        .map_or_else(|| Arc::new(LearnedShapes::default()), |rules| rules.router.learned().clone());
    let shape_of = |text: &str| sql::analyze(text.as_bytes(), Lexis::default()).shape;
    let router = Router::new(&settings.routing, learned, shape_of);
    let balancer = balancer(
        settings.routing.balance,
        previous.map(|rules| (&rules.settings, &rules.balancer)),
    );
    Ok(Rules { settings, credentials, router, balancer })
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
    let next = rules(settings, Some(&current))?;
    shared.cluster.apply(&next.settings);
    shared.pools.set_bounds(|user| Shared::bounds(&next.settings, user));
    shared.rules.store(Arc::new(next));
    Ok(())
}
