//! All pools: by account (user and database), then by node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use super::login::Login;
use super::pool::{Bounds, Counts, Pool};
use crate::auth::ServerSecret;
use crate::cluster::{NodeId, Topology};
use crate::server::connect::Reported;
use crate::server::{Laid, Peers};
use crate::tls::ConnectorCell;

/// A user in a database: whose servers may be lent to whom.
#[derive(Debug)]
pub struct Account {
    /// The role.
    pub user: Arc<str>,
    /// The database.
    pub database: Arc<str>,
    login: Arc<Login>,
    bounds: Mutex<Bounds>,
    connector: ConnectorCell,
    workers: usize,
    peers: Arc<Peers>,
    /// By node number.
    pools: RwLock<Vec<Option<Arc<Pool>>>>,
    greeting: RwLock<Option<Arc<Parameters>>>,
    /// The same under the settings of start-up packets.
    greetings: RwLock<Vec<(Laid, Arc<Greeting>)>>,
}

/// How many start-up packets are remembered per account.
const GREETINGS: usize = 64;

/// What a server of an account reports of its settings when it is opened.
pub type Parameters = Vec<Reported>;

/// What a client hears between its login and its first ReadyForQuery.
#[derive(Debug)]
pub struct Greeting {
    /// NoticeResponse messages: what PostgreSQL remarks on the settings of the start-up packet.
    pub notices: Box<[u8]>,
    /// What is reported under these settings.
    pub parameters: Parameters,
}

impl Account {
    /// The pool at one node, made when it is first asked for.
    #[must_use]
    pub fn pool(&self, node: NodeId, topology: &Topology) -> Arc<Pool> {
        let number = usize::from(node.0);
        if let Some(Some(pool)) = self.pools.read().get(number) {
            return pool.clone();
        }
        let mut pools = self.pools.write();
        if pools.len() <= number {
            pools.resize(number + 1, None);
        }
        pools[number]
            .get_or_insert_with(|| {
                let address = topology.node(node).address.clone();
                let bounds = *self.bounds.lock();
                let (login, peers) = (self.login.clone(), self.peers.clone());
                let connector = self.connector.clone();
                Arc::new(Pool::new(node, address, login, connector, bounds, self.workers, peers))
            })
            .clone()
    }

    /// Whether a server of it has ever been opened: whether there is such a database.
    #[must_use]
    pub fn has_been_opened(&self) -> bool {
        self.greeting.read().is_some()
    }

    /// What its servers report, once one has been opened.
    #[must_use]
    pub fn greeting(&self) -> Option<Arc<Parameters>> {
        self.greeting.read().clone()
    }

    /// Takes note of what a newly opened server reported. Where that has changed (a role's or the
    /// database's defaults, the node's configuration), what is derived from it is forgotten.
    pub fn set_greeting(&self, parameters: Parameters) {
        let mut greeting = self.greeting.write();
        if greeting.as_deref() != Some(&parameters) {
            *greeting = Some(Arc::new(parameters));
            self.greetings.write().clear();
        }
    }

    /// What a server reports once these settings are laid on it, if that is known; and the settings
    /// again, as all sessions that have the same should keep them: one copy, known by its place.
    #[must_use]
    pub fn greeting_with(&self, laid: &Laid) -> Option<(Laid, Arc<Greeting>)> {
        self.greetings.read().iter().find(|(known, _)| known == laid).cloned()
    }

    /// Takes note of the same.
    pub fn set_greeting_with(&self, laid: &Laid, greeting: Greeting) -> Arc<Greeting> {
        let greeting = Arc::new(greeting);
        let mut greetings = self.greetings.write();
        if greetings.len() >= GREETINGS {
            greetings.remove(0);
        }
        greetings.push((laid.clone(), greeting.clone()));
        greeting
    }

    fn each_pool(&self) -> Vec<Arc<Pool>> {
        self.pools.read().iter().flatten().cloned().collect()
    }
}

/// Accounts by user and database.
type Accounts = HashMap<(Arc<str>, Arc<str>), Arc<Account>>;

/// All pools of the process.
#[derive(Debug)]
pub struct Pools {
    workers: usize,
    peers: Arc<Peers>,
    connector: ConnectorCell,
    accounts: Mutex<Accounts>,
}

