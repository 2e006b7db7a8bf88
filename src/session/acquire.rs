//! Getting a server for a decision: which node, and a lease from its pool.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::driver::Session;
use super::failure::Failure;
use super::fresh::{Patience, keeps};
use super::metrics::Freshness;
use super::sight::Span;
use crate::cluster::{NodeId, NodeView};
use crate::config::settings::Consistency;
use crate::pool::{Lease, LeaseError, Pool};
use crate::routing::decision::Reason;
use crate::routing::{Decision, Target};
use crate::server::{ConnectError, Identity};

/// SQLSTATEs with which a node says that it cannot serve anybody now: it starts, stops, or has no
/// place left.
const NOT_NOW: &[&str] = &["57P01", "57P02", "57P03", "53300"];

/// How long a read waits to know whether a position that was set is of the past.
const UNSURE_WAIT: Duration = Duration::from_millis(250);

/// How long a session that asks for sequence values waits for the server that has them.
const HOME_WAIT: Duration = Duration::from_millis(250);

/// How often a busy server is looked for that has what is asked for.
const HOME_POLL: Duration = Duration::from_millis(2);

impl Session {
    /// Leases a server for the decision, which is made `now`, unless the session has one. The decision's
    /// reason becomes what it really was: a read that no replica may serve goes to the primary.
    ///
    /// # Errors
    /// If there is no node, no server in time, or the client cancelled.
    pub(super) async fn acquire(
        &mut self,
        decision: &mut Decision,
        now: Instant,
    ) -> Result<NodeId, Failure> {
        self.passed = false;
        if let Some(lease) = &self.lease {
            let node = lease.identity.node;
            let idle = lease.responses.status() == b'I';
            if idle && !self.on_replica && self.may_be_ahead(decision) {
                Box::pin(self.catch_up(node, decision, now)).await?;
            }
            if let Some(lease) = &self.lease {
                self.entry.slot.served(&lease.identity);
            }
            self.count_served(node, self.on_replica);
            return Ok(node);
        }
        let deadline = now + self.eyes.rules.settings.pool.wait;
        let mut patience = Patience::new(self.eyes.rules.settings.routing.catchup_wait, deadline);
        let mut failed: SmallVec<[NodeId; 4]> = SmallVec::new();
        let level = self.level(decision);
        if keeps(level) {
            if self.unsure && decision.target == Target::Replica {
                let wait = UNSURE_WAIT.min(self.eyes.rules.settings.pool.wait);
                match Box::pin(self.make_sure(wait)).await {
                    // It has all that there is.
                    Err(Failure::NoPrimary) => {
                        self.turn_to_primary(decision, Reason::BehindOwnWrites)?;
                    }
                    sure => sure?,
                }
            }
            // What was acknowledged only a primary can say.
            while !self.look_back(level, now) && !sees_nothing(decision.reason) {
                Box::pin(self.await_primary(deadline)).await?;
            }
        }
        loop {
            let Some((node, on_replica)) =
                self.choose(decision, &failed, &mut patience, now).await?
            else {
                Box::pin(self.await_primary(deadline)).await?;
                failed.clear();
                continue;
            };
            let keeps = keeps(self.level(decision));
            if keeps && !on_replica {
                if self.held.sight.has_seen() {
                    Box::pin(self.pass_barrier(node, deadline)).await?;
                }
                self.passed = true;
            }
            match self.lease_from(node).await {
                Ok(lease)
                    if on_replica
                        && keeps
                        && !self
                            .proves(lease.identity.node, lease.opened_at, &mut patience)
                            .await? =>
                {
                    lease.give_back(self.shared.cluster.topology().node(node).epoch);
                    self.turn_to_primary(decision, Reason::BehindOwnWrites)?;
                }
                Ok(lease) => {
                    if keeps && !on_replica {
                        self.follow_history();
                    }
                    lease.identity.serve(self.entry.process_id);
                    self.entry.slot.served(&lease.identity);
                    self.lease = Some(lease);
                    self.on_replica = on_replica;
                    self.global = self.level(decision) == Consistency::Global;
                    self.settled = false;
                    self.count_served(node, on_replica);
                    if on_replica && keeps {
                        self.count_fresh(node, patience.freshness());
                    } else if decision.reason == Reason::BehindOwnWrites {
                        self.count_fresh(node, Freshness::Primary);
                    }
                    if on_replica && !keeps {
                        let topology = self.shared.cluster.load();
                        self.held.sight.on_replica(node, Span::at(now), None, &topology);
                    }
                    return Ok(node);
                }
                Err(Failure::NoPrimary) if Instant::now() < deadline => {
                    if !on_replica {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    failed.push(node);
                }
                Err(failure) => return Err(self.stop_waiting(failure)),
            }
        }
    }

    /// Whether a session that keeps its server on the primary may have seen more than the primary shows: by its key, or
    /// at level `eventual` before it came there.
    fn may_be_ahead(&self, decision: &Decision) -> bool {
        let ahead = self.held.key.is_some() || self.held.sight.has_seen();
        ahead && keeps(self.level(decision))
    }

    /// What comes before a request that needs no server from a pool, but is none of a transaction either.
    async fn catch_up(
        &mut self,
        node: NodeId,
        decision: &Decision,
        now: Instant,
    ) -> Result<(), Failure> {
        self.look_back(self.level(decision), now);
        let deadline = now + self.eyes.rules.settings.pool.wait;
        let passed = self.pass_barrier(node, deadline).await;
        self.passed = passed.is_ok();
        passed.map_err(|failure| self.stop_waiting(failure))
    }

    /// Whether a request would wait for a primary of which nobody knows yet whether it needs one: there is
    /// none, nor a catalog by which to tell.
    pub(super) fn is_undecided(&self, decision: &Decision) -> bool {
        let for_want_of_it = matches!(
            decision.reason,
            Reason::CatalogNotLoaded
                | Reason::UnknownFunction
                | Reason::UnknownOperator
                | Reason::PipelineCutByFlush
                | Reason::PipelineStrictest
        );
        decision.target == Target::Primary
            && for_want_of_it
            && self.lease.is_none()
            && !self.eyes.has_catalog()
            && !self.machine.may_stand_in(decision)
            && self.shared.cluster.load().primary.is_none()
    }

    /// Waits for the catalog, by which the request is decided anew, or for a primary, which takes it as it is; the
    /// request came when it `began`.
    pub(super) async fn await_catalog(&self, began: Instant) -> Result<(), Failure> {
        let deadline = began + self.eyes.rules.settings.pool.wait;
        tokio::select! {
            () = self.eyes.await_catalog() => Ok(()),
            found = self.await_primary(deadline) => found,
        }
    }

    /// Waits for the monitor to find a primary.
    async fn await_primary(&self, deadline: Instant) -> Result<(), Failure> {
        let found = self.shared.cluster.wait_until(|topology| topology.primary.is_some());
        self.entry.slot.waits();
        tokio::select! {
            found = tokio::time::timeout_at(deadline.into(), found) => {
                found.map(drop).map_err(|_| self.stop_waiting(Failure::NoPrimary))
            }
            () = self.entry.slot.cancelled.notified() => {
                Err(self.stop_waiting(Failure::Cancelled))
            }
        }
    }

    fn stop_waiting(&self, failure: Failure) -> Failure {
        self.entry.slot.rests();
        failure
    }

    fn count_served(&self, node: NodeId, on_replica: bool) {
        self.shared.metrics.served(node, on_replica, || self.shared.cluster.topology());
    }

    /// The node for a decision, and whether it serves as a replica. `None`: no primary is known.
    async fn choose(
        &mut self,
        decision: &mut Decision,
        failed: &[NodeId],
        patience: &mut Patience,
        now: Instant,
    ) -> Result<Option<(NodeId, bool)>, Failure> {
        let level = self.level(decision);
        if decision.target == Target::Replica && level == Consistency::Primary {
            let reason = Reason::ConsistencyPrimary;
            *decision = Decision { target: Target::Primary, reason, ..*decision };
        }
        if decision.target == Target::Replica {
            if let Some(mut node) = self.pick(decision, failed, keeps(level), now) {
                if keeps(level)
                    && self.held.sight.has_seen()
                    && let Some(target) = self.would_move(node, decision, failed, now)
                    && Box::pin(self.may_move(target)).await?
                {
                    node = target;
                }
                return Ok(Some((node, true)));
            }
            let candidates = self.candidates(decision, failed);
            if keeps(level) && !candidates.is_empty() {
                let wanted = *decision;
                let pick = |session: &Self| session.pick(&wanted, failed, true, Instant::now());
                let found = Box::pin(self.wait_for_replica(patience, &candidates, pick)).await?;
                if let Some(node) = found {
                    return Ok(Some((node, true)));
                }
            }
            let any = |node: &NodeView| !failed.contains(&node.id);
            let reason = if !candidates.is_empty() {
                Reason::BehindOwnWrites
            } else if self.shared.cluster.topology().eligible_replicas().any(any) {
                Reason::TooStale
            } else {
                Reason::NoEligibleReplica
            };
            self.turn_to_primary(decision, reason)?;
        }
        let primary = self.shared.cluster.topology().primary;
        let primary = primary.filter(|node| !failed.contains(node));
        if primary.is_none()
            && self.machine.may_stand_in(decision)
            && (level != Consistency::Primary || sees_nothing(decision.reason))
            && let Some(node) = self.pick(decision, failed, keeps(level), now)
        {
            return Ok(Some((node, true)));
        }
        Ok(primary.map(|node| (node, false)))
    }

    /// A read that no replica may serve goes to the primary, if the operator lets it.
    fn turn_to_primary(&self, decision: &mut Decision, reason: Reason) -> Result<(), Failure> {
        if !self.eyes.rules.settings.routing.primary_reads {
            return Err(Failure::NoReplica);
        }
        *decision = Decision { target: Target::Primary, reason, ..*decision };
        Ok(())
    }

    /// A replica that may serve a read now; at levels above `eventual`, one that is fresh enough.
    fn pick(
        &self,
        decision: &Decision,
        failed: &[NodeId],
        fresh: bool,
        now: Instant,
    ) -> Option<NodeId> {
        let topology = self.shared.cluster.load();
        let may = |node: &NodeView| self.may_serve(node, decision, failed);
        let is_fresh = |node: &NodeView| !fresh || self.held.sight.allows(node.id, &topology);
        self.eyes.rules.balancer.choose(&topology, may, is_fresh, now)
    }

    /// Where to go for balance's sake: too many sessions have to stay at this replica.
    fn would_move(
        &self,
        node: NodeId,
        decision: &Decision,
        failed: &[NodeId],
        now: Instant,
    ) -> Option<NodeId> {
        let topology = self.shared.cluster.load();
        let may = |other: &NodeView| self.may_serve(other, decision, failed);
        self.eyes.rules.balancer.would_move(node, &topology, may, now)
    }

    /// Finds out whether the session may go to this replica.
    async fn may_move(&self, target: NodeId) -> Result<bool, Failure> {
        if !self.find_out().await? {
            return Ok(false);
        }
        let topology = self.shared.cluster.topology();
        let eligible = topology.eligible_replicas().any(|node| node.id == target);
        Ok(eligible && self.held.sight.allows(target, &topology))
    }

    /// The replicas that could serve a read if they were fresh enough.
    fn candidates(&self, decision: &Decision, failed: &[NodeId]) -> SmallVec<[NodeId; 8]> {
        let topology = self.shared.cluster.load();
        let replicas = topology.eligible_replicas();
        replicas.filter(|node| self.may_serve(node, decision, failed)).map(|node| node.id).collect()
    }

    /// Whether a replica lags no more than a read allows.
    pub(super) fn is_within(&self, node: &NodeView, decision: &Decision) -> bool {
        let max_lag = decision.max_lag.or(self.eyes.options.max_lag);
        max_lag.is_none_or(|most| node.lag.is_some_and(|lag| lag <= most))
    }

    /// Whether a replica may serve a read under the limits that hold for it.
    fn may_serve(&self, node: &NodeView, decision: &Decision, failed: &[NodeId]) -> bool {
        let rules = self.eyes.rules.router.rules();
        !failed.contains(&node.id)
            && !self.lost_on.contains(&node.id)
            && self.is_within(node, decision)
            && decision.rule.is_none_or(|rule| rules.prefers(rule, node))
    }

    /// A server of one node. [`Failure::NoPrimary`] stands for a node that was not reached.
    async fn lease_from(&self, node: NodeId) -> Result<Lease, Failure> {
        let (epoch, pool) = {
            let topology = self.shared.cluster.load();
            (topology.node(node).epoch, self.account.pool(node, &topology))
        };
        let home = self.machine.sequences_at().filter(|home| home.node == node);
        let wish = self.machine.wish(home.as_ref());
        if wish.is_none()
            && let Some(lease) = pool.lease_own(self.worker, epoch)
        {
            return Ok(lease);
        }
        self.entry.slot.waits_at(node);
        let leased = tokio::select! {
            biased;
            leased = Box::pin(async {
                if let Some(home) = home.as_ref().filter(|_| self.machine.reads_sequence()) {
                    await_idle(&pool, home).await;
                }
                pool.lease(self.worker, epoch, &wish).await
            }) => leased,
            () = self.entry.slot.cancelled.notified() => {
                let turned_away = self.entry.slot.is_turned_away();
                return Err(if turned_away { Failure::NoPrimary } else { Failure::Cancelled });
            }
        };
        match leased {
            Ok(mut lease) => {
                if let Some(parameters) = lease.greeting.take() {
                    self.account.set_greeting(parameters);
                }
                Ok(lease)
            }
            Err(LeaseError::Busy { size, waited }) => {
                self.shared.metrics.waited_in_vain.inc();
                Err(Failure::Busy { size, waited })
            }
            Err(LeaseError::QueueFull { size, waiting }) => {
                self.shared.metrics.queue_full.inc();
                Err(Failure::QueueFull { size, waiting })
            }
            Err(LeaseError::Connect(error)) => {
                let not_now = match &error {
                    ConnectError::Refused(report) => NOT_NOW.contains(&&*report.sqlstate),
                    ConnectError::Unreachable(_) | ConnectError::Timeout(_) => true,
                    _ => false,
                };
                let address = self.shared.cluster.topology().node(node).address.clone();
                tracing::info!(node = %address, %error, "no server could be opened");
                if !not_now {
                    if let Some(roles) = &self.eyes.rules.roles {
                        // It may have another verifier by now than the one that the client has met.
                        roles.doubt(&self.account.user);
                    }
                    return Err(Failure::NodeRefused(Box::new(error.report())));
                }
                self.shared.cluster.report_failure(node, epoch);
                Err(Failure::NoPrimary)
            }
        }
    }
}

/// Whether what is decided so reads nothing of the database.
fn sees_nothing(reason: Reason) -> bool {
    matches!(reason, Reason::Set | Reason::Reset | Reason::Show)
}

/// Waits for one server to come back: what is asked for is on no other. Whoever has it soon gives it
/// back, or it is gone, or it goes from hand to hand and serves others that move sequences.
async fn await_idle(pool: &Pool, server: &Arc<Identity>) {
    let deadline = Instant::now() + HOME_WAIT;
    // Nobody else knows of a server that is closed.
    while Arc::strong_count(server) > 1 && !pool.has_idle(server) && Instant::now() < deadline {
        tokio::time::sleep(HOME_POLL).await;
    }
}
