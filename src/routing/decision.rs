//! The outcome of routing one statement: where, and exactly one reason why.
//!
//! Owns the closed set of reasons. A reason's label is at once the metric label, the column of the
//! admin console, the answer of `causeway explain` and a row in docs/ROUTING.md (a test holds these
//! together), so a label never changes its meaning.

use std::time::Duration;

use crate::config::settings::Consistency;

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

impl Target {
    /// The word in `explain`, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Session => "session",
            Self::Proxy => "proxy",
        }
    }
}

macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $variant:ident = $label:literal, )+) => {
        /// Why a statement went where it went. Closed: whoever decides anything uses one of these.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason { $( $(#[doc = $doc])+ $variant, )+ }

        impl Reason {
            /// Every reason, in order; `ALL[reason as usize] == reason`.
            pub const ALL: &'static [Self] = &[$( Self::$variant, )+];

            /// The label.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $label, )+ }
            }

            /// What the reason means, for people.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $( Self::$variant => concat!($($doc),+).trim_ascii(), )+ }
            }
        }
    };
}

reasons! {
    // To a replica.
    /// A read of which every part is known to be safe on a replica.
    Read = "read",
    /// The first statement of a transaction that declared itself READ ONLY: a read, or what prepares for
    /// one (SET, `set_config()`, SAVEPOINT, PREPARE, DEALLOCATE).
    ReadOnlyTransaction = "read_only_transaction",
    /// A hint in the statement asked for a replica.
    HintReplica = "hint_replica",

    // To the primary, by what the statement is.
    /// INSERT, UPDATE, DELETE, MERGE or TRUNCATE, at any depth.
    Write = "write",
    /// A row lock (FOR UPDATE, NO KEY UPDATE, SHARE, KEY SHARE), at any depth.
    RowLock = "row_lock",
    /// It changes the catalog.
    Ddl = "ddl",
    /// COPY FROM STDIN.
    CopyFrom = "copy_from",
    /// COPY to or from a file or a program of the server.
    CopyFile = "copy_file",
    /// DO or CALL.
    Procedure = "procedure",
    /// LOCK, in any mode.
    LockTable = "lock_table",
    /// LISTEN, UNLISTEN, NOTIFY or `pg_notify()`.
    Notify = "notify",
    /// VACUUM, ANALYZE, CLUSTER, REINDEX, CHECKPOINT, REFRESH, ALTER SYSTEM.
    Maintenance = "maintenance",
    /// LOAD of a library.
    Load = "load",
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED.
    TwoPhase = "two_phase",
    /// The function-call message of the protocol.
    FunctionCall = "function_call",

    // To the primary, by what the statement names.
    /// nextval, setval, currval or lastval.
    SequenceFunction = "sequence_function",
    /// A sequence read as a relation: its value is logged ahead of its use.
    SequenceRelation = "sequence_relation",
    /// A `pg_advisory_*` function: on a replica it succeeds and locks nothing.
    AdvisoryLockFunction = "advisory_lock_function",
    /// A function that assigns, or speaks of, transaction ids and snapshots.
    TransactionIdFunction = "transaction_id_function",
    /// A function that speaks of the node it runs on.
    NodeFunction = "node_function",
    /// A view that speaks of the node it is read on (`pg_stat_*`, `pg_locks` ...).
    NodeRelation = "node_relation",
    /// SHOW of a setting that is a node's own.
    NodeSetting = "node_setting",
    /// A large-object function.
    LargeObject = "large_object",
    /// A function that runs SQL given as text, or elsewhere (`dblink`, `query_to_xml`).
    SqlTextFunction = "sql_text_function",
    /// A function that is VOLATILE by the catalog, and not known to be harmless.
    VolatileFunction = "volatile_function",
    /// An operator, cast, aggregate or domain check that reaches a volatile function.
    VolatileOperator = "volatile_operator",
    /// A function that the catalog does not have.
    UnknownFunction = "unknown_function",
    /// An operator that is none of PostgreSQL's own, where there is no catalog to tell its function.
    UnknownOperator = "unknown_operator",
    /// An unlogged relation: it has no rows on a replica.
    UnloggedRelation = "unlogged_relation",
    /// A temporary relation.
    TemporaryRelation = "temporary_relation",
    /// A foreign table.
    ForeignTable = "foreign_table",
    /// A view, rule or policy that reaches a function which may not run on a replica.
    ViewReachesFunction = "view_reaches_function",
    /// A view that reaches a relation which may not be read on a replica.
    ViewReachesRelation = "view_reaches_relation",
    /// A view with a row lock in it.
    ViewReachesRowLock = "view_reaches_row_lock",
    /// A row-security policy that reaches a function which may not run on a replica.
    PolicyReachesFunction = "policy_reaches_function",

    // To the primary, by what is not known.
    /// The catalog of the database is not loaded yet, or not again after DDL.
    CatalogNotLoaded = "catalog_not_loaded",
    /// No reader understood the statement.
    NotUnderstood = "not_understood",
    /// The text is beyond `limits.statement` and was not examined.
    StatementTooLarge = "statement_too_large",
    /// The session's client encoding, or lexical setting, hides the text from the scanner.
    EncodingNotAsciiSafe = "encoding_not_ascii_safe",
    /// EXECUTE or Bind of a statement whose text is not known.
    UnknownPrepared = "unknown_prepared",

    // To the primary, by its company.
    /// One of several statements in one string needs the primary or controls the transaction.
    MultiStatement = "multi_statement",
    /// Another statement of the same pipeline needs the primary.
    PipelineStrictest = "pipeline_strictest",
    /// The pipeline was cut by Flush before its Sync.
    PipelineCutByFlush = "pipeline_cut_by_flush",
    /// The pipeline outgrew `limits.pipeline` before its Sync.
    PipelineTooLarge = "pipeline_too_large",

    // To the node that the session is bound to.
    /// A statement of a transaction that is open on the primary.
    InTransaction = "in_transaction",
    /// A statement of a transaction that is open on a replica. One that must not run there takes the
    /// transaction to the primary, under its own reason.
    InTransactionOnReplica = "in_transaction_on_replica",
    /// The first statement of a transaction that may write.
    ReadWriteTransaction = "read_write_transaction",
    /// A serializable transaction, however it was asked for.
    Serializable = "serializable",
    /// The transaction ran SET TRANSACTION SNAPSHOT.
    SnapshotImport = "snapshot_import",
    /// `pool.mode = "session"`.
    PinnedSessionMode = "pinned_session_mode",
    /// The session made a temporary relation.
    PinnedTempTable = "pinned_temp_table",
    /// The session listens.
    PinnedListen = "pinned_listen",
    /// The session holds, or may hold, session-level advisory locks.
    PinnedAdvisoryLock = "pinned_advisory_lock",
    /// The session has a cursor WITH HOLD.
    PinnedHoldCursor = "pinned_hold_cursor",
    /// The session used a sequence, and may ask for currval.
    PinnedSequence = "pinned_sequence",
    /// The session loaded a library.
    PinnedLoad = "pinned_load",
    /// The session ran code that may have changed anything.
    PinnedOpaque = "pinned_opaque",
    /// The session has prepared statements that Causeway cannot make elsewhere.
    PinnedPrepared = "pinned_prepared",
    /// The session's settings cannot be laid on another server.
    PinnedSetting = "pinned_setting",

    // By hints, rules, levels and experience.
    /// A hint in the statement asked for the primary.
    HintPrimary = "hint_primary",
    /// `SET causeway.route` decided.
    SessionRoute = "session_route",
    /// A `[[routing.rule]]` decided.
    Rule = "rule",
    /// The consistency level is `primary`.
    ConsistencyPrimary = "consistency_primary",
    /// A replica refused a statement of this shape before.
    LearnedPrimary = "learned_primary",
    /// A replica refused it before any row went out; the primary ran it again.
    ReplicaRefused = "replica_refused",
    /// A replica failed before any row went out; another node ran it again.
    ReplicaLost = "replica_lost",
    /// No replica is up and within its limits.
    NoEligibleReplica = "no_eligible_replica",
    /// Replicas are up, but none is within the lag that the statement allows.
    TooStale = "too_stale",
    /// No replica has caught up with what the session has written or seen.
    BehindOwnWrites = "behind_own_writes",

    // Session and transaction state.
    /// SET.
    Set = "set",
    /// RESET.
    Reset = "reset",
    /// SHOW of a setting that the session itself may have changed.
    Show = "show",
    /// `set_config()`.
    SetConfig = "set_config",
    /// DISCARD.
    Discard = "discard",
    /// PREPARE.
    Prepare = "prepare",
    /// EXECUTE: routed as the statement it names.
    Execute = "execute",
    /// DEALLOCATE.
    Deallocate = "deallocate",
    /// DECLARE, FETCH, MOVE, CLOSE.
    Cursor = "cursor",
    /// BEGIN, START TRANSACTION.
    Begin = "begin",
    /// COMMIT, END.
    Commit = "commit",
    /// ROLLBACK, ABORT.
    Rollback = "rollback",
    /// SAVEPOINT, RELEASE, ROLLBACK TO.
    Savepoint = "savepoint",
    /// SET TRANSACTION, SET SESSION CHARACTERISTICS.
    SetTransaction = "set_transaction",

    /// SET CONSTRAINTS.
    SetConstraints = "set_constraints",

    // Answered by Causeway.
    /// SHOW of one of Causeway's own values.
    ProxyShow = "proxy_show",
    /// SET of one of Causeway's own settings.
    ProxySet = "proxy_set",
    /// Nothing but white space and comments.
    EmptyQuery = "empty_query",
    /// A statement that ends what was never begun on any server.
    NothingToEnd = "nothing_to_end",
    /// The transaction has failed; only its end is awaited.
    FailedTransaction = "failed_transaction",
    /// Cancelled before it reached a server.
    Cancelled = "cancelled",
}

