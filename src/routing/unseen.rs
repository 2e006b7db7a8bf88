//! What running a statement does to its session that its text does not show: whether it may leave something there, and
//! whether it may move a sequence. Remembered with the decision, so that no query pays for it.

use super::decide::Asked;
use crate::catalog::{Catalog, builtin};
use crate::sql::statement::{Call, Class, Name, Script, SessionEffect, Statement};

/// Whether a script may leave something with its session.
pub(super) fn may_leave(script: &Script, asked: &Asked<'_>) -> bool {
    // What is defined first is not in the catalog by which the rest is judged.
    let defines = |statement: &Statement| statement.class == Class::Ddl;
    script.statements.len() > 1 && script.statements.iter().any(defines)
        || script.statements.iter().any(|statement| leaves(statement, asked.catalog))
}

fn leaves(statement: &Statement, catalog: Option<&Catalog>) -> bool {
    // What an EXECUTE beside others executes is not looked up.
    let hides = |effect: &SessionEffect| {
        matches!(effect, SessionEffect::Execute(_) | SessionEffect::Opaque)
    };
    if matches!(statement.class, Class::Procedure | Class::Unknown)
        || statement.session.iter().any(hides)
    {
        return true;
    }
    match catalog {
        Some(catalog) => catalog.may_leave(statement),
        None if matches!(statement.class, Class::Ddl | Class::Maintenance) => false,
        // What is written may have a trigger, and what is read may be a view.
        None => {
            matches!(statement.class, Class::Write | Class::CopyIn)
                || !statement.relations.iter().all(is_of_postgres)
                || !statement.operators.is_empty()
                || statement.calls.iter().any(is_unknown)
                || statement.inner.as_deref().is_some_and(|inner| leaves(inner, None))
        }
    }
}

/// Whether a script may move a sequence, so that currval and lastval change.
pub(super) fn may_move(script: &Script, asked: &Asked<'_>) -> bool {
    script.statements.iter().any(|statement| moves(statement, asked.catalog))
}

fn moves(statement: &Statement, catalog: Option<&Catalog>) -> bool {
    let runs = |effect: &SessionEffect| {
        matches!(
            effect,
            SessionEffect::SequenceAdvance | SessionEffect::Execute(_) | SessionEffect::Opaque
        )
    };
    if matches!(statement.class, Class::Ddl | Class::Procedure | Class::Unknown)
        || statement.session.iter().any(runs)
    {
        return true;
    }
    let writes = matches!(statement.class, Class::Write | Class::CopyIn);
    let inserts = !matches!(statement.verb, "UPDATE" | "DELETE" | "TRUNCATE");
    match catalog {
        Some(catalog) => {
            let moving = |name: &Name| catalog.moves_sequence(name, inserts);
            writes && statement.relations.iter().any(moving) || catalog.may_move_sequence(statement)
        }
        None => {
            writes
                || statement.calls.iter().any(is_unknown)
                || statement.inner.as_deref().is_some_and(|inner| moves(inner, None))
        }
    }
}

fn is_unknown(call: &Call) -> bool {
    let foreign = call.name.schema.as_deref().is_some_and(|schema| schema != "pg_catalog");
    foreign || builtin::call_may_leave(&call.name.name, call.arity)
}

fn is_of_postgres(name: &Name) -> bool {
    match name.schema.as_deref() {
        Some(schema) => matches!(schema, "pg_catalog" | "information_schema"),
        None => name.name.starts_with("pg_"),
    }
}
