//! Which rules can never match, and which rule is in their way. For `causeway check`.

use crate::config::settings::{Consistency, Rule, RuleTarget};
use crate::sql::statement::{Class, Name, Script};

use super::rules::{covers, name_of};

/// What is wrong with a rule. Rules are named as in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleProblem {
    /// An earlier rule takes everything that it would.
    #[error("rule \"{rule}\" can never match: rule \"{by}\" before it matches all that it does")]
    Shadowed {
        /// The rule.
        rule: String,
        /// The one before it.
        by: String,
    },
    /// Its example names no such table.
    #[error(
        "rule \"{rule}\" can never match: its example statement does not name the table \"{table}\""
    )]
    ExampleWithoutTable {
        /// The rule.
        rule: String,
        /// Its table.
        table: String,
    },
    /// Its example calls no such function.
    #[error("rule \"{rule}\" can never match: its example statement does not call \"{function}\"")]
    ExampleWithoutFunction {
        /// The rule.
        rule: String,
        /// Its function.
        function: String,
    },
    /// Its example holds no statement.
    #[error("rule \"{rule}\" can never match: its example is empty")]
    EmptyExample {
        /// The rule.
        rule: String,
    },
    /// Its example is known to write, and it sends to replicas.
    #[error(
        "rule \"{rule}\" sends nothing anywhere: its example writes, and no rule moves a write to a \
         replica"
    )]
    MovesWrite {
        /// The rule.
        rule: String,
    },
    /// It gives replicas a limit, and sends to the primary.
    #[error("rule \"{rule}\" limits the lag of replicas, and sends to the primary")]
    LagOfPrimary {
        /// The rule.
        rule: String,
    },
}

/// Looks through the rules in order; `read` gives the facts of an example.
#[must_use]
pub fn rule_problems(rules: &[Rule], read: impl Fn(&str) -> Script) -> Vec<RuleProblem> {
    let mut problems = Vec::new();
    let examples: Vec<Option<Script>> =
        rules.iter().map(|rule| rule.statement.as_deref().map(&read)).collect();
    for (number, rule) in rules.iter().enumerate() {
        if let Some(example) = &examples[number] {
            example_problems(rule, example, &mut problems);
        }
        let primary = rule.target == Some(RuleTarget::Primary)
            || rule.consistency == Some(Consistency::Primary);
        if primary && rule.max_lag.is_some() {
            problems.push(RuleProblem::LagOfPrimary { rule: rule.name.clone() });
        }
        let shadow = rules[..number].iter().zip(&examples).find(|(earlier, example)| {
            takes_all(earlier, example.as_ref(), rule, examples[number].as_ref())
        });
        if let Some((earlier, _)) = shadow {
            let (rule, by) = (rule.name.clone(), earlier.name.clone());
            problems.push(RuleProblem::Shadowed { rule, by });
        }
    }
    problems
}

fn example_problems(rule: &Rule, example: &Script, problems: &mut Vec<RuleProblem>) {
    let name = || rule.name.clone();
    if example.statements.is_empty() {
        problems.push(RuleProblem::EmptyExample { rule: name() });
        return;
    }
    if let Some(table) = &rule.table
        && !names_table(example, &name_of(table))
    {
        problems.push(RuleProblem::ExampleWithoutTable { rule: name(), table: table.clone() });
    }
    if let Some(function) = &rule.function
        && !calls_function(example, &name_of(function))
    {
        let function = function.clone();
        problems.push(RuleProblem::ExampleWithoutFunction { rule: name(), function });
    }
    let writes = example.statements.iter().any(|statement| {
        matches!(
            statement.class,
            Class::Write | Class::LockingRead | Class::Ddl | Class::CopyIn | Class::Maintenance
        )
    });
    let toward_replica = !matches!(rule.target, None | Some(RuleTarget::Primary));
    if writes && toward_replica {
        problems.push(RuleProblem::MovesWrite { rule: name() });
    }
}

