//! Why a named thing keeps a statement from the replicas.

/// What is wrong with a name on a replica. One per name: the first found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Hazard {
    /// nextval, setval, currval, lastval.
    SequenceFunction,
    /// A `pg_advisory_*` function.
    AdvisoryLock,
    /// Assigns, or speaks of, transaction ids and snapshots.
    TransactionId,
    /// Speaks of, or acts on, the node it runs on.
    NodeFunction,
    /// `pg_notify`.
    Notify,
    /// A large-object function.
    LargeObject,
    /// Runs SQL given as text, or on another server.
    SqlText,
    /// VOLATILE by the catalog, and not known to be harmless.
    VolatileFunction,
    /// Says that it is not VOLATILE, and reaches what is: the planner, too, may run it.
    UnderstatedFunction,
    /// An operator, cast or domain check whose function is a hazard.
    VolatileOperator,
    /// A system view that speaks of its node.
    NodeRelation,
    /// A sequence, read as a relation.
    SequenceRelation,
    /// An unlogged relation, or a partition or child that is one.
    Unlogged,
    /// A foreign table, or a partition or child that is one.
    Foreign,
    /// A view that reaches a function, operator, cast or domain that is a hazard.
    ViewFunction,
    /// A view that reaches a relation that is a hazard.
    ViewRelation,
    /// A view with a row lock.
    ViewRowLock,
    /// A row-security policy that reaches a hazard.
    Policy,
}
