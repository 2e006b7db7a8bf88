//! A READ ONLY transaction on a replica that asks for what no standby runs: it goes on at the primary.
//!
//! PostgreSQL runs NOTIFY, LISTEN, `txid_current()` and functions of unknown effect in a read-only transaction, and a
//! standby does not. What the transaction has read stays read: at READ COMMITTED each statement has a snapshot of its
//! own, and the primary shows all that the replica has shown (`barrier`). What was set and which savepoints there are is
//! said again there. Invariant: a transaction with anything that only its server has (a cursor, a portal, a value that
//! a function set), or with one snapshot for all its statements, stays.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::audit::{self, AuditError};
use super::books::means_the_same_elsewhere;
use super::driver::Session;
use super::failure::Failure;
use super::fresh::compose_own;
use super::judge::Judge;
use super::machine::{Begun, Machine, Phase, Repeated};
use super::relay;
use super::texts::{Runs, Texts};
use crate::protocol::request::{End, Request};
use crate::routing::Target;
use crate::server::ServerConn;
use crate::sql::statement::{Class, Lexis, SessionEffect, Statement, Transaction};
use crate::sql::{self, Script};

/// How the transaction sees the database. A function, for SHOW has one column.
const ISOLATION: &[u8] = b"SELECT 'isolation', pg_catalog.current_setting('transaction_isolation')";

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
                Phase::Held(begun) => Some(Box::new(begun)),
                _ => self.beginning.take(),
            };
            self.phase = Phase::Open { on_replica, begun: begun.filter(|_| on_replica) };
        }
        if self.makes_portal {
            self.stay();
        }
    }

    /// A statement has run that may leave something.
    pub(super) fn take_along(&mut self, statement: &Statement, text: &Bytes) {
        if !matches!(self.phase, Phase::Open { begun: Some(_), .. }) {
            return;
        }
        let restoring = self.restoring(statement);
        let Phase::Open { begun: slot, .. } = &mut self.phase else { return };
        let same_settings = self.settings.current() == self.settings.committed();
        match (trace(statement, text), slot.as_mut()) {
            (Trace::None, _) => {}
            (Trace::Repeatable, Some(begun)) if !text.is_empty() => {
                let bound = self.values.take().map(Repeated::Bound);
                begun.since.push(bound.unwrap_or_else(|| Repeated::Query(text.clone())));
                begun.since.extend(restoring.into_iter().map(Repeated::Query));
            }
            (Trace::Chained, Some(begun)) if same_settings => begun.since.clear(),
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
        &self,
        request: &Request,
        buffer: &[u8],
        server_status: Option<u8>,
        judge: &impl Judge,
    ) -> bool {
        let Some(mut outlook) = self.outlook(server_status) else { return false };
        if !matches!(request.end, End::Sync | End::Flush) {
            return false;
        }
        let (mut texts, mut bound, mut leaves) = (Texts::default(), false, false);
        for frame in &request.frames {
            let of_portal = match frame.kind {
                b'D' => frame.body(buffer).first() == Some(&b'P'),
                kind => kind == b'E',
            };
            if of_portal && !bound {
                return false;
            }
            bound |= frame.kind == b'B';
            if let Runs::Script(script) = texts.next(*frame, buffer, self, judge) {
                leaves |= outlook.leaves(&script, judge);
            }
        }
        leaves
    }

    /// What a request may bring; `None` if the transaction cannot leave.
    fn outlook(&self, server_status: Option<u8>) -> Option<Outlook> {
        let may = matches!(self.phase, Phase::Open { begun: Some(_), .. });
        let may = may && self.pins.is_free() && self.ascii_safe;
        server_status.filter(|_| may).map(|status| Outlook { failed: status == b'E', ended: false })
    }

    /// The transaction goes on where it is, whatever is asked of it.
    pub fn stay(&mut self) {
        if let Phase::Open { begun, .. } = &mut self.phase {
            *begun = None;
        }
    }

    /// The transaction was rolled back on its replica, and is to be begun anew.
    pub fn on_left_replica(&mut self) {
        if let Phase::Open { begun, .. } = &mut self.phase
            && let Some(begun) = begun.take()
        {
            self.phase = Phase::Held(Begun { failed: self.failed, ..*begun });
        }
    }
}

