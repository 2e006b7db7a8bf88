//! A model of a primary and two replicas that tells everything, beside the clocks that tell what can be asked:
//! whatever a sight lets pass must be true in the model.
//!
//! Commits are numbered. A commit is first in the log (inserted), then replayed by replicas in order, and
//! shown by the primary at any time after it was inserted, in any order: the synchronous wait. A read shows
//! what its node shows. The model is walked through exhaustively for short histories, and at random for
//! long ones.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::cluster::snapshot::Snapshot;
use crate::cluster::{Clock, NodeState, NodeView};
use crate::config::settings::Address;

const PRIMARY: NodeId = NodeId(0);

/// A commit's position is ten times its number; its transaction id is a hundred more than that.
fn lsn(commit: usize) -> Lsn {
    Lsn(10 * commit as u64)
}

fn xid(commit: usize) -> u64 {
    100 + commit as u64
}

/// What is true of the nodes, and the clocks that show it.
struct World {
    now: Instant,
    topology: Topology,
    /// Commits in the log of the primary.
    inserted: usize,
    /// Those that the primary does not show yet.
    waiting: Vec<usize>,
    replayed: [usize; 2],
    connected: [Instant; 3],
    /// When the server was opened that a session would be given.
    opened: [Instant; 3],
}

/// What one thing that happens may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// A commit is inserted; the primary shows it at once or not.
    Insert { shown: bool },
    /// The primary shows the oldest that waits.
    Show,
    /// A replica replays one more.
    Replay(usize),
    /// A replica restarts and is back by one.
    Restart(usize),
    /// A node's clock ticks.
    Tick(usize),
    /// The session reads, or writes, on the primary if its barrier lets it.
    Primary { writes: bool },
    /// It reads on a replica if it may.
    Replica(usize),
    /// Another server is opened there.
    Open(usize),
}

