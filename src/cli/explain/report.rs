//! The form of `causeway explain` for people: what the text does, what its names mean, what follows,
//! and what hints and rules made of it.

use std::io::{self, Write};

use crate::routing::{Asked, CompiledRules, Decision, Target, decide, decide_statement, findings};
use crate::sql::statement::{Hints, RouteHint, Script, SessionEffect, Statement};

/// The text with every run of white space as one blank.
pub fn one_line(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Everything that is told of one query string.
pub struct Report<'a> {
    /// The string.
    pub sql: &'a str,
    /// Its facts.
    pub script: &'a Script,
    /// What else the decision depends on.
    pub asked: &'a Asked<'a>,
    /// No catalog was asked for.
    pub offline: bool,
}

impl Report<'_> {
    /// Writes it, ending with the decision.
    pub fn write(&self, decision: Decision, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "statement  {}", one_line(self.sql))?;
        let several = self.script.statements.len() > 1;
        for (number, statement) in self.script.statements.iter().enumerate() {
            if several {
                let alone = decide_statement(self.script, statement, self.asked);
                let (target, reason) = (alone.target.as_str(), alone.reason);
                writeln!(out, "part {:<5} {target} by itself ({reason})", number + 1)?;
            }
            self.write_facts(statement, out)?;
        }
        self.write_catalog(out)?;
        self.write_wishes(decision, out)?;
        let Decision { target, reason, .. } = decision;
        writeln!(out, "goes to    {}", target.as_str())?;
        writeln!(out, "because    {reason}: {}", reason.meaning())
    }

    fn write_facts(&self, statement: &Statement, out: &mut impl Write) -> io::Result<()> {
        let understood = if statement.understood { "" } else { ", not understood" };
        let planned = if statement.planned_only { ", planned and not run" } else { "" };
        writeln!(
            out,
            "facts      {} ({:?}{planned}{understood})",
            statement.verb, statement.class
        )?;
        for effect in &statement.session {
            writeln!(out, "           {}", in_words(effect))?;
        }
        for finding in findings(statement, self.asked) {
            let named = matches!(finding.kind, "function" | "relation");
            if !named && finding.reason.is_none() {
                continue;
            }
            let schema = finding.schema.map(|schema| format!("{schema}.")).unwrap_or_default();
            let verdict = match finding.reason {
                Some(reason) => format!("{reason}: {}", reason.meaning()),
                None => "safe on a replica".to_owned(),
            };
            writeln!(out, "           {} {schema}{}  {verdict}", finding.kind, finding.name)?;
        }
        if let Some(inner) = &statement.inner {
            self.write_facts(inner, out)?;
        }
        Ok(())
    }

    fn write_catalog(&self, out: &mut impl Write) -> io::Result<()> {
        let database = self.asked.database;
        match self.asked.catalog {
            Some(catalog) => {
                let (functions, relations) = catalog.size();
                writeln!(
                    out,
                    "catalog    database {database}: {functions} functions and {relations} relations \
                     beside PostgreSQL's own"
                )
            }
            None if self.offline => writeln!(out, "catalog    not asked (--offline)"),
            None if !self.asked.catalog_needed => {
                writeln!(out, "catalog    there is no database {database}")
            }
            None => writeln!(out, "catalog    not loaded"),
        }
    }

    /// Hint and rule, and whether they changed anything.
    fn write_wishes(&self, decision: Decision, out: &mut impl Write) -> io::Result<()> {
        let rules = CompiledRules::default();
        let facts = Script { hints: Hints::default(), ..self.script.clone() };
        let facts = decide(&facts, &Asked { rules: &rules, ..*self.asked });
        let rule = decision.rule.and_then(|id| self.asked.rules.get(id));
        let hint = self.script.hints.route;
        if hint.is_some() || rule.is_some() {
            writeln!(out, "by facts   {} ({})", facts.target.as_str(), facts.reason)?;
        }
        if let Some(hint) = hint {
            let (name, wanted) = match hint {
                RouteHint::Primary => ("primary", Target::Primary),
                RouteHint::Replica => ("replica", Target::Replica),
            };
            writeln!(out, "hint       {name}{}", outcome(wanted, decision, facts))?;
        }
        match rule {
            Some(rule) => writeln!(out, "rule       {}", rule.name)?,
            None => writeln!(out, "rule       none matches")?,
        }
        if let Some(max_lag) = decision.max_lag {
            writeln!(out, "max lag    {}", humantime::format_duration(max_lag))?;
        }
        if let Some(level) = decision.consistency {
            writeln!(out, "level      {}", format!("{level:?}").to_lowercase())?;
        }
        Ok(())
    }
}

/// What became of a hint.
fn outcome(wanted: Target, decision: Decision, facts: Decision) -> &'static str {
    if decision.target == wanted {
        if facts.target == wanted { ", as by the facts" } else { "" }
    } else if facts.reason.yields_to_replica() {
        ", overruled"
    } else {
        ", which cannot move this"
    }
}

/// What a statement does to its session.
fn in_words(effect: &SessionEffect) -> String {
    let fixed = match effect {
        SessionEffect::Set { name, local, to_default } => {
            let scope = if *local { " until the transaction ends" } else { "" };
            let verb = if *to_default { "resets" } else { "sets" };
            return format!("{verb} {name}{scope}");
        }
        SessionEffect::Reset(name) => return format!("resets {name}"),
        SessionEffect::Prepare(name) => return format!("prepares {name}"),
        SessionEffect::Execute(name) => return format!("executes {name}, as prepared before"),
        SessionEffect::Deallocate(name) => return format!("forgets the prepared {name}"),
        SessionEffect::Declare { hold: true } => "opens a cursor that outlives its transaction",
        SessionEffect::Declare { hold: false } => "opens a cursor",
        SessionEffect::ResetAll => "resets every setting",
        SessionEffect::SetConfig => "sets what set_config() is given",
        SessionEffect::DiscardAll => "discards all of the session's state",
        SessionEffect::DiscardPlans => "discards plans",
        SessionEffect::DiscardSequences => "discards what is known of sequences",
        SessionEffect::DiscardTemp => "drops the session's temporary relations",
        SessionEffect::DeallocateAll => "forgets all that is prepared",
        SessionEffect::CloseCursor => "closes cursors",
        SessionEffect::Listen => "listens",
        SessionEffect::Unlisten => "listens no more",
        SessionEffect::CreateTemp => "makes a temporary relation",
        SessionEffect::AdvisoryLock => "takes a session's advisory lock",
        SessionEffect::AdvisoryUnlock => "gives a session's advisory lock back",
        SessionEffect::SequenceAdvance => "advances a sequence",
        SessionEffect::SequenceRead => "reads what the session knows of a sequence",
        SessionEffect::Constraints => "sets when constraints are checked",
        SessionEffect::Load => "loads a library",
        SessionEffect::Opaque => "may do anything to the session",
    };
    fixed.to_owned()
}
