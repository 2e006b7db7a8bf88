//! A READ ONLY transaction on a replica that asks for what no standby runs: it goes on at the primary.
//!
//! PostgreSQL runs NOTIFY, LISTEN, `txid_current()` and functions of unknown effect in a read-only transaction, and a
//! standby does not. What the transaction has read stays read: at READ COMMITTED each statement has a snapshot of its
//! own, and at levels above `eventual` the primary shows all that the replica has shown (`barrier`). What was set and
//! which savepoints there are is said again there, as long as it is little. A transaction stays that has one snapshot
//! for all its statements, or what only its server has (a cursor, a portal, settings that nobody can name); in one that
//! stays nothing is run that would bind the session to a replica or be worth nothing there, such as an advisory lock.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::audit::{self, AuditError};
use super::books::means_the_same_elsewhere;
use super::driver::Session;
use super::failure::Failure;
use super::judge::Judge;
use super::lend;
use super::machine::Machine;
use super::outlook::{self, Outlook};
use super::phase::{Phase, Repeated};
use super::relay;
use super::texts::{Runs, Texts};
use crate::protocol::ErrorReport;
use crate::protocol::request::{End, Request};
use crate::server::ServerConn;
use crate::sql::statement::{Class, Lexis, SessionEffect, Statement, Transaction};
use crate::sql::{self, Script};

/// How the transaction sees the database. A function, for SHOW has one column.
const ISOLATION: &[u8] = b"SELECT 'isolation', pg_catalog.current_setting('transaction_isolation')";

/// Most that is repeated elsewhere, in statements and in bytes: it is written before anything is read.
const REPEATED_MOST: usize = 64;
const REPEATED_BYTES: usize = 8 << 10;

/// What has run in a transaction, as far as another server is concerned.
enum Trace {
    /// Nothing is left of it.
    None,
    /// The same text does the same there.
    Repeatable,
    /// The next transaction has begun, as this one did.
    Chained,
    /// Only its server has it.
    Kept,
}

impl Machine {
    /// A server has said that it is inside a transaction.
    pub(super) fn open(&mut self, on_replica: bool) {
        if !matches!(self.phase, Phase::Open { .. }) {
            let begun = match std::mem::replace(&mut self.phase, Phase::Idle) {
                Phase::Held(begun) => Some(begun),
                _ => self.asks.beginning.take(),
            };
            self.phase = Phase::Open { on_replica, begun: begun.filter(|_| on_replica) };
        }
        if let Phase::Open { begun: Some(begun), .. } = &mut self.phase {
            begun.seen |= !self.asks.sees_nothing;
        }
        if self.asks.makes_portal {
            self.stay();
        }
    }

    /// A statement has run that may leave something.
    pub(super) fn take_along(&mut self, statement: &Statement, text: &Bytes) {
        if !matches!(self.phase, Phase::Open { begun: Some(_), .. }) {
            return;
        }
        let restoring = self.restoring(statement);
        // What else was set, by a function say, is on its server since the last transaction was committed.
        let undone =
            self.failed || matches!(statement.transaction, Some(Transaction::Rollback { .. }));
        let settled = undone || !self.suspect;
        let Phase::Open { begun: slot, .. } = &mut self.phase else { return };
        match (trace(statement, text), slot.as_mut()) {
            (Trace::None, _) => {}
            (Trace::Repeatable, Some(begun)) if !text.is_empty() => {
                let bound = begun.values.take().map(Repeated::Bound);
                begun.since.push(bound.unwrap_or_else(|| Repeated::Query(text.clone())));
                begun.since.extend(restoring.into_iter().map(Repeated::Query));
                let bytes: usize = begun.since.iter().map(Repeated::bytes).sum();
                if begun.since.len() > REPEATED_MOST || bytes > REPEATED_BYTES {
                    *slot = None;
                }
            }
            (Trace::Chained, Some(begun)) if settled => {
                begun.since.clear();
                // Of a longer request the next one may have.
                begun.seen = !self.asks.sees_nothing;
            }
            _ => *slot = None,
        }
    }

