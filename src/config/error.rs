//! What can be wrong with the file, in words for the operator: where, what, and what to do.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read at all.
    #[error("cannot read {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why. Told with the file, and not once more as the source.
        reason: std::io::Error,
    },
    /// It can be read, and says something wrong. At least one problem, in the file's order.
    #[error("{}", Listing { path: path.as_deref(), problems })]
    Invalid {
        /// The file, where it is one.
        path: Option<PathBuf>,
        /// Everything that is wrong with it.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    pub(super) fn invalid(mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        Self::Invalid { path: None, problems }
    }

    pub(super) fn syntax(text: &str, error: &toml::de::Error) -> Self {
        Self::invalid(vec![Problem {
            line: error.span().map(|span| line_of(text, &span)),
            key: String::new(),
            complaint: Complaint::NotToml { message: error.message().trim().to_owned() },
        }])
    }

    pub(super) fn in_file(self, file: &Path) -> Self {
        match self {
            Self::Invalid { problems, .. } => {
                Self::Invalid { path: Some(file.to_owned()), problems }
            }
            other @ Self::Unreadable { .. } => other,
        }
    }

    /// Every problem of the file; none where it could not be read.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid { problems, .. } => problems,
            Self::Unreadable { .. } => &[],
        }
    }
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct Problem {
    /// Line of the file, from 1, where there is one to name.
    pub line: Option<usize>,
    /// The key with its section: `monitor.max_lag`.
    pub key: String,
    /// What is wrong with it, and what to do.
    pub complaint: Complaint,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        self.complaint.fmt(f)
    }
}

