//! The packets that open a connection: start-up, SSLRequest, GSSENCRequest and CancelRequest.
//!
//! Owns their borders, their limits, the negotiation of the protocol's minor version and the wording
//! of every refusal. Does not say who may enter. Invariant: the length that a packet claims is
//! checked before a byte of its body is asked for, and nothing is ever reserved on its word alone.
//!
//! Source: <https://www.postgresql.org/docs/18/protocol-message-formats.html> and, for the order of
//! the checks and the texts, `src/backend/tcop/backend_startup.c` of PostgreSQL 18.

use std::collections::HashMap;

use bytes::Bytes;

use super::{Blame, ErrorReport};

/// The newest minor version of protocol 3 that Causeway speaks.
pub const LATEST_MINOR: u16 = 2;
/// The code in place of a version that asks for a cancel.
pub const CANCEL_REQUEST: u32 = code(1234, 5678);
/// The code in place of a version that asks for TLS.
pub const SSL_REQUEST: u32 = code(1234, 5679);
/// The code in place of a version that asks for GSSAPI encryption.
pub const GSSENC_REQUEST: u32 = code(1234, 5680);
/// The longest cancel key that protocol 3.2 allows, in bytes.
pub const CANCEL_KEY_MAX: usize = 256;
/// The longest name that PostgreSQL keeps, in bytes (`NAMEDATALEN - 1`).
const NAME_MAX: usize = 63;

/// A version or request code of two halves.
const fn code(major: u16, minor: u16) -> u32 {
    ((major as u32) << 16) + minor as u32
}

/// What a connection's first packet (or one after an answered request for encryption) says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartupPacket {
    /// SSLRequest: to be answered with one byte.
    Ssl,
    /// GSSENCRequest: to be answered with one byte.
    Gssenc,
    /// CancelRequest: answered with nothing.
    Cancel(CancelKey),
    /// A login.
    Session(Startup),
}

/// Names one server process and proves the right to cancel what it runs.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    /// `BackendKeyData`'s process id.
    pub process_id: i32,
    /// `BackendKeyData`'s secret: 4 bytes in protocol 3.0, up to 256 in 3.2.
    pub secret: Bytes,
}

impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CancelKey({}, ***)", self.process_id)
    }
}

/// A StartupMessage, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// The role; never empty, at most 63 bytes as PostgreSQL cuts it.
    pub user: String,
    /// The database; the user's name where the client gave none.
    pub database: String,
    /// All other parameters, `options` included, in the order sent. Of parameters that repeat (their
    /// names compare without regard to ASCII case) only the last is kept.
    pub parameters: Vec<(String, String)>,
    /// What was agreed on.
    pub protocol: Negotiation,
}

/// The protocol version that both sides speak from here on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiation {
    /// 0 or 2. A client that asks for 3.1, which never existed, is served as PostgreSQL 18 serves
    /// it: without a word and by the rules of 3.0.
    pub minor: u16,
    /// Whether `NegotiateProtocolVersion` must be sent.
    pub must_answer: bool,
    /// `_pq_.` options, none of which is known.
    pub unrecognized: Vec<String>,
}

/// Why a first packet is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartupError {
    /// Shorter than its code or longer than `limits.startup_packet`.
    #[error("invalid length of startup packet")]
    Length,
    /// A cancel request whose key has 0 or more than 256 bytes.
    #[error("invalid length of cancel request packet")]
    CancelLength,
    /// A version that is not 3.x, a request for encryption that comes twice, or nonsense.
    #[error(
        "unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{LATEST_MINOR}"
    )]
    Version {
        /// The upper half of the code.
        major: u16,
        /// The lower half of the code.
        minor: u16,
    },
    /// The list of parameters does not end where the packet ends.
    #[error("invalid startup packet layout: expected terminator as last byte")]
    Layout,
    /// A name or value is not UTF-8.
    #[error("invalid byte sequence for encoding \"UTF8\" in startup packet")]
    Encoding,
    /// No user, or an empty one.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// `replication` is set: Causeway does not carry replication.
    #[error("replication connections are not supported through Causeway")]
    Replication,
    /// `replication` is no boolean and not `database`.
    #[error("invalid value for parameter \"replication\": \"{value}\"")]
    ReplicationValue {
        /// As the client sent it.
        value: String,
    },
    /// Bytes came behind an SSLRequest before it was answered (as in CVE-2021-23214).
    #[error("received unencrypted data after SSL request")]
    DataAfterSsl,
    /// Bytes came behind a GSSENCRequest before it was answered.
    #[error("received unencrypted data after GSSAPI encryption request")]
    DataAfterGssenc,
}

