//! Positions that go from one session to another: tokens that are shown and set, and keys.
//!
//! What a session takes over may be of the future, by a mistake or on purpose: it counts only once the primary is known
//! to be past it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::driver::Session;
use super::failure::Failure;
use super::keys::Holding;
use super::step::Question;
use crate::cluster::{Lsn, NodeId, Role, Tick, Topology};
use crate::config::settings::Consistency;
use crate::protocol::ErrorReport;

impl Session {
    /// Takes over what the session has set of consistency.
    pub(super) fn adopt_options(&mut self) {
        self.follow_history();
        let topology = self.shared.cluster.load();
        let options = &self.eyes.options;
        let after = options.after_lsn;
        if after != self.held.after {
            self.held.after = after;
            self.unsure = !is_of_the_past(after, &topology);
            if !self.unsure {
                self.held.sight.raise(after, &topology);
            }
        }
        let name = options.session_key.as_deref();
        let key = name.map(|name| self.shared.keys.key(&self.account.database, name));
        let same = |holding: &Holding, key| Arc::ptr_eq(&holding.key, key);
        if !matches!((&self.held.key, &key), (Some(holding), Some(key)) if same(holding, key)) {
            let (sight, now) = (&self.held.sight, Instant::now());
            let take = |key| Box::new(Holding::new(key, sight, &topology, now));
            self.held.key = key.map(take);
        }
    }

    /// Finds out whether another session's position is of the past, where that is not known: however it was set
    /// (inside a transaction, by `set_config()`), one that is not of the past counts for nothing, and its client is
    /// told.
    pub(super) async fn make_sure(&mut self, wait: Duration) -> Result<(), Failure> {
        if !self.unsure {
            return Ok(());
        }
        let furthest = self.furthest(wait).await?;
        self.unsure = false;
        let after = self.held.after;
        if after <= furthest {
            self.follow_history();
            self.held.sight.raise(after, &self.shared.cluster.load());
            return Ok(());
        }
        let message = format!("\"causeway.after_lsn\" is not heeded: {after} is of the future");
        ErrorReport::new("WARNING", "01000", message)
            .with_detail(format!("The primary is at {furthest}: no session can have seen more."))
            .encode(&mut self.client.output);
        Ok(())
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
        self.make_sure(wait).await?;
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
            if !self.woken(&wake, topology.version, deadline).await? {
                return Err(Failure::NoPrimary);
            }
        }
    }

    /// How far the primary is now, to tell a token of the future.
    pub(super) async fn furthest(&self, wait: Duration) -> Result<Lsn, Failure> {
        let wake = Arc::new(Notify::new());
        let now = Instant::now();
        let deadline = now + wait;
        loop {
            let topology = self.shared.cluster.topology();
            let primary = topology.primary.ok_or(Failure::NoPrimary)?;
            let clock = &topology.node(primary).clock;
            if let Some(tick) = clock.since(now).filter(|tick| tick.role == Role::Primary) {
                return Ok(tick.position);
            }
            clock.wake_at(now, Lsn(0), &wake);
            if !self.woken(&wake, topology.version, deadline).await? {
                return Err(Failure::NoPrimary);
            }
        }
    }
}

/// Whether the primary is known to be past a position.
fn is_of_the_past(position: Lsn, topology: &Topology) -> bool {
    let latest = topology.primary.and_then(|primary| topology.node(primary).clock.latest());
    let past = |tick: Arc<Tick>| tick.role == Role::Primary && tick.position >= position;
    position == Lsn(0) || latest.is_some_and(past)
}
