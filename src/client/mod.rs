//! The connection of an application.
//!
//! Owns the way in ([`handshake`], and what a load balancer says before it, [`proxied`], and what is
//! done with those who are too many, [`turn_away`]) and the borders of what is asked ([`conn`]). Invariant: what
//! stands behind a [`ClientConn`] has proved who it is.

pub mod conn;
pub mod handshake;
mod prove;
pub mod proxied;
mod turn_away;

pub use conn::{ClientConn, RequestError};
pub use handshake::{Entered, Entrance, HandshakeError, Welcome, enter};
pub use proxied::{NotProxied, proxied};
pub use turn_away::turn_away;
