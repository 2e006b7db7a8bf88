//! What a statement's own facts, its names and the catalog say of it, before any hint or rule.

use super::decide::Asked;
use super::decision::{Decision, Reason, Target};
use crate::catalog::{Hazard, SearchPath, Verdict, builtin};
use crate::sql::statement::{Call, Class, Name, SessionEffect, Statement, Transaction};

/// The reason that a hazard is.
#[must_use]
pub const fn reason_of(hazard: Hazard) -> Reason {
    match hazard {
        Hazard::SequenceFunction => Reason::SequenceFunction,
        Hazard::AdvisoryLock => Reason::AdvisoryLockFunction,
        Hazard::TransactionId => Reason::TransactionIdFunction,
        Hazard::NodeFunction => Reason::NodeFunction,
        Hazard::Notify => Reason::Notify,
        Hazard::LargeObject => Reason::LargeObject,
        Hazard::SqlText => Reason::SqlTextFunction,
        Hazard::VolatileFunction => Reason::VolatileFunction,
        Hazard::VolatileOperator => Reason::VolatileOperator,
        Hazard::NodeRelation => Reason::NodeRelation,
        Hazard::SequenceRelation => Reason::SequenceRelation,
        Hazard::Unlogged => Reason::UnloggedRelation,
        Hazard::Foreign => Reason::ForeignTable,
        Hazard::ViewFunction => Reason::ViewReachesFunction,
        Hazard::ViewRelation => Reason::ViewReachesRelation,
        Hazard::ViewRowLock => Reason::ViewReachesRowLock,
        Hazard::Policy => Reason::PolicyReachesFunction,
    }
}

/// Judges one statement by its facts alone.
pub(super) fn judge(statement: &Statement, asked: &Asked<'_>) -> Decision {
    let primary = Decision::primary;
    let session = |reason| Decision::new(Target::Session, reason);
    match statement.class {
        Class::Write => primary(Reason::Write),
        Class::LockingRead => primary(Reason::RowLock),
        Class::Ddl => primary(Reason::Ddl),
        Class::CopyIn => primary(Reason::CopyFrom),
        Class::CopyFile => primary(Reason::CopyFile),
        Class::Procedure => primary(Reason::Procedure),
        Class::LockTable => primary(Reason::LockTable),
        Class::Notify => primary(Reason::Notify),
        Class::Maintenance => primary(Reason::Maintenance),
        Class::Unknown => primary(Reason::NotUnderstood),
        Class::Transaction => match transaction_reason(statement.transaction.as_ref()) {
            reason @ (Reason::TwoPhase | Reason::SnapshotImport) => primary(reason),
            reason => session(reason),
        },
        Class::Session => session_statement(statement),
        Class::Show => show(statement),
        Class::Cursor => cursor(statement, asked),
        Class::Read => read(statement, asked),
    }
}

const fn transaction_reason(verb: Option<&Transaction>) -> Reason {
    match verb {
        Some(Transaction::Begin(_)) => Reason::Begin,
        Some(Transaction::Commit { .. }) => Reason::Commit,
        Some(Transaction::Rollback { .. }) => Reason::Rollback,
        Some(Transaction::Savepoint(_) | Transaction::Release(_) | Transaction::RollbackTo(_)) => {
            Reason::Savepoint
        }
        Some(Transaction::Set(_) | Transaction::SetCharacteristics(_)) => Reason::SetTransaction,
        Some(Transaction::SetSnapshot) => Reason::SnapshotImport,
        Some(
            Transaction::Prepare | Transaction::CommitPrepared | Transaction::RollbackPrepared,
        ) => Reason::TwoPhase,
        None => Reason::NotUnderstood,
    }
}

