//! Whether what a request brings takes a READ ONLY transaction away from its replica.
//!
//! Pure: the transaction's state and the facts of texts give the answer; [`relocation`](super::relocation) acts on it.

use std::sync::Arc;

use super::judge::Judge;
use super::sequences::is_harmless;
use crate::routing::Target;
use crate::routing::decision::Reason;
use crate::sql::statement::{Call, Class, Isolation, Modes, SessionEffect, Statement, Transaction};
use crate::sql::{Script, is_transaction_mode};

/// What becomes of the transaction while a request runs.
#[derive(Debug)]
pub(super) struct Outlook {
    /// It may be begun anew elsewhere.
    pub(super) movable: bool,
    /// Nothing is run until it is ended or taken back.
    pub(super) failed: bool,
    /// It has ended: what follows is no longer read-only.
    pub(super) ended: bool,
}

impl Outlook {
    /// Whether what comes next must not run on the replica. Of what cannot leave only that which would bind the
    /// session there.
    pub(super) fn leaves(&mut self, script: &Arc<Script>, judge: &impl Judge) -> bool {
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
                Some(other) if self.movable && changes_what_it_is(other, self.ended) => {
                    return true;
                }
                _ if self.movable && sets_transaction(statement) => return true,
                Some(Transaction::Prepare) => may = true,
                _ => may |= self.ended || may_need_primary(statement, script.statements.len()),
            }
        }
        if !may || !self.movable {
            return false;
        }
        let decision = judge.decide(script);
        // Without a catalog nothing is known, and the transaction is where it belongs.
        decision.target == Target::Primary && decision.reason != Reason::CatalogNotLoaded
    }
}

/// Whether a statement makes of the transaction what no standby can have; after its end, whether it begins another.
fn changes_what_it_is(statement: &Transaction, ended: bool) -> bool {
    let beyond = |modes: &Modes| {
        modes.read_only == Some(false) || modes.isolation == Some(Isolation::Serializable)
    };
    match statement {
        Transaction::Begin(modes) => ended || beyond(modes),
        Transaction::Set(modes) => beyond(modes),
        Transaction::SetSnapshot => true,
        _ => false,
    }
}

/// The same, said by the name of a setting.
fn sets_transaction(statement: &Statement) -> bool {
    let sets = |effect: &SessionEffect| matches!(effect, SessionEffect::Set { name, .. } if is_transaction_mode(name));
    statement.session.iter().any(sets)
}

/// Whether a statement, one of so many of a text, is of a kind that a read-only transaction may run on a primary
/// and perhaps not on a standby. What PostgreSQL refuses in any such transaction need not leave, unless a standby
/// refuses it in other words.
fn may_need_primary(statement: &Statement, of: usize) -> bool {
    let of_kind = match statement.class {
        Class::Read => of == 1 || !statement.calls.iter().all(is_harmless),
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

/// Whether a statement that a standby would run keeps the session at its server, or is worth nothing there: nobody
/// on the primary sees a lock that is taken on a replica.
pub(super) fn binds(statement: &Statement) -> bool {
    let lock = |call: &Call| {
        let name = &call.name.name;
        name.starts_with("pg_advisory_lock")
            || name.starts_with("pg_advisory_xact_lock")
            || name.starts_with("pg_try_advisory_")
    };
    let binds = |effect: &SessionEffect| {
        matches!(
            effect,
            SessionEffect::Load
                | SessionEffect::Declare { hold: true }
                | SessionEffect::AdvisoryLock
        )
    };
    statement.session.iter().any(binds) || statement.calls.iter().any(lock)
}
