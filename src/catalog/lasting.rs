//! What code does to its session that no text shows: what leaves something with it (a setting, a session lock, a
//! temporary table, a statement that is prepared, a channel that is listened to), and what moves a sequence.
//!
//! A text shows what it does itself, not what the functions do that it calls, or that views, policies, operators and
//! types call where it reads, and triggers, defaults, rules and checks where it writes. Two closures over names, as
//! that of the hazards: whatever reaches a source that does it is taken to do it, whichever of several things of a name
//! is meant. They err toward more; what only writes rows leaves nothing.

use rustc_hash::{FxHashMap, FxHashSet};

use super::Hazard;
use super::body::{Body, WordId};
use super::builtin;
use super::node_tree::{Oid, References};
use super::rows::{FIRST_NORMAL_OID, Relation, Rows};
use crate::sql::statement::{Class, Statement};

/// PostgreSQL's own functions that leave something. Where a text calls them by itself it is seen there.
const LEAVING: &[&str] = &[
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

/// Those that move a sequence.
const MOVING: &[&str] = &["nextval", "setval"];

/// Names of what does it.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Functions.
    functions: FxHashSet<Box<str>>,
    /// Operators.
    operators: FxHashSet<Box<str>>,
    /// What an identifier can mean: a function in column notation, a type.
    identifiers: FxHashSet<Box<str>>,
    /// Relations, where they are read.
    read: FxHashSet<Box<str>>,
    /// Relations, where they are written.
    written: FxHashSet<Box<str>>,
}

impl Names {
    /// Those of what leaves something.
    pub(super) fn leaving(rows: &Rows) -> Self {
        Closure::new(rows, LEAVING).close()
    }

    /// Those of what moves a sequence, but for the relations whose own rows do.
    pub(super) fn moving(rows: &Rows) -> Self {
        let mut closure = Closure::new(rows, MOVING);
        for (name, _) in &rows.moving {
            closure.words.written.extend(rows.words.find(name));
        }
        closure.close()
    }

    /// Whether a statement names any of them, in a place where it does it.
    pub(super) fn are_in(&self, statement: &Statement) -> bool {
        let writes = !matches!(statement.class, Class::Read | Class::Show);
        let called = |name: &str| statement.calls.iter().any(|call| *call.name.name == *name);
        let operators = statement.operators.iter().map(|name| &**name);
        let mut operators = operators.chain(statement.builtin_operators.iter().copied());
        statement.calls.iter().any(|call| self.functions.contains(&call.name.name))
            || !self.operators.is_empty() && operators.any(|name| self.operators.contains(name))
            || statement.relations.iter().any(|relation| {
                self.read.contains(&relation.name)
                    || writes && self.written.contains(&relation.name)
            })
            // PostgreSQL's own are seen where they are called.
            || statement.identifiers.iter().any(|name| {
                (self.identifiers.contains(name) || LEAVING.contains(&&**name)) && !called(name)
            })
    }
}

/// The names of a closure, as far as sources have them.
#[derive(Default)]
struct Words {
    run: FxHashSet<WordId>,
    written: FxHashSet<WordId>,
}

/// A closure that is being made.
struct Closure<'a> {
    rows: &'a Rows,
    named: FxHashMap<Oid, &'a Relation>,
    functions: FxHashSet<Oid>,
    types: FxHashSet<Oid>,
    read: FxHashSet<Oid>,
    written: FxHashSet<Oid>,
    words: Words,
    names: Names,
}

impl<'a> Closure<'a> {
    fn new(rows: &'a Rows, own: &[&str]) -> Self {
        let of_postgres = rows.functions.iter().filter(|f| f.oid < FIRST_NORMAL_OID);
        Self {
            rows,
            named: rows.relations.iter().map(|relation| (relation.oid, relation)).collect(),
            functions: of_postgres.filter(|f| own.contains(&&*f.name)).map(|f| f.oid).collect(),
            types: FxHashSet::default(),
            read: FxHashSet::default(),
            written: FxHashSet::default(),
            words: Words {
                run: own.iter().filter_map(|name| rows.words.find(name)).collect(),
                written: FxHashSet::default(),
            },
            names: Names::default(),
        }
    }

