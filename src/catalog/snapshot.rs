//! The immutable picture of one database that every decision reads.
//!
//! Holds user functions and relations whole, and of PostgreSQL's own objects only those that the
//! built-in lists do not already judge rightly. Look-ups are hash look-ups; nothing here waits.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::builtin;
use super::lasting::Names;
use super::rows::Rows;
use super::search_path::{SearchPath, elements};
use super::{Hazard, assemble};
use crate::sql::statement::{Call, Class, Name, Statement};

/// What the catalog knows of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every object it can mean is safe on a replica.
    Safe,
    /// An object it can mean is not.
    Hazard(Hazard),
    /// No object of this name is known.
    Unknown,
}

/// One function of a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Overload {
    /// Number of its schema.
    pub(super) schema: u16,
    pub(super) fewest: u16,
    pub(super) most: u16,
    pub(super) hazard: Option<Hazard>,
}

/// One relation of a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named {
    pub(super) schema: u16,
    pub(super) hazard: Option<Hazard>,
}

/// What one database knows. Immutable.
#[derive(Debug, Default)]
pub struct Catalog {
    pub(super) version: u64,
    /// By number.
    pub(super) schemas: Vec<Box<str>>,
    /// Number of `pg_catalog`.
    pub(super) system_schema: u16,
    pub(super) functions: FxHashMap<Box<str>, SmallVec<[Overload; 2]>>,
    pub(super) relations: FxHashMap<Box<str>, SmallVec<[Named; 2]>>,
    /// Names of user types, which may be called like functions.
    pub(super) types: FxHashMap<Box<str>, Option<Hazard>>,
    /// Names that are a hazard wherever they stand: functions in column notation, types.
    pub(super) identifiers: FxHashMap<Box<str>, Hazard>,
    pub(super) operators: FxHashMap<Box<str>, Hazard>,
    /// A cast between built-in types is a hazard: no text shows whether it is used.
    pub(super) unseen: Option<Hazard>,
    /// Relations whose writing may move a sequence: only that of new rows, or any (true).
    pub(super) moving: FxHashMap<Box<str>, bool>,
    /// Names of what may leave something with the session that runs it.
    pub(super) leaving: Names,
    /// Names of what may move a sequence, but for what is in `moving`.
    pub(super) running_sequences: Names,
    pub(super) default_search_path: Option<String>,
    pub(super) search_paths: Vec<(Option<Box<str>>, String)>,
    pub(super) custom_settings: Vec<Box<str>>,
}

impl Catalog {
    /// Builds the snapshot of this version from catalog rows.
    #[must_use]
    pub fn build(rows: Rows, version: u64) -> Self {
        assemble::assemble(rows, version)
    }

    /// Distinguishes the snapshots of one process, of whichever database.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Resolves a session's search path; `None` means that the session has not set any.
    #[must_use]
    pub fn search_path(&self, path: Option<&str>, user: &str) -> SearchPath {
        let of_role = || {
            let mine = self.search_paths.iter().find(|(role, _)| role.as_deref() == Some(user));
            let all = || self.search_paths.iter().find(|(role, _)| role.is_none());
            mine.or_else(all).map(|(_, path)| path.as_str())
        };
        let path = path.or_else(of_role).or(self.default_search_path.as_deref());
        let Some(elements) = path.and_then(elements) else {
            return SearchPath { schemas: Vec::new(), anywhere: true };
        };
        let mut schemas = Vec::with_capacity(elements.len() + 1);
        if !elements.iter().any(|element| element == "pg_catalog") {
            schemas.push(self.system_schema);
        }
        for element in &elements {
            let name = if element == "$user" { user } else { element };
            schemas.extend(self.schema(name));
        }
        SearchPath { schemas, anywhere: false }
    }

    fn schema(&self, name: &str) -> Option<u16> {
        self.schemas.iter().position(|schema| &**schema == name).and_then(|n| u16::try_from(n).ok())
    }

    /// What a call can mean. Which overload a call takes depends on the types of its arguments,
    /// which a text does not always show: one overload that is a hazard and takes as many
    /// arguments makes the call one. Functions of a schema that is `vouched` for are none.
    #[must_use]
    pub fn call(&self, call: &Call, path: &SearchPath, vouched: impl Fn(&str) -> bool) -> Verdict {
        let name = &*call.name.name;
        let schema = match call.name.schema.as_deref() {
            Some(schema) => match self.schema(schema) {
                Some(number) => Some(number),
                None => return Verdict::Unknown,
            },
            None => None,
        };
        let overloads = self.functions.get(name).map_or(&[][..], |list| list);
        let visible = |overload: &&Overload| match schema {
            Some(schema) => overload.schema == schema,
            None => path.anywhere || path.schemas.contains(&overload.schema),
        };
        // A name that the path does not lead to is judged by all that it could mean: the path may
        // be another one by the time the statement runs.
        let found =
            builtin::is_safe_call(name) || overloads.iter().any(|overload| visible(&overload));
        let visible = |overload: &&Overload| visible(overload) || (!found && schema.is_none());
        let fits = |overload: &&Overload| {
            call.arity.is_none_or(|n| (overload.fewest..=overload.most).contains(&n))
        };
        let mut known = false;
        for overload in overloads.iter().filter(visible) {
            known = true;
            if let Some(hazard) = overload.hazard.filter(|_| fits(&overload))
                && !vouched(&self.schemas[usize::from(overload.schema)])
            {
                return Verdict::Hazard(hazard);
            }
        }
        if schema.is_none_or(|schema| schema == self.system_schema) {
            if let Some(hazard) = builtin::function_hazard(name).filter(|_| !known) {
                return Verdict::Hazard(hazard);
            }
            known |= builtin::is_safe_call(name);
        }
        if let Some(hazard) = self.types.get(name) {
            known = true;
            if let Some(hazard) = hazard {
                return Verdict::Hazard(*hazard);
            }
        }
        if known { Verdict::Safe } else { Verdict::Unknown }
    }