    /// Whether what a simple query runs takes the transaction to the primary.
    pub(super) fn leaves(
        &self,
        script: &Arc<Script>,
        server_status: Option<u8>,
        judge: &impl Judge,
    ) -> bool {
        self.outlook(server_status).is_some_and(|mut outlook| outlook.leaves(script, judge))
    }

    /// The same of a pipeline. One that begins with a portal of an earlier request needs the server that has it.
    pub(super) fn pipeline_leaves(
        &mut self,
        request: &Request,
        buffer: &[u8],
        server_status: Option<u8>,
        judge: &impl Judge,
    ) -> bool {
        let Some(mut outlook) = self.outlook(server_status) else { return false };
        if !matches!(request.end, End::Sync | End::Flush) {
            return false;
        }
        let mut texts = Texts::default();
        let (mut bound, mut leaves, mut sees) = (false, false, request.end == End::Flush);
        for frame in &request.frames {
            let of_portal = match frame.kind {
                b'D' => frame.body(buffer).first() == Some(&b'P'),
                kind => kind == b'E',
            };
            if of_portal && !bound {
                return false;
            }
            bound |= frame.kind == b'B';
            match texts.next(*frame, buffer, self, judge) {
                Runs::Nothing => {}
                Runs::Script(script) => {
                    leaves |= outlook.leaves(&script, judge);
                    sees |= sees_data(&script);
                    self.asks.binds |= script.statements.iter().any(outlook::binds);
                }
                Runs::Unknown => sees = true,
            }
        }
        self.asks.sees_nothing = !sees;
        leaves
    }

    /// What a request may bring; `None` if its session is on no replica, or is bound to its server anyway.
    fn outlook(&self, server_status: Option<u8>) -> Option<Outlook> {
        let Phase::Open { on_replica: true, begun } = &self.phase else { return None };
        let may = self.pins.is_free() && self.ascii_safe;
        server_status.filter(|_| may).map(|status| Outlook {
            movable: begun.is_some(),
            failed: status == b'E',
            ended: false,
        })
    }

    /// Whether the transaction has run nothing on its replica that a snapshot was needed for: a refusal of what
    /// comes next does not count.
    #[must_use]
    pub fn is_unseen(&self) -> bool {
        matches!(&self.phase, Phase::Open { begun: Some(begun), .. } if !begun.seen)
    }

    /// Whether the transaction has failed, or is about to be made to.
    pub(super) fn fails_first(&self, server: &ServerConn) -> bool {
        server.responses.status() == b'E'
            || matches!(&self.phase, Phase::Held(begun) if begun.failed)
    }

    /// The transaction goes on where it is, whatever is asked of it.
    pub fn stay(&mut self) {
        if let Phase::Open { begun, .. } = &mut self.phase {
            *begun = None;
        }
    }

    /// The transaction was rolled back on its replica, and is to be begun anew; failed, if it had failed by itself.
    pub fn on_left_replica(&mut self, failed: bool) {
        if let Phase::Open { begun, .. } = &mut self.phase
            && let Some(mut begun) = begun.take()
        {
            begun.failed = failed;
            self.phase = Phase::Held(begun);
        }
    }
}

impl Repeated {
    fn bytes(&self) -> usize {
        match self {
            Self::Query(text) => text.len(),
            Self::Bound(bound) => bound.text.len() + bound.types.len() + bound.values.len(),
        }
    }
}