/// SET, RESET, DISCARD, PREPARE, EXECUTE, DEALLOCATE, LOAD.
fn session_statement(statement: &Statement) -> Decision {
    let own = |name: &str| name.starts_with("causeway.");
    let (target, reason) = match statement.session.first() {
        Some(SessionEffect::Set { name, .. }) if own(name) => (Target::Proxy, Reason::ProxySet),
        Some(SessionEffect::Reset(name)) if own(name) => (Target::Proxy, Reason::ProxySet),
        Some(SessionEffect::Set { .. }) => (Target::Session, Reason::Set),
        Some(SessionEffect::Reset(_) | SessionEffect::ResetAll) => (Target::Session, Reason::Reset),
        Some(
            SessionEffect::DiscardAll
            | SessionEffect::DiscardPlans
            | SessionEffect::DiscardSequences
            | SessionEffect::DiscardTemp,
        ) => (Target::Session, Reason::Discard),
        Some(SessionEffect::Prepare(_)) => (Target::Session, Reason::Prepare),
        Some(SessionEffect::Execute(_)) => (Target::Session, Reason::Execute),
        Some(SessionEffect::Deallocate(_) | SessionEffect::DeallocateAll) => {
            (Target::Session, Reason::Deallocate)
        }
        Some(SessionEffect::Load) => (Target::Primary, Reason::Load),
        _ => (Target::Primary, Reason::NotUnderstood),
    };
    Decision::new(target, reason)
}

/// SHOW: the setting stands among the identifiers, a name with a dot in parts.
fn show(statement: &Statement) -> Decision {
    let names = &statement.identifiers;
    if names.first().is_some_and(|name| &**name == "causeway" || name.starts_with("causeway.")) {
        return Decision::new(Target::Proxy, Reason::ProxyShow);
    }
    // TIME ZONE, TRANSACTION ISOLATION LEVEL and SESSION AUTHORIZATION are keywords, not names.
    let spelled = |name: &str| {
        matches!(
            name,
            "time" | "zone" | "transaction" | "isolation" | "level" | "session" | "authorization"
        )
    };
    let plain = match &names[..] {
        [] => statement.understood,
        [one] => builtin::is_plain_setting(one) || spelled(one),
        [..] => names.iter().all(|name| spelled(name)) || names.len() == 2,
    };
    if plain && !names.iter().any(|name| &**name == "all") {
        Decision::replica(Reason::Show)
    } else {
        Decision::primary(Reason::NodeSetting)
    }
}

/// DECLARE is where its query may be, unless it outlives the transaction; the others go to where
/// their cursor is.
fn cursor(statement: &Statement, asked: &Asked<'_>) -> Decision {
    if statement.session.iter().any(|effect| matches!(effect, SessionEffect::Declare { .. })) {
        let inside = read(statement, asked);
        if inside.target != Target::Replica {
            return inside;
        }
    }
    Decision::new(Target::Session, Reason::Cursor)
}

fn read(statement: &Statement, asked: &Asked<'_>) -> Decision {
    if !statement.understood {
        return Decision::primary(Reason::NotUnderstood);
    }
    // What the text alone condemns comes first: its reason is the better one, and it holds
    // whatever the catalog would say.
    let mut sets = false;
    for effect in &statement.session {
        match effect {
            SessionEffect::SetConfig => sets = true,
            SessionEffect::SequenceAdvance | SessionEffect::SequenceRead => {
                return Decision::primary(Reason::SequenceFunction);
            }
            SessionEffect::AdvisoryLock | SessionEffect::AdvisoryUnlock => {
                return Decision::primary(Reason::AdvisoryLockFunction);
            }
            SessionEffect::Declare { .. } => {}
            SessionEffect::Execute(_) => {
                return Decision::new(Target::Session, Reason::Execute);
            }
            SessionEffect::CreateTemp => return Decision::primary(Reason::TemporaryRelation),
            // Opaque among them: a read that does more than read was not understood.
            _ => return Decision::primary(Reason::NotUnderstood),
        }
    }
    let blocked = match asked.catalog {
        Some(catalog) => {
            let path = catalog.search_path(asked.search_path, asked.user);
            by_catalog(statement, asked, catalog, &path)
        }
        None => {
            by_lists(statement, asked).or(asked.catalog_needed.then_some(Reason::CatalogNotLoaded))
        }
    };
    if let Some(reason) = blocked {
        return Decision::primary(reason);
    }
    if sets {
        return Decision::new(Target::Session, Reason::SetConfig);
    }
    if asked.default_isolation_serializable {
        return Decision::primary(Reason::Serializable);
    }
    Decision::replica(Reason::Read)
}

