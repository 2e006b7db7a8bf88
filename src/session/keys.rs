//! `causeway.session_key`: connections that share what they have written and seen.
//!
//! Owns the map from keys to that. Bounded: when it is full, keys that no connection has are
//! forgotten; what they stood for is kept as one sight, with which every later key begins.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::sight::Sight;
use crate::cluster::NodeId;

/// Where requests are under way, and since when.
pub type Flights = SmallVec<[(NodeId, Instant); 4]>;

/// A database and a key in it.
type Name = (Arc<str>, Box<str>);

/// All keys of the process.
#[derive(Debug)]
pub struct Keys {
    known: Mutex<Known>,
    most: usize,
}

#[derive(Debug, Default)]
struct Known {
    keys: FxHashMap<Name, Arc<Key>>,
    forgotten: Sight,
}

/// What the connections of one key share.
#[derive(Debug, Default)]
pub struct Key(Mutex<Together>);

#[derive(Debug, Default)]
struct Together {
    sight: Sight,
    /// Nodes that have a request of one of them under way, and since when: its client may have had the
    /// answer already.
    flying: Flights,
}

impl Keys {
    /// No keys yet, and room for so many.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { known: Mutex::default(), most }
    }

    /// The key of that name.
    #[must_use]
    pub fn key(&self, database: &Arc<str>, name: &str) -> Arc<Key> {
        let mut known = self.known.lock();
        let full: Name = (database.clone(), name.into());
        if let Some(key) = known.keys.get(&full) {
            return key.clone();
        }
        if known.keys.len() >= self.most {
            known.forget();
        }
        let key = Arc::new(Key::default());
        key.0.lock().sight.clone_from(&known.forgotten);
        known.keys.insert(full, key.clone());
        key
    }
}

impl Known {
    /// Forgets the keys that nobody holds.
    fn forget(&mut self) {
        let Self { keys, forgotten } = self;
        keys.retain(|_, key| {
            let held = Arc::strong_count(key) > 1;
            if !held {
                forgotten.merge(&key.0.lock().sight);
            }
            held
        });
    }
}

impl Key {
    /// Gives what is shared to a session that is about to ask something, and the nodes at which
    /// others are served at this moment.
    pub fn share(&self, with: &mut Sight, follow: impl FnOnce(&mut Sight)) -> Flights {
        let mut together = self.0.lock();
        follow(&mut together.sight);
        with.merge(&together.sight);
        together.flying.clone()
    }

    /// A request goes to this node.
    pub fn departs(&self, node: NodeId, now: Instant) {
        self.0.lock().flying.push((node, now));
    }

    /// A session has been told something unasked, and this is what it knows since.
    pub fn hears(&self, sight: &Sight) {
        self.0.lock().sight.merge(sight);
    }

    /// It was answered, and this is what its session knows since.
    pub fn arrives(&self, node: NodeId, sight: &Sight) {
        let mut together = self.0.lock();
        // Whichever of them it was: the oldest that is left is no younger than it should be.
        if let Some(at) = together.flying.iter().rposition(|(at, _)| *at == node) {
            together.flying.remove(at);
        }
        together.sight.merge(sight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_however_often_it_is_asked_for_and_is_forgotten_only_when_free() {
        let (one, two): (Arc<str>, Arc<str>) = ("one".into(), "two".into());
        let keys = Keys::new(2);
        let held = keys.key(&one, "user:1");
        assert!(Arc::ptr_eq(&held, &keys.key(&one, "user:1")));
        assert!(!Arc::ptr_eq(&held, &keys.key(&two, "user:1")), "another database");
        for number in 0..100 {
            drop(keys.key(&one, &format!("user:{number}")));
        }
        assert!(keys.known.lock().keys.len() <= 3);
        assert!(Arc::ptr_eq(&held, &keys.key(&one, "user:1")), "somebody holds it");
    }

    #[test]
    fn who_is_under_way_is_known_until_it_arrives() {
        let (key, now) = (Key::default(), Instant::now());
        let later = now + std::time::Duration::from_secs(1);
        key.departs(NodeId(1), now);
        key.departs(NodeId(1), later);
        key.arrives(NodeId(1), &Sight::default());
        assert_eq!(&key.share(&mut Sight::default(), |_| ())[..], [(NodeId(1), now)]);
        key.arrives(NodeId(1), &Sight::default());
        assert!(key.share(&mut Sight::default(), |_| ()).is_empty());
    }
}
