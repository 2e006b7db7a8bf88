//! Connections to PostgreSQL nodes.
//!
//! Owns opening and logging in ([`connect`]), cancelling ([`cancel`]), and what is known of each
//! connection ([`conn`], [`laid`]). Who may use one is for `pool`, what for is for `session`.

pub mod cancel;
pub mod conn;
pub mod connect;
pub mod laid;
pub mod open;
pub mod peers;
mod prepared;

pub use conn::{Identity, ServerConn, Silence};
pub use connect::{ConnectError, Established, ServerLogin, connect};
pub use laid::Laid;
pub use peers::Peers;
