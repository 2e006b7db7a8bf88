//! Servers on loan.
//!
//! Owns the servers of every user, database and node, who waits for one, and when one is closed.
//! A [`Lease`] is the only way to a server: dropping it closes the server, and only
//! [`Lease::give_back`] on a clean one returns it.

pub mod lease;
pub mod login;
#[allow(clippy::module_inception, reason = "the pool is what the room is about")]
pub mod pool;
pub mod pools;

pub use lease::Lease;
pub use pool::{LeaseError, Pool, Wish};
pub use pools::{Account, Pools};
