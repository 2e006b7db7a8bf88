//! `causeway run`: the proxy until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::telemetry::logging;
use crate::{config, proxy};

/// Arguments of `causeway run`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Signals:
  SIGTERM   let nobody in any more, wait for transactions to end, exit
  SIGINT    exit at once
  SIGHUP    read the file again: all of it, or nothing if anything is wrong with it

Environment:
  RUST_LOG  what is logged to standard error: info, causeway=debug, ...

Example:
  causeway run --config causeway.toml")]
pub struct Arguments {
    /// The configuration file (try it first: causeway check --config FILE --connect)
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Reads the file and runs the proxy; blocks until it has shut down.
///
/// # Errors
/// When the file cannot be used, or the proxy cannot be started.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let settings = config::load(&arguments.config)?;
    logging::init(settings.proxy.log_format);
    proxy::build::run(settings, &arguments.config)?;
    Ok(ExitCode::SUCCESS)
}
