//! The command line: run, check, explain, demo.

pub mod demo;

use std::process::ExitCode;

/// Parses the arguments and runs the subcommand. Exit code 2 for usage, 1 for failure.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::FAILURE
}