impl StartupError {
    /// Always the client.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        Blame::Client
    }

    /// What the client hears.
    #[must_use]
    pub fn report(&self) -> ErrorReport {
        let sqlstate = match self {
            Self::Length
            | Self::CancelLength
            | Self::Layout
            | Self::DataAfterSsl
            | Self::DataAfterGssenc => "08P01",
            Self::Version { .. } | Self::Replication => "0A000",
            Self::Encoding => "22021",
            Self::NoUser => "28000",
            Self::ReplicationValue { .. } => "22023",
        };
        let report = ErrorReport::fatal(sqlstate, self.to_string());
        match self {
            Self::DataAfterSsl | Self::DataAfterGssenc => report.with_detail(
                "This could be either a client-software bug or evidence of an attempted \
                 man-in-the-middle attack.",
            ),
            Self::Replication => report.with_hint("Connect to the node itself."),
            Self::ReplicationValue { .. } => {
                report.with_hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")
            }
            _ => report,
        }
    }
}

/// The bytes that follow the length word, if the length is one that a packet may have.
///
/// `limit` bounds what follows the length word, as PostgreSQL's `MAX_STARTUP_PACKET_LENGTH` does.
///
/// # Errors
/// [`StartupError::Length`]; then nothing more is to be read.
pub fn body_length(length_word: [u8; 4], limit: usize) -> Result<usize, StartupError> {
    let length = u32::from_be_bytes(length_word) as usize;
    match length.checked_sub(4) {
        Some(body) if (4..=limit).contains(&body) => Ok(body),
        _ => Err(StartupError::Length),
    }
}

/// Reads a packet's body: what follows the length word.
///
/// # Errors
/// When the packet breaks the protocol or asks for what Causeway does not offer.
pub fn parse(body: &[u8]) -> Result<StartupPacket, StartupError> {
    let (code, rest) = body.split_first_chunk::<4>().ok_or(StartupError::Length)?;
    match u32::from_be_bytes(*code) {
        CANCEL_REQUEST => cancel(rest).map(StartupPacket::Cancel),
        SSL_REQUEST => Ok(StartupPacket::Ssl),
        GSSENC_REQUEST => Ok(StartupPacket::Gssenc),
        version => session(version, rest).map(StartupPacket::Session),
    }
}

/// The refusal of a version or request code.
#[must_use]
pub const fn unsupported(code: u32) -> StartupError {
    let [a, b, c, d] = code.to_be_bytes();
    StartupError::Version { major: u16::from_be_bytes([a, b]), minor: u16::from_be_bytes([c, d]) }
}

