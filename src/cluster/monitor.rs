//! The tasks that look at the nodes, and the handle through which everybody sees the result.
//!
//! One task per node, with one async fn per state ([`answering`], [`silent`]); one more that lets
//! time pass, so that silence is noticed whoever else is silent. All judge under one short lock and
//! swap one snapshot; readers take no lock.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Cache};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::judge::Judge;
use super::probe::{Probe, ProbeError};
use super::sample::{Limits, Sample};
use super::ticker;
use super::verdict::{Change, Standing};
use super::{Clock, NodeId, NodeState, Topology};
use crate::config::settings::{Monitor, Node, Settings};
use crate::telemetry::{CounterFamily, HistogramFamily, Registry};
use crate::tls::Connector;

/// The cluster as seen from here. Clones are one cluster; the tasks end when the last is dropped or
/// [`Cluster::stop`] is called.
#[derive(Debug, Clone)]
pub struct Cluster(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    topology: Arc<ArcSwap<Topology>>,
    judge: Mutex<Judge>,
    watched: Mutex<Watched>,
    /// Where the clocks are asked.
    clocks: Option<Handle>,
    /// The topology's version.
    changed: watch::Sender<u64>,
    ejections: CounterFamily,
    probes: HistogramFamily,
    failures: CounterFamily,
    /// Whether the first verdict without a primary was told.
    told: AtomicBool,
}

/// The tasks that run.
#[derive(Debug, Default)]
struct Watched {
    monitor: Option<Monitor>,
    connector: Connector,
    stop: CancellationToken,
    nodes: Vec<(NodeId, Arc<Notify>, CancellationToken)>,
}

/// The newest snapshot, as its thread knows it.
#[derive(Debug, Clone)]
#[allow(clippy::redundant_allocation, reason = "other threads' count is not to be touched")]
pub struct Newest(Rc<Arc<Topology>>);

impl Deref for Newest {
    type Target = Topology;

    fn deref(&self) -> &Topology {
        &self.0
    }
}

/// What a thread knows of a cluster.
struct Known {
    source: Arc<ArcSwap<Topology>>,
    cache: Cache<Arc<ArcSwap<Topology>>, Arc<Topology>>,
    newest: Newest,
}

thread_local! {
    /// The process has one cluster, but for tests.
    static NEWEST: RefCell<Option<Known>> = const { RefCell::new(None) };
}

impl Known {
    fn new(source: &Arc<ArcSwap<Topology>>) -> Self {
        let mut cache = Cache::new(source.clone());
        let newest = Newest(Rc::new(cache.load().clone()));
        Self { source: source.clone(), cache, newest }
    }

