//! From catalog rows to a snapshot: which hazard every name reaches.
//!
//! A pure closure in the order in which PostgreSQL's objects lean on each other: functions and
//! what they are made of, then operators, casts and domains, then relations through inheritance,
//! policies and views. Whatever reaches a hazard is one.

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::Hazard;
use super::body::WordId;
use super::builtin;
use super::lasting::Names;
use super::node_tree::{Oid, References};
use super::rows::{FIRST_NORMAL_OID, Function, PG_CATALOG, Relation, Rows};
use super::snapshot::{Catalog, Named, Overload};

type Hazards = FxHashMap<Oid, Hazard>;

/// Builds the snapshot.
pub(super) fn assemble(rows: Rows, version: u64) -> Catalog {
    let mut catalog = Catalog { version, ..Catalog::default() };
    let found = hazards(&rows, &mut catalog);
    catalog.leaving = Names::leaving(&rows);
    catalog.running_sequences = Names::moving(&rows);
    let schemas = number_schemas(&rows, &mut catalog);
    name_functions(&rows, &found.functions, &schemas, &mut catalog);
    for kind in &rows.types {
        let hazard = found.types.contains(&kind.oid).then_some(Hazard::VolatileOperator);
        if let Some(hazard) = hazard {
            catalog.identifiers.insert(kind.name.clone(), hazard);
        }
        let known = catalog.types.entry(kind.name.clone()).or_insert(hazard);
        *known = known.or(hazard);
    }
    let named =
        |relation: &Relation| relation.oid >= FIRST_NORMAL_OID || relation.schema != PG_CATALOG;
    for relation in rows.relations.into_iter().filter(named) {
        if let Some(schema) = schemas.get(&relation.schema) {
            let hazard = found.relations.get(&relation.oid).copied();
            let named = Named { schema: *schema, hazard };
            catalog.relations.entry(relation.name).or_default().push(named);
        }
    }
    catalog.moving = rows.moving.into_iter().collect();
    catalog.default_search_path = rows.default_search_path;
    catalog.search_paths = rows.search_paths;
    catalog.custom_settings = rows.custom_settings;
    catalog.functions.shrink_to_fit();
    catalog.relations.shrink_to_fit();
    catalog.types.shrink_to_fit();
    catalog
}

/// Everything that is a hazard.
struct Found {
    functions: Hazards,
    types: FxHashSet<Oid>,
    relations: Hazards,
}

/// Finds all hazards. At first every VOLATILE function is excused whose source has no word that may
/// change anything; then the excuse is taken from those whose source names a hazard, until no more
/// are: what is left only calls what is harmless, also where functions call each other in a circle.
fn hazards(rows: &Rows, catalog: &mut Catalog) -> Found {
    let readable = |function: &&Function| function.volatile && !function.shipped;
    let unchanging = |function: &&Function| function.body.as_ref().is_some_and(|b| !b.changing);
    let mut excused: FxHashSet<Oid> =
        rows.functions.iter().filter(readable).filter(unchanging).map(|f| f.oid).collect();
    loop {
        catalog.operators.clear();
        catalog.unseen = None;
        let mut functions = function_hazards(rows, &excused);
        let types = type_hazards(rows, &functions, catalog);
        for function in &rows.functions {
            if function.argument_types.iter().any(|oid| types.contains(oid)) {
                functions.entry(function.oid).or_insert(Hazard::VolatileOperator);
            }
        }
        let relations = relation_hazards(rows, &functions, &types);
        let found = Found { functions, types, relations };
        let words = hazardous_words(rows, &found, catalog);
        let before = excused.len();
        for function in &rows.functions {
            let named = function.body.iter().flat_map(|body| &body.words);
            if excused.contains(&function.oid) && named.into_iter().any(|w| words.contains(w)) {
                excused.remove(&function.oid);
            }
        }
        if excused.len() == before {
            return found;
        }
    }
}

/// The names of all hazards, as far as sources have them.
fn hazardous_words(rows: &Rows, found: &Found, catalog: &Catalog) -> FxHashSet<WordId> {
    let functions = rows.functions.iter().filter(|f| found.functions.contains_key(&f.oid));
    let relations = rows.relations.iter().filter(|r| found.relations.contains_key(&r.oid));
    let types = rows.types.iter().filter(|t| found.types.contains(&t.oid));
    functions
        .map(|function| &function.name)
        .chain(relations.map(|relation| &relation.name))
        .chain(types.map(|kind| &kind.name))
        .chain(catalog.operators.keys())
        .filter_map(|name| rows.words.find(name))
        .collect()
}

