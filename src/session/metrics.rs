//! What sessions count.

use std::sync::Arc;

use parking_lot::RwLock;

use super::deadlines::Overdue;
use super::pins::Pin;
use crate::cluster::{NodeId, Topology};
use crate::routing::decision::Reason;
use crate::telemetry::Registry;
use crate::telemetry::metrics::{Counter, Family, Histogram};

/// The counters of one node.
#[derive(Debug)]
struct OfNode {
    /// Requests that it served as a replica.
    reads: Counter,
    /// Requests that it served as the primary.
    writes: Counter,
    /// By [`Freshness`].
    fresh: [Counter; 3],
}

/// How a read at a level above `eventual` found a node that was fresh enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// The replica was, at once.
    AtOnce,
    /// After waiting for it.
    Waited,
    /// No replica was: the primary served it.
    Primary,
}

const FRESHNESS: [&str; 3] = ["at_once", "waited", "primary"];

/// How a session came from replicas to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Crossing {
    /// It was known already that the primary shows what the replica showed.
    AtOnce,
    /// The clocks were asked.
    Waited,
    /// A replica was asked for the fate of transactions.
    Asked,
    /// The replica is gone, and long transactions hide whether the primary shows all of it.
    Unproven,
}

const CROSSINGS: [&str; 4] = ["at_once", "waited", "asked", "unproven"];

/// What sessions count. Labels are looked up when a node is first met, never per request.
#[derive(Debug)]
pub struct Metrics {
    reads: Family<Counter>,
    writes: Family<Counter>,
    fresh: Family<Counter>,
    nodes: RwLock<Vec<OfNode>>,
    crossings: Box<[Counter]>,
    /// From the first look for a fresh replica to finding one, or giving up.
    pub catchup: Histogram,
    /// Sessions whose acknowledged history a failover has lost, or may have.
    pub lost_history: Counter,
    reasons: Box<[Counter]>,
    /// From the request's last byte to the answer's last.
    pub latency: Histogram,
    /// Logins that succeeded.
    pub logins: Counter,
    /// Logins that did not.
    pub refused_logins: Counter,
    /// Errors of Causeway's own that clients were sent.
    pub errors: Counter,
    /// Requests that were run again on another node.
    pub retries: Counter,
    /// Requests that got no server: too many waited already, or they did for too long.
    pub queue_full: Counter,
    /// The same of those that waited.
    pub waited_in_vain: Counter,
    pinned: Box<[Counter]>,
    overdue: Box<[Counter]>,
}

