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
use super::keys::{Holding, Key};
use super::lend;
use super::metrics::Freshness;
use super::sight::{Lost, Sight, Span};
use crate::cluster::mutant::{self, Mutant};
use crate::cluster::topology::Switch;
use crate::cluster::{Lsn, NodeId, NodeState, Role, Topology};
use crate::config::settings::Consistency;
use crate::protocol::ErrorReport;
use crate::protocol::request::Request;
use crate::routing::Decision;
use crate::routing::decision::Reason;

/// What a session holds of consistency between requests.
#[derive(Debug, Default)]
pub(super) struct Held {
    pub(super) sight: Sight,
    /// `causeway.session_key`
    pub(super) key: Option<Box<Holding>>,
    /// What of `causeway.after_lsn` was looked at; 0 if nothing.
    pub(super) after: Lsn,
}

/// How long a request waits for replicas. To know what is required and what is there takes a round trip of the
/// clocks, which is not counted, unless nobody answers; only then does `catchup_wait` begin. The primary,
/// where the request goes when the time is over, needs to know neither.
#[derive(Debug)]
pub(super) struct Patience {
    catchup: Duration,
    deadline: Instant,
    known_until: Option<Instant>,
    until: Option<Instant>,
}

/// How long a request waits, at least, to learn what is required of a replica.
const LEARN_WITHIN: Duration = Duration::from_millis(250);

impl Patience {
    pub(super) fn new(catchup: Duration, deadline: Instant) -> Self {
        Self { catchup, deadline, known_until: None, until: None }
    }

    /// How a replica came to be fresh enough.
    pub(super) fn freshness(&self) -> Freshness {
        let waited = self.until.or(self.known_until).is_some();
        if waited { Freshness::Waited } else { Freshness::AtOnce }
    }

