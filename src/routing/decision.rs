//! The outcome of routing one statement.

/// Where a statement goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// The primary.
    Primary,
    /// Any eligible replica.
    Replica,
    /// It changes or ends session or transaction state (SET, BEGIN, COMMIT, DEALLOCATE, DISCARD ...).
    Session,
    /// Causeway answers it itself (`SHOW causeway.lsn`, an empty query).
    Proxy,
}

/// Where, and the one reason why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Where.
    pub target: Target,
}