fn names_table(script: &Script, table: &Name) -> bool {
    let mut relations = script.statements.iter().flat_map(|statement| &statement.relations);
    relations.any(|relation| covers(table, relation))
}

fn calls_function(script: &Script, function: &Name) -> bool {
    let mut calls = script.statements.iter().flat_map(|statement| &statement.calls);
    calls.any(|call| covers(function, &call.name))
}

/// Whether every statement that `later` matches is matched by `earlier`: each condition of the
/// earlier rule is absent, or implied by the later one's.
fn takes_all(
    earlier: &Rule,
    earlier_example: Option<&Script>,
    later: &Rule,
    later_example: Option<&Script>,
) -> bool {
    let same = |one: &Option<String>, two: &Option<String>| one.is_none() || one == two;
    let table = earlier.table.as_deref().is_none_or(|wanted| {
        let wanted = name_of(wanted);
        later.table.as_deref().is_some_and(|table| implies(&name_of(table), &wanted))
            || later_example.is_some_and(|example| names_table(example, &wanted))
    });
    let function = earlier.function.as_deref().is_none_or(|wanted| {
        let wanted = name_of(wanted);
        later.function.as_deref().is_some_and(|function| implies(&name_of(function), &wanted))
            || later_example.is_some_and(|example| calls_function(example, &wanted))
    });
    let shape = earlier_example
        .is_none_or(|wanted| later_example.is_some_and(|example| example.shape == wanted.shape));
    same(&earlier.user, &later.user)
        && same(&earlier.database, &later.database)
        && same(&earlier.application_name, &later.application_name)
        && table
        && function
        && shape
}

/// Whether whatever `narrow` means is also meant by `wide`.
fn implies(narrow: &Name, wide: &Name) -> bool {
    narrow.name == wide.name && (wide.schema.is_none() || wide.schema == narrow.schema)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::analyze;
    use crate::sql::statement::Lexis;

    fn problems(rules: &[Rule]) -> Vec<String> {
        let read = |text: &str| analyze(text.as_bytes(), Lexis::default());
        rule_problems(rules, read).iter().map(ToString::to_string).collect()
    }

    fn rule(name: &str) -> Rule {
        Rule { name: name.into(), target: Some(RuleTarget::Replica), ..Rule::default() }
    }

    #[test]
    fn names_the_rule_in_the_way() {
        let wide = Rule { table: Some("jobs".into()), ..rule("wide") };
        let narrow =
            Rule { table: Some("queue.jobs".into()), user: Some("u".into()), ..rule("narrow") };
        let all = [wide.clone(), narrow.clone()];
        assert_eq!(
            problems(&all),
            ["rule \"narrow\" can never match: rule \"wide\" before it matches all that it does"]
        );
        assert!(problems(&[narrow, wide]).is_empty());
        let example =
            Rule { statement: Some("select * from jobs where id = 1".into()), ..rule("one") };
        let other = Rule { statement: Some("SELECT * FROM jobs WHERE id=2".into()), ..rule("two") };
        assert_eq!(problems(&[example, other]).len(), 1);
        assert_eq!(
            problems(&[rule("everything"), Rule { database: Some("d".into()), ..rule("x") }]).len(),
            1
        );
    }

    #[test]
    fn examples_must_fit_the_other_conditions() {
        let example = |text: &str| Rule { statement: Some(text.into()), ..rule("r") };
        let table = Rule { table: Some("t".into()), ..example("select 1 from u") };
        let function = Rule { function: Some("f".into()), ..example("select g()") };
        for (bad, word) in [
            (table, "does not name"),
            (function, "does not call"),
            (example(" ; "), "is empty"),
            (example("update t set a = 1"), "writes"),
        ] {
            let found = problems(&[bad]);
            assert!(found.len() == 1 && found[0].contains(word), "{found:?}");
        }
        let fits = Rule { table: Some("t".into()), ..example("select 1 from s.t") };
        assert!(problems(&[fits]).is_empty());
    }
}
