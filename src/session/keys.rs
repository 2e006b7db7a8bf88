//! `causeway.session_key`: connections that share what they have written and seen.
//!
//! Owns the map from keys to that. Bounded: when it is full, keys that no connection has are
//! forgotten; what they stood for is kept as one sight, with which every later key begins.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::sight::{Lost, Sight};
use crate::cluster::{NodeId, Topology};

/// A key that a session has.
#[derive(Debug)]
pub struct Holding {
    /// What it shares.
    pub key: Arc<Key>,
    /// So many losses of the key's were before it, or were told to it.
    losses: u32,
    /// It was told of all that was lost up to this era.
    told: u32,
}

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
    /// What a failover has lost of it, the last time, and how often that was.
    lost: Option<Lost>,
    losses: u32,
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

impl Together {
    /// Follows the history. Of several losses that nobody has asked about in between the last is kept.
    fn follow(&mut self, topology: &Topology, now: Instant) {
        if let Some(lost) = self.sight.follow(topology, now) {
            self.losses += 1;
            self.lost = Some(lost);
        }
        self.sight.settle(topology);
    }
}

impl Holding {
    /// A session takes the key, with all that it has written and seen before; it has followed the topology.
    #[must_use]
    pub fn new(key: Arc<Key>, sight: &Sight, topology: &Topology, now: Instant) -> Self {
        let losses = {
            let mut together = key.0.lock();
            // What is lost and nobody was there to be told of is told to who comes.
            let losses = together.losses;
            together.follow(topology, now);
            together.sight.merge(sight);
            losses
        };
        Self { key, losses, told: 0 }
    }

    /// The session was told of a loss of its own.
    pub fn was_told(&mut self, lost: &Lost) {
        self.told = lost.era;
    }

    /// Gives what is shared to a session that is about to ask something: the nodes at which others are served
    /// at this moment, and what was lost that it was not told of.
    pub fn share(
        &mut self,
        with: &mut Sight,
        topology: &Topology,
        now: Instant,
    ) -> (Flights, Option<Lost>) {
        let mut together = self.key.0.lock();
        together.follow(topology, now);
        with.merge(&together.sight);
        let untold = std::mem::replace(&mut self.losses, together.losses) != together.losses;
        let lost = together.lost.as_ref().filter(|lost| untold && lost.era > self.told);
        (together.flying.clone(), lost.cloned())
    }
}

impl Key {
    /// A request goes to this node.
    pub fn departs(&self, node: NodeId, now: Instant) {
        self.0.lock().flying.push((node, now));
    }

    /// A session has been told something unasked, and this is what it knows since, in this topology.
    pub fn hears(&self, sight: &Sight, topology: &Topology, now: Instant) {
        let mut together = self.0.lock();
        together.follow(topology, now);
        together.sight.merge(sight);
    }

