//! Checked settings: what the file means, in the types that the rooms above use.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::network::Network;

/// Everything the file says, checked and with defaults filled in. Immutable; a reload makes another.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `[proxy]`
    pub proxy: Proxy,
    /// `[cluster]`: at least one node; addresses and names are unique.
    pub nodes: Vec<Node>,
    /// `[monitor]`
    pub monitor: Monitor,
    /// `[pool]`
    pub pool: Pool,
    /// `[routing]`
    pub routing: Routing,
    /// `[limits]`
    pub limits: Limits,
    /// `[tls]`
    pub tls: Tls,
    /// `[node_tls]`
    pub node_tls: NodeTls,
    /// `[[access]]`, in the file's order: the first that matches decides.
    pub access: Vec<AccessRule>,
    /// `[auth_query]`, if users are looked up in the database.
    pub auth_query: Option<AuthQuery>,
    /// `[[user]]`, in the file's order; names are unique.
    pub users: Vec<User>,
}

/// One `[[access]]` rule. All conditions that it gives must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessRule {
    /// Where the client comes from: any of these.
    pub from: Vec<Origin>,
    /// The role that it asks for: any of these; all where empty.
    pub users: Vec<String>,
    /// The database that it asks for: any of these; all where empty.
    pub databases: Vec<String>,
    /// Whether its connection is encrypted, if that matters.
    pub tls: Option<bool>,
    /// How it proves who it is.
    pub method: Method,
}

/// Where clients come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Anywhere.
    All,
    /// Over a Unix socket.
    Local,
    /// From an address of this machine's own.
    Loopback,
    /// From an address in this range.
    Network(Network),
}

/// How a client proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// SCRAM-SHA-256.
    Scram,
    /// MD5 for users of whom only an md5 hash is kept, else SCRAM-SHA-256.
    Md5,
    /// A client certificate in its name.
    Cert,
    /// The password as it is, over TLS only.
    Password,
    /// Not at all: from this machine only.
    Trust,
    /// It may not enter.
    Reject,
}

impl Method {
    /// As the file has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scram => "scram-sha-256",
            Self::Md5 => "md5",
            Self::Cert => "cert",
            Self::Password => "password",
            Self::Trust => "trust",
            Self::Reject => "reject",
        }
    }
}

/// `[auth_query]`: how users are looked up who are not in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthQuery {
    /// The role that asks.
    pub user: String,
    /// Its password, if any.
    pub password: Option<Secret>,
    /// The database in which is asked.
    pub database: String,
    /// The query; its one parameter is the name.
    pub query: String,
    /// How long an answer is believed.
    pub keep: Duration,
}

/// `[proxy]`: where Causeway listens and with how many workers.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Where clients connect; at least one.
    pub listen: Vec<Listen>,
    /// Where `/livez`, `/readyz` and `/metrics` are served; `None` for nowhere.
    pub http: Option<SocketAddr>,
    /// Worker threads, each with a current-thread runtime of its own.
    pub workers: usize,
    /// `log_format`: text or JSON.
    pub log_format: LogFormat,
    /// How long a drain waits for clients in the middle of a transaction.
    pub drain_timeout: Duration,
    /// Who speaks PROXY protocol v2 to us, and must.
    pub proxy_protocol_from: Vec<Network>,
}

/// One listening address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listen {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A directory for a Unix socket named as PostgreSQL names its own (`.s.PGSQL.<port>`).
    Unix {
        /// The directory.
        directory: PathBuf,
        /// The number in the socket's name: the port of the first TCP address, else 6432.
        port: u16,
    },
}

/// Text for people or JSON for collectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line a record, for people.
    Text,
    /// One JSON object a record.
    Json,
}

/// Where a node is reached: `host:port`, `[v6]:port`, or a directory with a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// A host name, an IP address, or an absolute path of a socket directory.
    pub host: String,
    /// The TCP port, or the number in the socket's name.
    pub port: u16,
}

impl Address {
    /// Whether it can only be a process of this machine's: a Unix socket, or loopback.
    #[must_use]
    pub fn is_this_machine(&self) -> bool {
        let ip = self.host.parse::<std::net::IpAddr>();
        self.host.starts_with('/')
            || self.host == "localhost"
            || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// One PostgreSQL node. Its role is found, never declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The name in logs and metrics; the address where the file gives none.
    pub name: Arc<str>,
    /// Where it listens.
    pub address: Address,
    /// Share of reads under `balance = "weighted"`; 1 where the file gives none.
    pub weight: u32,
    /// An optional zone that a rule may name.
    pub zone: Option<Arc<str>>,
}

/// `[monitor]`: how nodes are looked at, and when a replica is ejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Monitor {
    /// Role that the probes, the catalog loads and the look-ups log in as.
    pub user: String,
    /// Its password, if any.
    pub password: Option<Secret>,
    /// The database it connects to.
    pub database: String,
    /// Time between two looks at one node.
    pub interval: Duration,
    /// Time limit of one look.
    pub timeout: Duration,
    /// A replica further behind than this is ejected.
    pub max_lag: Duration,
    /// The same in bytes of WAL, if set.
    pub max_lag_bytes: Option<u64>,
    /// An ejected replica comes back only under this lag.
    pub readmit_lag: Duration,
    /// After so many good samples in a row.
    pub readmit_after: u32,
}

