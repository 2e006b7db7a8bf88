//! `causeway health`: is the proxy on this machine ready? For containers, which have no shell to ask with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::demo::scrape;
use crate::config;

/// Longer than any answer takes: what then has not come does not come.
const PATIENCE: Duration = Duration::from_secs(3);

/// Arguments of `causeway health`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Example:
  causeway health --config /etc/causeway/causeway.toml

Exit code: 0 if /readyz says so, 1 if not or if nobody answers.")]
pub struct Arguments {
    /// The file that the proxy runs with: proxy.http tells where to ask
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Asks `/readyz` and says what it answers.
///
/// # Errors
/// When nobody answers, or the file does not say where to ask.
pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let settings = config::load(&arguments.config)?;
    let Some(address) = settings.proxy.http else { bail!("the file gives no proxy.http to ask") };
    let address = reachable(address);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = async { tokio::time::timeout(PATIENCE, scrape::get(address, "/readyz")).await };
    let (status, body) = runtime
        .block_on(asked)
        .with_context(|| format!("{address} does not answer"))?
        .with_context(|| format!("cannot ask {address}"))?;
    println!("{}", body.trim_end());
    Ok(if status == 200 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What listens on every address is asked on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_asked_on_loopback() {
        for (from, to) in
            [("0.0.0.0:9", "127.0.0.1:9"), ("[::]:9", "[::1]:9"), ("192.0.2.1:9", "192.0.2.1:9")]
        {
            assert_eq!(reachable(from.parse().unwrap()), to.parse().unwrap());
        }
    }
}
