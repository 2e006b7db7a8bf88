//! Sockets: the one stream type that clients and servers come over, how connections are opened and
//! accepted, and what is set on them.

pub mod connect;
pub mod listen;
pub mod options;
pub mod postgres;
pub mod read_ahead;
pub mod stream;

pub use listen::{Bound, BoundAddr, Listener, PeerAddr};
pub use options::SocketOptions;
pub use read_ahead::ReadAhead;
pub use stream::Stream;
