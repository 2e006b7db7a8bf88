//! The barrier on the way from replicas to the primary.
//!
//! A replica shows a commit as soon as it has replayed it, the primary only after the flush and the wait
//! for synchronous standbys. A request goes to the primary only when every transaction that the
//! session may have seen on a replica has ended there ([`sight`](super::sight) tells which may not have).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout_at;

use super::driver::Session;
use super::failure::Failure;
use super::metrics::Crossing;
use super::sight::{Barrier, Span};
use crate::cluster::snapshot::DOUBTS_MOST;
use crate::cluster::{Lsn, NodeId, NodeState, NodeView, Role, Tick, Topology};

/// How soon a barrier is looked at again though no clock has ticked: a node may have died.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long a session waits for transactions to end that a dead replica may have shown, when nobody is left
/// who could say whether it has. Once: then the primary's word is taken for it.
const UNPROVEN_AFTER: Duration = Duration::from_secs(2);

/// A replica that can tell which transactions the session has seen commit.
struct Witness {
    node: NodeId,
    /// It has had all of it since then, if it lives since.
    since: Instant,
    xids: Vec<u64>,
}

impl Session {
    /// Waits until the primary shows all that the session has seen on replicas.
    ///
    /// # Errors
    /// If it does not until the deadline, or the client cancels.
    pub(super) async fn pass_barrier(
        &mut self,
        primary: NodeId,
        deadline: Instant,
    ) -> Result<(), Failure> {
        if !self.held.sight.has_seen() {
            return Ok(());
        }
        let wake = Arc::new(Notify::new());
        let patience = Instant::now() + UNPROVEN_AFTER;
        let mut crossing = Crossing::AtOnce;
        loop {
            self.follow_history();
            let topology = self.shared.cluster.topology();
            let witness = match self.held.sight.barrier(primary, &topology) {
                Barrier::Passes => break,
                Barrier::Ask(node, when) | Barrier::Doubts(node, when, _)
                    if is_gone(topology.node(node), when) =>
                {
                    let other = other_witness(primary, when.to, &topology, &wake);
                    let nobody = topology.eligible_replicas().next().is_none();
                    if other.is_none() && nobody && Instant::now() >= patience {
                        // Nobody is left who could say what it has shown.
                        crossing = Crossing::Unproven;
                        break;
                    }
                    other
                }
                Barrier::Ask(node, when) => {
                    topology.node(primary).clock.wake_at(when.to, Lsn(0), &wake);
                    topology.node(node).clock.wake_at(when.to, Lsn(0), &wake);
                    None
                }
                Barrier::Doubts(node, when, xids) => Some(Witness { node, since: when.from, xids }),
            };
            crossing = crossing.max(Crossing::Waited);
            match witness {
                Some(witness) if witness.xids.len() <= DOUBTS_MOST => {
                    crossing = Crossing::Asked;
                    let clock = topology.node(witness.node).clock.clone();
                    let fates = timeout_at(deadline.into(), clock.committed(witness.xids)).await;
                    if let Ok(Some((lived_since, shown))) = fates
                        && lived_since <= witness.since
                    {
                        self.await_visible(primary, &shown, deadline, &wake).await?;
                        break;
                    }
                }
                // Too many to ask for: most end soon.
                Some(_) => {
                    topology.node(primary).clock.wake_at(Instant::now(), Lsn(0), &wake);
                }
                None => {}
            }
            let look_again = (Instant::now() + LOOK_AGAIN).min(deadline);
            if !self.woken(&wake, topology.version, look_again).await? && Instant::now() >= deadline
            {
                return Err(Failure::NotYetVisible);
            }
        }
        self.shared.metrics.crossed(crossing);
        Ok(())
    }

    /// Waits until these transactions have ended on the primary: a replica has shown them already.
    async fn await_visible(
        &self,
        primary: NodeId,
        shown: &[u64],
        deadline: Instant,
        wake: &Arc<Notify>,
    ) -> Result<(), Failure> {
        loop {
            let topology = self.shared.cluster.topology();
            let clock = &topology.node(primary).clock;
            let ended = |tick: Arc<Tick>| {
                tick.role == Role::Primary && shown.iter().all(|xid| tick.snapshot.has_ended(*xid))
            };
            if clock.latest().is_some_and(ended) {
                return Ok(());
            }
            clock.wake_at(Instant::now(), Lsn(0), wake);
            if !self.woken(wake, topology.version, deadline).await? {
                return Err(Failure::NotYetVisible);
            }
        }
    }
}

/// Whether a replica has died, or at least cannot be asked any more, since it was read.
fn is_gone(replica: &NodeView, read: Span) -> bool {
    matches!(replica.state, NodeState::Down | NodeState::Banned)
        || replica.removed
        || replica.clock.latest().is_some_and(|tick| tick.connected > read.from)
}

/// Whether a replica can be asked what was committed, be it fit for reads or not: the one that is gone too,
/// once it is back.
fn can_testify(node: &NodeView) -> bool {
    let answers = matches!(node.state, NodeState::Up | NodeState::Ejected);
    node.role == Role::Replica && answers && !node.removed
}

/// A replica that can stand in for one that is gone: it has replayed all that the primary had logged
/// after the read, and so all that could be shown. Has the clocks asked where there is none yet.
fn other_witness(
    primary: NodeId,
    read: Instant,
    topology: &Topology,
    wake: &Arc<Notify>,
) -> Option<Witness> {
    let clock = &topology.node(primary).clock;
    let of_primary = |tick: &Arc<Tick>| tick.role == Role::Primary;
    let then = clock.since(read).filter(of_primary);
    let (Some(then), Some(latest)) = (then, clock.latest().filter(of_primary)) else {
        clock.wake_at(read, Lsn(0), wake);
        return None;
    };
    let xids: Vec<u64> = latest.snapshot.doubts(then.next_xid).take(DOUBTS_MOST + 1).collect();
    // They may end while nobody is asked.
    clock.wake_at(Instant::now(), Lsn(0), wake);
    for node in topology.nodes.iter().filter(|node| can_testify(node)) {
        let tick = node.clock.latest();
        match tick.filter(|tick| tick.role == Role::Replica && tick.position >= then.position) {
            Some(tick) => return Some(Witness { node: node.id, since: tick.sent, xids }),
            None => node.clock.wake_at(read, then.position, wake),
        }
    }
    None
}