impl Reason {
    /// Whether a statement kept from the replicas for this reason is only *not known to be safe*
    /// there, so that a hint, route or rule toward a replica may move it. False for what is known
    /// to write, to lock, to fail or to mean something else on a replica.
    #[must_use]
    pub const fn yields_to_replica(self) -> bool {
        matches!(
            self,
            Self::Read
                | Self::NodeFunction
                | Self::NodeRelation
                | Self::NodeSetting
                | Self::SqlTextFunction
                | Self::VolatileFunction
                | Self::VolatileOperator
                | Self::UnknownFunction
                | Self::UnknownOperator
                | Self::ForeignTable
                | Self::ViewReachesFunction
                | Self::PolicyReachesFunction
                | Self::CatalogNotLoaded
                | Self::Show
        )
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A rule's place in the file, from zero; names a rule of the [`super::CompiledRules`] that made
/// the decision, and of no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RuleId(pub u16);

/// Where, and the one reason why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Where.
    pub target: Target,
    /// Why.
    pub reason: Reason,
    /// The most that a replica may lag to serve it, where a hint or a rule says.
    pub max_lag: Option<Duration>,
    /// The consistency level, where a hint or a rule says.
    pub consistency: Option<Consistency>,
    /// The rule that matched, if any: it may prefer a node or a zone (`CompiledRules::prefers`),
    /// also where a hint has overruled its target.
    pub rule: Option<RuleId>,
    /// Whether running it may leave something with its session that the text does not show.
    pub leaves: bool,
    /// Whether running it may move a sequence.
    pub moves: bool,
}

impl Decision {
    /// A decision that no hint and no rule has touched.
    #[must_use]
    pub const fn new(target: Target, reason: Reason) -> Self {
        Self {
            target,
            reason,
            max_lag: None,
            consistency: None,
            rule: None,
            leaves: false,
            moves: false,
        }
    }