fn number_schemas(rows: &Rows, catalog: &mut Catalog) -> FxHashMap<Oid, u16> {
    let mut numbers = FxHashMap::default();
    for (oid, name) in &rows.schemas {
        // A database with more schemas than that keeps the rest unknown, which is the safe side.
        let Ok(number) = u16::try_from(catalog.schemas.len()) else { break };
        numbers.insert(*oid, number);
        if *oid == PG_CATALOG {
            catalog.system_schema = number;
        }
        catalog.schemas.push(name.clone());
    }
    numbers
}

/// The hazard of a function by its own row.
fn own_hazard(function: &Function) -> Option<Hazard> {
    let shipped = function.shipped || function.oid < FIRST_NORMAL_OID;
    let listed = shipped.then(|| builtin::function_hazard(&function.name)).flatten();
    let excused = shipped && builtin::is_harmless_volatile(&function.name);
    listed.or((function.volatile && !excused).then_some(Hazard::VolatileFunction))
}

/// Every function that is a hazard, by itself, by a default of an argument, by its parts, or by
/// what its source calls, whatever it says of itself.
fn function_hazards(rows: &Rows, excused: &FxHashSet<Oid>) -> Hazards {
    let mut hazards: Hazards = rows
        .functions
        .iter()
        .filter(|function| !excused.contains(&function.oid))
        .filter_map(|function| own_hazard(function).map(|hazard| (function.oid, hazard)))
        .collect();
    loop {
        let before = hazards.len();
        let mut words: FxHashMap<WordId, Hazard> = FxHashMap::default();
        for function in rows.functions.iter().filter(|f| hazards.contains_key(&f.oid)) {
            let word = rows.words.find(&function.name);
            words.extend(word.map(|word| (word, hazards[&function.oid])));
        }
        for function in &rows.functions {
            let called = function.body.iter().flat_map(|body| &body.called);
            let by_source = || called.filter_map(|word| words.get(word)).copied().next();
            let by_default =
                || function.defaults.as_ref().and_then(|tree| called_by(tree, &hazards));
            if !hazards.contains_key(&function.oid)
                && let Some(hazard) = by_source().or_else(by_default)
            {
                let understated = hazard == Hazard::VolatileFunction && !function.volatile;
                let hazard = if understated { Hazard::UnderstatedFunction } else { hazard };
                hazards.insert(function.oid, hazard);
            }
        }
        for (aggregate, parts) in &rows.aggregates {
            if let Some(hazard) = parts.iter().find_map(|part| hazards.get(part)).copied() {
                hazards.entry(*aggregate).or_insert(hazard);
            }
        }
        if hazards.len() == before {
            return hazards;
        }
    }
}

/// The first hazard among the functions that a tree calls.
fn called_by(tree: &References, functions: &Hazards) -> Option<Hazard> {
    tree.functions.iter().find_map(|oid| functions.get(oid)).copied()
}

/// Types whose use may run a hazard, without the text showing a function; operators on the way.
fn type_hazards(rows: &Rows, functions: &Hazards, catalog: &mut Catalog) -> FxHashSet<Oid> {
    let mut found = FxHashSet::default();
    for (domain, tree) in &rows.checks {
        if called_by(tree, functions).is_some() {
            found.insert(*domain);
        }
    }
    let user = |oid: &Oid| *oid >= FIRST_NORMAL_OID;
    for (source, target, function) in &rows.casts {
        if functions.contains_key(function) {
            match [source, target].into_iter().find(|oid| user(oid)) {
                Some(oid) => drop(found.insert(*oid)),
                None => catalog.unseen = Some(Hazard::VolatileOperator),
            }
        }
    }
    for operator in &rows.operators {
        if !functions.contains_key(&operator.function) {
            continue;
        }
        // A built-in spelling is too common to be a hazard for the sake of a user type: the type
        // is one instead.
        match [operator.left, operator.right].iter().find(|oid| user(oid)) {
            Some(oid) if operator.shadows => drop(found.insert(*oid)),
            _ => drop(catalog.operators.insert(operator.name.clone(), Hazard::VolatileOperator)),
        }
    }
    if !found.is_empty() {
        spread_over_types(rows, &mut found);
    }
    found
}

