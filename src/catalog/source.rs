//! Where catalogs are read from: the primary, or while there is none a replica, with the `[monitor]`
//! login.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio_postgres::error::SqlState;

use super::load;
use super::snapshot::Catalog;
use crate::config::settings::{Address, Secret};
use crate::net::postgres::Opener;
use crate::tls::{Connector, ConnectorCell};

/// A look at a catalog that takes longer is given up.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// Tells the address of the node to ask, if any can be asked.
pub type NodeToAsk = Arc<dyn Fn() -> Option<Address> + Send + Sync>;

/// The login, and whom to ask.
#[derive(Clone)]
pub struct Source {
    user: String,
    password: Option<Secret>,
    connector: ConnectorCell,
    node: NodeToAsk,
    application_name: &'static str,
    options: &'static str,
    connections: usize,
    pools: Arc<Mutex<Pools>>,
}

/// The connections to the node of the moment, by database.
#[derive(Default)]
struct Pools {
    /// Where to and how.
    route: Option<(Address, Connector)>,
    by_database: FxHashMap<Box<str>, Pool>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Why a catalog could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no primary, and no replica that serves.
    #[error("there is no node to ask")]
    NoNode,
    /// The node could not be reached, or did not let us in.
    #[error("could not connect to the node")]
    Connect(#[source] deadpool_postgres::PoolError),
    /// The connection could not be prepared.
    #[error("could not set up connections to the node")]
    Build(#[source] deadpool_postgres::BuildError),
    /// A query failed.
    #[error("could not read the catalog")]
    Query(#[from] tokio_postgres::Error),
    /// It took too long.
    #[error("the catalog was not read within {} s", TIME_LIMIT.as_secs())]
    TimedOut,
}

impl LoadError {
    /// Whether the server says that there is no such database.
    #[must_use]
    pub fn is_absent_database(&self) -> bool {
        self.sqlstate() == Some(&SqlState::UNDEFINED_DATABASE)
    }

    /// Whether the server has answered, and will not answer otherwise before long.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        let passing = [SqlState::CANNOT_CONNECT_NOW, SqlState::TOO_MANY_CONNECTIONS];
        self.sqlstate()
            .is_some_and(|code| !passing.contains(code) && !code.code().starts_with("57"))
    }

    fn sqlstate(&self) -> Option<&SqlState> {
        match self {
            Self::Connect(deadpool_postgres::PoolError::Backend(error)) | Self::Query(error) => {
                error.code()
            }
            _ => None,
        }
    }
}

/// A connection to a node, in one database.
pub struct Server {
    client: Object,
}

impl Source {
    /// With this login, from the node that `node` names.
    #[must_use]
    pub fn new(
        user: &str,
        password: Option<&Secret>,
        connector: ConnectorCell,
        node: NodeToAsk,
    ) -> Self {
        Self {
            user: user.to_owned(),
            password: password.cloned(),
            connector,
            node,
            application_name: "causeway catalog",
            options: "-c statement_timeout=10s -c default_transaction_read_only=on",
            connections: 1,
            pools: Arc::default(),
        }
    }

    /// With up to so many connections to a database.
    #[must_use]
    pub fn with_connections(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    /// With this `application_name` and these settings.
    #[must_use]
    pub fn named(self, application_name: &'static str, options: &'static str) -> Self {
        Self { application_name, options, ..self }
    }

    /// A connection to that database on the node of the moment.
    ///
    /// # Errors
    /// When there is no node, or it does not let us in within ten seconds.
    pub async fn connect(&self, database: &str) -> Result<Server, LoadError> {
        let address = (self.node)().ok_or(LoadError::NoNode)?;
        let pool = self.pool(&address, database)?;
        let client = within(async { pool.get().await.map_err(LoadError::Connect) }).await?;
        Ok(Server { client })
    }

    /// Closes the connection to a database, once it is not in use.
    pub(super) fn leave(&self, database: &str) {
        self.pools.lock().by_database.remove(database);
    }

    fn pool(&self, address: &Address, database: &str) -> Result<Pool, LoadError> {
        let mut pools = self.pools.lock();
        let route = (address.clone(), self.connector.load());
        if pools.route.as_ref() != Some(&route) {
            pools.by_database.clear();
            pools.route = Some(route.clone());
        }
        let (_, connector) = route;
        if let Some(pool) = pools.by_database.get(database) {
            return Ok(pool.clone());
        }
        let mut config = tokio_postgres::Config::new();
        config
            .host(&address.host)
            .port(address.port)
            .user(&self.user)
            .dbname(database)
            .application_name(self.application_name)
            .ssl_mode(connector.ssl_mode(address))
            .connect_timeout(TIME_LIMIT)
            .options(self.options);
        if let Some(password) = &self.password {
            config.password(password.expose());
        }
        let recycling_method = RecyclingMethod::Fast;
        let manager =
            Manager::from_connect(config, Opener(connector), ManagerConfig { recycling_method });
        let pool = Pool::builder(manager)
            .max_size(self.connections)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(LoadError::Build)?;
        pools.by_database.insert(database.into(), pool.clone());
        Ok(pool)
    }
}

impl Server {
    /// What [`load::WRITES`] says.
    pub(super) async fn writes(&self) -> Result<i64, LoadError> {
        within(async { Ok(self.client.query_one(load::WRITES, &[]).await?.try_get(0)?) }).await
    }

    /// What [`load::FINGERPRINT`] says.
    pub(super) async fn fingerprint(&self) -> Result<String, LoadError> {
        within(async { Ok(self.client.query_one(load::FINGERPRINT, &[]).await?.try_get(0)?) }).await
    }

    /// The answer to a query with one parameter.
    pub(super) async fn rows(
        &self,
        query: &str,
        parameter: &str,
    ) -> Result<Vec<tokio_postgres::Row>, LoadError> {
        within(async { Ok(self.client.query(query, &[&parameter]).await?) }).await
    }

    /// Reads the catalog; the snapshot gets this version.
    ///
    /// # Errors
    /// When a query fails or all of it takes longer than ten seconds; the connection is closed then.
    pub async fn load(self, version: u64) -> Result<Catalog, LoadError> {
        let loaded = within(async { Ok(load::rows(&self.client).await?) }).await;
        match loaded {
            Ok(rows) => Ok(Catalog::build(rows, version)),
            Err(error) => {
                // It may still be inside the transaction.
                drop(Object::take(self.client));
                Err(error)
            }
        }
    }
}

async fn within<T>(work: impl Future<Output = Result<T, LoadError>>) -> Result<T, LoadError> {
    tokio::time::timeout(TIME_LIMIT, work).await.unwrap_or(Err(LoadError::TimedOut))
}
