//! What the nodes themselves say they served: PostgreSQL's own statistics, asked for on each node
//! directly, past the proxy.
//!
//! The workload reads `causeway_demo.items` and writes `causeway_demo.journal`, never the other way
//! round; so scans of the one are reads and rows inserted into the other are writes.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, Config, NoTls};

use crate::config::settings::{Address, Monitor};

/// What one node served of the workload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// Scans of `items`.
    pub reads: i64,
    /// Rows inserted into `journal`.
    pub writes: i64,
    /// Transactions that the node refused, those aside that replay cancelled: on a replica, writes.
    pub refused: i64,
}

/// A connection straight to one node, made again when it is lost.
#[derive(Debug)]
pub struct Witness {
    config: Config,
    client: Option<Client>,
    /// What was there before the workload began.
    before: Account,
    last: Account,
}

const QUESTION: &str = "SELECT \
    coalesce((SELECT sum(seq_scan + coalesce(idx_scan, 0)) FROM pg_stat_user_tables \
              WHERE schemaname = 'causeway_demo' AND relname = 'items'), 0)::bigint, \
    coalesce((SELECT sum(n_tup_ins) FROM pg_stat_user_tables \
              WHERE schemaname = 'causeway_demo' AND relname = 'journal'), 0)::bigint, \
    (SELECT xact_rollback - conflicts FROM pg_stat_database \
     WHERE datname = current_database())::bigint";

impl Witness {
    /// For the node at this address, as the monitor's user.
    #[must_use]
    pub fn new(address: &Address, monitor: &Monitor) -> Self {
        let mut config = Config::new();
        config
            .host(&address.host)
            .port(address.port)
            .user(&monitor.user)
            .dbname(&monitor.database)
            .application_name("causeway demo")
            .connect_timeout(Duration::from_secs(2));
        if let Some(password) = &monitor.password {
            config.password(password.expose());
        }
        Self { config, client: None, before: Account::default(), last: Account::default() }
    }

    /// Waits until the node has replayed the workload's tables.
    ///
    /// # Errors
    /// When it has not within 20 s, or is not reached.
    pub async fn await_items(&self) -> Result<(), tokio_postgres::Error> {
        const THERE: &str = "SELECT count(*) FROM causeway_demo.items";
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let (client, connection) = self.config.connect(NoTls).await?;
            tokio::spawn(connection);
            match client.query_one(THERE, &[]).await {
                Ok(row) if row.get::<_, i64>(0) > 0 => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Counts from here.
    pub async fn begin(&mut self) {
        self.before = Account::default();
        self.before = self.ask().await;
        self.last = Account::default();
    }

    /// What the node served since [`Witness::begin`]; the last known where it does not answer.
    ///
    /// Servers publish their counts when they go idle, at most once a second, and when they end.
    pub async fn ask(&mut self) -> Account {
        match self.try_ask().await {
            Ok(account) => self.last = account,
            Err(_) => self.client = None,
        }
        self.last
    }

    async fn try_ask(&mut self) -> Result<Account, tokio_postgres::Error> {
        let client = match self.client.take() {
            Some(client) if !client.is_closed() => self.client.insert(client),
            _ => {
                let (client, connection) = self.config.connect(NoTls).await?;
                tokio::spawn(connection);
                self.client.insert(client)
            }
        };
        let row = client.query_one(QUESTION, &[]).await?;
        Ok(Account {
            reads: row.get::<_, i64>(0) - self.before.reads,
            writes: row.get::<_, i64>(1) - self.before.writes,
            refused: (row.get::<_, i64>(2) - self.before.refused).max(0),
        })
    }
}
