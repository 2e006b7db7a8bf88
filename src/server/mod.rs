//! The connection to a PostgreSQL node.
//!
//! Owns the way in ([`connect`]) and cancelling what runs on one ([`cancel`]).

pub mod cancel;
pub mod connect;

pub use connect::{ConnectError, Established, ServerLogin, connect};
