//! What is shown of the nodes when somebody scrapes: read from the snapshot, counted nowhere.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{NodeState, Role, Topology};
use crate::telemetry::{Kind, Observations, Registry};

/// Registers the gauges of a cluster.
pub(super) fn register(topology: &Arc<ArcSwap<Topology>>, registry: &Registry) {
    let observe = |name, help, labels, read: fn(&Topology, &mut Observations)| {
        let topology = Arc::clone(topology);
        registry.observe(name, help, Kind::Gauge, labels, move |to| read(&topology.load(), to));
    };
    observe("causeway_node_up", "1 while the node takes its share", &["node"], |topology, to| {
        for node in topology.served() {
            to.push(&[&node.name], f64::from(u8::from(node.state == NodeState::Up)));
        }
    });
    observe(
        "causeway_node_state",
        "1 for the state that the node is in",
        &["node", "state"],
        |topology, to| {
            for node in topology.served() {
                for state in NodeState::ALL {
                    let number = f64::from(u8::from(node.state == state));
                    to.push(&[&node.name, state.word()], number);
                }
            }
        },
    );
    observe(
        "causeway_node_role",
        "1 for the role that the node says it has",
        &["node", "role"],
        |topology, to| {
            for node in topology.served() {
                for role in [Role::Primary, Role::Replica] {
                    let number = f64::from(u8::from(node.role == role));
                    to.push(&[&node.name, role.word()], number);
                }
            }
        },
    );
    observe(
        "causeway_lag_bytes",
        "WAL that the node has not replayed",
        &["node"],
        |topology, to| {
            for node in topology.served().filter(|node| node.sampled_at.is_some()) {
                to.push(&[&node.name], as_f64(node.lag_bytes));
            }
        },
    );
    observe(
        "causeway_lag_seconds",
        "How long ago the primary was where the node is",
        &["node"],
        |topology, to| {
            for node in topology.served() {
                if let Some(lag) = node.lag {
                    to.push(&[&node.name], lag.as_secs_f64());
                }
            }
        },
    );
    observe(
        "causeway_node_position_bytes",
        "Replayed position of a replica, insert position of the primary",
        &["node"],
        |topology, to| {
            for node in topology.served().filter(|node| node.sampled_at.is_some()) {
                to.push(&[&node.name], as_f64(node.position.0));
            }
        },
    );
    observe("causeway_primary_known", "1 while there is a primary", &[], |topology, to| {
        to.push(&[], f64::from(u8::from(topology.primary.is_some())));
    });
}

#[allow(clippy::cast_precision_loss, reason = "Prometheus has no other numbers")]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}
