//! Never older than its own writes: waiting until a node has what a session must not fall behind.
//!
//! [`sight`](super::sight) says what is missing; here it is waited for. The usual read waits for nothing and
//! costs a few comparisons of numbers. Nothing here is done while a session has a server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout_at;

use super::driver::Session;
use super::failure::Failure;
use super::lend;
use super::metrics::Freshness;
use super::sight::{Lost, Sight, Span};
use super::step::Question;
use crate::cluster::mutant::{self, Mutant};
use crate::cluster::{Lsn, NodeId, Role, Topology};
use crate::config::settings::Consistency;
use crate::protocol::ErrorReport;
use crate::routing::Decision;
use crate::routing::decision::Reason;

/// What a session holds of consistency between requests.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) sight: Sight,
    /// `causeway.session_key`
    pub(super) key: Option<Arc<super::keys::Key>>,
    /// What of `causeway.after_lsn` was taken over; 0 if nothing.
    pub(super) after: Lsn,
}

/// How long a request waits for replicas. To know what is required and what is there takes a round
/// trip, and must be known on the way to the primary as well: it may take as long as a server may. Only
/// then does `catchup_wait` begin.
#[derive(Debug)]
pub(super) struct Patience {
    catchup: Duration,
    deadline: Instant,
    until: Option<Instant>,
}

impl Patience {
    pub(super) fn new(catchup: Duration, deadline: Instant) -> Self {
        Self { catchup, deadline, until: None }
    }

    /// Until when to wait now. `known`: nothing is missing but that a replica moves on.
    fn until(&mut self, known: bool) -> Instant {
        if !known {
            return self.deadline;
        }
        let catchup = self.catchup;
        *self.until.get_or_insert_with(|| Instant::from(tokio::time::Instant::now()) + catchup)
    }
}

impl Session {
    /// The level that a decision is to be carried out at.
    pub(super) fn level(&self, decision: &Decision) -> Consistency {
        if mutant::is(Mutant::Eventual) {
            return Consistency::Eventual;
        }
        decision
            .consistency
            .or(self.eyes.options.consistency)
            .unwrap_or(self.eyes.rules.settings.routing.consistency)
    }

    /// Takes over what was decided elsewhere since the last request: a promotion, what others with
    /// the same key have done, and, at level `global`, everything.
    pub(super) fn look_back(&mut self, level: Consistency, now: Instant) {
        self.follow_history();
        let topology = self.shared.cluster.load();
        if let Some(key) = &self.held.key {
            // Later than all that others have done by the time of the look.
            let now = Instant::now();
            // Whoever has the key and was not told of a loss yet is told by its own sight.
            let follow = |sight: &mut Sight| {
                let _ = sight.follow(&topology, now);
                sight.settle(&topology);
            };
            for (node, from) in key.share(&mut self.held.sight, follow) {
                let when = Span { from, to: now };
                match topology.node(node).role {
                    Role::Replica => self.held.sight.on_replica(node, when, None, &topology),
                    _ => self.held.sight.on_primary(node, now, false, &topology),
                }
            }
        }
        if level == Consistency::Global
            && let Some(primary) = topology.primary
        {
            self.held.sight.on_primary(primary, now, false, &topology);
        }
        self.held.sight.resolve(&topology);
    }

    /// Follows a promotion, also one that came while the request under way had to wait: what is lost is
    /// told before anything is read. Costs a comparison where there was none.
    pub(super) fn follow_history(&mut self) {
        let topology = self.shared.cluster.load();
        if !self.held.sight.is_behind(&topology) {
            return;
        }
        let lost = self.held.sight.follow(&topology, Instant::now());
        drop(topology);
        if let Some(lost) = lost {
            self.tell_lost_history(&lost);
        }
    }

