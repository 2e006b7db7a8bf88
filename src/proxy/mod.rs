//! The process: builds the rooms, accepts clients, reloads, shuts down.
//!
//! Threads, each with a current-thread runtime: one for control (monitor, catalogs, HTTP, signals, the
//! reaper), one per worker, and few for the way in (see [`door`]). A client's task never moves; between two
//! requests its session may (see [`crew`]).

pub mod build;
pub mod census;
pub mod crew;
pub mod door;
pub mod notify;
pub mod reload;
pub mod resources;
pub mod silence;
pub mod worker;

pub use build::{Proxy, StartError};

/// An error with its causes, on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