/// Adds the types made of those found: arrays, domains, composites with such an attribute.
fn spread_over_types(rows: &Rows, found: &mut FxHashSet<Oid>) {
    let mut columns: FxHashMap<Oid, Vec<Oid>> = FxHashMap::default();
    for (relation, kind) in &rows.columns {
        columns.entry(*relation).or_default().push(*kind);
    }
    loop {
        let before = found.len();
        for kind in &rows.types {
            let attributes = columns.get(&kind.relation).map_or(&[][..], Vec::as_slice);
            if found.contains(&kind.made_of) || attributes.iter().any(|oid| found.contains(oid)) {
                found.insert(kind.oid);
            }
        }
        if found.len() == before {
            return;
        }
    }
}

/// Every relation that is a hazard.
fn relation_hazards(rows: &Rows, functions: &Hazards, types: &FxHashSet<Oid>) -> Hazards {
    let mut hazards = Hazards::default();
    for relation in &rows.relations {
        let own = match (relation.kind, relation.persistence) {
            _ if relation.oid < FIRST_NORMAL_OID => builtin::relation_hazard(&relation.name),
            (b'S', _) => Some(Hazard::SequenceRelation),
            (b'f', _) => Some(Hazard::Foreign),
            (_, b'u') => Some(Hazard::Unlogged),
            _ if types.contains(&relation.row_type) => Some(Hazard::VolatileOperator),
            _ => None,
        };
        hazards.extend(own.map(|hazard| (relation.oid, hazard)));
    }
    for (relation, kind) in &rows.columns {
        if types.contains(kind) {
            hazards.entry(*relation).or_insert(Hazard::VolatileOperator);
        }
    }
    for (relation, tree) in &rows.virtual_columns {
        if called_by(tree, functions).is_some() {
            hazards.entry(*relation).or_insert(Hazard::ViewFunction);
        }
    }
    // Views and policies lean on relations that lean on views: repeat until nothing is added. The
    // rounds are bounded by the depth of the deepest view.
    loop {
        let before = hazards.len();
        for (parent, child) in &rows.children {
            if let Some(hazard) = hazards.get(child).copied() {
                hazards.entry(*parent).or_insert(hazard);
            }
        }
        for (table, tree) in &rows.policies {
            if reached(tree, *table, functions, types, &hazards).is_some() {
                hazards.entry(*table).or_insert(Hazard::Policy);
            }
        }
        for (view, tree) in &rows.views {
            if !hazards.contains_key(view)
                && let Some(hazard) = reached(tree, *view, functions, types, &hazards)
            {
                hazards.insert(*view, hazard);
            }
        }
        if hazards.len() == before {
            return hazards;
        }
    }
}

/// The hazard that the tree of `owner` reaches, as a view's own.
fn reached(
    tree: &References,
    owner: Oid,
    functions: &Hazards,
    types: &FxHashSet<Oid>,
    relations: &Hazards,
) -> Option<Hazard> {
    if tree.row_lock {
        return Some(Hazard::ViewRowLock);
    }
    if called_by(tree, functions).is_some() || tree.types.iter().any(|oid| types.contains(oid)) {
        return Some(Hazard::ViewFunction);
    }
    let mut others = tree.relations.iter().filter(|oid| **oid != owner);
    others.any(|oid| relations.contains_key(oid)).then_some(Hazard::ViewRelation)
}

/// Enters the functions by name. PostgreSQL's own are kept only where the built-in lists would
/// judge the name otherwise than this overload.
fn name_functions(
    rows: &Rows,
    hazards: &Hazards,
    schemas: &FxHashMap<Oid, u16>,
    catalog: &mut Catalog,
) {
    for function in &rows.functions {
        let hazard = hazards.get(&function.oid).copied();
        if let Some(hazard) = hazard
            && (function.fewest..=function.most).contains(&1)
        {
            catalog.identifiers.entry(function.name.clone()).or_insert(hazard);
        }
        let own = function.oid < FIRST_NORMAL_OID && function.schema == PG_CATALOG;
        if own && hazard.is_none() && builtin::is_safe_call(&function.name) {
            continue;
        }
        if own && hazard.is_some() && hazard == builtin::function_hazard(&function.name) {
            continue;
        }
        if let Some(schema) = schemas.get(&function.schema) {
            let overload =
                Overload { schema: *schema, fewest: function.fewest, most: function.most, hazard };
            let overloads: &mut SmallVec<_> =
                catalog.functions.entry(function.name.clone()).or_default();
            overloads.push(overload);
        }
    }
}
