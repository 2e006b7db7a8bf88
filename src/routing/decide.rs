//! Where a query string goes: the facts of each statement, then hints, the session's route, rules.
//!
//! Pure: the same script and the same [`Asked`] give the same decision. Default deny: a statement
//! goes to a replica only if every part of it is known to be safe there.

use std::time::Duration;

use super::decision::{Decision, Reason, Target};
use super::facts::judge;
use super::learned::LearnedShapes;
use super::rules::{CompiledRules, Matched, SafeFunctions};
use super::unseen;
use crate::catalog::Catalog;
use crate::config::settings::{Consistency, RuleTarget};
use crate::sql::statement::{RouteHint, Script, Statement};

/// Everything besides the text that a decision depends on.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, each with its own name")]
pub struct Asked<'a> {
    /// The database's catalog, if it is loaded.
    pub catalog: Option<&'a Catalog>,
    /// Whether a read without a catalog goes to the primary. False only for `explain --offline`.
    pub catalog_needed: bool,
    /// The session's database.
    pub database: &'a str,
    /// The role whose search path counts: the session's current user.
    pub user: &'a str,
    /// The session's `application_name`.
    pub application_name: &'a str,
    /// The session's `search_path`, if it has set one.
    pub search_path: Option<&'a str>,
    /// `SET causeway.route`.
    pub route: Option<RouteHint>,
    /// `SET causeway.consistency`.
    pub consistency: Option<Consistency>,
    /// `SET causeway.max_lag`.
    pub max_lag: Option<Duration>,
    /// `[[routing.rule]]`.
    pub rules: &'a CompiledRules,
    /// Shapes that a replica has refused.
    pub learned: &'a LearnedShapes,
    /// `safe_functions`.
    pub safe_functions: &'a SafeFunctions,
    /// `default_transaction_isolation` is serializable: no replica can serve that.
    pub default_isolation_serializable: bool,
    /// Identifiers beyond ASCII stand for themselves: `client_encoding` is UTF8.
    pub names_are_utf8: bool,
    /// The session may have temporary relations that hide permanent ones. Such a session is
    /// pinned; where it asks all the same, names of relations prove nothing.
    pub temp_names_possible: bool,
}

/// Decides over a whole query string.
#[must_use]
pub fn decide(script: &Script, asked: &Asked<'_>) -> Decision {
    let facts = judge_script(script, asked);
    let leaves = unseen::may_leave(script, asked);
    let moves = unseen::may_move(script, asked);
    Decision { leaves, moves, ..settle(facts, script, &script.statements, asked) }
}

/// Decides over one statement as if it stood alone in its string; hints are those of the script.
#[must_use]
pub fn decide_statement(script: &Script, statement: &Statement, asked: &Asked<'_>) -> Decision {
    settle(judge_one(statement, asked), script, std::slice::from_ref(statement), asked)
}

fn judge_one(statement: &Statement, asked: &Asked<'_>) -> Decision {
    let decision = judge(statement, asked);
    let hidden = asked.temp_names_possible && !statement.relations.is_empty();
    if decision.target == Target::Replica && hidden {
        return Decision::primary(Reason::TemporaryRelation);
    }
    decision
}

/// The facts of a string: one statement's own; of several, a replica only if all may go there.
fn judge_script(script: &Script, asked: &Asked<'_>) -> Decision {
    match &script.statements[..] {
        [] => Decision::new(Target::Proxy, Reason::EmptyQuery),
        _ if script.is_unread() => Decision::primary(Reason::StatementTooLarge),
        [one] => judge_one(one, asked),
        several => {
            let mut decisions = several.iter().map(|statement| judge_one(statement, asked));
            let Some(first) = decisions.next() else {
                return Decision::new(Target::Proxy, Reason::EmptyQuery);
            };
            let mut alike = true;
            for decision in decisions {
                if decision.target == Target::Primary && first.target == Target::Primary {
                    continue;
                }
                alike &= decision.target == first.target;
            }
            if alike { first } else { Decision::primary(Reason::MultiStatement) }
        }
    }
}

/// Applies hints, the session's route, rules and experience to what the facts say.
fn settle(
    facts: Decision,
    script: &Script,
    statements: &[Statement],
    asked: &Asked<'_>,
) -> Decision {
    if !matches!(facts.target, Target::Primary | Target::Replica) {
        return facts;
    }
    let matched = asked.rules.find(statements, script.shape, asked);
    let mut decision = facts;
    if let Some(Matched { id, rule }) = matched {
        decision.rule = Some(id);
        decision.max_lag = rule.max_lag;
        decision.consistency = rule.consistency;
    }
    let hints = &script.hints;
    decision.max_lag = hints.max_lag.or(asked.max_lag).or(decision.max_lag);
    let hinted = hints.consistency.as_deref().and_then(consistency_of);
    decision.consistency = hinted.or(asked.consistency).or(decision.consistency);

    let wish = wish(hints.route, asked.route, matched);
    let learned = || asked.learned.contains(asked.database, script.shape);
    let (target, reason) = match (wish, facts.target) {
        (Some((Target::Replica, _)), _) if facts.reason.yields_to_replica() && learned() => {
            (Target::Primary, Reason::LearnedPrimary)
        }
        (Some((Target::Primary, why)), Target::Replica) => (Target::Primary, why),
        (Some((Target::Replica, why)), _) if facts.reason.yields_to_replica() => {
            (Target::Replica, why)
        }
        (_, Target::Replica) if learned() => (Target::Primary, Reason::LearnedPrimary),
        _ => (facts.target, facts.reason),
    };
    if target == Target::Replica && decision.consistency == Some(Consistency::Primary) {
        return decision.turned(Target::Primary, Reason::ConsistencyPrimary);
    }
    decision.turned(target, reason)
}

/// What somebody wants of the statement, in order of precedence.
fn wish(
    hint: Option<RouteHint>,
    route: Option<RouteHint>,
    matched: Option<Matched<'_>>,
) -> Option<(Target, Reason)> {
    let toward = |route| match route {
        RouteHint::Primary => Target::Primary,
        RouteHint::Replica => Target::Replica,
    };
    if let Some(hint) = hint {
        let reason = match hint {
            RouteHint::Primary => Reason::HintPrimary,
            RouteHint::Replica => Reason::HintReplica,
        };
        return Some((toward(hint), reason));
    }
    if let Some(route) = route {
        return Some((toward(route), Reason::SessionRoute));
    }
    let target = match matched?.rule.target.as_ref()? {
        RuleTarget::Primary => Target::Primary,
        RuleTarget::Replica | RuleTarget::Node(_) | RuleTarget::Zone(_) => Target::Replica,
    };
    Some((target, Reason::Rule))
}

/// The level of that name.
#[must_use]
pub fn consistency_of(name: &str) -> Option<Consistency> {
    match name {
        "eventual" => Some(Consistency::Eventual),
        "session" => Some(Consistency::Session),
        "global" => Some(Consistency::Global),
        "primary" => Some(Consistency::Primary),
        _ => None,
    }
}