    /// It was answered, and this is what its session knows since. What of the key was lost meanwhile is seen
    /// first: the session may have followed where the key has not.
    pub fn arrives(&self, node: NodeId, sight: &Sight, topology: &Topology, now: Instant) {
        let mut together = self.0.lock();
        together.follow(topology, now);
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
    use crate::cluster::Lsn;
    use crate::cluster::topology::Switch;
    use proptest::prelude::*;

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

    fn topology(switches: &[u64]) -> Topology {
        let switch = |(ended, at): (usize, &u64)| Switch {
            ended: u32::try_from(ended).unwrap() + 1,
            restarted: false,
            at: Lsn(*at),
            exact: true,
            last_ticks: Arc::default(),
        };
        let switches: Arc<[Switch]> = switches.iter().enumerate().map(switch).collect();
        Topology {
            version: 1,
            primary: Some(NodeId(0)),
            system_identifier: Some(1),
            timeline: Some(1 + u32::try_from(switches.len()).unwrap()),
            switches,
            nodes: Arc::default(),
        }
    }

    fn take(key: &Arc<Key>, sight: &Sight, topology: &Topology) -> Holding {
        Holding::new(key.clone(), sight, topology, Instant::now())
    }

    #[test]
    fn who_is_under_way_is_known_until_it_arrives() {
        let (key, now, topology) = (Arc::new(Key::default()), Instant::now(), topology(&[]));
        let later = now + std::time::Duration::from_secs(1);
        key.departs(NodeId(1), now);
        key.departs(NodeId(1), later);
        key.arrives(NodeId(1), &Sight::default(), &topology, now);
        let mut holding = take(&key, &Sight::default(), &topology);
        let flying = &mut || holding.share(&mut Sight::default(), &topology, now).0;
        assert_eq!(flying()[..], [(NodeId(1), now)]);
        key.arrives(NodeId(1), &Sight::default(), &topology, now);
        assert!(flying().is_empty());
    }

    #[test]
    fn who_takes_a_key_brings_what_it_has() {
        let (key, topology) = (Arc::new(Key::default()), topology(&[]));
        let mut sight = Sight::default();
        sight.raise(Lsn(70), &topology);
        let _one = take(&key, &sight, &topology);
        let mut other = Sight::default();
        let _ = take(&key, &other, &topology).share(&mut other, &topology, Instant::now());
        assert_eq!(other.floor(), Lsn(70));
    }

    #[test]
    fn what_is_lost_of_a_key_is_told_once_to_each_who_has_it() {
        let (key, before, after) = (Arc::new(Key::default()), topology(&[]), topology(&[50]));
        let mut wrote = Sight::default();
        wrote.raise(Lsn(70), &before);
        let mut writer = take(&key, &wrote, &before);
        let (mut holders, now) =
            ([(); 2].map(|()| take(&key, &Sight::default(), &before)), Instant::now());
        // The writer is told by itself.
        writer.was_told(&wrote.follow(&after, now).unwrap());
        assert_eq!(writer.share(&mut wrote, &after, now).1, None);
        for holder in &mut holders {
            let mut sight = Sight::default();
            let lost = holder.share(&mut sight, &after, now).1.expect("it shares the loss");
            assert_eq!((lost.floor, lost.switch.at), (Some(Lsn(70)), Lsn(50)));
            assert_eq!(holder.share(&mut sight, &after, now).1, None, "once");
        }
        // A session that has followed brings what it has, and takes no loss away.
        let (further, mut sight) = (topology(&[50, 40]), Sight::default());
        sight.raise(Lsn(45), &after);
        key.hears(&sight, &after, now);
        key.arrives(NodeId(0), &Sight::default(), &further, now);
        for holder in &mut holders {
            assert!(holder.share(&mut Sight::default(), &further, now).1.is_some());
        }
        // Whoever comes when all is told has not lost anything.
        let mut late = take(&key, &Sight::default(), &further);
        assert_eq!(late.share(&mut Sight::default(), &further, now).1, None);
        // Whoever comes first after a loss that nobody was told of is.
        let again = topology(&[50, 40, 20]);
        let mut first = take(&key, &Sight::default(), &again);
        assert!(first.share(&mut Sight::default(), &again, now).1.is_some());
    }

    #[derive(Debug, Clone)]
    enum Event {
        /// A session takes a key.
        Takes(usize, u8),
        /// It writes, and is answered.
        Writes(usize),
        /// It is gone.
        Leaves(usize),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => (0..4_usize, 0..12_u8).prop_map(|(session, key)| Event::Takes(session, key)),
            3 => (0..4_usize).prop_map(Event::Writes),
            1 => (0..4_usize).prop_map(Event::Leaves),
        ]
    }

    proptest! {
        /// Whatever was once known under a key is known to whoever takes it, forgotten or not.
        #[test]
        fn a_key_never_falls_behind_what_it_knew(events in prop::collection::vec(event(), 1..120)) {
            let (keys, topology, now) = (Keys::new(3), topology(&[]), Instant::now());
            let database: Arc<str> = "app".into();
            let mut sessions: [(Sight, Option<(u8, Holding)>); 4] = Default::default();
            let (mut known, mut written) = ([0_u64; 12], 0);
            for event in events {
                let (Event::Takes(at, _) | Event::Writes(at) | Event::Leaves(at)) = event;
                let (sight, holding) = &mut sessions[at];
                match event {
                    Event::Takes(_, name) => {
                        let key = keys.key(&database, &name.to_string());
                        *holding = Some((name, Holding::new(key, sight, &topology, now)));
                    }
                    Event::Writes(_) => {
                        written += 1;
                        sight.raise(Lsn(written), &topology);
                        if let Some((_, holding)) = holding {
                            holding.key.departs(NodeId(0), now);
                            holding.key.arrives(NodeId(0), sight, &topology, now);
                        }
                    }
                    Event::Leaves(_) => (*sight, *holding) = Default::default(),
                }
                if let Some((name, holding)) = holding {
                    let known = &mut known[usize::from(*name)];
                    *known = (*known).max(sight.floor().0);
                    let (flights, lost) = holding.share(sight, &topology, now);
                    prop_assert!(flights.is_empty() && lost.is_none());
                    prop_assert!(sight.floor().0 >= *known);
                    *known = sight.floor().0;
                }
                prop_assert!(keys.known.lock().keys.len() <= 3 + 4);
            }
        }
    }
}