    /// A failover has lost what this session relies on: that is said, and counted.
    fn tell_lost_history(&mut self, lost: &Lost) {
        self.shared.metrics.lost_history.inc();
        let at = lost.switch.at;
        let (verb, detail) = match lost.floor {
            Some(floor) if lost.switch.exact => (
                "has lost",
                format!("It was at {floor}; timeline {} ended at {at}.", lost.switch.ended),
            ),
            Some(floor) => (
                "may have lost",
                format!("It was at {floor}; timeline {} ended past {at}.", lost.switch.ended),
            ),
            None => (
                "may have lost",
                format!(
                    "Its last request was answered shortly before timeline {} ended.",
                    lost.switch.ended
                ),
            ),
        };
        tracing::warn!(
            user = %self.account.user,
            database = %self.account.database,
            process_id = self.entry.process_id,
            %detail,
            "a failover {verb} what a session had written or read"
        );
        let message = format!("a failover {verb} what this session had written or read");
        ErrorReport::new("WARNING", "01000", message)
            .with_detail(detail)
            .encode(&mut self.client.output);
    }

    /// Waits until one of the replicas that `pick` takes is fresh enough, or `patience` is at its end.
    /// `pick` is asked with the session after each change.
    pub(super) async fn wait_for_replica(
        &mut self,
        patience: &mut Patience,
        candidates: &[NodeId],
        pick: impl Fn(&Self) -> Option<NodeId>,
    ) -> Result<Option<NodeId>, Failure> {
        let wake = Arc::new(Notify::new());
        let began = Instant::now();
        loop {
            self.follow_history();
            let topology = self.shared.cluster.topology();
            self.held.sight.resolve(&topology);
            if let Some(node) = pick(self) {
                self.shared.metrics.catchup.observe(began.elapsed());
                return Ok(Some(node));
            }
            let worth = self.ask_replicas(&topology, candidates, &wake, began);
            let sight = &self.held.sight;
            let known = sight.pending().is_none() && sight.unbounded(&topology).is_none();
            drop(topology);
            if known && !worth || !self.woken(&wake, patience.until(known)).await? {
                break;
            }
        }
        let topology = self.shared.cluster.topology();
        for node in candidates {
            topology.node(*node).clock.gave_up(Instant::now());
        }
        self.shared.metrics.catchup.observe(began.elapsed());
        Ok(None)
    }

