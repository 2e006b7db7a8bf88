//! A model of a primary and two replicas that tells everything, beside the clocks that tell what can be
//! asked: whatever a sight lets pass must be true in the model.
//!
//! Commits are numbered as they happen. A commit is first in the log of the primary (inserted), then
//! replayed by replicas in the log's order, and shown by the primary at any time after it was inserted:
//! the synchronous wait. A read shows what its node shows. Once, a replica is promoted: the old primary is
//! gone, and with it what the promoted one had not replayed; a replica that had replayed more is banned.
//!
//! Owns what happens and what is promised. Time is an order: after each event what the future does not
//! depend on is forgotten ([`future`]).

mod future;

use std::sync::Arc;

use super::super::*;
use crate::cluster::snapshot::Snapshot;
use crate::cluster::{Clock, NodeState, NodeView};
use crate::config::settings::Address;

/// A commit's position is ten times its place in the log; its transaction id is a hundred more than that.
pub fn lsn(place: usize) -> Lsn {
    Lsn(10 * place as u64)
}

pub fn xid(place: usize) -> u64 {
    100 + place as u64
}

/// A moment, in milliseconds after the model's beginning.
type Moment = u32;

/// Commits, by number.
type Commits = u64;

/// What is true of the nodes, and what their clocks have shown.
#[derive(Debug, Clone)]
pub struct World {
    base: Instant,
    now: Moment,
    /// The node that is the primary.
    pub primary: usize,
    /// The numbers of the commits in its log.
    log: Vec<u8>,
    /// The places of those that it does not show yet.
    waiting: Vec<usize>,
    /// How many of the log each replica has replayed.
    replayed: [usize; NODES],
    /// Nodes that are not used any more.
    gone: [bool; NODES],
    /// Where the first timeline ended.
    switch: Option<usize>,
    lost: Commits,
    commits: u8,
    ticks: [Vec<Shown>; NODES],
    connected: [Moment; NODES],
    /// When the server was opened that a session would be given.
    opened: [Moment; NODES],
    pub sessions: [Session; SESSIONS],
}

pub const NODES: usize = 3;
pub const SESSIONS: usize = 2;

/// A tick as the model keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Shown {
    role: Role,
    position: usize,
    bound: usize,
    /// How many commits it showed at most, and which of those not.
    newest: usize,
    waiting: Vec<usize>,
    next: usize,
    connected: Moment,
    sent: Moment,
}

/// A session, and what it has in truth written or seen.
#[derive(Debug, Clone, Default)]
pub struct Session {
    pub sight: Sight,
    known: Commits,
    pub reads: usize,
}

/// What one thing that happens may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A commit is inserted by somebody else; the primary shows it at once or not.
    Insert { shown: bool },
    /// The primary shows the oldest that waits.
    Show,
    /// A replica replays one more.
    Replay(usize),
    /// A replica restarts and is back by one.
    Restart(usize),
    /// A node's clock ticks.
    Tick(usize),
    /// The same while a replica replays: its last commit is visible, and its position before it.
    TickMidway(usize),
    /// Another server is opened there.
    Open(usize),
    /// A session reads, or writes, on the primary if its barrier lets it.
    Primary { session: usize, writes: bool },
    /// It reads on a replica if it may.
    Replica { session: usize, node: usize },
    /// It reads there whatever the replica has: level `eventual`.
    Eventual { session: usize, node: usize },
    /// A session shares a key with another that has just been answered.
    Key { from: usize, to: usize },
    /// A session is given the position of another, if that is known.
    Token { from: usize, to: usize },
    /// The primary dies and this replica is promoted.
    Promote(usize),
}

/// A promise that was broken, in words.
pub type Broken = String;

impl World {
    pub fn new() -> Self {
        let base = Instant::now();
        Self {
            base,
            now: 1,
            primary: 0,
            log: vec![0],
            waiting: Vec::new(),
            replayed: [1; NODES],
            gone: [false; NODES],
            switch: None,
            lost: 0,
            commits: 1,
            ticks: Default::default(),
            connected: [0; NODES],
            opened: [0; NODES],
            sessions: Default::default(),
        }
    }

    /// How many commits are in the log.
    pub fn inserted(&self) -> usize {
        self.log.len()
    }

    /// How many reads were let pass.
    pub fn reads(&self) -> usize {
        self.sessions.iter().map(|session| session.reads).sum()
    }

    pub fn has_failed_over(&self) -> bool {
        self.switch.is_some()
    }

    fn instant(&self, moment: Moment) -> Instant {
        self.base + Duration::from_millis(moment.into())
    }

    pub fn now(&self) -> Instant {
        self.instant(self.now)
    }

