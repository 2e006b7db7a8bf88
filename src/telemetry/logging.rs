//! Logs to standard error, as text for people or JSON for collectors.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

use crate::config::settings::LogFormat;

/// What is logged without `RUST_LOG`. The probes' pool warns of what the monitor tells better.
const DEFAULT: &str = "info,deadpool.postgres=error";

/// Sends the process's log records to standard error. `RUST_LOG` sets the level, [`DEFAULT`] without it.
/// Does nothing if that was done before.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal());
    // The only error is that another subscriber is in place, which then stays.
    let _ = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
