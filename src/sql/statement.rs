//! The facts of a text: what each statement in a query string is, names, and would change.
//!
//! Facts are shared by all statements of one shape, so they hold no literal and no byte position;
//! names are as PostgreSQL would see them (unquoted names folded to lower case, quotes removed).

use std::sync::atomic::{AtomicU64, Ordering};

/// How the lexer must read a text: what `PostgreSQL`'s own scanner takes from the session.
///
/// The encoding is not part of it: a session whose `client_encoding` is not
/// [ASCII-safe](super::encoding_is_ascii_safe) cannot be scanned and goes to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lexis {
    /// `standard_conforming_strings`: whether a backslash in `'...'` is only a backslash.
    pub standard_conforming_strings: bool,
}

impl Default for Lexis {
    fn default() -> Self {
        Self { standard_conforming_strings: true }
    }
}

/// The facts of one query string: no statement (an empty query), one, or several.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// In order. Empty statements between semicolons do not count.
    pub statements: Vec<Statement>,
    /// Hints found in comments anywhere in the string (the strictest where they disagree).
    pub hints: Hints,
    /// Names the shape: equal for texts that differ only in literals, white space and ordinary
    /// comments, and (128 bits of SHA-256) for no others. The same on every machine and in every
    /// version that normalises alike.
    pub shape: u128,
    /// For whoever routes: what was last concluded about this shape, in an encoding of its own;
    /// zero at first. Shared by all sessions, so it must carry what it depends on (a version).
    pub memo: Memo,
}

/// A number that may be written through a shared reference; a copy begins anew at its value.
#[derive(Debug, Default)]
pub struct Memo(pub AtomicU64);

impl Clone for Memo {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

/// `/* causeway: ... */` and its sqlcommenter form.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hints {
    /// `primary` or `replica`.
    pub route: Option<RouteHint>,
    /// `max_lag=500ms`.
    pub max_lag: Option<std::time::Duration>,
    /// `consistency=...`, as written (checked by `routing`).
    pub consistency: Option<Box<str>>,
}

impl Hints {
    /// These, and of `other` what they do not say.
    #[must_use]
    pub fn before(&self, other: &Self) -> Self {
        Self {
            route: self.route.or(other.route),
            max_lag: self.max_lag.or(other.max_lag),
            consistency: self.consistency.clone().or_else(|| other.consistency.clone()),
        }
    }
}

/// Where a hint wants a statement to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RouteHint {
    /// To the primary.
    Primary,
    /// To a replica, unless it is known to write.
    Replica,
}

/// The facts of one statement.
///
/// For EXPLAIN, class and names are those of the statement explained (an `EXPLAIN INSERT` is a
/// `Write`); for DECLARE and PREPARE they are this statement's own, and [`Statement::inner`] has
/// those of the query in it.
#[derive(Debug, Clone)]
pub struct Statement {
    /// What kind of statement it is.
    pub class: Class,
    /// Its first words in upper case, as a command tag would name it (`SELECT`, `CREATE TABLE`).
    pub verb: &'static str,
    /// Transaction control, if that is what it is.
    pub transaction: Option<Transaction>,
    /// What it does to the session, in order of appearance.
    pub session: Vec<SessionEffect>,
    /// Every name before a parenthesis that may be a function call, each with each arity once.
    pub calls: Vec<Call>,
    /// Every name that stands where a relation does, each once; names of CTEs in their scope left
    /// out.
    pub relations: Vec<Name>,
    /// Every identifier at all, each once: what a catalog's tainted names are looked up in.
    pub identifiers: Vec<Box<str>>,
    /// Operators other than the built-in spellings (`@+@`), and those qualified with a schema other
    /// than `pg_catalog` (`OPERATOR(s.+)`), each once by its bare spelling; candidates for user
    /// operators.
    pub operators: Vec<Box<str>>,
    /// The built-in spellings among its operators, each once: a user type may give them a function
    /// of its own.
    pub builtin_operators: Vec<&'static str>,
    /// An identifier has a byte above 127, so that the name it stands for depends on
    /// `client_encoding`; here it is read as UTF-8.
    pub non_ascii: bool,
    /// SHOW: the setting, named as in [`SessionEffect::Set`], or `all`.
    pub shown: Option<Box<str>>,
    /// PREPARE and DECLARE: the facts of the statement prepared or of the cursor's query. An
    /// EXECUTE is routed by the inner facts of its PREPARE, and does to the session what they say.
    pub inner: Option<Box<Statement>>,
    /// EXPLAIN without ANALYZE: planned, and not run. What VOLATILE functions do is not done.
    pub planned_only: bool,
    /// Whether the scanner understood every token and (within its bounds) the parser agreed or was
    /// not needed. A statement that was not understood is never a read: its class is then
    /// `Unknown`, unless it is one that never goes to a replica.
    pub understood: bool,
}

