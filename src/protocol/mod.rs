//! The PostgreSQL frontend/backend protocol, version 3: bytes in, facts out.
//!
//! Owns frame borders, start-up packets, the messages that Causeway itself writes, and the scanner
//! over responses. Knows no socket. Source: <https://www.postgresql.org/docs/current/protocol.html>.

pub mod backend;
pub mod blame;
pub mod error_report;
mod expect;
pub mod frame;
pub mod frontend;
pub mod proxy_header;
pub mod request;
pub mod response;
pub mod startup;
pub mod write;

pub use blame::Blame;
pub use error_report::ErrorReport;
