//! Causeway: a PostgreSQL proxy that pools connections, sends writes to the primary and reads to the
//! replicas, ejects replicas that lag, and never lets a client read older than its own writes.
//!
//! The rooms, bottom to top; a room may use only rooms of lower layers, or of its own layer where
//! this leaves no circle (`tests/layers.rs` reads the `use` lines and keeps it so):
//!
//! ```text
//! 0 protocol  sql  config      three leaves that know no Tokio: bytes, text, settings
//! 1 telemetry  tls  net        counters and logs; encryption; sockets
//! 2 auth  cluster              who may enter; which node is what
//! 3 catalog  client  server    what a database knows; the two kinds of connection
//! 4 pool  routing              servers on loan; where a statement goes, and why
//! 5 session                    the machine that decides and the driver that does
//! 6 http                       /livez /readyz /metrics
//! 7 proxy                      build, accept, reload, shut down
//! 8 cli                        run, check, explain, health, demo
//! ```
//!
//! One query in five hops on one task: `client::ClientConn` finds the request's borders,
//! `session::Machine` classifies and decides, `pool` lends a server, `session::relay` exchanges,
//! the machine keeps or releases. docs/ARCHITECTURE.md tells the rest.

pub mod auth;
pub mod catalog;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod config;
pub mod http;
pub mod net;
pub mod pool;
pub mod protocol;
pub mod proxy;
pub mod routing;
pub mod server;
pub mod session;
pub mod sql;
pub mod telemetry;
pub mod tls;
