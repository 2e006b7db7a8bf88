//! What a statement's own facts, its names and the catalog say of it, before any hint or rule.

use super::decide::Asked;
use super::decision::{Decision, Reason, Target};
use crate::catalog::{Catalog, Hazard, SearchPath, Verdict, builtin};
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
        Hazard::VolatileFunction | Hazard::UnderstatedFunction => Reason::VolatileFunction,
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
        Some(SessionEffect::Constraints) => (Target::Session, Reason::SetConstraints),
        Some(SessionEffect::Load) => (Target::Primary, Reason::Load),
        _ => (Target::Primary, Reason::NotUnderstood),
    };
    Decision::new(target, reason)
}

/// SHOW: of a setting that is the session's own, or the same everywhere.
fn show(statement: &Statement) -> Decision {
    match statement.shown.as_deref() {
        Some(name) if name.starts_with("causeway.") => {
            Decision::new(Target::Proxy, Reason::ProxyShow)
        }
        Some(name) if builtin::is_plain_setting(name) => Decision::replica(Reason::Show),
        _ => Decision::primary(Reason::NodeSetting),
    }
}

/// DECLARE needs the node that its query needs; the others go where their cursor is.
fn cursor(statement: &Statement, asked: &Asked<'_>) -> Decision {
    if let Some(query) = &statement.inner {
        let inside = judge(query, asked);
        if inside.target == Target::Primary {
            return inside;
        }
    }
    Decision::new(Target::Session, Reason::Cursor)
}

fn read(statement: &Statement, asked: &Asked<'_>) -> Decision {
    if !statement.understood {
        return Decision::primary(Reason::NotUnderstood);
    }
    if statement.non_ascii && !asked.names_are_utf8 {
        return Decision::primary(Reason::EncodingNotAsciiSafe);
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
            SessionEffect::CreateTemp => return Decision::primary(Reason::TemporaryRelation),
            // Opaque among them: a read that does more than read was not understood.
            _ => return Decision::primary(Reason::NotUnderstood),
        }
    }
    let blocked = match asked.catalog {
        Some(catalog) => {
            let path = catalog.search_path(asked.search_path, asked.user);
            names(statement)
                .find_map(|(name, _)| by_catalog(name, statement, asked, catalog, &path))
                .or(catalog.unseen().map(reason_of))
        }
        None => names(statement)
            .find_map(|(name, _)| by_lists(name, statement, asked))
            .or(asked.catalog_needed.then_some(Reason::CatalogNotLoaded)),
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

/// Whether the name is `current_setting`: what it reads is a value, and may be a node's own. Inside
/// views, policies and functions it is left alone: there it reads what the session has set.
fn is_current_setting(name: &Name) -> bool {
    &*name.name == "current_setting" && name.schema.as_deref().is_none_or(|s| s == "pg_catalog")
}

/// Whether the name is `set_config`, which the session tracks by itself.
fn is_set_config(name: &Name) -> bool {
    &*name.name == "set_config" && name.schema.as_deref().is_none_or(|s| s == "pg_catalog")
}

fn is_temporary_schema(name: &Name) -> bool {
    name.schema.as_deref().is_some_and(|schema| schema.starts_with("pg_temp"))
}

/// A name of the statement, and what is wrong with it on a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding<'a> {
    /// The kind of name.
    pub kind: &'static str,
    /// Its schema, where one is written.
    pub schema: Option<&'a str>,
    /// The name.
    pub name: &'a str,
    /// Why it may not go to a replica; `None` where nothing speaks against it.
    pub reason: Option<Reason>,
}

/// What is known of every name in a statement, in the order in which a decision looks at them.
#[must_use]
pub fn findings<'a>(statement: &'a Statement, asked: &Asked<'_>) -> Vec<Finding<'a>> {
    let path = asked.catalog.map(|catalog| catalog.search_path(asked.search_path, asked.user));
    let known = asked.catalog.zip(path.as_ref());
    names(statement)
        .map(|(kind, name)| {
            let reason = match known {
                Some((catalog, path)) => by_catalog(kind, statement, asked, catalog, path),
                None => by_lists(kind, statement, asked),
            };
            Finding { kind: kind.word(), schema: name.0, name: name.1, reason }
        })
        .collect()
}