/// A session, and what it has in truth written or seen: commits.
#[derive(Default)]
struct Session {
    sight: Sight,
    known: Vec<usize>,
    reads: usize,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let view = |number: u16| NodeView {
            id: NodeId(number),
            name: format!("n{number}").into(),
            address: Address { host: "127.0.0.1".into(), port: 1 },
            weight: 1,
            zone: None,
            role: if number == 0 { Role::Primary } else { Role::Replica },
            state: NodeState::Up,
            removed: false,
            epoch: 1,
            position: Lsn(0),
            lag_bytes: 0,
            lag: None,
            sampled_at: None,
            server_version_num: None,
            clock: Arc::<Clock>::default(),
        };
        let topology = Topology {
            version: 1,
            primary: Some(PRIMARY),
            system_identifier: Some(1),
            timeline: Some(1),
            switches: Arc::new([]),
            nodes: (0..3).map(view).collect(),
        };
        let (inserted, waiting, replayed) = (1, Vec::new(), [1, 1]);
        let mut world = Self {
            now,
            topology,
            inserted,
            waiting,
            replayed,
            connected: [now; 3],
            opened: [now; 3],
        };
        world.pass();
        world
    }

    fn pass(&mut self) {
        self.now += Duration::from_millis(1);
    }

    /// What a node shows.
    fn shown(&self, node: usize) -> Vec<usize> {
        match node {
            0 => (1..=self.inserted).filter(|commit| !self.waiting.contains(commit)).collect(),
            replica => (1..=self.replayed[replica - 1]).collect(),
        }
    }

    fn tick(&self, node: usize) {
        let (role, position, snapshot) = if node == 0 {
            let done: Vec<u64> = self.shown(0).into_iter().map(xid).collect();
            let xmax = done.iter().max().map_or(xid(1), |newest| newest + 1);
            let running: Box<[u64]> =
                self.waiting.iter().map(|commit| xid(*commit)).filter(|x| *x < xmax).collect();
            let xmin = running.iter().min().copied().unwrap_or(xmax);
            (Role::Primary, lsn(self.inserted), Snapshot { xmin, xmax, running })
        } else {
            let xmax = xid(self.replayed[node - 1]) + 1;
            let snapshot = Snapshot { xmin: xmax, xmax, running: Box::default() };
            (Role::Replica, lsn(self.replayed[node - 1]), snapshot)
        };
        let next_xid = if node == 0 { xid(self.inserted) + 1 } else { 0 };
        let (connected, sent) = (self.connected[node], self.now);
        let tick = Tick { role, position, bound: position, snapshot, next_xid, connected, sent };
        self.topology.nodes[node].clock.push_for_test(tick);
    }

    fn happens(&mut self, event: Event, session: &mut Session) {
        self.pass();
        match event {
            Event::Insert { shown } => {
                self.inserted += 1;
                if !shown {
                    self.waiting.push(self.inserted);
                }
            }
            Event::Show if !self.waiting.is_empty() => drop(self.waiting.remove(0)),
            Event::Show => {}
            Event::Replay(replica) => {
                let replayed = &mut self.replayed[replica];
                *replayed = self.inserted.min(*replayed + 1);
            }
            Event::Restart(replica) => {
                self.replayed[replica] = self.replayed[replica].saturating_sub(1).max(1);
                self.connected[replica + 1] = self.now;
                self.opened[replica + 1] = self.now;
            }
            Event::Tick(node) => self.tick(node),
            Event::Primary { writes } => self.at_primary(writes, session),
            Event::Replica(replica) => self.at_replica(replica, session),
            Event::Open(node) => self.opened[node] = self.now,
        }
    }

    fn at_primary(&mut self, writes: bool, session: &mut Session) {
        session.sight.resolve(&self.topology);
        let passes = match session.sight.barrier(PRIMARY, &self.topology) {
            Barrier::Passes => true,
            Barrier::Ask(..) => false,
            Barrier::Doubts(node, at, xids) => {
                let node = usize::from(node.0);
                let replayed = self.shown(node);
                let shown = |id: &u64| replayed.iter().any(|commit| xid(*commit) == *id);
                self.connected[node] <= at && !xids.iter().any(shown)
            }
        };
        if !passes {
            return;
        }
        if writes {
            self.inserted += 1;
            session.known.push(self.inserted);
        }
        self.read(0, session);
        self.pass();
        session.sight.on_primary(PRIMARY, self.now, true, &self.topology);
    }

    fn at_replica(&mut self, replica: usize, session: &mut Session) {
        let node = NodeId(u16::try_from(replica).unwrap() + 1);
        session.sight.resolve(&self.topology);
        if !session.sight.allows(node, &self.topology) {
            return;
        }
        let opened = self.opened[replica + 1];
        let Some(had) = session.sight.proof(node, opened, &self.topology) else { return };
        session.sight.on_replica(node, self.now, Some(had), &self.topology);
        self.read(replica + 1, session);
        self.pass();
        session.sight.on_answer(node, self.now);
    }

    /// The promise: what was written or seen before is seen.
    fn read(&self, node: usize, session: &mut Session) {
        let shown = self.shown(node);
        for known in &session.known {
            assert!(shown.contains(known), "node {node} shows {shown:?} and not {known}");
        }
        session.known = shown;
        session.reads += 1;
    }
}

const EVENTS: [Event; 16] = [
    Event::Insert { shown: true },
    Event::Insert { shown: false },
    Event::Show,
    Event::Replay(0),
    Event::Replay(1),
    Event::Restart(0),
    Event::Tick(0),
    Event::Tick(1),
    Event::Tick(2),
    Event::Primary { writes: true },
    Event::Primary { writes: false },
    Event::Replica(0),
    Event::Replica(1),
    Event::Open(1),
    Event::Open(2),
    Event::Restart(1),
];

fn run(events: impl IntoIterator<Item = Event>) -> usize {
    let (mut world, mut session) = (World::new(), Session::default());
    for event in events {
        world.happens(event, &mut session);
    }
    session.reads
}

