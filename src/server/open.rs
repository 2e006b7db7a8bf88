//! From an address to a connection on which a node may be spoken to: in TLS, as `[node_tls]` wants it.
//!
//! Owns SSLRequest and the judgement of its answer. Invariant: not a byte that came in plain text is
//! taken for one that TLS has protected (CVE-2021-23222), and a node that will not speak TLS is not
//! spoken to where TLS is required.

use std::io;

use bytes::BytesMut;
use rustls::pki_types::InvalidDnsNameError;
use tokio::time::Instant;

use crate::config::settings::Address;
use crate::net::{self, ReadAhead, SocketOptions, Stream};
use crate::protocol::frontend;
use crate::tls::client::server_name;
use crate::tls::{Connector, Want};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The node is not reached, or the connection broke.
    #[error("the server is not reached: {0}")]
    Unreachable(#[from] io::Error),
    /// It does not speak TLS, and must.
    #[error("the server does not offer TLS, which node_tls.mode requires")]
    NotOffered,
    /// It answered SSLRequest with another byte than `S` or `N`.
    #[error("the server answered SSLRequest with {answer}", answer = answer.escape_ascii())]
    Answer {
        /// The byte.
        answer: u8,
    },
    /// Bytes came behind the answer to SSLRequest, before TLS began.
    #[error(
        "received unencrypted data after SSL response: a fault of the server's, or somebody in between"
    )]
    Injected,
    /// The node's host cannot be in a certificate.
    #[error("TLS with the server is not possible: its host is no name and no address")]
    Name(#[from] InvalidDnsNameError),
    /// The handshake failed.
    #[error("TLS with the server failed: {0}")]
    Handshake(#[source] io::Error),
}

/// Connects to a node and begins TLS, if `connector` wants it.
///
/// # Errors
/// When there is no connection, or none of the kind that is wanted.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub(super) async fn open(
    address: &Address,
    connector: &Connector,
    deadline: Instant,
) -> Result<Stream, OpenError> {
    let stream = net::connect::connect(address, &SocketOptions::default(), deadline).await?;
    let (want, config) = (connector.want(address), connector.config());
    let (Some(config), Want::Prefer | Want::Require) = (config, want) else { return Ok(stream) };
    let name = server_name(&address.host)?;
    let mut wire = ReadAhead { stream, buffer: BytesMut::new() };
    let mut request = BytesMut::with_capacity(8);
    frontend::ssl_request(&mut request);
    wire.write(&request).await?;
    wire.fill(1).await?;
    match (wire.buffer[0], want) {
        _ if wire.buffer.len() > 1 => Err(OpenError::Injected),
        (b'S', _) => wire.stream.connect_tls(config, name).await.map_err(OpenError::Handshake),
        (b'N', Want::Require) => Err(OpenError::NotOffered),
        (b'N', _) => Ok(wire.stream),
        (answer, _) => Err(OpenError::Answer { answer }),
    }
}