/// `name` cut to the length that PostgreSQL keeps, never inside a character.
#[must_use]
pub fn truncate_name(name: &str) -> &str {
    let mut end = name.len().min(NAME_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

fn cancel(rest: &[u8]) -> Result<CancelKey, StartupError> {
    match rest.split_first_chunk::<4>() {
        Some((process_id, secret)) if (1..=CANCEL_KEY_MAX).contains(&secret.len()) => {
            Ok(CancelKey {
                process_id: i32::from_be_bytes(*process_id),
                secret: Bytes::copy_from_slice(secret),
            })
        }
        _ => Err(StartupError::CancelLength),
    }
}

fn session(version: u32, rest: &[u8]) -> Result<Startup, StartupError> {
    let (major, minor) = (version >> 16, version & 0xFFFF);
    if major != 3 {
        return Err(unsupported(version));
    }
    let mut user = "";
    let mut database = "";
    let mut unrecognized = Vec::new();
    let mut parameters = Parameters::default();
    for pair in pairs(rest)? {
        let (name, value) = pair?;
        match name {
            "user" => user = value,
            "database" => database = value,
            "replication" => refuse_replication(value)?,
            _ if name.starts_with("_pq_.") => unrecognized.push(name.to_owned()),
            _ => parameters.set(name, value),
        }
    }
    if user.is_empty() {
        return Err(StartupError::NoUser);
    }
    let database = if database.is_empty() { user } else { database };
    Ok(Startup {
        user: truncate_name(user).to_owned(),
        database: truncate_name(database).to_owned(),
        parameters: parameters.into_vec(),
        protocol: Negotiation {
            minor: if minor >= u32::from(LATEST_MINOR) { LATEST_MINOR } else { 0 },
            must_answer: minor > u32::from(LATEST_MINOR) || !unrecognized.is_empty(),
            unrecognized,
        },
    })
}

type Pair<'a> = Result<(&'a str, &'a str), StartupError>;

/// The name/value pairs, once it is sure that the terminator is the last byte.
fn pairs(list: &[u8]) -> Result<impl Iterator<Item = Pair<'_>>, StartupError> {
    let strings = list.strip_suffix(&[0]).ok_or(StartupError::Layout)?;
    let strings = match strings.strip_suffix(&[0]) {
        Some(strings) => Some(strings),
        None if strings.is_empty() => None,
        None => return Err(StartupError::Layout),
    };
    let count = strings.map_or(0, |s| s.split(|&byte| byte == 0).count());
    let names_given =
        strings.is_none_or(|s| s.split(|&byte| byte == 0).step_by(2).all(|name| !name.is_empty()));
    if count % 2 != 0 || !names_given {
        return Err(StartupError::Layout);
    }
    let mut texts = strings
        .into_iter()
        .flat_map(|s| s.split(|&byte| byte == 0))
        .map(|text| std::str::from_utf8(text).map_err(|_| StartupError::Encoding));
    Ok(std::iter::from_fn(move || {
        let (name, value) = (texts.next()?, texts.next()?);
        Some(name.and_then(|name| Ok((name, value?))))
    }))
}

fn refuse_replication(value: &str) -> Result<(), StartupError> {
    if value == "database" {
        return Err(StartupError::Replication);
    }
    match parse_bool(value) {
        Some(true) => Err(StartupError::Replication),
        Some(false) => Ok(()),
        None => Err(StartupError::ReplicationValue { value: value.to_owned() }),
    }
}

/// A boolean as `parse_bool` of PostgreSQL reads it: any unambiguous prefix, in any case.
fn parse_bool(text: &str) -> Option<bool> {
    let text = text.to_ascii_lowercase();
    let prefix_of = |word: &str, least: usize| text.len() >= least && word.starts_with(&text);
    if prefix_of("true", 1) || prefix_of("yes", 1) || text == "on" || text == "1" {
        Some(true)
    } else if prefix_of("false", 1) || prefix_of("no", 1) || prefix_of("off", 2) || text == "0" {
        Some(false)
    } else {
        None
    }
}

/// Parameters in the order sent, without those that a later one replaces.
#[derive(Default)]
struct Parameters {
    list: Vec<Option<(String, String)>>,
    /// By lower-case name: the place in `list`. A map, so that a packet full of one-letter names
    /// costs no quadratic time before the client has proved anything.
    places: HashMap<String, usize>,
}

impl Parameters {
    fn set(&mut self, name: &str, value: &str) {
        if let Some(before) = self.places.insert(name.to_ascii_lowercase(), self.list.len()) {
            self.list[before] = None;
        }
        self.list.push(Some((name.to_owned(), value.to_owned())));
    }

    fn into_vec(self) -> Vec<(String, String)> {
        self.list.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests;