impl Session {
    /// Ends the transaction on its replica, so that it can be begun anew at the primary; unless there is none, or its
    /// statements have one snapshot.
    ///
    /// # Errors
    /// If the replica is lost.
    pub(super) async fn leave_replica(&mut self) -> Result<(), Failure> {
        let has_primary = self.shared.cluster.load().primary.is_some();
        let Some(server) = self.lease.as_mut().filter(|_| has_primary) else {
            self.machine.stay();
            return Ok(());
        };
        match may_end(server, self.machine.settings.last_savepoint()).await {
            Ok(true) => {
                self.machine.on_left_replica();
                self.release().await;
            }
            Ok(false) => self.machine.stay(),
            Err(error) => {
                tracing::info!(%error, node = %server.identity.address, "a server was lost");
                let (node, epoch) = (server.identity.node, server.epoch);
                self.drop_lease();
                self.shared.cluster.report_failure(node, epoch);
                return Err(Failure::TransactionLost);
            }
        }
        Ok(())
    }
}

/// Rolls the transaction back on its server if its statements have a snapshot each. `savepoint` is the last that it
/// has; a failed one without can only end, and then its snapshot is of no interest.
async fn may_end(server: &mut ServerConn, savepoint: Option<&str>) -> Result<bool, AuditError> {
    let mut heard = BytesMut::new();
    if server.responses.status() == b'E'
        && let Some(name) = savepoint
    {
        run(server, &format!("ROLLBACK TO SAVEPOINT \"{}\"", name.replace('"', "\"\"")), b'T')
            .await?;
    }
    if server.responses.status() == b'T' {
        let rows = audit::ask(server, ISOLATION, &mut heard).await?;
        if !rows.iter().any(|(_, level)| level.ends_with("committed")) {
            return Ok(false);
        }
    }
    // What was set is set anew: COMMIT would leave it here.
    run(server, "ROLLBACK", b'I').await?;
    Ok(true)
}

/// Runs a statement of Causeway's own, after which the server must have this status.
async fn run(server: &mut ServerConn, text: &str, status: u8) -> Result<(), AuditError> {
    server.responses.begin();
    server.output.clear();
    compose_own(server, text);
    let settled = relay::settle(server, &mut BytesMut::new()).await;
    if settled.is_err() || server.responses.status() != status {
        return Err(AuditError::Protocol);
    }
    Ok(())
}

/// What becomes of the transaction while a request runs.
struct Outlook {
    /// Nothing is run until it is ended or taken back.
    failed: bool,
    /// It has ended: what follows is no longer read-only.
    ended: bool,
}

impl Outlook {
    /// Whether what comes next must run on the primary.
    fn leaves(&mut self, script: &Arc<Script>, judge: &impl Judge) -> bool {
        let mut may = false;
        for statement in &script.statements {
            match &statement.transaction {
                Some(Transaction::RollbackTo(_)) => self.failed = false,
                Some(Transaction::Commit { chain } | Transaction::Rollback { chain }) => {
                    self.failed = false;
                    self.ended |= !chain;
                }
                _ if self.failed => {}
                _ if binds(statement) => return true,
                _ => may |= self.ended || may_need_primary(statement, script.statements.len()),
            }
        }
        may && judge.decide(script).target == Target::Primary
    }
}

/// Whether a statement, one of so many of a text, is of a kind that a read-only transaction may run on a primary
/// and perhaps not on a standby. What PostgreSQL refuses in any such transaction need not leave.
fn may_need_primary(statement: &Statement, of: usize) -> bool {
    let of_kind = match statement.class {
        Class::Read => of == 1 || !statement.calls.is_empty(),
        Class::Notify
        | Class::Procedure
        | Class::LockTable
        | Class::Maintenance
        | Class::CopyIn
        | Class::CopyFile => true,
        _ => false,
    };
    of_kind && statement.understood
}

/// Whether a statement that any node runs would keep the session at its server, which must not be a replica.
fn binds(statement: &Statement) -> bool {
    let binds = |effect: &SessionEffect| {
        matches!(effect, SessionEffect::Load | SessionEffect::Declare { hold: true })
    };
    statement.session.iter().any(binds)
}

/// Whether what is set depends on values that may have been bound.
pub(super) fn sets_by_value(script: &Script) -> bool {
    let mut effects = script.statements.iter().flat_map(|statement| &statement.session);
    effects.any(|effect| *effect == SessionEffect::SetConfig)
}

fn only_sets(effects: &[SessionEffect]) -> bool {
    effects.iter().all(|effect| *effect == SessionEffect::SetConfig)
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
        // What else it does is harmless, or it would not have been run on a replica.
        effects if statement.class == Class::Read && only_sets(effects) => Trace::Repeatable,
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
