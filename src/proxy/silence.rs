//! Nodes that have fallen silent: who waits for their answers is told.
//!
//! A node that dies closes its connections, or its machine does. One that hangs, or is cut off, leaves
//! them open, and whoever has sent it a request would wait for as long as that lasts. Owns the
//! judgement of what its silence means to them; the monitor says that it is silent.

use std::sync::Arc;
use std::time::Duration;

use crate::cluster::{NodeId, NodeState, NodeView, Role, Topology};
use crate::server::Silence;
use crate::session::Shared;

/// While a node is silent, who has turned to it since is told this often: a session may have taken a
/// server of it by what it knew a moment before.
const AGAIN: Duration = Duration::from_secs(1);

/// Tells sessions of silent nodes, for as long as the process lives.
///
/// # Cancel safety
/// Safe.
pub async fn watch(shared: Arc<Shared>) {
    let mut changed = shared.cluster.changed();
    loop {
        changed.borrow_and_update();
        let topology = shared.cluster.topology();
        let mut any = false;
        for (node, silence) in silences(&topology) {
            any = true;
            shared.registry.give_up(node, silence);
        }
        let change = changed.changed();
        let ended = if any {
            tokio::time::timeout(AGAIN, change).await.unwrap_or(Ok(()))
        } else {
            change.await
        };
        if ended.is_err() {
            // The cluster is gone, and with it all that could be said of it.
            return;
        }
    }
}

/// The nodes whose answers are not, or not all, worth waiting for.
fn silences(topology: &Topology) -> impl Iterator<Item = (NodeId, Silence)> {
    let judge = |node: &NodeView| match (node.state, node.role) {
        // What it says is of another history.
        (NodeState::Banned, _) => Some(Silence::Final),
        (NodeState::Down, Role::Replica) => Some(Silence::Open),
        // A primary may hang for a while and go on: who wrote there can only wait, as they would
        // directly, until another is in its place.
        (NodeState::Down, Role::Primary) => topology.primary.map(|_| Silence::Final),
        _ => None,
    };
    topology.nodes.iter().filter_map(move |node| judge(node).map(|silence| (node.id, silence)))
}
