//! The `causeway` program before real PostgreSQL clusters, with real clients and real faults.
//!
//! Tests that count what nodes served have a database of their own on one shared cluster (statistics
//! are kept per database); tests that break nodes have a cluster of their own.

mod access;
mod certificates;
mod consistency;
mod corpus;
mod demo;
mod differential;
mod drivers;
mod faults;
mod harness;
mod history;
mod hostile;
mod lifecycle;
mod limits;
mod login;
mod server_login;
mod throwaway;
mod tls;
mod traffic;
mod volume;
mod wire;