impl Pools {
    /// No pools yet, for so many workers; servers are opened by way of `connector`.
    #[must_use]
    pub fn new(workers: usize, connector: ConnectorCell) -> Self {
        let peers = Arc::default();
        Self { workers, peers, connector, accounts: Mutex::new(HashMap::new()) }
    }

    /// The account of a user in a database, made when it is first asked for. A client that has logged in with
    /// another secret than those before opens servers with it from now on; what is open stays.
    pub fn account(
        &self,
        user: &str,
        database: &str,
        secret: Option<ServerSecret>,
        bounds: Bounds,
    ) -> Arc<Account> {
        let key: (Arc<str>, Arc<str>) = (user.into(), database.into());
        let mut accounts = self.accounts.lock();
        if let Some(account) = accounts.get(&key) {
            account.login.adopt(secret);
            return account.clone();
        }
        let account = Arc::new(Account {
            user: key.0.clone(),
            database: key.1.clone(),
            login: Arc::new(Login::new(user, database, secret)),
            bounds: Mutex::new(bounds),
            connector: self.connector.clone(),
            workers: self.workers,
            peers: self.peers.clone(),
            pools: RwLock::new(Vec::new()),
            greeting: RwLock::new(None),
            greetings: RwLock::default(),
        });
        accounts.insert(key, account.clone());
        account
    }

    /// Accounts whose users have other secrets now open servers with them (a reload).
    pub fn adopt(&self, secret_of: impl Fn(&str) -> Option<ServerSecret>) {
        for account in self.accounts.lock().values() {
            account.login.adopt(secret_of(&account.user));
        }
    }

    /// Takes new bounds for every account (a reload).
    pub fn set_bounds(&self, bounds: impl Fn(&str) -> Bounds) {
        for account in self.accounts.lock().values() {
            let bounds = bounds(&account.user);
            *account.bounds.lock() = bounds;
            for pool in account.each_pool() {
                pool.set_bounds(bounds);
            }
        }
    }

    /// Closes what is idle for too long, too old, or of an epoch that is over, and forgets accounts
    /// that nobody uses.
    pub fn reap(&self, now: Instant, topology: &Topology) {
        let accounts: Vec<_> = self.accounts.lock().values().cloned().collect();
        for account in &accounts {
            for pool in account.each_pool() {
                let epoch = topology.nodes.get(usize::from(pool.node.0)).map_or(0, |n| n.epoch);
                pool.reap(now, epoch);
            }
        }
        drop(accounts);
        self.accounts.lock().retain(|_, account| {
            // One reference is this map's; no session can take another while it is locked.
            Arc::strong_count(account) > 1 || account.each_pool().iter().any(|p| !p.is_empty())
        });
    }

    /// Closes the idle servers of these accounts, and those on loan as they come back: their database is
    /// about to go, or what they began with has changed.
    pub fn retire(&self, concerns: impl Fn(&Account) -> bool) {
        let accounts = self.accounts.lock();
        for account in accounts.values().filter(|account| concerns(account)) {
            account.greetings.write().clear();
            for pool in account.each_pool() {
                pool.retire();
            }
        }
    }

    /// Closes every idle server (shutdown).
    pub fn close(&self) {
        for account in self.accounts.lock().values() {
            close(account);
        }
    }

    /// Servers by node number, over all accounts.
    #[must_use]
    pub fn counts(&self) -> HashMap<NodeId, Counts> {
        let mut counts: HashMap<NodeId, Counts> = HashMap::new();
        for account in self.accounts.lock().values() {
            for pool in account.each_pool() {
                let of_node = counts.entry(pool.node).or_default();
                let of_pool = pool.counts();
                of_node.in_use += of_pool.in_use;
                of_node.idle += of_pool.idle;
                of_node.waiting += of_pool.waiting;
            }
        }
        counts
    }
}

/// Closes an account's idle servers, and those on loan as they come back.
fn close(account: &Account) {
    for pool in account.each_pool() {
        pool.set_bounds(Bounds { size: 0, ..pool.bounds() });
        // An epoch that no server was opened in.
        pool.reap(Instant::now(), u64::MAX);
    }
}