    /// Until when to wait now. `known`: nothing is missing but that a replica moves on.
    fn until(&mut self, known: bool) -> Instant {
        let (catchup, until) = if known {
            (self.catchup, &mut self.until)
        } else {
            (self.catchup.max(LEARN_WITHIN), &mut self.known_until)
        };
        (*until.get_or_insert_with(|| timers_now() + catchup)).min(self.deadline)
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
    /// the same key have done, and, at level `global`, everything. False if that needs a primary, and none is
    /// known.
    pub(super) fn look_back(&mut self, level: Consistency, now: Instant) -> bool {
        self.follow_history();
        let topology = self.shared.cluster.load();
        if let Some(holding) = &mut self.held.key {
            // Later than all that others have done by the time of the look.
            let now = Instant::now();
            let (flights, lost) = holding.share(&mut self.held.sight, &topology, now);
            if let Some(lost) = lost {
                self.tell_lost_history(&lost);
            }
            for (node, from) in flights {
                let when = Span { from, to: now };
                match topology.node(node).role {
                    Role::Replica => self.held.sight.on_replica(node, when, None, &topology),
                    _ => self.held.sight.on_primary(node, now, false, &topology),
                }
            }
        }
        if level == Consistency::Global {
            let Some(primary) = topology.primary else { return false };
            self.held.sight.on_primary(primary, now, false, &topology);
        }
        self.held.sight.resolve(&topology);
        true
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
        if let Some(holding) = &mut self.held.key {
            holding.was_told(lost);
        }
        let Switch { at, ended, restarted, exact, .. } = lost.switch;
        let (what, end) = if restarted {
            ("a crash of the primary", format!("the primary on timeline {ended} crashed"))
        } else {
            ("a failover", format!("timeline {ended} ended"))
        };
        let (verb, detail) = match lost.floor {
            Some(floor) if exact => ("has lost", format!("It was at {floor}; {end} at {at}.")),
            Some(floor) => ("may have lost", format!("It was at {floor}; {end} past {at}.")),
            None => {
                ("may have lost", format!("Its last request was answered shortly before {end}."))
            }
        };
        tracing::warn!(
            user = %self.account.user,
            database = %self.account.database,
            process_id = self.entry.process_id,
            %detail,
            "{what} {verb} what a session had written or read"
        );
        let message = format!("{what} {verb} what this session had written or read");
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
        let mut known;
        loop {
            self.follow_history();
            let topology = self.shared.cluster.topology();
            self.held.sight.resolve(&topology);
            if let Some(node) = pick(self) {
                self.shared.metrics.catchup.observe(began.elapsed());
                return Ok(Some(node));
            }
            let worth = self.ask_replicas(&topology, candidates, &wake, began);
            known = self.is_known(&topology);
            if (if known { !worth } else { self.cannot_learn(&topology) })
                || !self.woken(&wake, topology.version, patience.until(known)).await?
            {
                break;
            }
        }
        if known {
            let topology = self.shared.cluster.topology();
            for node in candidates {
                topology.node(*node).clock.gave_up(Instant::now());
            }
        }
        self.shared.metrics.catchup.observe(began.elapsed());
        Ok(None)
    }

    /// Asks what the replicas have, and what those that were read may have shown: a round trip. Whether
    /// that is known now.
    pub(super) async fn find_out(&self) -> Result<bool, Failure> {
        let wake = Arc::new(Notify::new());
        let now = Instant::now();
        let deadline = timers_now() + self.eyes.rules.settings.routing.catchup_wait;
        loop {
            // Others may serve meanwhile than at first.
            let topology = self.shared.cluster.topology();
            let mut unknown = false;
            for node in topology.eligible_replicas() {
                if node.clock.since(now).is_none() {
                    node.clock.wake_at(now, Lsn(0), &wake);
                    unknown = true;
                }
            }
            if !unknown {
                return Ok(true);
            }
            if !self.woken(&wake, topology.version, deadline).await? {
                return Ok(false);
            }
        }
    }

    /// Whether it is known what a replica must have.
    fn is_known(&self, topology: &Topology) -> bool {
        let sight = &self.held.sight;
        sight.pending().is_none() && sight.unbounded(topology).is_none()
    }

    /// Whether it will not be known soon, for the nodes that would have to say it cannot be asked.
    fn cannot_learn(&self, topology: &Topology) -> bool {
        let away = |node: NodeId| topology.node(node).clock.is_away();
        let sight = &self.held.sight;
        match sight.pending() {
            Some((node, _)) => away(node),
            None => sight
                .unbounded(topology)
                .is_some_and(|(node, _)| away(node) && topology.primary.is_none_or(away)),
        }
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
            if clock.is_worth_waiting_for(began) && !clock.is_away() {
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
        let banned = topology.node(node).state == NodeState::Banned;
        let proof = self.held.sight.proof(node, opened, &topology).filter(|_| !banned);
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
            if if known { clock.is_away() } else { self.cannot_learn(&topology) } {
                return Ok(false);
            }
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
            if !self.woken(&wake, topology.version, patience.until(known)).await? {
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

    /// Waits to be woken, or for another topology than that of which this version was looked at. False if it
    /// is too late.
    pub(super) async fn woken(
        &self,
        wake: &Notify,
        looked_at: u64,
        deadline: Instant,
    ) -> Result<bool, Failure> {
        let mut changed = self.shared.cluster.changed();
        if *changed.borrow_and_update() > looked_at {
            // Whoever looks again must look at the new one. If not, only time is lost, and not the thread.
            tokio::task::yield_now().await;
            return Ok(timers_now() < deadline);
        }
        self.entry.slot.waits();
        let news = async {
            tokio::select! {
                () = wake.notified() => {}
                // It does not close before the session ends.
                _ = changed.changed() => {}
            }
        };
        let woken = tokio::select! {
            woken = timeout_at(deadline.into(), news) => Ok(woken.is_ok()),
            () = self.entry.slot.cancelled.notified() => Err(Failure::Cancelled),
        };
        if woken.is_err() {
            self.entry.slot.rests();
        }
        woken
    }

    /// A request was sent to the leased server and was answered, or may have been, at the latest `now`.
    pub(super) fn note_answer(
        &mut self,
        node: NodeId,
        decision: &Decision,
        taken: Option<&Arc<Key>>,
        now: Instant,
    ) {
        if decision.reason == Reason::ProxyShow {
            return self.arrive(node, taken);
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
        self.arrive(node, taken);
    }

    /// The key that a request takes, if it succeeds: its client may have the answer, and tell others under that key
    /// of it, before the session has seen that it does.
    pub(super) fn taken_by(&self, request: &Request) -> Option<Arc<Key>> {
        if !self.machine.asks.takes_key {
            return None;
        }
        let name = self.machine.key_taken(request, &self.client.input, &self.eyes)?;
        Some(self.shared.keys.key(&self.account.database, &name))
    }

    /// A request is about to be sent to the leased server.
    pub(super) fn depart(&self, node: NodeId, taken: Option<&Arc<Key>>) {
        let held = self.held.key.as_ref().map(|holding| &holding.key);
        for key in held.into_iter().chain(taken) {
            key.departs(node, Instant::now());
        }
    }

    /// The leased server says something unasked: who hears a notification may know of what its sender
    /// has committed.
    pub(super) fn note_heard(&mut self) {
        let Some(lease) = self.lease.as_ref().filter(|_| !self.on_replica) else { return };
        let topology = self.shared.cluster.load();
        self.held.sight.on_primary(lease.identity.node, Instant::now(), false, &topology);
        if let Some(holding) = &self.held.key {
            holding.key.hears(&self.held.sight, &topology, Instant::now());
        }
    }

    fn arrive(&self, node: NodeId, taken: Option<&Arc<Key>>) {
        let held = self.held.key.as_ref().map(|holding| &holding.key);
        for key in held.into_iter().chain(taken) {
            let topology = self.shared.cluster.load();
            key.arrives(node, &self.held.sight, &topology, Instant::now());
        }
    }

    pub(super) fn count_fresh(&self, node: NodeId, how: Freshness) {
        self.shared.metrics.fresh(node, how, || self.shared.cluster.topology());
    }
}

/// Now, by the clock of the timers: in tests that is not the world's.
fn timers_now() -> Instant {
    tokio::time::Instant::now().into()
}

/// Whether a level promises more than `eventual`: what the session has seen before, wherever it is served.
pub(super) fn keeps(level: Consistency) -> bool {
    level != Consistency::Eventual
}
