//! Sockets: the one stream type that clients and servers come over, and the listeners.

pub mod stream;

pub use stream::Stream;