/// `[pool]`
#[derive(Debug, Clone)]
pub struct Pool {
    /// How long a session keeps a server.
    pub mode: PoolMode,
    /// Servers per user, database and node.
    pub size: usize,
    /// How long a request waits for a free server before it is refused with 53300.
    pub wait: Duration,
    /// A server idle for longer is closed.
    pub idle_timeout: Duration,
    /// A server older than this is closed when it comes back.
    pub max_age: Duration,
    /// Time limit for opening a server, login included.
    pub connect_timeout: Duration,
    /// Prepared statements kept per server before the least recently used one is closed.
    pub prepared_statements: usize,
    /// Requests that may wait for a server of one pool.
    pub queue: usize,
}

/// How long a session keeps a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// From a transaction's first statement to the `ReadyForQuery` that says idle.
    Transaction,
    /// From the first statement to the client's end.
    Session,
}

/// `[routing]`
#[derive(Debug, Clone)]
pub struct Routing {
    /// What a read may miss.
    pub consistency: Consistency,
    /// How a replica is chosen among the eligible ones.
    pub balance: Balance,
    /// Whether the primary serves reads when no replica may.
    pub primary_reads: bool,
    /// How long a read waits for a replica to catch up before the primary serves it.
    pub catchup_wait: Duration,
    /// Functions that the operator vouches for: `name` or `schema.name`, lower case.
    pub safe_functions: Vec<String>,
    /// `[[routing.rule]]`, in the file's order: the first that matches decides.
    pub rules: Vec<Rule>,
}

/// What a read may miss (docs/CONSISTENCY.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// Some committed prefix, within `max_lag`.
    Eventual,
    /// Read-your-writes, monotonic reads, writes-follow-reads.
    Session,
    /// Every commit acknowledged to anyone before the read arrived.
    Global,
    /// No replicas.
    Primary,
}

/// How a replica is chosen among the eligible ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// One after the other, over all workers.
    RoundRobin,
    /// In proportion to the nodes' weights.
    Weighted,
    /// The one with the fewest requests in flight.
    LeastInFlight,
    /// Peak EWMA of latency over two random choices.
    LowestLatency,
}

/// One `[[routing.rule]]`. All conditions that are present must hold.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// The rule's name in logs and `explain`; its number in the file where none is given.
    pub name: String,
    /// The session's user.
    pub user: Option<String>,
    /// The session's database.
    pub database: Option<String>,
    /// The session's `application_name`.
    pub application_name: Option<String>,
    /// A table that the statement names: `name` or `schema.name`.
    pub table: Option<String>,
    /// A function that the statement calls: `name` or `schema.name`.
    pub function: Option<String>,
    /// An example statement; the rule matches statements of its shape.
    pub statement: Option<String>,
    /// Where matching statements go, if the rule says.
    pub target: Option<RuleTarget>,
    /// The most a replica may lag to serve them, if the rule says.
    pub max_lag: Option<Duration>,
    /// The consistency level for them, if the rule says.
    pub consistency: Option<Consistency>,
    /// How long they and their transactions may take, if the rule says.
    pub times: TimeLimits,
}

/// Where a rule sends a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleTarget {
    /// The primary.
    Primary,
    /// Any eligible replica.
    Replica,
    /// The node of this name, while it is an eligible replica or the primary.
    Node(Arc<str>),
    /// Any eligible replica of this zone.
    Zone(Arc<str>),
}

/// `[limits]`: every bound that a client may run into.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Clients in all.
    pub clients: usize,
    /// Clients of one user; `None` for no bound of its own, as for those that follow.
    pub clients_per_user: Option<usize>,
    /// Clients in one database.
    pub clients_per_database: Option<usize>,
    /// Connections from one address, those that have not logged in included.
    pub clients_per_address: Option<usize>,
    /// Connections that have not logged in.
    pub logins: usize,
    /// Connections that are being told why they are not let in.
    pub refusals: usize,
    /// Connections to `proxy.http` at once.
    pub http_connections: usize,
    /// Resident memory in bytes beyond which nobody is let in.
    pub memory: Option<u64>,
    /// From accept to the end of the login.
    pub startup_timeout: Duration,
    /// Largest start-up packet in bytes (PostgreSQL: 10,000).
    pub startup_packet: usize,
    /// Largest message in bytes; at most PostgreSQL's own 1 GiB - 1.
    pub message: usize,
    /// How much of one pipeline is held before it is sent to the primary as it streams, in bytes.
    pub pipeline: usize,
    /// Statement text beyond this many bytes is not examined and goes to the primary.
    pub statement: usize,
    /// Values of `causeway.session_key` that are kept while no connection has them.
    pub session_keys: usize,
    /// How long statements and transactions may take, where neither rule nor user says.
    pub times: TimeLimits,
    /// A client that is silent for longer outside of a transaction is sent away; `None` for never.
    pub idle_timeout: Option<Duration>,
}

