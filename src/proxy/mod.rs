//! The process: builds the rooms, accepts clients, reloads, shuts down.
//!
//! Threads: one for control (listeners, monitor, catalogs, HTTP, signals, the reaper) and one per
//! worker, each with a current-thread runtime. A client's task never moves; between two requests its
//! session may (see [`crew`]).

pub mod accept;
pub mod build;
pub mod census;
pub mod crew;
pub mod notify;
pub mod reload;
pub mod resources;
pub mod silence;
pub mod worker;

pub use build::{Proxy, StartError};