/// Whether the name is `set_config`, which the session tracks by itself.
fn is_set_config(name: &Name) -> bool {
    &*name.name == "set_config" && name.schema.as_deref().is_none_or(|s| s == "pg_catalog")
}

fn is_temporary_schema(name: &Name) -> bool {
    name.schema.as_deref().is_some_and(|schema| schema.starts_with("pg_temp"))
}

/// What speaks against a read, with the catalog at hand.
fn by_catalog(
    statement: &Statement,
    asked: &Asked<'_>,
    catalog: &crate::catalog::Catalog,
    path: &SearchPath,
) -> Option<Reason> {
    for Call { name, .. } in &statement.calls {
        if is_temporary_schema(name) {
            return Some(Reason::TemporaryRelation);
        }
    }
    for call in &statement.calls {
        if is_set_config(&call.name) {
            continue;
        }
        let vouched = |schema: &str| asked.safe_functions.vouches(schema, &call.name.name);
        match catalog.call(call, path, vouched) {
            Verdict::Safe => {}
            Verdict::Hazard(hazard) => return Some(reason_of(hazard)),
            Verdict::Unknown => return Some(Reason::UnknownFunction),
        }
    }
    for name in &statement.relations {
        if is_temporary_schema(name) {
            return Some(Reason::TemporaryRelation);
        }
        if let Verdict::Hazard(hazard) = catalog.relation(name, path) {
            return Some(reason_of(hazard));
        }
    }
    let operator = |name: &str| catalog.operator(name);
    let vouched = |name: &str| asked.safe_functions.vouches_bare(name);
    let identifier = |name: &str| catalog.identifier(name).filter(|_| !vouched(name));
    let mut hazards = statement.operators.iter().filter_map(|name| operator(name)).chain(
        statement
            .identifiers
            .iter()
            .filter(|name| !statement.calls.iter().any(|call| call.name.name == **name))
            .filter_map(|name| identifier(name)),
    );
    hazards.next().or(catalog.unseen()).map(reason_of)
}

/// What speaks against a read by the built-in lists alone.
fn by_lists(statement: &Statement, asked: &Asked<'_>) -> Option<Reason> {
    for Call { name, .. } in &statement.calls {
        if is_set_config(name) || asked.safe_functions.vouches_written(name) {
            continue;
        }
        if is_temporary_schema(name) {
            return Some(Reason::TemporaryRelation);
        }
        let own = name.schema.as_deref().is_none_or(|schema| schema == "pg_catalog");
        match builtin::function_hazard(&name.name) {
            Some(hazard) => return Some(reason_of(hazard)),
            None if own && builtin::is_safe_call(&name.name) => {}
            None => return Some(Reason::UnknownFunction),
        }
    }
    for name in &statement.relations {
        if is_temporary_schema(name) {
            return Some(Reason::TemporaryRelation);
        }
        if let Some(hazard) = builtin::relation_hazard(&name.name) {
            return Some(reason_of(hazard));
        }
        // SERIAL columns and most people name sequences so.
        if name.name.ends_with("_seq") {
            return Some(Reason::SequenceRelation);
        }
    }
    let column_notation = |name: &str| {
        matches!(name, "nextval" | "currval" | "pg_notify")
            || name.starts_with("pg_advisory_")
            || name.starts_with("pg_try_advisory_")
    };
    if statement.identifiers.iter().any(|name| column_notation(name)) {
        return Some(Reason::SequenceFunction);
    }
    None
}
