//! Which session a server serves, by the process id that the node knows it by.
//!
//! A notification names the process that sent it, which is a server's. To clients the process of a
//! session is the one that its login told, so the name has to be turned into that.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Identity;
use crate::cluster::NodeId;

/// Every server of the process.
#[derive(Debug, Default)]
pub struct Peers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_process_id: HashMap<(NodeId, i32), Weak<Identity>>,
    sweep_at: usize,
}

impl Peers {
    /// A server was opened.
    pub fn enter(&self, server: &Arc<Identity>) {
        let mut known = self.0.lock();
        if known.by_process_id.len() >= known.sweep_at {
            known.by_process_id.retain(|_, server| server.strong_count() > 0);
            known.sweep_at = (known.by_process_id.len() * 2).max(64);
        }
        known.by_process_id.insert((server.node, server.process_id), Arc::downgrade(server));
    }

    /// The session that the node's process serves, or served last, by the process id that its client
    /// was told. `None`: the process is no server of ours.
    #[must_use]
    pub fn session_of(&self, node: NodeId, process_id: i32) -> Option<i32> {
        let known = self.0.lock().by_process_id.get(&(node, process_id))?.upgrade()?;
        Some(known.session()).filter(|session| *session != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Address;

    #[test]
    fn a_process_is_the_session_that_it_serves_while_it_lives() {
        let server = |number| {
            let address = Address { host: "127.0.0.1".into(), port: 1 };
            Arc::new(Identity::new(NodeId(0), address, number, bytes::Bytes::new()))
        };
        let peers = Peers::default();
        let one = server(7);
        peers.enter(&one);
        assert_eq!(peers.session_of(NodeId(0), 7), None, "it serves nobody");
        one.serve(4711);
        assert_eq!(peers.session_of(NodeId(0), 7), Some(4711));
        assert_eq!(peers.session_of(NodeId(1), 7), None, "another node's process");
        drop(one);
        assert_eq!(peers.session_of(NodeId(0), 7), None);
        for number in 0..1000 {
            peers.enter(&server(number));
        }
        assert!(peers.0.lock().by_process_id.len() < 200);
    }
}