#[test]
fn every_short_history_keeps_the_promise() {
    // Leaving out what mirrors another event or cannot matter so soon.
    let events = &EVENTS[..13];
    let mut served = 0;
    for mut number in 0..events.len().pow(5) {
        let history = std::iter::repeat_with(|| {
            let event = events[number % events.len()];
            number /= events.len();
            event
        });
        served += run(history.take(5));
    }
    assert!(served > 100_000, "{served}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn every_long_history_keeps_the_promise(
        history in proptest::collection::vec(proptest::sample::select(&EVENTS[..]), 0..120),
    ) {
        run(history);
    }

    /// Somebody else's sight taken over binds as one's own.
    #[test]
    fn what_is_merged_is_kept(
        one in proptest::collection::vec(proptest::sample::select(&EVENTS[..]), 0..40),
        two in proptest::collection::vec(proptest::sample::select(&EVENTS[..]), 0..40),
    ) {
        let mut world = World::new();
        let (mut writer, mut reader) = (Session::default(), Session::default());
        for event in one {
            world.happens(event, &mut writer);
        }
        reader.sight.merge(&writer.sight);
        reader.known.clone_from(&writer.known);
        for event in two {
            world.happens(event, &mut reader);
        }
    }
}

#[test]
fn a_session_that_waits_for_nothing_stays_and_one_that_is_told_moves() {
    let (mut world, mut session) = (World::new(), Session::default());
    let mut at = |event, session: &mut Session| {
        let before = session.reads;
        world.happens(event, session);
        session.reads > before
    };
    assert!(at(Event::Replica(0), &mut session), "nothing was seen yet");
    assert!(at(Event::Replica(0), &mut session), "where it was it may stay");
    assert!(!at(Event::Replica(1), &mut session), "nobody knows what the first has shown");
    at(Event::Tick(1), &mut session);
    assert!(!at(Event::Replica(1), &mut session), "nobody knows what the second has");
    at(Event::Tick(2), &mut session);
    assert!(at(Event::Replica(1), &mut session));
    at(Event::Open(2), &mut session);
    assert!(!at(Event::Replica(1), &mut session), "the second may have restarted");
    at(Event::Tick(2), &mut session);
    assert!(at(Event::Replica(1), &mut session));
}

#[test]
fn a_commit_that_only_a_replica_shows_holds_the_way_to_the_primary() {
    let (mut world, mut session) = (World::new(), Session::default());
    for event in [
        Event::Insert { shown: false },
        Event::Replay(0),
        Event::Replica(0),
        Event::Tick(0),
        Event::Tick(1),
    ] {
        world.happens(event, &mut session);
    }
    let doubts = |world: &World, session: &Session| session.sight.barrier(PRIMARY, &world.topology);
    let Barrier::Doubts(node, _, xids) = doubts(&world, &session) else { panic!("it passes") };
    assert_eq!((node, xids), (NodeId(1), vec![xid(2)]));
    world.happens(Event::Show, &mut session);
    world.happens(Event::Tick(0), &mut session);
    assert_eq!(doubts(&world, &session), Barrier::Passes);
}

#[test]
fn lost_history_is_told_once_and_only_to_whom_it_concerns() {
    let world = World::new();
    let mut after = world.topology.clone();
    after.timeline = Some(2);
    after.primary = Some(NodeId(1));
    after.switches = Arc::new([Switch { ended: 1, at: Lsn(50), exact: true }]);
    let follow = |floor| {
        let mut sight = Sight::default();
        sight.raise(floor, &world.topology);
        let told = sight.follow(&after, world.now);
        assert_eq!(sight.follow(&after, world.now), None, "told once");
        assert!(sight.floor() <= Lsn(50) && sight.pending().is_some());
        told
    };
    assert_eq!(follow(Lsn(50)), None);
    let lost = follow(Lsn(51)).unwrap();
    assert_eq!((lost.floor, lost.switch.at), (Some(Lsn(51)), Lsn(50)));
    let mut unknown = Sight::default();
    unknown.on_primary(PRIMARY, world.now, true, &world.topology);
    assert_eq!(unknown.follow(&after, world.now).unwrap().floor, None);
    assert_eq!(Sight::default().follow(&after, world.now), None);
}
