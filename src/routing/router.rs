//! What all sessions share for routing, and the memory of decisions already made.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;

use super::decide::{Asked, decide};
use super::decision::Decision;
use super::learned::LearnedShapes;
use super::rules::{CompiledRules, SafeFunctions};
use crate::catalog::Catalog;
use crate::config::settings::{self, Consistency, TimeLimits};
use crate::sql::statement::{Hints, RouteHint, Script};

/// Decisions remembered.
const MEMORY: usize = 16_384;

/// Rules, vouched functions, learned shapes. One per configuration; a reload makes another, which
/// takes the learned shapes along.
#[derive(Debug)]
pub struct Router {
    rules: CompiledRules,
    safe_functions: SafeFunctions,
    learned: Arc<LearnedShapes>,
    /// By shape, and by a hash over everything else that the decision depends on. The hash is
    /// keyed at random, so that no client can aim at another's entry.
    decisions: Cache<(u128, u64), Decision>,
    hasher: RandomState,
}

/// What a decision depends on, of the session that asks.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, each with its own name")]
pub struct SessionView<'a> {
    /// The database's catalog, if it is loaded.
    pub catalog: Option<&'a Catalog>,
    /// Its name.
    pub database: &'a str,
    /// The current user.
    pub user: &'a str,
    /// `application_name`
    pub application_name: &'a str,
    /// `search_path`, if the session has set one.
    pub search_path: Option<&'a str>,
    /// `SET causeway.route`
    pub route: Option<RouteHint>,
    /// `SET causeway.consistency`
    pub consistency: Option<Consistency>,
    /// `SET causeway.max_lag`
    pub max_lag: Option<Duration>,
    /// `default_transaction_isolation` is serializable.
    pub default_isolation_serializable: bool,
    /// `client_encoding` is UTF8.
    pub names_are_utf8: bool,
    /// The session may have temporary relations.
    pub temp_names_possible: bool,
}

/// Everything that a decision depends on besides the script, as one number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Circumstances(u64);

impl Router {
    /// Compiles `[routing]`; `shape_of` gives the shape of a rule's example statement.
    #[must_use]
    pub fn new(
        routing: &settings::Routing,
        learned: Arc<LearnedShapes>,
        shape_of: impl Fn(&str) -> u128,
    ) -> Self {
        Self {
            rules: CompiledRules::compile(&routing.rules, shape_of),
            safe_functions: SafeFunctions::new(&routing.safe_functions),
            learned,
            decisions: Cache::new(MEMORY),
            hasher: RandomState::new(),
        }
    }

    /// Where the script goes. A shape that was decided before in the same circumstances costs a
    /// hash and a look-up.
    #[must_use]
    pub fn decide(&self, script: &Script, view: &SessionView<'_>) -> Decision {
        self.decide_under(self.circumstances(view), script, view)
    }

    /// The same for a caller that keeps the [`circumstances`](Self::circumstances) of its view.
    #[must_use]
    pub fn decide_under(
        &self,
        circumstances: Circumstances,
        script: &Script,
        view: &SessionView<'_>,
    ) -> Decision {
        let asked = self.asked(view);
        // Hints are not part of the shape.
        if script.hints != Hints::default() {
            return decide(script, &asked);
        }
        let key = (script.shape, circumstances.0);
        if let Some(decision) = self.decisions.get(&key) {
            return decision;
        }
        let decision = decide(script, &asked);
        self.decisions.insert(key, decision);
        decision
    }

    /// The whole of what a decision depends on, for [`super::decide_statement`].
    #[must_use]
    pub fn asked<'a>(&'a self, view: &SessionView<'a>) -> Asked<'a> {
        Asked {
            catalog: view.catalog,
            catalog_needed: true,
            database: view.database,
            user: view.user,
            application_name: view.application_name,
            search_path: view.search_path,
            route: view.route,
            consistency: view.consistency,
            max_lag: view.max_lag,
            rules: &self.rules,
            learned: &self.learned,
            safe_functions: &self.safe_functions,
            default_isolation_serializable: view.default_isolation_serializable,
            names_are_utf8: view.names_are_utf8,
            temp_names_possible: view.temp_names_possible,
        }
    }

    /// How long the script may take by the first rule that matches it. Not remembered: asked only
    /// while some rule limits times.
    #[must_use]
    pub fn times(&self, script: &Script, view: &SessionView<'_>) -> TimeLimits {
        let matched = self.rules.find(&script.statements, script.shape, &self.asked(view));
        matched.map_or_else(TimeLimits::default, |matched| matched.rule.times)
    }

    /// The rules.
    #[must_use]
    pub const fn rules(&self) -> &CompiledRules {
        &self.rules
    }

    /// The shapes that a replica has refused.
    #[must_use]
    pub const fn learned(&self) -> &Arc<LearnedShapes> {
        &self.learned
    }

    /// What a decision depends on besides the shape. They hold until something of the view changes,
    /// the catalog's version, or the version of the learned shapes.
    #[must_use]
    pub fn circumstances(&self, view: &SessionView<'_>) -> Circumstances {
        let application = if self.rules.by_application { view.application_name } else { "" };
        Circumstances(self.hasher.hash_one((
            view.catalog.map_or(0, Catalog::version),
            self.learned.version(),
            view.database,
            view.user,
            application,
            view.search_path,
            (view.route, view.consistency, view.max_lag),
            view.default_isolation_serializable,
            view.names_are_utf8,
            view.temp_names_possible,
        )))
    }
}