    fn load(&mut self) -> Newest {
        let newest = self.cache.load();
        if !Arc::ptr_eq(newest, &self.newest.0) {
            self.newest = Newest(Rc::new(newest.clone()));
        }
        self.newest.clone()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Cluster {
    /// Starts to look at the nodes. To be called within a Tokio runtime, whose threads should not be
    /// those of the workers: a busy worker must not look like a slow node. The clocks are asked in `clocks`,
    /// which should be where sessions are that wait for them.
    #[must_use]
    pub fn start(
        settings: &Settings,
        connector: &Connector,
        registry: &Registry,
        clocks: Handle,
    ) -> Self {
        let judge = Judge::new(Limits::from(&settings.monitor));
        let cluster = Self::over(judge, registry, Some(clocks));
        super::metrics::register(&cluster.0.topology, registry);
        cluster.apply(settings, connector);
        cluster
    }

    /// A cluster that nobody looks at, which is as the caller says: for tests and offline use.
    #[must_use]
    pub fn fixed(topology: Topology) -> Self {
        let limits = Limits {
            interval: Duration::from_secs(1),
            max_lag: Duration::from_secs(1),
            max_lag_bytes: None,
            readmit_lag: Duration::from_secs(1),
            readmit_after: 1,
        };
        let cluster = Self::over(Judge::new(limits), &Registry::new(1), None);
        cluster.set(topology);
        cluster
    }

    /// Changes a [`Cluster::fixed`].
    pub fn set(&self, topology: Topology) {
        let version = topology.version;
        self.0.topology.store(Arc::new(topology));
        self.0.changed.send_replace(version);
    }

    fn over(judge: Judge, registry: &Registry, clocks: Option<Handle>) -> Self {
        Self(Arc::new(Shared {
            topology: Arc::new(ArcSwap::from_pointee(judge.topology(Instant::now()))),
            judge: Mutex::new(judge),
            watched: Mutex::default(),
            clocks,
            changed: watch::Sender::new(0),
            ejections: registry.counters(
                "causeway_ejections",
                "Times that a replica left the rotation",
                &["node"],
            ),
            probes: registry.histograms(
                "causeway_probe_seconds",
                "Time that a look at a node took",
                &["node"],
            ),
            failures: registry.counters(
                "causeway_probe_failures",
                "Looks at a node that failed",
                &["node"],
            ),
            told: AtomicBool::new(false),
        }))
    }

    /// The newest snapshot, to keep as long as is needed.
    #[must_use]
    pub fn topology(&self) -> Arc<Topology> {
        self.0.topology.load_full()
    }

    /// The newest snapshot, for a moment: the thread has it already, and where it has not changed that costs
    /// one comparison. Not to be held across an await.
    #[must_use]
    pub fn load(&self) -> Newest {
        NEWEST.with_borrow_mut(|newest| match newest {
            Some(known) if Arc::ptr_eq(&known.source, &self.0.topology) => known.load(),
            other => other.insert(Known::new(&self.0.topology)).newest.clone(),
        })
    }

    /// Says when a role, a state, a life or the set of nodes changed: the value is
    /// [`Topology::version`].
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Waits until `wanted` holds of the topology, and gives the one of which it did.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn wait_until(&self, mut wanted: impl FnMut(&Topology) -> bool) -> Arc<Topology> {
        let mut changed = self.changed();
        loop {
            changed.borrow_and_update();
            let topology = self.topology();
            if wanted(&topology) {
                return topology;
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// A session could not connect, or lost a server that it had opened in this epoch: have a look
    /// at once instead of at the next interval. Cheap, and may be called by all sessions together.
    pub fn report_failure(&self, node: NodeId, epoch: u64) {
        let topology = self.load();
        let Some(view) = topology.nodes.get(usize::from(node.0)) else { return };
        if view.epoch != epoch || view.state == NodeState::Down {
            return;
        }
        let watched = self.0.watched.lock();
        if let Some((_, look, _)) = watched.nodes.iter().find(|(id, _, _)| *id == node) {
            look.notify_one();
        }
    }

    /// Takes over new settings: adds and removes nodes, and judges by the new limits. Nodes that stay
    /// keep their number and state. To be called within the runtime of [`Cluster::start`].
    pub fn apply(&self, settings: &Settings, connector: &Connector) {
        let now = Instant::now();
        let mut changes = Vec::new();
        let mut wanted: Vec<(NodeId, Node, Arc<Clock>)> = Vec::new();
        {
            let mut judge = self.0.judge.lock();
            judge.set_limits(Limits::from(&settings.monitor));
            for node in &settings.nodes {
                let Some(id) = judge.find(node).or_else(|| judge.add(node)) else {
                    tracing::error!("no numbers left for node {}: restart causeway", node.name);
                    continue;
                };
                judge.update(id, node);
                // Shown from the start, at zero.
                let _ = self.0.ejections.with(&[&node.name]);
                let _ = self.0.failures.with(&[&node.name]);
                wanted.push((id, node.clone(), judge.clock(id)));
            }
            for (id, name) in judge.served() {
                if !wanted.iter().any(|(wanted, ..)| *wanted == id) {
                    changes.extend(judge.remove(id, now));
                    self.0.forget(&name);
                }
            }
            self.0.publish(&judge, now, &changes);
        }
        let mut watched = self.0.watched.lock();
        if watched.monitor.as_ref() != Some(&settings.monitor) || watched.connector != *connector {
            *watched = Watched::default();
            watched.monitor = Some(settings.monitor.clone());
            watched.connector = connector.clone();
            let ticks = tick(Arc::downgrade(&self.0), settings.monitor.interval);
            tokio::spawn(watched.stop.clone().run_until_cancelled_owned(ticks));
        }
        watched.nodes.retain(|(id, _, stop)| {
            let stays = wanted.iter().any(|(wanted, ..)| wanted == id);
            if !stays {
                stop.cancel();
            }
            stays
        });
        for (id, node, clock) in wanted {
            if watched.nodes.iter().any(|(have, _, _)| *have == id) {
                continue;
            }
            let (look, stop) = (Arc::new(Notify::new()), watched.stop.child_token());
            let target = Target {
                id,
                name: Arc::clone(&node.name),
                shared: Arc::downgrade(&self.0),
                probe: Probe::new(&settings.monitor, connector, &node.address),
                interval: settings.monitor.interval,
                look_now: Arc::clone(&look),
            };
            tokio::spawn(stop.clone().run_until_cancelled_owned(watch_node(target)));
            let ticks = ticker::run(
                clock,
                settings.monitor.clone(),
                connector.clone(),
                node.address.clone(),
            );
            if let Some(clocks) = &self.0.clocks {
                clocks.spawn(stop.clone().run_until_cancelled_owned(ticks));
            }
            watched.nodes.push((id, look, stop));
        }
    }

    /// Ends the tasks; the last snapshot stays.
    pub fn stop(&self) {
        self.0.watched.lock().stop.cancel();
    }
}

impl Shared {
    /// Judges with `judged`, and tells what came of it.
    fn judge(&self, judged: impl FnOnce(&mut Judge, Instant) -> Vec<Change>) {
        let now = Instant::now();
        let mut judge = self.judge.lock();
        let changes = judged(&mut judge, now);
        self.publish(&judge, now, &changes);
        let first = judge.settled() && !self.told.swap(judge.settled(), Ordering::Relaxed);
        if first && self.topology.load().primary.is_none() {
            tracing::error!("there is no primary: no node that answers is out of recovery");
        }
    }

    /// Stops showing what was counted of a removed node.
    fn forget(&self, name: &str) {
        self.ejections.remove(&[name]);
        self.failures.remove(&[name]);
        self.probes.remove(&[name]);
    }

    fn publish(&self, judge: &Judge, now: Instant, changes: &[Change]) {
        for change in changes {
            change.log();
            let left = change.was == NodeState::Up
                && matches!(change.now, Standing::Node(state) if state != NodeState::Up);
            if left {
                self.ejections.with(&[&change.name]).inc();
            }
        }
        let topology = judge.topology(now);
        let version = topology.version;
        self.topology.store(Arc::new(topology));
        self.changed.send_if_modified(|known| std::mem::replace(known, version) != version);
    }
}

/// Lets time pass.
async fn tick(shared: std::sync::Weak<Shared>, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(shared) = shared.upgrade() else { return };
        shared.judge(Judge::on_tick);
    }
}

/// One node as its task sees it.
struct Target {
    id: NodeId,
    name: Arc<str>,
    shared: std::sync::Weak<Shared>,
    probe: Probe,
    interval: Duration,
    look_now: Arc<Notify>,
}

impl Target {
    /// Looks once and has a good sample judged. `None` when nobody is left to see it.
    async fn look(&self) -> Option<Result<(), ProbeError>> {
        let begun = Instant::now();
        let result = self.probe.look().await;
        let shared = self.shared.upgrade()?;
        shared.probes.with(&[&self.name]).observe(begun.elapsed());
        Some(match result {
            Ok(sample) => {
                shared.judge(|judge, now| judge.on_sample(self.id, sample, now));
                Ok(())
            }
            Err(error) => {
                shared.failures.with(&[&self.name]).inc();
                Err(error)
            }
        })
    }

    fn failed(&self, error: &ProbeError) -> Option<()> {
        let shared = self.shared.upgrade()?;
        shared.judge(|judge, now| judge.on_failure(self.id, error.to_string(), now));
        Some(())
    }

    /// Waits for the next look, or for somebody who wants one now.
    async fn pause(&self) {
        // Either outcome means the same.
        let _ = timeout(self.interval, self.look_now.notified()).await;
    }
}

async fn watch_node(target: Target) {
    while answering(&target).await.is_some() && silent(&target).await.is_some() {}
}

/// The node answers: one look each interval. Ends when two in a row failed, the second at once.
async fn answering(target: &Target) -> Option<()> {
    loop {
        if target.look().await?.is_err()
            && let Err(error) = target.look().await?
        {
            return target.failed(&error);
        }
        target.pause().await;
    }
}

/// The node does not answer: one look each interval. Ends when it does.
async fn silent(target: &Target) -> Option<()> {
    loop {
        // A report of what is known already must not turn this into a busy loop.
        sleep(target.interval).await;
        match target.look().await? {
            Ok(()) => break,
            Err(error) => target.failed(&error)?,
        }
    }
    target.pause().await;
    Some(())
}

/// What a sample says, without judging it: for `causeway check`.
///
/// # Errors
/// As [`Probe::look`].
pub async fn look_once(
    monitor: &Monitor,
    connector: &Connector,
    node: &Node,
) -> Result<Sample, ProbeError> {
    Probe::new(monitor, connector, &node.address).look().await
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::Path;

    use super::*;
    use crate::config;

    /// A node that nobody listens on: its port was free a moment ago.
    fn dead_node() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    }

    fn settings(nodes: &[&str]) -> Settings {
        let text = format!(
            "cluster.nodes = {nodes:?}\nmonitor = {{ user = \"m\", interval = \"20ms\" }}\n\
             user = [{{ name = \"u\", password = \"p\" }}]"
        );
        config::parse(&text, Path::new("/")).unwrap()
    }

    #[tokio::test]
    async fn nodes_come_and_go_with_the_settings() {
        let (one, two) = (dead_node(), dead_node());
        let registry = Registry::new(1);
        let cluster = Cluster::start(
            &settings(&[&one]),
            &Connector::disabled(),
            &registry,
            Handle::current(),
        );
        let failures = |node: &str| {
            let line = format!("causeway_probe_failures_total{{node=\"{node}\"}} ");
            let text = registry.encode();
            let number = text.lines().find_map(|have| have.strip_prefix(&line))?;
            number.parse::<u64>().ok()
        };
        let looked = async |node: &str| {
            while failures(node).is_none_or(|number| number < 4) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(30), looked(&one)).await.unwrap();
        cluster.apply(&settings(&[&two]), &Connector::disabled());
        timeout(Duration::from_secs(30), looked(&two)).await.unwrap();

        let topology = cluster.topology();
        let nodes: Vec<_> =
            topology.nodes.iter().map(|node| (node.id.0, node.removed, &*node.name)).collect();
        assert_eq!(nodes, [(0, true, &*one), (1, false, &*two)]);
        assert_eq!(failures(&one), None, "what is removed is shown no longer");
        // Reports of all kinds are harmless.
        cluster.report_failure(NodeId(0), 1);
        cluster.report_failure(NodeId(1), 1);
        cluster.report_failure(NodeId(9), 1);
        cluster.stop();
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let topology = |version| Topology {
            version,
            primary: None,
            system_identifier: None,
            timeline: None,
            switches: Arc::new([]),
            nodes: Arc::new([]),
        };
        let cluster = Cluster::fixed(topology(1));
        let waiting = tokio::spawn({
            let cluster = cluster.clone();
            async move { cluster.wait_until(|topology| topology.version == 3).await.version }
        });
        for version in 2..=3 {
            tokio::task::yield_now().await;
            cluster.set(topology(version));
        }
        assert_eq!(timeout(Duration::from_secs(30), waiting).await.unwrap().unwrap(), 3);
    }
}