/// One name in a statement, as the kind of thing that it stands for.
#[derive(Clone, Copy)]
enum Named<'a> {
    Call(&'a Call),
    Relation(&'a Name),
    Operator(&'a str),
    BuiltinOperator(&'a str),
    Identifier(&'a str),
}

impl Named<'_> {
    const fn word(self) -> &'static str {
        match self {
            Self::Call(_) => "function",
            Self::Relation(_) => "relation",
            Self::Operator(_) | Self::BuiltinOperator(_) => "operator",
            Self::Identifier(_) => "identifier",
        }
    }
}

/// A name as it is written.
fn written(name: &Name) -> (Option<&str>, &str) {
    (name.schema.as_deref(), &*name.name)
}

fn names(statement: &Statement) -> impl Iterator<Item = (Named<'_>, (Option<&str>, &str))> {
    let calls = statement.calls.iter().map(move |call| (Named::Call(call), written(&call.name)));
    let relations =
        statement.relations.iter().map(move |name| (Named::Relation(name), written(name)));
    let operators = statement.operators.iter().map(|name| (Named::Operator(name), (None, &**name)));
    let builtin = statement.builtin_operators.iter();
    let operators =
        operators.chain(builtin.map(|name| (Named::BuiltinOperator(name), (None, *name))));
    let identifiers = statement.identifiers.iter();
    let identifiers = identifiers.map(|name| (Named::Identifier(name), (None, &**name)));
    calls.chain(relations).chain(operators).chain(identifiers)
}

/// What speaks against a name, with the catalog at hand.
fn by_catalog(
    named: Named<'_>,
    statement: &Statement,
    asked: &Asked<'_>,
    catalog: &Catalog,
    path: &SearchPath,
) -> Option<Reason> {
    let verdict = match named {
        Named::Call(call) if is_temporary_schema(&call.name) => {
            return Some(Reason::TemporaryRelation);
        }
        Named::Call(call) if is_set_config(&call.name) => Verdict::Safe,
        Named::Call(call) if is_current_setting(&call.name) => return Some(Reason::NodeSetting),
        Named::Call(call) => {
            let vouched = |schema: &str| asked.safe_functions.vouches(schema, &call.name.name);
            match catalog.call(call, path, vouched) {
                Verdict::Unknown => return Some(Reason::UnknownFunction),
                verdict => verdict,
            }
        }
        Named::Relation(name) if is_temporary_schema(name) => {
            return Some(Reason::TemporaryRelation);
        }
        // A relation that is not there is an error everywhere.
        Named::Relation(name) => catalog.relation(name, path),
        Named::Operator(name) | Named::BuiltinOperator(name) => {
            catalog.operator(name).map_or(Verdict::Safe, Verdict::Hazard)
        }
        // A name that is only ever called was judged with its schema and arguments.
        Named::Identifier(name)
            if asked.safe_functions.vouches_bare(name)
                || statement.calls.iter().any(|call| *call.name.name == *name) =>
        {
            Verdict::Safe
        }
        Named::Identifier(name) => catalog.identifier(name).map_or(Verdict::Safe, Verdict::Hazard),
    };
    match verdict {
        // The planner runs nothing that is VOLATILE.
        Verdict::Hazard(Hazard::VolatileFunction) if statement.planned_only => None,
        Verdict::Hazard(hazard) => Some(reason_of(hazard)),
        Verdict::Safe | Verdict::Unknown => None,
    }
}

/// What speaks against a name by the built-in lists alone.
fn by_lists(named: Named<'_>, statement: &Statement, asked: &Asked<'_>) -> Option<Reason> {
    match named {
        Named::Call(Call { name, arity }) => {
            if is_set_config(name) || asked.safe_functions.vouches_written(name) {
                return None;
            }
            if is_temporary_schema(name) {
                return Some(Reason::TemporaryRelation);
            }
            if is_current_setting(name) {
                return Some(Reason::NodeSetting);
            }
            let safe = match name.schema.as_deref() {
                None | Some("pg_catalog") => builtin::is_safe_call_of(&name.name, *arity),
                Some("information_schema") => name.name.starts_with("_pg_"),
                Some(_) => false,
            };
            match builtin::function_hazard(&name.name) {
                Some(hazard) => Some(reason_of(hazard)),
                // Somebody's own function: if it is VOLATILE, it is not run.
                None if safe || statement.planned_only => None,
                None => Some(Reason::UnknownFunction),
            }
        }
        Named::Relation(name) if is_temporary_schema(name) => Some(Reason::TemporaryRelation),
        Named::Relation(name) => match builtin::relation_hazard(&name.name) {
            Some(hazard) => Some(reason_of(hazard)),
            // SERIAL columns and most people name sequences so.
            None => name.name.ends_with("_seq").then_some(Reason::SequenceRelation),
        },
        Named::Operator(_) if statement.planned_only => None,
        Named::Operator(_) => Some(Reason::UnknownOperator),
        Named::BuiltinOperator(_) => None,
        // Functions of one argument may be called in column notation.
        Named::Identifier(name) if statement.calls.iter().any(|c| *c.name.name == *name) => None,
        Named::Identifier(name) => builtin::is_hazard_in_column_notation(name)
            .then(|| builtin::function_hazard(name).map(reason_of))
            .flatten(),
    }
}
