//! In-process tests: Causeway's rooms over loopback against a scripted PostgreSQL.

mod fake;
mod fuzz_seeds;
mod grammar_oracle;
mod handshake;
mod layers;
mod routing;
mod server_login;
mod session;
mod sockets;