impl Metrics {
    /// Registers them.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        let pins: Vec<&str> = Pin::ALL.iter().map(|pin| pin.reason().as_str()).collect();
        let unserved = registry.counters(
            "causeway_unserved_requests",
            "Requests that got no server: pool.queue waited already, or they did for pool.wait",
            &["limit"],
        );
        Self {
            reads: registry.counters(
                "causeway_node_reads",
                "Requests that the node served as a replica",
                &["node"],
            ),
            writes: registry.counters(
                "causeway_node_writes",
                "Requests that the node served as the primary",
                &["node"],
            ),
            fresh: registry.counters(
                "causeway_fresh_reads",
                "Reads above level eventual: served by the node at once, after waiting for it, or by the \
                 primary since no replica was fresh enough",
                &["node", "how"],
            ),
            nodes: RwLock::default(),
            crossings: registry
                .counters(
                    "causeway_barriers",
                    "Requests to the primary after reads on replicas, by what it took to know that \
                     the primary shows what they showed",
                    &["how"],
                )
                .indexed(&CROSSINGS),
            catchup: registry.histogram(
                "causeway_catchup_seconds",
                "Time that reads waited for a replica to be fresh enough",
            ),
            lost_history: registry.counter(
                "causeway_lost_history",
                "Sessions that a failover has lost, or may have lost, acknowledged history of",
            ),
            reasons: registry
                .counters(
                    "causeway_statements",
                    "Requests by the reason of their route",
                    &["reason"],
                )
                .indexed(&reasons),
            latency: registry.histogram(
                "causeway_request_seconds",
                "Time from a request's arrival to its answer's end",
            ),
            logins: registry.counter("causeway_logins", "Logins that succeeded"),
            refused_logins: registry.counter("causeway_refused_logins", "Logins that failed"),
            errors: registry
                .counter("causeway_errors", "Errors of the proxy's own that clients were sent"),
            queue_full: unserved.with(&["queue"]),
            waited_in_vain: unserved.with(&["wait"]),
            retries: registry
                .counter("causeway_retries", "Requests that were run again on another node"),
            pinned: registry
                .counters("causeway_pins", "Sessions that were pinned, by cause", &["reason"])
                .indexed(&pins),
            overdue: registry
                .counters(
                    "causeway_timeouts",
                    "Requests, transactions and clients that ran into a time limit",
                    &["limit"],
                )
                .indexed(&Overdue::ALL.map(Overdue::as_str)),
        }
    }

    /// Shows these nodes, also before they have served anything: a zero, not a gap.
    pub fn announce<'a>(&self, nodes: impl Iterator<Item = &'a str>) {
        for name in nodes {
            let _ = (self.reads.with(&[name]), self.writes.with(&[name]));
        }
    }

    /// Counts a request that a node serves. `topology` is asked for when the node is first met.
    pub fn served(&self, by: NodeId, as_replica: bool, topology: impl Fn() -> Arc<Topology>) {
        self.of(by, topology, |node| if as_replica { &node.reads } else { &node.writes });
    }

    /// Counts a read at a level above `eventual`, and how it came to this node.
    pub fn fresh(&self, by: NodeId, how: Freshness, topology: impl Fn() -> Arc<Topology>) {
        self.of(by, topology, |node| &node.fresh[how as usize]);
    }

    /// How many such reads there were, once the node has served any.
    #[must_use]
    pub fn fresh_reads(&self, by: NodeId, how: &str) -> u64 {
        let nodes = self.nodes.read();
        let counters = nodes.get(usize::from(by.0)).map(|node| &node.fresh);
        let place = FRESHNESS.iter().position(|name| *name == how);
        counters.zip(place).map_or(0, |(counters, place)| counters[place].value())
    }

    fn of(
        &self,
        node: NodeId,
        topology: impl Fn() -> Arc<Topology>,
        counter: impl Fn(&OfNode) -> &Counter,
    ) {
        let number = usize::from(node.0);
        loop {
            if let Some(node) = self.nodes.read().get(number) {
                return counter(node).inc();
            }
            let mut nodes = self.nodes.write();
            for node in topology().nodes.iter().skip(nodes.len()) {
                let name: &str = &node.name;
                nodes.push(OfNode {
                    reads: self.reads.with(&[name]),
                    writes: self.writes.with(&[name]),
                    fresh: FRESHNESS.map(|how| self.fresh.with(&[name, how])),
                });
            }
        }
    }

    /// Counts a request under the reason of its route.
    pub fn count(&self, reason: Reason) {
        self.reasons[reason as usize].inc();
    }

    /// Counts a limit that was run into.
    pub fn overdue(&self, overdue: Overdue) {
        self.overdue[overdue as usize].inc();
    }

    /// How often a limit was run into.
    #[must_use]
    pub fn timeouts(&self, overdue: Overdue) -> u64 {
        self.overdue[overdue as usize].value()
    }

    /// Counts a request to the primary after reads on replicas.
    pub fn crossed(&self, how: Crossing) {
        self.crossings[how as usize].inc();
    }

    /// Counts a session that has just been pinned.
    pub fn pinned(&self, pin: Pin) {
        if let Some(at) = Pin::ALL.iter().position(|known| *known == pin) {
            self.pinned[at].inc();
        }
    }
}
