//! A transaction on a replica of which more is asked in its middle: a stricter level, a tighter lag, another
//! session's position.
//!
//! Its statements see at least what was asked for when it began. Where more is asked later, by a setting, a rule or a
//! hint, its replica must have that as well; if it has not in time, the transaction goes on at another node
//! ([`relocation`](super::relocation)), or is failed if it cannot. What has one snapshot for all its statements
//! (REPEATABLE READ) is one read, at the level of its first.

use std::time::Instant;

use super::driver::Session;
use super::failure::Failure;
use super::fresh::{Patience, keeps};
use super::phase::Phase;
use super::relocation;
use crate::cluster::NodeId;
use crate::config::settings::Consistency;
use crate::routing::Decision;
use crate::routing::decision::Reason;

impl Session {
    /// Whether a statement of a transaction on a replica asks for more than the replica is known to have.
    pub(super) fn falls_behind(&mut self, decision: &Decision) -> bool {
        if decision.reason != Reason::InTransactionOnReplica || self.settled {
            return false;
        }
        let Some(lease) = &self.lease else { return false };
        if self.machine.asks.sees_nothing || lease.responses.status() != b'T' {
            return false;
        }
        let (node, opened) = (lease.identity.node, lease.opened_at);
        let level = self.level(decision);
        if level == Consistency::Primary
            || level == Consistency::Global && !self.global
            || !self.keeps_lag(node, decision)
        {
            return true;
        }
        keeps(level) && (self.unsure || !self.has_proof(node, opened))
    }

    /// Whether the node is within the lag that a statement asks for by itself. The session's own limit was for the
    /// choice of the replica: it may fall behind that in a transaction's middle.
    fn keeps_lag(&self, node: NodeId, decision: &Decision) -> bool {
        decision.max_lag.is_none()
            || self.is_within(self.shared.cluster.load().node(node), decision)
    }

    /// Waits until the replica has it, or takes the transaction elsewhere.
    ///
    /// # Errors
    /// If it can do neither.
    pub(super) async fn keep_up(
        &mut self,
        decision: &Decision,
        began: Instant,
    ) -> Result<(), Failure> {
        let routing = &self.eyes.rules.settings.routing;
        let (catchup, wait) = (routing.catchup_wait, self.eyes.rules.settings.pool.wait);
        let deadline = began + wait;
        if self.has_caught_up(decision, &mut Patience::new(catchup, deadline)).await? {
            return Ok(());
        }
        if matches!(self.machine.phase, Phase::Open { begun: Some(_), .. }) {
            self.leave_replica().await?;
        }
        let Some(server) = self.lease.as_mut() else { return Ok(()) };
        if !relocation::reads_anew(server).await {
            self.settled = true;
        } else if !self.has_caught_up(decision, &mut Patience::new(wait, deadline)).await? {
            return Err(Failure::Behind);
        }
        Ok(())
    }

    /// Whether the replica comes to have what is asked for.
    async fn has_caught_up(
        &mut self,
        decision: &Decision,
        patience: &mut Patience,
    ) -> Result<bool, Failure> {
        let Some(lease) = &self.lease else { return Ok(false) };
        let (node, opened) = (lease.identity.node, lease.opened_at);
        let level = self.level(decision);
        if level == Consistency::Primary || !self.keeps_lag(node, decision) {
            return Ok(false);
        }
        if keeps(level) {
            self.make_sure(self.eyes.rules.settings.pool.wait).await?;
            let known = self.look_back(level, Instant::now());
            if !known || !self.proves(node, opened, patience).await? {
                return Ok(false);
            }
        }
        self.global |= level == Consistency::Global;
        Ok(true)
    }
}