    /// Asks what the replicas have, and what those that were read may have shown: a round trip. Whether
    /// that is known now.
    pub(super) async fn find_out(&self, topology: &Topology) -> Result<bool, Failure> {
        let wake = Arc::new(Notify::new());
        let now = Instant::now();
        let deadline = now + self.eyes.rules.settings.routing.catchup_wait;
        for node in topology.eligible_replicas() {
            node.clock.wake_at(now, Lsn(0), &wake);
        }
        let known = || topology.eligible_replicas().all(|node| node.clock.since(now).is_some());
        while !known() {
            if !self.woken(&wake, deadline).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Has the clocks asked for what is missing. False if no replica is worth waiting for.
    fn ask_replicas(
        &self,
        topology: &Topology,
        candidates: &[NodeId],
        wake: &Arc<Notify>,
        began: Instant,
    ) -> bool {
        let sight = &self.held.sight;
        let mut worth = false;
        for node in candidates {
            let clock = &topology.node(*node).clock;
            clock.want();
            if clock.is_worth_waiting_for(began) {
                worth = true;
                if let Some(required) = sight.required(*node, None, topology) {
                    clock.wake_at(began, required, wake);
                }
            }
        }
        if let Some((node, at)) = sight.pending() {
            topology.node(node).clock.wake_at(at, Lsn(0), wake);
        } else if let Some((node, at)) = sight.unbounded(topology) {
            topology.node(node).clock.wake_at(at, Lsn(0), wake);
            if let Some(primary) = topology.primary {
                topology.node(primary).clock.wake_at(at, Lsn(0), wake);
            }
        }
        worth
    }

    /// Sees that a replica, at a server that was opened then and is leased, has what the session must not
    /// fall behind. False if that could not be known in time.
    pub(super) async fn proves(
        &mut self,
        node: NodeId,
        opened: Instant,
        patience: &mut Patience,
    ) -> Result<bool, Failure> {
        if self.has_proof(node, opened) {
            return Ok(true);
        }
        let began = Instant::now();
        let proved = Box::pin(self.prove(node, opened, patience)).await;
        self.shared.metrics.catchup.observe(began.elapsed());
        proved
    }

    /// Whether it is known already.
    pub(super) fn has_proof(&mut self, node: NodeId, opened: Instant) -> bool {
        self.follow_history();
        let topology = self.shared.cluster.load();
        self.held.sight.resolve(&topology);
        let proof = self.held.sight.proof(node, opened, &topology);
        if let Some(had) = proof {
            let when = Span::at(Instant::now());
            self.held.sight.on_replica(node, when, Some(had), &topology);
        }
        proof.is_some()
    }

    async fn prove(
        &mut self,
        node: NodeId,
        opened: Instant,
        patience: &mut Patience,
    ) -> Result<bool, Failure> {
        let wake = Arc::new(Notify::new());
        loop {
            if self.has_proof(node, opened) {
                return Ok(true);
            }
            let topology = self.shared.cluster.topology();
            let clock = &topology.node(node).clock;
            let required = self.held.sight.required(node, Some(opened), &topology);
            let pending = self.held.sight.pending();
            // What the node itself has not said yet it may never say: it may have died.
            let known = pending.is_none() && required.is_some();
            let told = clock.since(opened).is_some();
            if let Some((primary, at)) = pending {
                topology.node(primary).clock.wake_at(at, Lsn(0), &wake);
            } else if let Some(required) = required {
                clock.wake_at(opened, if told { required } else { Lsn(0) }, &wake);
            } else if let Some((seen, at)) = self.held.sight.unbounded(&topology) {
                topology.node(seen).clock.wake_at(at, Lsn(0), &wake);
                if let Some(primary) = topology.primary {
                    topology.node(primary).clock.wake_at(at, Lsn(0), &wake);
                }
            }
            drop(topology);
            if !self.woken(&wake, patience.until(known)).await? {
                return Ok(false);
            }
        }
    }

    /// With [`Mutant::CheckInRead`] the leased replica waits for the floor itself, in the transaction of
    /// the read that follows. Whether it does.
    pub(super) fn misplace_check(&mut self) -> bool {
        let misplaced =
            mutant::is(Mutant::CheckInRead) && self.on_replica && self.machine.is_idle();
        if let Some(server) = self.lease.as_mut().filter(|_| misplaced) {
            let floor = self.held.sight.floor();
            let wait = format!(
                "DO $$ BEGIN WHILE pg_last_wal_replay_lsn() < '{floor}' LOOP \
                 PERFORM pg_sleep(0.001); END LOOP; END $$"
            );
            for text in ["BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY", &wait] {
                lend::query(text.as_bytes(), server);
            }
        }
        misplaced
    }

    /// Waits to be woken. False if it is too late.
    pub(super) async fn woken(&self, wake: &Notify, deadline: Instant) -> Result<bool, Failure> {
        self.entry.slot.waits();
        let woken = tokio::select! {
            woken = timeout_at(deadline.into(), wake.notified()) => Ok(woken.is_ok()),
            () = self.entry.slot.cancelled.notified() => Err(Failure::Cancelled),
        };
        if woken.is_err() {
            self.entry.slot.rests();
        }
        woken
    }

    /// A request was sent to the leased server and was answered, or may have been, at the latest `now`.
    pub(super) fn note_answer(&mut self, node: NodeId, decision: &Decision, now: Instant) {
        if decision.reason == Reason::ProxyShow {
            return self.arrive(node);
        }
        let keeps = keeps(self.level(decision));
        {
            let topology = self.shared.cluster.load();
            if self.on_replica {
                self.held.sight.on_answer(node, now);
            } else {
                self.held.sight.on_primary(node, now, self.passed, &topology);
                // The next read will need to know. What a replica showed only those need to know who
                // leave it, and they ask.
                if keeps && topology.eligible_replicas().next().is_some() {
                    topology.node(node).clock.want();
                }
            }
        }
        self.arrive(node);
    }

    /// A request is about to be sent to the leased server.
    pub(super) fn depart(&self, node: NodeId) {
        if let Some(key) = &self.held.key {
            key.departs(node, Instant::now());
        }
    }

    /// The leased server says something unasked: who hears a notification may know of what its sender
    /// has committed.
    pub(super) fn note_heard(&mut self) {
        let Some(lease) = self.lease.as_ref().filter(|_| !self.on_replica) else { return };
        let topology = self.shared.cluster.load();
        self.held.sight.on_primary(lease.identity.node, Instant::now(), false, &topology);
        if let Some(key) = &self.held.key {
            key.hears(&self.held.sight);
        }
    }

    fn arrive(&self, node: NodeId) {
        if let Some(key) = &self.held.key {
            key.arrives(node, &self.held.sight);
        }
    }

    /// Takes over what the session has set of consistency.
    pub(super) fn adopt_options(&mut self) {
        let options = &self.eyes.options;
        self.held.key = options
            .session_key
            .as_deref()
            .map(|name| self.shared.keys.key(&self.account.database, name));
        let after = options.after_lsn;
        if after != self.held.after {
            self.held.after = after;
            // It is a position on the timeline of now.
            self.follow_history();
            self.held.sight.raise(after, &self.shared.cluster.load());
        }
    }

    /// Finds out what the machine must know before it can say where a request goes.
    pub(super) async fn consult(&mut self, question: Question) -> Result<(), Failure> {
        let wait = self.eyes.rules.settings.pool.wait;
        match question {
            Question::Furthest => self.machine.furthest = Some(self.furthest(wait).await?),
            Question::Position => self.machine.position = Some(self.position(wait).await?),
            Question::Leaving => self.leave_replica().await?,
        }
        self.entry.slot.rests();
        Ok(())
    }

    /// The session's position, for `SHOW causeway.lsn`: everything that it has written or seen is before.
    async fn position(&mut self, wait: Duration) -> Result<Lsn, Failure> {
        let deadline = Instant::now() + wait;
        let wake = Arc::new(Notify::new());
        self.look_back(Consistency::Session, Instant::now());
        // Whoever takes the position over takes no barrier with it.
        if let Some(primary) = self.shared.cluster.topology().primary {
            self.pass_barrier(primary, deadline).await?;
        }
        loop {
            self.follow_history();
            let topology = self.shared.cluster.topology();
            self.held.sight.resolve(&topology);
            let missing =
                self.held.sight.pending().or_else(|| self.held.sight.unbounded(&topology));
            let Some((node, at)) = missing else {
                let whole = self.held.sight.required(NodeId(u16::MAX), None, &topology);
                return whole.ok_or(Failure::NoPrimary);
            };
            topology.node(node).clock.wake_at(at, Lsn(0), &wake);
            if let Some(primary) = topology.primary {
                topology.node(primary).clock.wake_at(at, Lsn(0), &wake);
            }
            drop(topology);
            if !self.woken(&wake, deadline).await? {
                return Err(Failure::NoPrimary);
            }
        }
    }

    /// How far the primary is now, to tell a token of the future.
    pub(super) async fn furthest(&self, wait: Duration) -> Result<Lsn, Failure> {
        let deadline = Instant::now() + wait;
        let now = Instant::now();
        let primary = self.shared.cluster.topology().primary.ok_or(Failure::NoPrimary)?;
        let clock = self.shared.cluster.topology().node(primary).clock.clone();
        match timeout_at(deadline.into(), clock.tick_after(now)).await {
            Ok(tick) if tick.role == Role::Primary => Ok(tick.position),
            _ => Err(Failure::NoPrimary),
        }
    }

    pub(super) fn count_fresh(&self, node: NodeId, how: Freshness) {
        self.shared.metrics.fresh(node, how, || self.shared.cluster.topology());
    }
}

/// Whether a level promises more than `eventual`: what the session has seen before, wherever it is served.
pub(super) fn keeps(level: Consistency) -> bool {
    level != Consistency::Eventual
}