    /// The places in the log that a node shows.
    fn places(&self, node: usize) -> impl Iterator<Item = usize> + '_ {
        let all = if node == self.primary { self.log.len() } else { self.replayed[node] };
        (1..=all).filter(move |place| node != self.primary || !self.waiting.contains(place))
    }

    fn shown(&self, node: usize) -> Commits {
        self.places(node).fold(0, |all, place| all | 1 << self.log[place - 1])
    }

    fn commit(&mut self) -> u8 {
        self.log.push(self.commits);
        self.commits += 1;
        self.commits - 1
    }

    fn tick(&mut self, node: usize, midway: bool) {
        let (role, position, bound, next) = if node == self.primary {
            (Role::Primary, self.log.len(), self.log.len(), self.log.len() + 1)
        } else {
            let replayed = self.replayed[node];
            (Role::Replica, replayed - usize::from(midway), replayed, 0)
        };
        let newest = self.places(node).max().unwrap_or_default();
        let of_primary = node == self.primary;
        let waiting = self.waiting.iter().copied().filter(|place| of_primary && *place < newest);
        let (connected, sent) = (self.connected[node], self.now);
        let waiting = waiting.collect();
        self.ticks[node].push(Shown {
            role,
            position,
            bound,
            newest,
            waiting,
            next,
            connected,
            sent,
        });
    }

    /// The topology as the proxy has it.
    pub fn topology(&self) -> Topology {
        let view = |node: usize| {
            let clock = Clock::default();
            for shown in &self.ticks[node] {
                clock.push(self.as_seen(shown));
            }
            let role = if node == self.primary { Role::Primary } else { Role::Replica };
            NodeView {
                id: id(node),
                name: Arc::from(""),
                address: Address { host: String::new(), port: 1 },
                weight: 1,
                zone: None,
                role,
                state: if self.gone[node] { NodeState::Banned } else { NodeState::Up },
                removed: false,
                epoch: 1,
                position: Lsn(0),
                lag_bytes: 0,
                lag: None,
                sampled_at: None,
                server_version_num: None,
                clock: Arc::new(clock),
            }
        };
        let last = || self.ticks[0].iter().map(|shown| Arc::new(self.as_seen(shown)));
        let switch = self.switch.map(|place| Switch {
            ended: 1,
            restarted: false,
            at: lsn(place),
            exact: true,
            last_ticks: last().collect(),
        });
        Topology {
            version: 1,
            primary: Some(id(self.primary)),
            system_identifier: Some(1),
            timeline: Some(if switch.is_some() { 2 } else { 1 }),
            switches: switch.into_iter().collect(),
            nodes: (0..NODES).map(view).collect(),
        }
    }

    fn as_seen(&self, shown: &Shown) -> Tick {
        let running: Box<[u64]> = shown.waiting.iter().map(|place| xid(*place)).collect();
        let xmax = xid(shown.newest) + 1;
        let xmin = running.first().copied().unwrap_or(xmax);
        Tick {
            role: shown.role,
            position: lsn(shown.position),
            bound: lsn(shown.bound),
            snapshot: Snapshot { xmin, xmax, running },
            timeline: None,
            next_xid: if shown.role == Role::Primary { xid(shown.next) } else { 0 },
            connected: self.instant(shown.connected),
            sent: self.instant(shown.sent),
        }
    }

    /// Something happens.
    ///
    /// # Errors
    /// If a promise is broken by it.
    pub fn happens(&mut self, event: Event) -> Result<(), Broken> {
        self.now += 1;
        match event {
            Event::Insert { shown } => {
                self.commit();
                if !shown {
                    self.waiting.push(self.log.len());
                }
            }
            Event::Show if self.waiting.is_empty() => {}
            Event::Show => drop(self.waiting.remove(0)),
            Event::Replay(node) => {
                self.replayed[node] = self.log.len().min(self.replayed[node] + 1);
            }
            Event::Restart(node) => {
                self.replayed[node] = self.replayed[node].saturating_sub(1).max(1);
                self.connected[node] = self.now;
                self.opened[node] = self.now;
            }
            Event::Tick(node) => self.tick(node, false),
            Event::TickMidway(node) => self.tick(node, true),
            Event::Open(node) => self.opened[node] = self.now,
            Event::Primary { session, writes } => self.at_primary(session, writes)?,
            Event::Replica { session, node } => self.at_replica(session, node)?,
            Event::Eventual { session, node } => self.eventually(session, node),
            Event::Key { from, to } => self.by_key(from, to)?,
            Event::Token { from, to } => self.by_token(from, to)?,
            Event::Promote(node) => self.promote(node),
        }
        self.compress();
        Ok(())
    }

    /// Whether it may happen at all.
    pub fn may_happen(&self, event: Event) -> bool {
        let replica = |node: usize| node != self.primary && !self.gone[node];
        match event {
            Event::Insert { .. }
            | Event::Key { .. }
            | Event::Token { .. }
            | Event::Primary { .. } => true,
            Event::Show => !self.waiting.is_empty(),
            Event::Replay(node) => replica(node) && self.replayed[node] < self.log.len(),
            Event::TickMidway(node) => replica(node) && self.replayed[node] > 1,
            Event::Restart(node)
            | Event::Open(node)
            | Event::Replica { node, .. }
            | Event::Eventual { node, .. } => replica(node),
            Event::Tick(node) => !self.gone[node],
            Event::Promote(node) => self.switch.is_none() && replica(node),
        }
    }

    fn promote(&mut self, node: usize) {
        let switch = self.replayed[node];
        self.lost = self.log.drain(switch..).fold(0, |all, commit| all | 1 << commit);
        self.gone[self.primary] = true;
        for other in 0..NODES {
            self.gone[other] |= other != self.primary && self.replayed[other] > switch;
        }
        self.waiting.clear();
        self.primary = node;
        self.switch = Some(switch);
    }

    /// What every request begins with. What a failover has lost of what the session knows, it is told.
    fn look_back(&mut self, session: usize, topology: &Topology) -> Result<(), Broken> {
        let now = self.now();
        let session = &mut self.sessions[session];
        let told = session.sight.follow(topology, now).is_some();
        let lost = session.known & self.lost;
        if lost != 0 && !told {
            return Err(format!("commits {lost:b} are lost, and nobody is told"));
        }
        session.known &= !lost;
        session.sight.resolve(topology);
        Ok(())
    }

    fn passes(&self, session: usize, topology: &Topology) -> bool {
        match self.sessions[session].sight.barrier(id(self.primary), topology) {
            Barrier::Passes => true,
            Barrier::Ask(..) => false,
            Barrier::Doubts(node, when, xids) => {
                let node = usize::from(node.0);
                let shown = |id: &u64| self.places(node).any(|place| xid(place) == *id);
                self.instant(self.connected[node]) <= when.from && !xids.iter().any(shown)
            }
        }
    }

    fn at_primary(&mut self, session: usize, writes: bool) -> Result<(), Broken> {
        let topology = self.topology();
        self.look_back(session, &topology)?;
        if !self.passes(session, &topology) {
            return Ok(());
        }
        if writes {
            let commit = self.commit();
            self.sessions[session].known |= 1 << commit;
        }
        self.read(self.primary, session)?;
        self.now += 1;
        let now = self.now();
        self.sessions[session].sight.on_primary(id(self.primary), now, true, &topology);
        Ok(())
    }

    fn at_replica(&mut self, session: usize, node: usize) -> Result<(), Broken> {
        let topology = self.topology();
        self.look_back(session, &topology)?;
        let (now, opened) = (self.now(), self.instant(self.opened[node]));
        let sight = &mut self.sessions[session].sight;
        if !sight.allows(id(node), &topology) {
            return Ok(());
        }
        let Some(had) = sight.proof(id(node), opened, &topology) else { return Ok(()) };
        sight.on_replica(id(node), Span::at(now), Some(had), &topology);
        self.read(node, session)?;
        self.now += 1;
        let now = self.now();
        self.sessions[session].sight.on_answer(id(node), now);
        Ok(())
    }

    /// What is read so promises nothing, and binds the reads that do.
    fn eventually(&mut self, session: usize, node: usize) {
        let (topology, from) = (self.topology(), self.now());
        let shown = self.shown(node);
        self.now += 1;
        let when = Span { from, to: self.now() };
        let session = &mut self.sessions[session];
        session.sight.on_replica(id(node), when, None, &topology);
        session.known |= shown;
    }

    fn by_key(&mut self, from: usize, to: usize) -> Result<(), Broken> {
        let topology = self.topology();
        self.look_back(from, &topology)?;
        self.look_back(to, &topology)?;
        let Session { mut sight, known, .. } = self.sessions[from].clone();
        sight.settle(&topology);
        self.sessions[to].sight.merge(&sight);
        self.sessions[to].known |= known;
        Ok(())
    }

    fn by_token(&mut self, from: usize, to: usize) -> Result<(), Broken> {
        let topology = self.topology();
        self.look_back(from, &topology)?;
        let sight = &self.sessions[from].sight;
        let nowhere = NodeId(u16::MAX);
        let whole = sight.required(nowhere, None, &topology);
        let known = sight.pending().is_none() && self.passes(from, &topology);
        let Some(token) = whole.filter(|_| known) else { return Ok(()) };
        self.look_back(to, &topology)?;
        self.sessions[to].sight.raise(token, &topology);
        self.sessions[to].known |= self.sessions[from].known;
        Ok(())
    }

    /// The promise: what was written or seen before is seen.
    fn read(&mut self, node: usize, session: usize) -> Result<(), Broken> {
        let shown = self.shown(node);
        let session = &mut self.sessions[session];
        let missing = session.known & !shown;
        if missing != 0 {
            return Err(format!(
                "node {node} shows {shown:b} and of what is known not {missing:b}"
            ));
        }
        session.known = shown;
        session.reads += 1;
        Ok(())
    }
}

/// A node's number as the proxy has it.
pub fn id(node: usize) -> NodeId {
    NodeId(u16::try_from(node).expect("nodes are few"))
}