/// How long statements and transactions may take, as one place of the file says it: `None` where it
/// is silent, zero where it says "without a limit".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeLimits {
    /// `query_timeout`: from a request's arrival to its answer's end, the wait for a server included.
    pub query: Option<Duration>,
    /// `transaction_timeout`: from a transaction's first request to its end.
    pub transaction: Option<Duration>,
    /// `idle_in_transaction_timeout`: a client's silence inside a transaction.
    pub idle_in_transaction: Option<Duration>,
}

impl TimeLimits {
    /// What holds where both speak: `self` is the narrower place.
    #[must_use]
    pub fn or(self, wider: Self) -> Self {
        Self {
            query: self.query.or(wider.query),
            transaction: self.transaction.or(wider.transaction),
            idle_in_transaction: self.idle_in_transaction.or(wider.idle_in_transaction),
        }
    }

    /// Whether it says nothing.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// `[tls]`: TLS toward clients. Of the files only the paths are here: `tls` reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// What clients must do.
    pub mode: TlsMode,
    /// Causeway's certificate and its chain, in PEM; there unless the mode is `Disable`.
    pub certificate: Option<PathBuf>,
    /// Its key, in PEM; there with the certificate.
    pub key: Option<PathBuf>,
    /// Whose certificates clients may show; there if the mode is `VerifyFull`.
    pub client_root: Option<PathBuf>,
    /// Which of them are believed no more; only with the roots.
    pub client_crl: Option<PathBuf>,
    /// `[[tls.name]]`: who may log in as whom; empty: a certificate's common name is its user.
    pub names: Vec<CertificateName>,
}

/// What clients over TCP must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// There is no TLS.
    Disable,
    /// They may use it.
    Allow,
    /// They must use it.
    Require,
    /// They must use it, and show a certificate that names their user.
    VerifyFull,
}

/// One `[[tls.name]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateName {
    /// The common name in a client's certificate.
    pub certificate: String,
    /// As whom it may log in.
    pub user: String,
}

/// `[node_tls]`: TLS toward nodes, as libpq's `sslmode` and its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeTls {
    /// What is asked of nodes.
    pub mode: NodeTlsMode,
    /// Whose certificates nodes must show; there in the modes that verify, and only there.
    pub root: Option<PathBuf>,
    /// Which of them are believed no more; only with the root.
    pub crl: Option<PathBuf>,
    /// The certificate that nodes are shown, in PEM.
    pub certificate: Option<PathBuf>,
    /// Its key, in PEM; there with the certificate.
    pub key: Option<PathBuf>,
    /// How they may ask us to prove ourselves; `None` for what fits how they are reached.
    pub require_auth: Option<Ways>,
}

/// Ways in which a server may ask to be convinced of who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways(u8);

impl Ways {
    /// Not at all.
    pub const NONE: Self = Self(1);
    /// By the password as it is.
    pub const PASSWORD: Self = Self(2);
    /// By its md5.
    pub const MD5: Self = Self(4);
    /// By SCRAM-SHA-256, in which the server proves itself, too.
    pub const SCRAM: Self = Self(8);
    /// Any of these.
    pub const ALL: Self = Self(15);

    /// These and those.
    #[must_use]
    pub const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// These without those.
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Whether this is among them.
    #[must_use]
    pub const fn has(self, way: Self) -> bool {
        self.0 & way.0 == way.0
    }
}

/// What is asked of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeTlsMode {
    /// No TLS.
    Disable,
    /// TLS where the node offers it; its certificate is not looked at.
    Prefer,
    /// TLS; the certificate is not looked at.
    Require,
    /// TLS, and a certificate of the root's.
    VerifyCa,
    /// The same, for the name by which the node is reached.
    VerifyFull,
}

/// `[[user]]`
#[derive(Debug, Clone, Default)]
pub struct User {
    /// The role's name, the same toward clients and servers.
    pub name: String,
    /// What proves it.
    pub password: Option<UserPassword>,
    /// Servers for this user per database and node, where it differs from `pool.size`.
    pub pool_size: Option<usize>,
    /// How long its statements and transactions may take, where no rule says.
    pub times: TimeLimits,
}

/// A user's secret as the file gives it.
#[derive(Debug, Clone)]
pub enum UserPassword {
    /// The password itself: also opens servers.
    Plain(Secret),
    /// A `SCRAM-SHA-256$...` verifier as `pg_authid` keeps it: proves the client only.
    Verifier(Secret),
    /// An `md5...` hash as `pg_authid` keeps it: for md5 on both sides.
    Md5(Secret),
}

/// A string that never shows in logs, errors or `Debug` output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself; for proving or checking a login only.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}
