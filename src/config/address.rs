//! Addresses as the file writes them.

use std::net::SocketAddr;

use super::settings::Address;

const POSTGRESQL_PORT: u16 = 5432;

/// `IP:port`, `localhost:port` or `*:port`.
pub(super) fn socket_address(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let (host, port) = text.split_once(':')?;
    let port: u16 = port.parse().ok()?;
    match host {
        "localhost" => Some(SocketAddr::from(([127, 0, 0, 1], port))),
        "*" => Some(SocketAddr::from(([0, 0, 0, 0], port))),
        _ => None,
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`, `/directory` or `/directory:port`.
pub(super) fn node_address(text: &str) -> Option<Address> {
    let text = text.trim();
    let port_of = |port: &str| port.parse::<u16>().ok().filter(|port| *port != 0);
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        match rest.strip_prefix(':') {
            Some(port) => (host, port_of(port)?),
            None if rest.is_empty() => (host, POSTGRESQL_PORT),
            None => return None,
        }
    } else {
        match text.rsplit_once(':') {
            Some((host, port)) => (host, port_of(port)?),
            None => (text, POSTGRESQL_PORT),
        }
    };
    let bracketed = text.starts_with('[');
    let odd = |c: char| c.is_whitespace() || c == ',' || (c == ':' && !bracketed);
    let odd_name = !host.starts_with('/') && (host.contains('/') || host.contains('@'));
    if host.is_empty() || host.contains(odd) || odd_name {
        return None;
    }
    Some(Address { host: host.to_owned(), port })
}
