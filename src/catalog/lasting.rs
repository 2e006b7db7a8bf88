//! What may leave something with the session that runs it: a setting, a session lock, a temporary table, a
//! statement that is prepared, a channel that is listened to.
//!
//! A text shows what it does itself, not what the functions do that it calls, or that triggers, defaults, rules,
//! checks, policies, views and operators call for it. A closure over names, as that of the hazards: whatever reaches
//! a source with a word that leaves something is taken to leave something, whichever of several things of a name is
//! meant. Errs toward more; what only writes rows leaves nothing.

use rustc_hash::{FxHashMap, FxHashSet};

use super::body::{Body, WordId};
use super::builtin;
use super::node_tree::{Oid, References};
use super::rows::{FIRST_NORMAL_OID, Relation, Rows};

/// PostgreSQL's own functions that do, where a source calls them. What a text calls by itself is seen there.
const OWN: &[&str] = &[
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "pg_advisory_lock",
    "pg_advisory_lock_shared",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "pg_try_advisory_lock",
    "pg_try_advisory_lock_shared",
    "query_to_xml",
    "query_to_xml_and_xmlschema",
    "query_to_xmlschema",
    "set_config",
    "ts_stat",
];

/// The names of all that may leave something.
pub(super) fn names(rows: &Rows) -> FxHashSet<Box<str>> {
    let mut found = Found {
        rows,
        named: rows.relations.iter().map(|relation| (relation.oid, relation)).collect(),
        functions: FxHashSet::default(),
        relations: FxHashSet::default(),
        types: FxHashSet::default(),
        words: OWN.iter().filter_map(|name| rows.words.find(name)).collect(),
        names: FxHashSet::default(),
    };
    loop {
        let before = found.size();
        found.add_functions();
        found.add_types_and_operators();
        found.add_relations();
        if found.size() == before {
            return found.names;
        }
    }
}

struct Found<'a> {
    rows: &'a Rows,
    named: FxHashMap<Oid, &'a Relation>,
    functions: FxHashSet<Oid>,
    relations: FxHashSet<Oid>,
    types: FxHashSet<Oid>,
    /// The names of all of them, as far as sources have them.
    words: FxHashSet<WordId>,
    names: FxHashSet<Box<str>>,
}

impl Found<'_> {
    fn size(&self) -> usize {
        self.functions.len() + self.relations.len() + self.types.len() + self.names.len()
    }

    fn name(&mut self, name: &str) {
        self.words.extend(self.rows.words.find(name));
        if !self.names.contains(name) {
            self.names.insert(name.into());
        }
    }

    fn add_functions(&mut self) {
        let rows = self.rows;
        for function in rows.functions.iter().filter(|function| function.oid >= FIRST_NORMAL_OID) {
            let default = |tree: &References| self.is_reached_by(tree);
            let leaves = match &function.body {
                Some(body) => self.is_in(body),
                // In C, or a language that is not read.
                None => function.volatile && !builtin::is_harmless_volatile(&function.name),
            };
            if leaves || function.defaults.as_ref().is_some_and(default) {
                self.functions.insert(function.oid);
                self.name(&function.name);
            }
        }
        for (oid, body) in &rows.trigger_functions {
            if body.as_ref().is_none_or(|body| self.is_in(body)) {
                self.functions.insert(*oid);
            }
        }
        for (aggregate, parts) in &rows.aggregates {
            if parts.iter().any(|part| self.functions.contains(part)) {
                self.functions.insert(*aggregate);
                if let Some(function) = rows.functions.iter().find(|f| f.oid == *aggregate) {
                    self.name(&function.name);
                }
            }
        }
    }

    fn is_in(&self, body: &Body) -> bool {
        body.lasting || body.words.iter().any(|word| self.words.contains(word))
    }

    fn is_reached_by(&self, tree: &References) -> bool {
        tree.functions.iter().any(|oid| self.functions.contains(oid))
            || tree.types.iter().any(|oid| self.types.contains(oid))
            || tree.relations.iter().any(|oid| self.relations.contains(oid))
    }

    fn add_types_and_operators(&mut self) {
        let rows = self.rows;
        for operator in &rows.operators {
            if self.functions.contains(&operator.function) {
                self.name(&operator.name);
            }
        }
        let mut found: Vec<Oid> = Vec::new();
        for (domain, tree) in &rows.checks {
            if self.is_reached_by(tree) {
                found.push(*domain);
            }
        }
        for (source, target, function) in &rows.casts {
            if self.functions.contains(function) {
                found.extend([*source, *target]);
            }
        }
        self.types.extend(found);
        for kind in &rows.types {
            if self.types.contains(&kind.oid) || self.types.contains(&kind.made_of) {
                self.types.insert(kind.oid);
                self.name(&kind.name);
            }
        }
    }

    fn add_relations(&mut self) {
        let rows = self.rows;
        for (relation, function) in &rows.triggers {
            if self.functions.contains(function) {
                self.add_relation(*relation);
            }
        }
        for (relation, tree) in rows.views.iter().chain(&rows.attached) {
            if !self.relations.contains(relation) && self.is_reached_by(tree) {
                self.add_relation(*relation);
            }
        }
        for (relation, kind) in &rows.columns {
            if self.types.contains(kind) {
                self.add_relation(*relation);
            }
        }
        // Rows of a parent are its children's, and what is done to them goes on to those that follow.
        for (one, other) in &rows.children {
            for (from, to) in [(one, other), (other, one)] {
                if self.relations.contains(from) {
                    self.add_relation(*to);
                }
            }
        }
        for (referenced, follower) in &rows.followers {
            if self.relations.contains(follower) {
                self.add_relation(*referenced);
            }
        }
    }

    fn add_relation(&mut self, oid: Oid) {
        if self.relations.insert(oid)
            && let Some(relation) = self.named.get(&oid)
        {
            let name = &relation.name;
            self.name(name);
        }
    }
}
