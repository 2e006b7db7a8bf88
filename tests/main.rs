//! In-process tests: Causeway's rooms over loopback against a scripted PostgreSQL.

mod fake;
mod grammar_oracle;
mod handshake;
mod routing;
mod server_login;
mod sockets;
