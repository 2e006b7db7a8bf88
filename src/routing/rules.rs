//! `[[routing.rule]]`: compiled for matching. The first rule that matches decides.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashSet;

use super::decide::Asked;
use super::decision::RuleId;
use crate::cluster::NodeView;
use crate::config::settings::{Consistency, Rule, RuleTarget, TimeLimits};
use crate::sql::statement::{Name, Statement};

/// Rules ready to be matched.
#[derive(Debug, Default)]
pub struct CompiledRules {
    rules: Vec<CompiledRule>,
    /// Whether any rule asks for `application_name`, so that decisions depend on it.
    pub(super) by_application: bool,
    /// Whether any rule limits times, so that requests inside transactions are matched as well.
    pub timed: bool,
}

/// One rule; conditions that are absent hold.
#[derive(Debug)]
pub struct CompiledRule {
    /// As in the file.
    pub name: Arc<str>,
    user: Option<String>,
    database: Option<String>,
    application_name: Option<String>,
    table: Option<Name>,
    function: Option<Name>,
    shape: Option<u128>,
    /// Where it sends what it matches.
    pub target: Option<RuleTarget>,
    /// The most that a replica may lag.
    pub max_lag: Option<Duration>,
    /// The consistency level.
    pub consistency: Option<Consistency>,
    /// How long what it matches may take.
    pub times: TimeLimits,
}

/// A rule that matched.
#[derive(Debug, Clone, Copy)]
pub struct Matched<'a> {
    /// Its place.
    pub id: RuleId,
    /// The rule.
    pub rule: &'a CompiledRule,
}

impl CompiledRules {
    /// Compiles the rules of a file; `shape_of` gives the shape of an example statement. Rules
    /// beyond 65,535 are left out (`check` refuses such a file).
    #[must_use]
    pub fn compile(rules: &[Rule], shape_of: impl Fn(&str) -> u128) -> Self {
        let compile = |rule: &Rule| CompiledRule {
            name: rule.name.as_str().into(),
            user: rule.user.clone(),
            database: rule.database.clone(),
            application_name: rule.application_name.clone(),
            table: rule.table.as_deref().map(name_of),
            function: rule.function.as_deref().map(name_of),
            shape: rule.statement.as_deref().map(&shape_of),
            target: rule.target.clone(),
            max_lag: rule.max_lag,
            consistency: rule.consistency,
            times: rule.times,
        };
        Self {
            rules: rules.iter().take(usize::from(u16::MAX)).map(compile).collect(),
            by_application: rules.iter().any(|rule| rule.application_name.is_some()),
            timed: rules.iter().any(|rule| !rule.times.is_empty()),
        }
    }

    /// The rule of that place.
    #[must_use]
    pub fn get(&self, id: RuleId) -> Option<&CompiledRule> {
        self.rules.get(usize::from(id.0))
    }

    /// Whether a node is one that the rule wants; true of every node where it wants none.
    #[must_use]
    pub fn prefers(&self, id: RuleId, node: &NodeView) -> bool {
        match self.get(id).and_then(|rule| rule.target.as_ref()) {
            Some(RuleTarget::Node(name)) => *node.name == **name,
            Some(RuleTarget::Zone(zone)) => node.zone.as_deref() == Some(zone),
            _ => true,
        }
    }

    /// The first rule that matches.
    pub(super) fn find(
        &self,
        statements: &[Statement],
        shape: u128,
        asked: &Asked<'_>,
    ) -> Option<Matched<'_>> {
        let position = self.rules.iter().position(|rule| rule.matches(statements, shape, asked))?;
        let id = RuleId(u16::try_from(position).ok()?);
        Some(Matched { id, rule: &self.rules[position] })
    }
}

impl CompiledRule {
    fn matches(&self, statements: &[Statement], shape: u128, asked: &Asked<'_>) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        let names_table = |table: &Name| {
            let mut relations = statements.iter().flat_map(|statement| &statement.relations);
            relations.any(|relation| covers(table, relation))
        };
        let calls_function = |function: &Name| {
            let mut calls = statements.iter().flat_map(|statement| &statement.calls);
            calls.any(|call| covers(function, &call.name))
        };
        same(&self.user, asked.user)
            && same(&self.database, asked.database)
            && same(&self.application_name, asked.application_name)
            && self.shape.is_none_or(|wanted| wanted == shape)
            && self.table.as_ref().is_none_or(names_table)
            && self.function.as_ref().is_none_or(calls_function)
    }
}

/// Whether a name in a rule means the name in a statement. A schema counts only where both give
/// one: which schema an unqualified name is found in is not asked here.
pub(super) fn covers(wanted: &Name, is: &Name) -> bool {
    let schema = match (&wanted.schema, &is.schema) {
        (Some(one), Some(two)) => one == two,
        _ => true,
    };
    schema && wanted.name == is.name
}

/// `name` or `schema.name`.
pub(super) fn name_of(text: &str) -> Name {
    match text.split_once('.') {
        Some((schema, name)) => Name { schema: Some(schema.into()), name: name.into() },
        None => Name { schema: None, name: text.into() },
    }
}

/// `safe_functions`: functions that the operator vouches for.
#[derive(Debug, Default)]
pub struct SafeFunctions {
    bare: FxHashSet<Box<str>>,
    qualified: FxHashSet<(Box<str>, Box<str>)>,
}

impl SafeFunctions {
    /// From `name` and `schema.name` entries, lower case.
    #[must_use]
    pub fn new(entries: &[String]) -> Self {
        let mut safe = Self::default();
        for entry in entries {
            match name_of(entry) {
                Name { schema: Some(schema), name } => drop(safe.qualified.insert((schema, name))),
                Name { schema: None, name } => drop(safe.bare.insert(name)),
            }
        }
        safe
    }

    /// Whether the function of that schema and name is vouched for.
    #[must_use]
    pub fn vouches(&self, schema: &str, name: &str) -> bool {
        self.vouches_bare(name)
            || (!self.qualified.is_empty()
                && self.qualified.iter().any(|(s, n)| &**s == schema && &**n == name))
    }

    /// Whether every function of that name is.
    #[must_use]
    pub fn vouches_bare(&self, name: &str) -> bool {
        !self.bare.is_empty() && self.bare.contains(name)
    }

    /// Whether a call as it is written may mean a function that is vouched for, where no catalog
    /// tells which function it means.
    #[must_use]
    pub fn vouches_written(&self, call: &Name) -> bool {
        match call.schema.as_deref() {
            Some(schema) => self.vouches(schema, &call.name),
            None => {
                self.vouches_bare(&call.name)
                    || self.qualified.iter().any(|(_, name)| *name == call.name)
            }
        }
    }
}
