//! The command line: run, check, explain, health, demo.

pub mod check;
pub mod demo;
pub mod explain;
pub mod health;
pub mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A PostgreSQL proxy that pools connections, splits reads from writes, and never lets a client read
/// older than its own writes
#[derive(Debug, Parser)]
#[command(
    name = "causeway",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  causeway demo                                     # see it at work, on a throw-away cluster
  causeway check --config causeway.toml --connect   # is the file right, are the nodes?
  causeway run --config causeway.toml
  psql -h 127.0.0.1 -p 6432 -U app app              # then connect as to PostgreSQL

Every key of the file is explained in config/reference.toml."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy
    Run(run::Arguments),
    /// Say whether a configuration file is right, and whether the nodes are
    Check(check::Arguments),
    /// Tell where a statement goes, and why
    Explain(explain::Arguments),
    /// Ask the proxy that runs with a file whether it is ready
    Health(health::Arguments),
    /// Show the proxy at work on a throw-away cluster, or on one of your own
    Demo(demo::DemoArgs),
}

/// Parses the arguments and runs the subcommand. Exit code 2 for usage, 1 for failure.
#[must_use]
pub fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Health(arguments) => health::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("causeway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_fit_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_subcommand_helps() {
        for command in Arguments::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }
}
