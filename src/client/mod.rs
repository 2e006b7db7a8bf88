//! The connection of an application.
//!
//! Owns the way in ([`handshake`]). Invariant: what stands behind it exists only once the client
//! has proved who it is.

pub mod handshake;

pub use handshake::{Entered, Entrance, HandshakeError, Welcome, enter};
