//! What must hold of any input, as functions that panic where it does not.
//!
//! A fuzz target is one of these under libFuzzer (`fuzz_targets/`); the project's tests run each over
//! its committed seeds (`tests/fuzz_seeds.rs` includes this file). To add one: a module here, its
//! name in [`CHECKS`], a target of five lines, a `[[bin]]` in Cargo.toml, and seeds in `seeds/<name>/`.

pub mod classify;
pub mod config;
pub mod frames;
pub mod proxy_header;
pub mod sasl;
pub mod scan;
pub mod startup;
mod words;

/// Something that must hold of any input.
pub type Check = fn(&[u8]);

/// Every check by the name of its target and of its seeds.
pub const CHECKS: [(&str, Check); 7] = [
    ("scan", scan::check),
    ("classify", classify::check),
    ("startup", startup::check),
    ("frames", frames::check),
    ("sasl", sasl::check),
    ("proxy_header", proxy_header::check),
    ("config", config::check),
];