/// What a statement is, as far as routing needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// SELECT, VALUES, TABLE, WITH of these, EXPLAIN of these, COPY (query or table) TO STDOUT.
    Read,
    /// A read with a row lock somewhere (FOR UPDATE / NO KEY UPDATE / SHARE / KEY SHARE).
    LockingRead,
    /// INSERT, UPDATE, DELETE, MERGE, TRUNCATE at any depth, and EXPLAIN of these.
    Write,
    /// SELECT INTO, CREATE TABLE AS, and everything else that changes the catalog.
    Ddl,
    /// COPY FROM STDIN.
    CopyIn,
    /// COPY to or from a file or a program.
    CopyFile,
    /// DO, CALL.
    Procedure,
    /// LOCK.
    LockTable,
    /// LISTEN, UNLISTEN, NOTIFY.
    Notify,
    /// VACUUM, ANALYZE, CLUSTER, REINDEX, CHECKPOINT, REFRESH, ALTER SYSTEM and their like.
    Maintenance,
    /// BEGIN, COMMIT, ROLLBACK, SAVEPOINT ..., PREPARE TRANSACTION.
    Transaction,
    /// SET, RESET, DISCARD, PREPARE, EXECUTE, DEALLOCATE, LOAD, SET CONSTRAINTS.
    Session,
    /// SHOW.
    Show,
    /// DECLARE, FETCH, MOVE, CLOSE.
    Cursor,
    /// What no reader understood.
    Unknown,
}

/// A possibly schema-qualified name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// The schema, where one is written.
    pub schema: Option<Box<str>>,
    /// The name itself.
    pub name: Box<str>,
}

/// A name before a parenthesis.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Call {
    /// The function's name.
    pub name: Name,
    /// Number of arguments as written (`count(*)` has none), unless one is VARIADIC or the call is
    /// an ordered-set aggregate (WITHIN GROUP).
    pub arity: Option<u16>,
}

/// Transaction control (`TransactionStmt` and `SET TRANSACTION` of PostgreSQL's grammar).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transaction {
    /// BEGIN, START TRANSACTION.
    Begin(Modes),
    /// COMMIT, END.
    Commit {
        /// AND CHAIN.
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// SAVEPOINT.
    Savepoint(Box<str>),
    /// RELEASE.
    Release(Box<str>),
    /// ROLLBACK TO.
    RollbackTo(Box<str>),
    /// PREPARE TRANSACTION.
    Prepare,
    /// COMMIT PREPARED.
    CommitPrepared,
    /// ROLLBACK PREPARED.
    RollbackPrepared,
    /// SET TRANSACTION modes.
    Set(Modes),
    /// SET TRANSACTION SNAPSHOT.
    SetSnapshot,
    /// SET SESSION CHARACTERISTICS AS TRANSACTION.
    SetCharacteristics(Modes),
}

/// Transaction modes, each as far as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Modes {
    /// READ ONLY (true) or READ WRITE (false).
    pub read_only: Option<bool>,
    /// ISOLATION LEVEL.
    pub isolation: Option<Isolation>,
    /// DEFERRABLE (true) or NOT DEFERRABLE (false).
    pub deferrable: Option<bool>,
}

/// ISOLATION LEVEL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// READ UNCOMMITTED.
    ReadUncommitted,
    /// READ COMMITTED.
    ReadCommitted,
    /// REPEATABLE READ.
    RepeatableRead,
    /// SERIALIZABLE.
    Serializable,
}

/// What a statement does to the session it runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEffect {
    /// SET in any spelling; the name is the setting's own (`TimeZone` for SET TIME ZONE,
    /// `client_encoding` for SET NAMES, `role`, `session_authorization`), lower case.
    Set {
        /// The setting.
        name: Box<str>,
        /// SET LOCAL.
        local: bool,
        /// SET ... TO DEFAULT.
        to_default: bool,
    },
    /// RESET of one setting, named as in `Set`.
    Reset(Box<str>),
    /// RESET ALL.
    ResetAll,
    /// A call of set_config(): which setting and value is known only when it has run.
    SetConfig,
    /// DISCARD ALL.
    DiscardAll,
    /// DISCARD PLANS.
    DiscardPlans,
    /// DISCARD SEQUENCES.
    DiscardSequences,
    /// DISCARD TEMP.
    DiscardTemp,
    /// PREPARE name.
    Prepare(Box<str>),
    /// EXECUTE name.
    Execute(Box<str>),
    /// DEALLOCATE name.
    Deallocate(Box<str>),
    /// DEALLOCATE ALL.
    DeallocateAll,
    /// DECLARE CURSOR.
    Declare {
        /// WITH HOLD: the cursor outlives its transaction.
        hold: bool,
    },
    /// CLOSE of a cursor, or of all.
    CloseCursor,
    /// LISTEN.
    Listen,
    /// UNLISTEN.
    Unlisten,
    /// Creates a temporary relation.
    CreateTemp,
    /// Takes a session-level advisory lock, or may.
    AdvisoryLock,
    /// Gives session-level advisory locks back.
    AdvisoryUnlock,
    /// nextval, setval: the session's sequence state changes.
    SequenceAdvance,
    /// currval, lastval: the session's sequence state is read.
    SequenceRead,
    /// SET CONSTRAINTS: lasts as long as the transaction.
    Constraints,
    /// LOAD of a library.
    Load,
    /// Anything may have happened: DO, CALL, EXECUTE of an unknown text.
    Opaque,
}
