//! Getting a server for a decision: which node, and a lease from its pool.

use std::time::Instant;

use smallvec::SmallVec;

use super::driver::Session;
use super::failure::Failure;
use crate::cluster::{NodeId, NodeView};
use crate::config::settings::Consistency;
use crate::pool::{Lease, LeaseError};
use crate::routing::decision::Reason;
use crate::routing::{Decision, Target};
use crate::server::ConnectError;

/// SQLSTATEs with which a node says that it cannot serve anybody now: it starts, stops, or has no
/// place left.
const NOT_NOW: &[&str] = &["57P01", "57P02", "57P03", "53300"];

impl Session {
    /// Leases a server for the decision, unless the session has one. The decision's reason becomes
    /// what it really was: a read that no replica may serve goes to the primary.
    ///
    /// # Errors
    /// If there is no node, no server in time, or the client cancelled.
    pub(super) async fn acquire(&mut self, decision: &mut Decision) -> Result<(), Failure> {
        if let Some(lease) = &self.lease {
            self.entry.slot.served(&lease.identity);
            self.count_served(lease.identity.node, self.on_replica);
            return Ok(());
        }
        let deadline = Instant::now() + self.eyes.rules.settings.pool.wait;
        let mut failed: SmallVec<[NodeId; 4]> = SmallVec::new();
        loop {
            let Some((node, on_replica)) = self.choose(decision, &failed)? else {
                self.await_primary(deadline).await?;
                failed.clear();
                continue;
            };
            match self.lease_from(node).await {
                Ok(lease) => {
                    self.entry.slot.served(&lease.identity);
                    self.lease = Some(lease);
                    self.on_replica = on_replica;
                    self.count_served(node, on_replica);
                    return Ok(());
                }
                Err(Failure::NoPrimary) if Instant::now() < deadline => {
                    if !on_replica {
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    }
                    failed.push(node);
                }
                Err(failure) => return Err(self.stop_waiting(failure)),
            }
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
    fn choose(
        &self,
        decision: &mut Decision,
        failed: &[NodeId],
    ) -> Result<Option<(NodeId, bool)>, Failure> {
        let topology = self.shared.cluster.load();
        let rules = &self.eyes.rules;
        let level = decision
            .consistency
            .or(self.eyes.options.consistency)
            .unwrap_or(rules.settings.routing.consistency);
        if decision.target == Target::Replica && level != Consistency::Eventual {
            // No level above eventual is kept on replicas yet; the primary keeps them all.
            let reason = Reason::ConsistencyPrimary;
            *decision = Decision { target: Target::Primary, reason, ..*decision };
        }
        if decision.target == Target::Replica {
            let max_lag = decision.max_lag.or(self.eyes.options.max_lag);
            let fresh = |node: &NodeView| {
                !failed.contains(&node.id)
                    && !self.lost_on.contains(&node.id)
                    && max_lag.is_none_or(|most| node.lag.is_some_and(|lag| lag <= most))
                    && decision.rule.is_none_or(|rule| rules.router.rules().prefers(rule, node))
            };
            if let Some(node) = rules.balancer.choose(&topology, fresh, Instant::now()) {
                return Ok(Some((node, true)));
            }
            if !rules.settings.routing.primary_reads {
                return Err(Failure::NoReplica);
            }
            let any = topology.eligible_replicas().any(|node| !failed.contains(&node.id));
            let reason = if any { Reason::TooStale } else { Reason::NoEligibleReplica };
            *decision = Decision { target: Target::Primary, reason, ..*decision };
        }
        Ok(topology.primary.filter(|node| !failed.contains(node)).map(|node| (node, false)))
    }

    /// A server of one node. [`Failure::NoPrimary`] stands for a node that was not reached.
    async fn lease_from(&self, node: NodeId) -> Result<Lease, Failure> {
        let (epoch, pool) = {
            let topology = self.shared.cluster.load();
            (topology.node(node).epoch, self.account.pool(node, &topology))
        };
        if let Some(lease) = pool.lease_own(self.worker, epoch) {
            return Ok(lease);
        }
        self.entry.slot.waits();
        let leased = tokio::select! {
            biased;
            leased = pool.lease(self.worker, epoch) => leased,
            () = self.entry.slot.cancelled.notified() => return Err(Failure::Cancelled),
        };
        match leased {
            Ok(mut lease) => {
                if let Some(parameters) = lease.greeting.take() {
                    self.account.set_greeting(parameters);
                }
                Ok(lease)
            }
            Err(LeaseError::Busy { size, waited }) => Err(Failure::Busy { size, waited }),
            Err(LeaseError::Connect(error)) => {
                let not_now = match &error {
                    ConnectError::Refused(report) => NOT_NOW.contains(&&*report.sqlstate),
                    ConnectError::Unreachable(_) | ConnectError::Timeout(_) => true,
                    _ => false,
                };
                let address = self.shared.cluster.topology().node(node).address.clone();
                tracing::info!(node = %address, %error, "no server could be opened");
                if !not_now {
                    return Err(Failure::NodeRefused(Box::new(error.report())));
                }
                self.shared.cluster.report_failure(node, epoch);
                Err(Failure::NoPrimary)
            }
        }
    }
}
