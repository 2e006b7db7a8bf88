//! The process: builds the rooms, accepts clients, reloads, shuts down.
//!
//! Threads: one for control (listeners, monitor, catalogs, HTTP, signals, the reaper) and one per
//! worker, each with a current-thread runtime. A client stays with the worker it was handed to.

pub mod accept;
pub mod build;
pub mod reload;
pub mod worker;

pub use build::{Proxy, StartError};
