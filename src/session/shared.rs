//! What all sessions share: snapshots that are swapped, and books that are locked for an instant.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::deadlines::Clocks;
use super::disturb::Vain;
use super::keys::Keys;
use super::metrics::Metrics;
use super::registry::Registry;
use super::statements;
use crate::auth::Credentials;
use crate::catalog::{Catalogs, Roles};
use crate::cluster::Cluster;
use crate::config::Settings;
use crate::config::settings::{self, Balance, TimeLimits};
use crate::pool::Pools;
use crate::pool::pool::Bounds;
use crate::routing::Router;
use crate::routing::balance::Balancer;
use crate::sql::ScriptCache;
use crate::tls::{Acceptor, ConnectorCell};

/// What a reload swaps, in one piece.
#[derive(Debug)]
pub struct Rules {
    /// The file, checked.
    pub settings: Settings,
    /// Who may enter.
    pub credentials: Credentials,
    /// Who else, as the database says.
    pub roles: Option<Arc<Roles>>,
    /// `[tls]`, loaded.
    pub tls: Option<Acceptor>,
    /// `[routing]`, compiled.
    pub router: Router,
    /// The kind of balance it was made for is in the settings.
    pub balancer: Arc<Balancer>,
}

/// What all sessions share.
#[derive(Debug)]
pub struct Shared {
    /// The settings and what is made of them.
    pub rules: Arc<ArcSwap<Rules>>,
    /// The nodes.
    pub cluster: Arc<Cluster>,
    /// What the databases know.
    pub catalogs: Arc<Catalogs>,
    /// How nodes are spoken to.
    pub connector: ConnectorCell,
    /// The servers.
    pub pools: Arc<Pools>,
    /// The facts of texts.
    pub scripts: Arc<ScriptCache>,
    /// The prepared statements.
    pub statements: Arc<statements::Shared>,
    /// What connections with the same `causeway.session_key` share.
    pub keys: Keys,
    /// Who has asked in vain for a database without connections.
    pub vain: Vain,
    /// Who may be cancelled.
    pub registry: Arc<Registry>,
    /// What is counted.
    pub metrics: Metrics,
    /// The time limits, by worker.
    pub clocks: Clocks,
}

impl Shared {
    /// What bounds the pools of a user.
    #[must_use]
    pub fn bounds(settings: &Settings, user: &str) -> Bounds {
        let pool = &settings.pool;
        let own = settings.users.iter().find(|known| known.name == user);
        Bounds {
            size: own.and_then(|user| user.pool_size).unwrap_or(pool.size),
            wait: pool.wait,
            idle_timeout: pool.idle_timeout,
            max_age: pool.max_age,
            connect_timeout: pool.connect_timeout,
            queue: pool.queue,
        }
    }

    /// How long statements and transactions of a user may take, where no rule says.
    #[must_use]
    pub fn times(settings: &Settings, user: &str) -> TimeLimits {
        let own = settings.users.iter().find(|known| known.name == user);
        own.map_or_else(TimeLimits::default, |user| user.times).or(settings.limits.times)
    }

    /// The bounds of what a client may send at once.
    #[must_use]
    pub fn request_limits(limits: &settings::Limits) -> crate::protocol::request::Limits {
        crate::protocol::request::Limits {
            message: limits.message,
            statement: limits.statement,
            pipeline: limits.pipeline,
        }
    }
}

/// The balancer for the settings: the old one if it is of the same kind, so that turns go on.
#[must_use]
pub fn balancer(kind: Balance, previous: Option<(&Settings, &Arc<Balancer>)>) -> Arc<Balancer> {
    match previous {
        Some((settings, balancer)) if settings.routing.balance == kind => balancer.clone(),
        _ => Arc::new(Balancer::new(kind)),
    }
}