impl Session {
    /// Ends the transaction on its replica, so that it can be begun anew at the primary; unless there is none, or its
    /// statements have one snapshot.
    ///
    /// # Errors
    /// If the replica is lost, does not answer in time or does not let itself be asked (the client has cancelled), or
    /// if the request must not run on a replica and the transaction cannot leave.
    pub(super) async fn leave_replica(&mut self) -> Result<(), Failure> {
        let binds = self.machine.asks.binds;
        let has_primary = self.shared.cluster.load().primary.is_some();
        if binds && !has_primary {
            return Err(self.refuse(Failure::NoPrimary));
        }
        let Phase::Open { begun: Some(begun), .. } = &self.machine.phase else {
            return Err(self.refuse(cannot_bind()));
        };
        let (seen, limit) = (begun.seen, self.eyes.rules.settings.pool.wait);
        let (failed, settings) = (self.machine.failed, &self.machine.settings);
        let Some(server) = self.lease.as_mut().filter(|_| has_primary) else {
            self.machine.stay();
            return Ok(());
        };
        match tokio::time::timeout(limit, may_end(server, seen, settings.last_savepoint())).await {
            Ok(Ok(true)) => {
                self.machine.on_left_replica(failed);
                self.leave().await;
                Ok(())
            }
            Ok(Ok(false)) if binds => Err(self.refuse(cannot_bind())),
            Ok(Ok(false)) => {
                self.machine.stay();
                Ok(())
            }
            Ok(Err(AuditError::Refused(report))) => {
                Err(self.refuse(Failure::Setting(Box::new(report))))
            }
            Ok(Err(_)) | Err(_) => {
                tracing::info!(node = %server.identity.address, "a server was lost");
                let (node, epoch) = (server.identity.node, server.epoch);
                self.drop_lease();
                self.shared.cluster.report_failure(node, epoch);
                Err(Failure::TransactionLost)
            }
        }
    }

    /// Gives the server back on which the transaction was rolled back.
    async fn leave(&mut self) {
        if self.machine.suspicion.opaque {
            // What a function did outlives the transaction.
            return self.drop_lease();
        }
        if let Some(server) = self.lease.as_mut() {
            server.set_applied(self.machine.settings.committed());
        }
        self.release().await;
    }

    /// A replica has refused the first statement of a transaction that needed a snapshot: it is begun anew elsewhere.
    pub(super) async fn leave_refused(&mut self) {
        let Some(server) = self.lease.as_mut() else { return };
        if run(server, "ROLLBACK", b'I').await.is_ok() {
            self.machine.on_left_replica(false);
            self.leave().await;
        } else {
            self.machine.on_left_replica(false);
            self.drop_lease();
        }
    }

    /// The request is not run, and the transaction has failed.
    fn refuse(&mut self, failure: Failure) -> Failure {
        self.drop_lease();
        failure
    }
}

/// In the words of a standby.
fn cannot_bind() -> Failure {
    let report = ErrorReport::error("25006", "cannot bind a read-only transaction's session to a replica")
        .with_detail(
            "The transaction reads on a replica and cannot go on at the primary, for it has one snapshot \
             for all its statements, or a cursor.",
        )
        .with_hint("Take session locks, and declare cursors WITH HOLD, outside of such transactions.");
    Failure::Setting(Box::new(report))
}

/// Whether each statement of a transaction sees what is there when it begins. One that cannot be asked does not.
pub(super) async fn reads_anew(server: &mut ServerConn) -> bool {
    let rows = audit::ask(server, ISOLATION, &mut BytesMut::new()).await;
    rows.is_ok_and(|rows| rows.iter().any(|(_, level)| level.ends_with(b"committed")))
}

/// Rolls the transaction back on its server; if it has `seen` anything, only if its statements have a snapshot each.
/// A failed one can tell if it has a savepoint; without one it leaves for what follows its end.
async fn may_end(
    server: &mut ServerConn,
    seen: bool,
    savepoint: Option<&str>,
) -> Result<bool, AuditError> {
    let failed = server.responses.status() == b'E';
    if let Some(name) = savepoint.filter(|_| failed && seen) {
        let name = name.replace('"', "\"\"");
        run(server, &format!("ROLLBACK TO SAVEPOINT \"{name}\""), b'T').await?;
    }
    if seen && server.responses.status() == b'T' {
        let rows = audit::ask(server, ISOLATION, &mut BytesMut::new()).await?;
        if !rows.iter().any(|(_, level)| level.ends_with(b"committed")) {
            if failed {
                begin(server);
                lend::fail_quietly(server);
                settled(server, b'E').await?;
            }
            return Ok(false);
        }
    }
    // What was set is set anew: COMMIT would leave it here.
    run(server, "ROLLBACK", b'I').await?;
    Ok(true)
}

