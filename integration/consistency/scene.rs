//! A proxy before a cluster, and sessions that do as a script says: the ground of mutants and single promises.

use std::sync::Arc;
use std::time::Duration;

use causeway::cli::demo::cluster::Cluster;
use causeway::cluster::mutant::Mutant;

use super::client::{Client, Protocol};
use super::counters::{self, History, Terms};
use super::faults;
use super::ground::{Ground, Mix};
use super::history::Key;
use super::session::Session;
use super::world::schema;
use crate::harness::{Proxy, ProxyOptions, fresh_database};

/// A proxy before a cluster, and sessions that do as the scenario says.
pub struct Scene<'a> {
    pub cluster: &'a Cluster,
    pub proxy: Proxy,
    database: String,
    ground: Arc<Ground>,
    sessions: Vec<Terms>,
    ops: Vec<counters::Op>,
}

const KEYS: usize = 16;

impl<'a> Scene<'a> {
    pub async fn open(cluster: &'a Cluster, options: ProxyOptions, mutant: Option<Mutant>) -> Self {
        let database = fresh_database(cluster).await;
        let direct = cluster.primary().connect(&database).await.unwrap();
        direct.batch_execute(&schema(KEYS)).await.unwrap();
        cluster.await_replay().await.unwrap();
        // No replica is left out for its lag: freshness alone decides.
        let mut options = ProxyOptions { monitor: "max_lag = \"10min\"", ..options };
        if let Some(mutant) = mutant {
            options.environment.push(("CAUSEWAY_MUTANT", mutant.name().into()));
        }
        let proxy = Proxy::start(cluster, &options).await;
        proxy.await_catalog(cluster, &database).await;
        let mix = Mix { reads: 0, placed: 0, tokens: 0, procedures: 0, pause: Duration::ZERO };
        let ground = Arc::new(Ground::new(mix, KEYS));
        Self { cluster, proxy, database, ground, sessions: Vec::new(), ops: Vec::new() }
    }

    /// A session with one counter of its own, which has the session's number.
    pub async fn session(&mut self) -> Session {
        self.connect(Terms::default(), &[]).await
    }

    /// The same under the key that all such sessions share.
    pub async fn session_under_key(&mut self) -> Session {
        let key = [("causeway.session_key".to_owned(), "user:42".to_owned())];
        self.connect(Terms { global: false, group: Some(0) }, &key).await
    }

    async fn connect(&mut self, terms: Terms, parameters: &[(String, String)]) -> Session {
        self.speaking(Protocol::Extended, terms, parameters).await
    }

    /// One that speaks so.
    pub async fn speaking(
        &mut self,
        protocol: Protocol,
        terms: Terms,
        parameters: &[(String, String)],
    ) -> Session {
        let number = self.sessions.len();
        self.sessions.push(terms);
        let client = self.client(parameters).await;
        let own = Key::try_from(number).expect("sessions are few");
        Session::new(number, client, protocol, &[own], Arc::clone(&self.ground))
    }

    /// The database that it is about.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// A client of whom nothing is noted.
    pub async fn client(&self, parameters: &[(String, String)]) -> Client {
        Client::connect(self.proxy.address, &self.database, parameters).await
    }

    /// A session has done all that it will.
    pub fn ended(&mut self, session: Session) {
        self.ops.extend(session.into_ops());
    }

    /// The same, of what was taken from sessions.
    pub fn was_done(&mut self, ops: &[counters::Op]) {
        self.ops.extend_from_slice(ops);
    }

    /// Fails over any broken promise.
    pub async fn close_unbroken(self) {
        let (history, violations) = self.close().await;
        let traces: Vec<String> = violations.iter().map(|one| one.trace(&history)).collect();
        assert!(violations.is_empty(), "{}", traces.join("\n"));
    }

    /// Stops the proxy, leaves the cluster as it was, and checks what was done.
    pub async fn close(self) -> (History, Vec<counters::Violation>) {
        let Self { cluster, proxy, ground, sessions, ops, .. } = self;
        drop(proxy);
        faults::tidy(cluster).await.unwrap();
        cluster.await_replay().await.unwrap();
        let complaints = ground.complaints();
        assert!(complaints.is_empty(), "{complaints:?}");
        let history = History { sessions, keys: KEYS, ops };
        let violations = counters::check(&history);
        (history, violations)
    }
}