    /// What a relation's name means. Names that stand for no relation of the catalog may still be
    /// aliases and names of WITH queries.
    #[must_use]
    pub fn relation(&self, name: &Name, path: &SearchPath) -> Verdict {
        let entries = self.relations.get(&*name.name).map_or(&[][..], |list| list);
        let verdict = |named: &Named| named.hazard.map_or(Verdict::Safe, Verdict::Hazard);
        if let Some(schema) = name.schema.as_deref() {
            if schema == "pg_catalog" {
                return builtin::relation_hazard(&name.name).map_or(Verdict::Safe, Verdict::Hazard);
            }
            let number = self.schema(schema);
            let found = entries.iter().find(|named| Some(named.schema) == number);
            return found.map_or(Verdict::Unknown, verdict);
        }
        if let Some(hazard) = builtin::relation_hazard(&name.name) {
            return Verdict::Hazard(hazard);
        }
        let first =
            path.schemas.iter().find_map(|schema| entries.iter().find(|n| n.schema == *schema));
        match first {
            Some(named) => verdict(named),
            // As for functions: judged by all that it could mean.
            None if entries.is_empty() => Verdict::Unknown,
            None => {
                let hazard = entries.iter().find_map(|named| named.hazard);
                hazard.map_or(Verdict::Safe, Verdict::Hazard)
            }
        }
    }

    /// Whether writing to a relation of this name may move a sequence; `inserts` says that rows are
    /// added. What is not known may.
    #[must_use]
    pub fn moves_sequence(&self, name: &Name, inserts: bool) -> bool {
        match self.moving.get(&*name.name) {
            Some(always) => *always || inserts,
            None => !self.relations.contains_key(&*name.name),
        }
    }

    /// Whether running a statement may leave something with its session that the text does not show: by a function,
    /// called in it or for it. What is not known may; but in DDL much looks like a call that is none.
    #[must_use]
    pub fn may_leave(&self, statement: &Statement) -> bool {
        let inner = || statement.inner.as_deref().is_some_and(|inner| self.may_leave(inner));
        self.calls_unknown(statement) || self.leaving.are_in(statement) || inner()
    }

    /// Whether running a statement may move a sequence by a function, called in it or where it reads.
    #[must_use]
    pub fn may_move_sequence(&self, statement: &Statement) -> bool {
        let inner =
            || statement.inner.as_deref().is_some_and(|inner| self.may_move_sequence(inner));
        self.calls_unknown(statement) || self.running_sequences.are_in(statement) || inner()
    }

    fn calls_unknown(&self, statement: &Statement) -> bool {
        let defines = matches!(statement.class, Class::Ddl | Class::Maintenance);
        !defines && statement.calls.iter().any(|call| self.call_is_unknown(call))
    }

    fn call_is_unknown(&self, call: &Call) -> bool {
        let name = &*call.name.name;
        !self.functions.contains_key(name)
            && !self.types.contains_key(name)
            && builtin::call_may_leave(name, call.arity)
    }

    /// The hazard of an identifier wherever it stands: a type with a check or cast that is a
    /// hazard, a function that can be called in column notation (`('s'::regclass).nextval`).
    #[must_use]
    pub fn identifier(&self, name: &str) -> Option<Hazard> {
        self.identifiers.get(name).copied()
    }

    /// The hazard of an operator by its spelling.
    #[must_use]
    pub fn operator(&self, name: &str) -> Option<Hazard> {
        self.operators.get(name).copied()
    }

    /// The hazard that any expression at all may meet.
    #[must_use]
    pub const fn unseen(&self) -> Option<Hazard> {
        self.unseen
    }

    /// The custom settings (`app.tenant`) that routines of the database may set, as far as their
    /// sources name them: lower case, sorted, at most a thousand.
    #[must_use]
    pub fn custom_settings(&self) -> &[Box<str>] {
        &self.custom_settings
    }

    /// About how much memory it takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        fn table<V>(map: &FxHashMap<Box<str>, V>) -> usize {
            // The table has a power of two of places, of which it fills seven eighths, and a byte
            // beside each; what a name takes is rounded up by the allocator.
            let places = (map.capacity() * 8 / 7).next_power_of_two();
            let names = map.keys().map(|name| (name.len() + 8).next_multiple_of(16).max(32));
            places * (size_of::<(Box<str>, V)>() + 1) + names.sum::<usize>()
        }
        fn spilled<A: smallvec::Array>(lists: impl Iterator<Item = (bool, usize)>) -> usize {
            lists.filter(|(spilled, _)| *spilled).map(|(_, n)| n * size_of::<A::Item>()).sum()
        }
        let functions = self.functions.values().map(|list| (list.spilled(), list.capacity()));
        let relations = self.relations.values().map(|list| (list.spilled(), list.capacity()));
        table(&self.functions)
            + spilled::<[Overload; 2]>(functions)
            + table(&self.relations)
            + spilled::<[Named; 2]>(relations)
            + table(&self.types)
            + table(&self.identifiers)
            + table(&self.operators)
            + self.schemas.iter().map(|name| name.len() + 32).sum::<usize>()
            + self.custom_settings.iter().map(|name| name.len() + 32).sum::<usize>()
    }

    /// Functions and relations held, for logs and `explain`.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let count = |total, entry: usize| total + entry;
        (
            self.functions.values().map(SmallVec::len).fold(0, count),
            self.relations.values().map(SmallVec::len).fold(0, count),
        )
    }
}