    fn close(mut self) -> Names {
        loop {
            let before = self.size();
            self.add_functions();
            self.add_types_and_operators();
            self.add_relations();
            if self.size() == before {
                return self.names;
            }
        }
    }

    fn size(&self) -> usize {
        self.functions.len()
            + self.types.len()
            + self.read.len()
            + self.written.len()
            + self.names.operators.len()
    }

    fn add_functions(&mut self) {
        let rows = self.rows;
        for function in rows.functions.iter().filter(|function| function.oid >= FIRST_NORMAL_OID) {
            let runs = match &function.body {
                Some(body) => self.is_in(body),
                // Of C only that which runs a text; another language is not read.
                None if function.shipped => {
                    builtin::function_hazard(&function.name) == Some(Hazard::SqlText)
                }
                None => true,
            };
            let default = |tree: &References| self.is_reached_by(tree);
            if runs || function.defaults.as_ref().is_some_and(default) {
                self.functions.insert(function.oid);
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
            }
        }
        for function in rows.functions.iter().filter(|function| function.oid >= FIRST_NORMAL_OID) {
            if self.functions.contains(&function.oid) {
                self.words.run.extend(rows.words.find(&function.name));
                self.names.functions.insert(function.name.clone());
                if (function.fewest..=function.most).contains(&1) {
                    self.names.identifiers.insert(function.name.clone());
                }
            }
        }
    }

    fn is_in(&self, body: &Body) -> bool {
        let runs = |word| self.words.run.contains(word);
        let writes = |word| self.words.written.contains(word);
        body.lasting
            || body.words.iter().any(runs)
            || body.changing && body.words.iter().any(writes)
    }

    fn is_reached_by(&self, tree: &References) -> bool {
        tree.functions.iter().any(|oid| self.functions.contains(oid))
            || tree.types.iter().any(|oid| self.types.contains(oid))
            || tree.relations.iter().any(|oid| self.read.contains(oid))
    }

    fn add_types_and_operators(&mut self) {
        let rows = self.rows;
        for operator in &rows.operators {
            if self.functions.contains(&operator.function) {
                self.words.run.extend(rows.words.find(&operator.name));
                self.names.operators.insert(operator.name.clone());
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
                self.words.run.extend(rows.words.find(&kind.name));
                self.names.identifiers.insert(kind.name.clone());
            }
        }
    }

    fn add_relations(&mut self) {
        let rows = self.rows;
        let on_reading = rows.views.iter().chain(&rows.policies).chain(&rows.virtual_columns);
        for (relation, tree) in on_reading {
            if self.is_reached_by(tree) {
                self.add_read(*relation);
            }
        }
        for (relation, function) in &rows.triggers {
            if self.functions.contains(function) {
                self.add_written(*relation);
            }
        }
        for (relation, tree) in rows.attached.iter().chain(&rows.views) {
            let writes = tree.relations.iter().any(|oid| self.written.contains(oid));
            if writes || self.is_reached_by(tree) {
                self.add_written(*relation);
            }
        }
        for (relation, kind) in &rows.columns {
            if self.types.contains(kind) {
                self.add_written(*relation);
            }
        }
        // Rows of a parent are its children's, and what is done to them goes on to those that follow.
        for (parent, child) in &rows.children {
            if self.written.contains(child) {
                self.add_written(*parent);
            }
            if self.read.contains(child) {
                self.add_read(*parent);
            }
        }
        for (referenced, follower) in &rows.followers {
            if self.written.contains(follower) {
                self.add_written(*referenced);
            }
        }
    }

    fn add_read(&mut self, oid: Oid) {
        if self.read.insert(oid)
            && let Some(relation) = self.named.get(&oid)
        {
            self.words.run.extend(self.rows.words.find(&relation.name));
            self.names.read.insert(relation.name.clone());
        }
    }

    fn add_written(&mut self, oid: Oid) {
        if self.written.insert(oid)
            && let Some(relation) = self.named.get(&oid)
        {
            self.words.written.extend(self.rows.words.find(&relation.name));
            self.names.written.insert(relation.name.clone());
        }
    }
}