/// What is wrong with a key. The text says what to do as well.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant is documented by its text")]
pub enum Complaint {
    #[error("not valid TOML: {message}")]
    NotToml { message: String },
    #[error("unknown key; did you mean \"{nearest}\"?")]
    UnknownNear { nearest: &'static str },
    #[error("unknown key; it belongs under [{section}]")]
    UnknownHere { section: &'static str },
    #[error("unknown key; the keys here are {}", known.join(", "))]
    Unknown { known: &'static [&'static str] },
    #[error("must be a table, written [{name}]")]
    NotATable { name: String },
    #[error("must be tables, each written [[{name}]]")]
    NotTables { name: String },
    #[error("must be {wanted}, not {found}")]
    WrongType { wanted: &'static str, found: &'static str },
    #[error("{number} has no unit; write a time such as \"{number}s\" or \"{number}ms\"")]
    TimeWithoutUnit { number: String },
    #[error("{number} has no unit; write a size such as \"{number}MB\" or \"{number}KiB\"")]
    SizeWithoutUnit { number: String },
    #[error("\"{text}\" is not a time; write a number and a unit (ms, s, min, h, d), as \"250ms\"")]
    NotATime { text: String },
    #[error(
        "\"{text}\" is not a size; write a number and a unit (B, kB, MB, GB, KiB, MiB, GiB), as \"16MB\""
    )]
    NotASize { text: String },
    #[error("\"{text}\" is not one of {}", names.join(", "))]
    NotOneOf { text: String, names: Vec<&'static str> },
    #[error("is missing; write for example {example}")]
    Missing { example: &'static str },
    #[error("must not be empty")]
    Empty,
    #[error("{value} is out of range; it must be from {low} to {high}")]
    OutOfRange { value: u64, low: u64, high: u64 },
    #[error(
        "{} is out of range; it must be from {} to {}",
        humantime::format_duration(*value), humantime::format_duration(*low), humantime::format_duration(*high)
    )]
    TimeOutOfRange { value: Duration, low: Duration, high: Duration },
    #[error(
        "\"{text}\" is not an address to listen on; write an IP address and a port, as \"127.0.0.1:6432\" or \"[::1]:6432\", or the absolute path of a directory for a Unix socket"
    )]
    NotAListenAddress { text: String },
    #[error("\"{text}\" is not an IP address and a port; write for example \"127.0.0.1:9632\"")]
    NotASocketAddress { text: String },
    #[error(
        "\"{text}\" is not the address of a node; write host:port, [IPv6]:port, or the directory of a Unix socket"
    )]
    NotANodeAddress { text: String },
    #[error("\"{text}\" is given twice; keep one")]
    Twice { text: String },
    #[error("names no node; list the nodes' addresses, as nodes = [\"127.0.0.1:5432\"]")]
    NoNodes,
    #[error(
        "there is none, so nobody could log in; add a [[user]] with a name and a password, or an [auth_query]"
    )]
    NoUsers,
    #[error(
        "\"{text}\" is no origin; write an address range as \"10.0.0.0/8\" (with no bit set behind the prefix), an address, \"local\" (Unix sockets), \"loopback\" or \"all\""
    )]
    NotAnOrigin { text: String },
    #[error(
        "\"{text}\" is no way of authentication; write \"scram-sha-256\", \"md5\", \"password\" or \"none\""
    )]
    NotAWay { text: String },
    #[error(
        "\"{text}\" is not a range of addresses; write for example \"10.0.0.0/8\" or \"10.1.2.3\""
    )]
    NotANetwork { text: String },
    #[error(
        "trust lets everybody in without proof, which is done only from this machine; write from = [\"local\", \"loopback\"] or another method"
    )]
    TrustFromElsewhere,
    #[error("method \"{method}\" needs an encrypted connection; add tls = true to the rule")]
    MethodNeedsTls { method: &'static str },
    #[error(
        "must name its parameter $1, as in: SELECT rolname, rolpassword, rolvaliduntil, rolcanlogin FROM pg_catalog.pg_authid WHERE rolname = $1"
    )]
    AuthQueryWithoutParameter,
    #[error("give one of password, password_file and password_env, not several")]
    SeveralPasswords,
    #[error("cannot read {}: {source}; mend the path or the file's permissions", path.display())]
    PasswordFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the file {} is empty; put the password on its first line", path.display())]
    PasswordFileEmpty { path: PathBuf },
    #[error("the environment has no variable {name}; set it where causeway is started")]
    PasswordVariable { name: String },
    #[error(
        "looks like a SCRAM verifier but is not one; copy pg_authid.rolpassword whole: SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey"
    )]
    NotAVerifier,
    #[error(
        "a verifier cannot log in to the nodes; the monitor needs the password itself (also as password_file or password_env)"
    )]
    VerifierForMonitor,
    #[error(
        "{} must be shorter than {other} ({})",
        humantime::format_duration(*value), humantime::format_duration(*limit)
    )]
    NotShorter { value: Duration, other: &'static str, limit: Duration },
    #[error(
        "{} must not be longer than {other} ({})",
        humantime::format_duration(*value), humantime::format_duration(*limit)
    )]
    Longer { value: Duration, other: &'static str, limit: Duration },
    #[error("{value} bytes must not be more than {other} ({limit} bytes)")]
    Larger { value: u64, other: &'static str, limit: u64 },
    #[error(
        "is not looked at with mode = \"{mode}\"; take it out, or choose verify-ca or verify-full"
    )]
    WithoutVerifying { mode: &'static str },
    #[error(
        "lets {node} ask for nothing that it may be told: a password in plain is said only to nodes that are verified or \
         on this machine; choose mode = \"verify-full\" with a root, or allow scram-sha-256"
    )]
    OnlyInPlain { node: String },
    #[error("does nothing; give it a target, a max_lag, a consistency or a timeout")]
    RuleWithoutEffect,
    #[error("\"{text}\" is not a target; write primary, replica, node:NAME or zone:NAME")]
    NotATarget { text: String },
    #[error("no node is called \"{name}\"; the nodes are {}", known.join(", "))]
    NoSuchNode { name: String, known: Vec<String> },
    #[error("no node is in a zone \"{name}\"; give zone = \"{name}\" in a [[cluster.node]]")]
    NoSuchZone { name: String },
}

/// The line, from 1, in which `span` begins.
pub(super) fn line_of(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start).unwrap_or(text.as_bytes());
    1 + memchr::memchr_iter(b'\n', before).count()
}

struct Listing<'a> {
    path: Option<&'a Path>,
    problems: &'a [Problem],
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path {
            Some(path) => write!(f, "{}", path.display())?,
            None => f.write_str("the settings")?,
        }
        match self.problems {
            [one] => write!(f, ": {one}"),
            many => {
                write!(f, ": {} problems", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
            }
        }
    }
}