    /// To the primary.
    #[must_use]
    pub const fn primary(reason: Reason) -> Self {
        Self::new(Target::Primary, reason)
    }

    /// To a replica.
    #[must_use]
    pub const fn replica(reason: Reason) -> Self {
        Self::new(Target::Replica, reason)
    }

    /// The same limits, toward another target.
    #[must_use]
    pub const fn turned(mut self, target: Target, reason: Reason) -> Self {
        self.target = target;
        self.reason = reason;
        self
    }

    /// The same, where no hint and no rule says otherwise, at this level and within this lag.
    #[must_use]
    pub fn unless_said(mut self, consistency: Consistency, max_lag: Option<Duration>) -> Self {
        self.consistency = self.consistency.or(Some(consistency));
        self.max_lag = self.max_lag.or(max_lag);
        self
    }

    /// What serves both `self` and what comes after it, `other`, when they must run on one server, as the
    /// statements of a pipeline must: the primary unless each may go to a replica; the tighter lag, the
    /// stricter level. The reason is the first one for the primary if nothing came before it.
    #[must_use]
    pub fn strictest(self, other: Self) -> Self {
        let mut both = match (self.target, other.target) {
            // What belongs to the session goes to the primary, where what reads can follow.
            (Target::Primary, _)
            | (Target::Session, Target::Session)
            | (Target::Replica | Target::Session, Target::Replica)
            | (Target::Proxy, Target::Proxy) => self,
            _ => self.turned(Target::Primary, Reason::PipelineStrictest),
        };
        both.rule = self.rule.or(other.rule);
        both.max_lag = match (self.max_lag, other.max_lag) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
        both.consistency = match (self.consistency, other.consistency) {
            (Some(one), Some(two)) => Some(stricter(one, two)),
            (one, two) => one.or(two),
        };
        both
    }
}

/// The level that promises more.
fn stricter(one: Consistency, two: Consistency) -> Consistency {
    let rank = |level| match level {
        Consistency::Eventual => 0,
        Consistency::Session => 1,
        Consistency::Global => 2,
        Consistency::Primary => 3,
    };
    if rank(one) >= rank(two) { one } else { two }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_snake_case_and_indexed() {
        let mut seen = std::collections::HashSet::new();
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            let label = reason.as_str();
            assert!(label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{label}");
            assert!(seen.insert(label), "{label} twice");
        }
    }

    /// The page lists every reason, in order, with its meaning and an example; and no other.
    #[test]
    fn the_page_has_a_row_for_every_reason() {
        let page = include_str!("../../docs/ROUTING.md");
        let (_, table) = page.split_once("\n## Reasons\n").expect("the page has the section");
        let rows: Vec<Vec<&str>> = table
            .lines()
            .filter(|line| line.starts_with("| `"))
            .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
            .collect();
        let labels: Vec<String> = rows.iter().map(|row| row[0].replace('`', "")).collect();
        let expected: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(labels, expected);
        for (row, reason) in rows.iter().zip(Reason::ALL) {
            assert_eq!(row[1], reason.meaning(), "{reason}");
            assert!(row.len() == 3 && !row[2].is_empty(), "{reason} has no example");
        }
    }

    #[test]
    fn a_pipeline_goes_where_its_strictest_statement_goes() {
        let read = Decision::replica(Reason::Read);
        let write = Decision::primary(Reason::Write);
        let set = Decision::new(Target::Session, Reason::Set);
        let show = Decision::new(Target::Proxy, Reason::ProxyShow);
        let strictest = Reason::PipelineStrictest;
        for (first, second, target, reason) in [
            (read, read, Target::Replica, Reason::Read),
            (read, write, Target::Primary, strictest),
            (write, read, Target::Primary, Reason::Write),
            (set, read, Target::Session, Reason::Set),
            (read, set, Target::Primary, strictest),
            (set, write, Target::Primary, strictest),
            (show, show, Target::Proxy, Reason::ProxyShow),
            (show, write, Target::Primary, strictest),
            (show, read, Target::Primary, strictest),
            (show, set, Target::Primary, strictest),
        ] {
            let both = first.strictest(second);
            assert_eq!((both.target, both.reason), (target, reason), "{first:?} {second:?}");
        }
        let tight = Decision { max_lag: Some(Duration::from_millis(5)), ..read };
        let loose = Decision { max_lag: Some(Duration::from_secs(5)), ..read };
        assert_eq!(loose.strictest(tight).max_lag, tight.max_lag);
        let global = Decision { consistency: Some(Consistency::Global), ..read };
        assert_eq!(read.strictest(global).consistency, Some(Consistency::Global));
        let eventual = Decision { consistency: Some(Consistency::Eventual), ..read };
        assert_eq!(global.strictest(eventual).consistency, Some(Consistency::Global));
        let said = eventual.strictest(read.unless_said(Consistency::Session, None));
        assert_eq!(said.consistency, Some(Consistency::Session), "the default is stricter");
    }

    #[test]
    fn a_decision_stays_small() {
        assert!(std::mem::size_of::<Decision>() <= 32);
    }
}
