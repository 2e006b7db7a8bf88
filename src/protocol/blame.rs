//! Who must act on an error. Every room's error enum answers with one of these.

use std::fmt;

/// Who must act so that the error does not come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The client: it broke the protocol, went away, or asked for what it may not have.
    Client,
    /// A PostgreSQL server: it refused, broke the protocol, or was not reached.
    Server,
    /// The operator: the file does not fit the servers.
    Operator,
    /// Causeway itself.
    Proxy,
}

impl Blame {
    /// The word in logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
            Self::Operator => "operator",
            Self::Proxy => "proxy",
        }
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
