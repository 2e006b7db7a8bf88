//! The catalog rows that a snapshot is built from, as PostgreSQL has them.

use super::body::{Body, Words};
use super::node_tree::{Oid, References};

/// Objects below this id came with initdb (`FirstNormalObjectId`).
pub const FIRST_NORMAL_OID: Oid = 16384;
/// `pg_catalog`.
pub const PG_CATALOG: Oid = 11;

/// All of them. Temporary objects are left out: they are their session's own affair.
#[derive(Debug, Default)]
pub struct Rows {
    /// `pg_namespace`.
    pub schemas: Vec<(Oid, Box<str>)>,
    /// `pg_proc`.
    pub functions: Vec<Function>,
    /// The words of their sources.
    pub words: Words,
    /// `pg_aggregate` of user aggregates: the aggregate and the functions it is made of.
    pub aggregates: Vec<(Oid, Vec<Oid>)>,
    /// `pg_class`: user relations that can be read, and the views that came with initdb.
    pub relations: Vec<Relation>,
    /// `pg_inherits`: parent, child.
    pub children: Vec<(Oid, Oid)>,
    /// The tree of each user view.
    pub views: Vec<(Oid, References)>,
    /// The trees of the policies that a SELECT is subject to, by table with row security on.
    pub policies: Vec<(Oid, References)>,
    /// The trees of generated columns that are computed when read, by table.
    pub virtual_columns: Vec<(Oid, References)>,
    /// `pg_operator`, user operators.
    pub operators: Vec<Operator>,
    /// `pg_cast` with a function, user casts: source, target, function.
    pub casts: Vec<(Oid, Oid, Oid)>,
    /// `pg_type`, user types.
    pub types: Vec<Type>,
    /// The trees of domain checks, by domain.
    pub checks: Vec<(Oid, References)>,
    /// Columns of user types: relation, type.
    pub columns: Vec<(Oid, Oid)>,
    /// `pg_proc` of trigger functions: what their sources name, if they are written in PL/pgSQL.
    pub trigger_functions: Vec<(Oid, Option<Body>)>,
    /// `pg_trigger`: relation, function.
    pub triggers: Vec<(Oid, Oid)>,
    /// The trees that call functions of users where a relation is written: defaults, checks, rules, policies.
    pub attached: Vec<(Oid, References)>,
    /// Foreign keys that change their own relation: that which they refer to, and their own.
    pub followers: Vec<(Oid, Oid)>,
    /// Names of custom settings in the sources of routines, lower case, sorted.
    pub custom_settings: Vec<Box<str>>,
    /// Relations whose writing may move a sequence, and whether it may be any writing, not only that
    /// of new rows.
    pub moving: Vec<(Box<str>, bool)>,
    /// `search_path` as the server's configuration has it.
    pub default_search_path: Option<String>,
    /// `search_path` by ALTER ROLE and ALTER DATABASE: role (none for all), value; those that hold
    /// for this database only come first.
    pub search_paths: Vec<(Option<Box<str>>, String)>,
}

/// A row of `pg_proc`.
#[derive(Debug)]
pub struct Function {
    /// `oid`
    pub oid: Oid,
    /// `proname`
    pub name: Box<str>,
    /// `pronamespace`
    pub schema: Oid,
    /// `provolatile = 'v'`
    pub volatile: bool,
    /// Written in C, or part of an extension: a name on the built-in lists means that function.
    pub shipped: bool,
    /// Fewest arguments of a call.
    pub fewest: u16,
    /// Most arguments; `u16::MAX` where it is VARIADIC.
    pub most: u16,
    /// User types among the arguments.
    pub argument_types: Vec<Oid>,
    /// What the defaults of its arguments name.
    pub defaults: Option<References>,
    /// What its source names, if it is written in SQL or PL/pgSQL.
    pub body: Option<Body>,
}

/// A row of `pg_class`.
#[derive(Debug)]
pub struct Relation {
    /// `oid`
    pub oid: Oid,
    /// `relname`
    pub name: Box<str>,
    /// `relnamespace`
    pub schema: Oid,
    /// `relkind`
    pub kind: u8,
    /// `relpersistence`
    pub persistence: u8,
    /// `reltype`: the type of its rows.
    pub row_type: Oid,
}

/// A row of `pg_operator`.
#[derive(Debug)]
pub struct Operator {
    /// `oprname`
    pub name: Box<str>,
    /// `oprcode`
    pub function: Oid,
    /// `oprleft`, zero for a prefix operator.
    pub left: Oid,
    /// `oprright`
    pub right: Oid,
    /// Whether `pg_catalog` has an operator of this spelling, so that the text does not show it.
    pub shadows: bool,
}

/// A row of `pg_type`.
#[derive(Debug)]
pub struct Type {
    /// `oid`
    pub oid: Oid,
    /// `typname`
    pub name: Box<str>,
    /// `typrelid`: the relation with its attributes, if it is composite.
    pub relation: Oid,
    /// `typbasetype` of a domain, `typelem` of an array, the range of a multirange; else zero.
    pub made_of: Oid,
}