/// Runs a statement of Causeway's own, after which the server must have this status.
async fn run(server: &mut ServerConn, text: &str, status: u8) -> Result<(), AuditError> {
    begin(server);
    lend::query(text.as_bytes(), server);
    settled(server, status).await
}

fn begin(server: &mut ServerConn) {
    server.responses.begin();
    server.output.clear();
}

/// Sends what is written; the server must have this status then.
async fn settled(server: &mut ServerConn, status: u8) -> Result<(), AuditError> {
    let settled = relay::settle(server, &mut BytesMut::new()).await;
    if settled.is_err() || server.responses.status() != status {
        return Err(AuditError::Protocol);
    }
    Ok(())
}

/// Whether running a text takes a snapshot (`PlannedStmtRequiresSnapshot`, `src/backend/tcop/pquery.c`).
pub(super) fn sees_data(script: &Script) -> bool {
    script.statements.iter().any(sees)
}

/// The same of one statement.
pub(super) fn sees(statement: &Statement) -> bool {
    let sets = |effect: &SessionEffect| {
        matches!(
            effect,
            SessionEffect::Set { .. } | SessionEffect::Reset(_) | SessionEffect::ResetAll
        )
    };
    let sees_nothing = statement.transaction.is_some()
        || statement.class == Class::Show
        // FETCH and its like have the cursor's.
        || statement.class == Class::Cursor && statement.inner.is_none()
        || statement.class == Class::Session
            && statement.calls.is_empty()
            && statement.session.iter().all(sets);
    !sees_nothing
}

/// Whether what is set depends on values that may have been bound.
pub(super) fn sets_by_value(script: &Script) -> bool {
    let mut effects = script.statements.iter().flat_map(|statement| &statement.session);
    effects.any(|effect| *effect == SessionEffect::SetConfig)
}

/// Whether a read does nothing but set to what stands in it or was bound to it.
fn only_sets(statement: &Statement) -> bool {
    statement.class == Class::Read
        && statement.relations.is_empty()
        && statement.calls.iter().all(|call| &*call.name.name == "set_config")
        && statement.session.iter().all(|effect| *effect == SessionEffect::SetConfig)
}

fn trace(statement: &Statement, text: &[u8]) -> Trace {
    match &statement.transaction {
        None => {}
        // Its text is known, or it was one too many.
        Some(Transaction::Begin(_)) => return Trace::None,
        Some(
            Transaction::Savepoint(_)
            | Transaction::Release(_)
            | Transaction::RollbackTo(_)
            | Transaction::Set(_)
            | Transaction::SetCharacteristics(_),
        ) => return Trace::Repeatable,
        Some(Transaction::Commit { chain: true } | Transaction::Rollback { chain: true }) => {
            return Trace::Chained;
        }
        Some(_) => return Trace::Kept,
    }
    match &statement.session[..] {
        [] if matches!(statement.class, Class::Read | Class::Show) => Trace::None,
        [_, ..] if only_sets(statement) => Trace::Repeatable,
        [
            SessionEffect::Reset(_)
            | SessionEffect::ResetAll
            | SessionEffect::Set { local: false, to_default: true, .. },
        ] => Trace::Repeatable,
        [SessionEffect::Set { local: true, to_default: false, .. }]
            if sql::set_value(text, Lexis::default()).is_some() =>
        {
            Trace::Repeatable
        }
        [SessionEffect::Set { name, local: false, to_default: false }]
            if means_the_same_elsewhere(name, text) =>
        {
            Trace::Repeatable
        }
        [
            SessionEffect::Prepare(_)
            | SessionEffect::Execute(_)
            | SessionEffect::Deallocate(_)
            | SessionEffect::DeallocateAll
            | SessionEffect::DiscardPlans,
        ] => Trace::None,
        _ => Trace::Kept,
    }
}
