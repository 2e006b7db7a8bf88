//! What a load balancer says of its client before anything else (PROXY protocol v2).
//!
//! Only who is listed in `proxy.proxy_protocol_from` is asked, and must speak it; from anybody else the
//! same bytes are a start-up packet of impossible length.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::time::timeout;

use crate::net::{PeerAddr, ReadAhead, Stream};
use crate::protocol::proxy_header::{self, FIXED, ProxyHeaderError, Source};

/// Why a connection was closed that should have begun with a header. Nobody is told: whoever is at the
/// other end does not speak PostgreSQL yet.
#[derive(Debug, thiserror::Error)]
pub enum NotProxied {
    /// What came is no header.
    #[error(transparent)]
    Header(#[from] ProxyHeaderError),
    /// It did not come in time.
    #[error("no PROXY protocol header came within {0:?}")]
    Timeout(Duration),
    /// The connection broke or ended.
    #[error("the connection ended before its PROXY protocol header")]
    Io(#[from] io::Error),
}

/// Reads the header: whom the connection is for, and what was read behind it. Takes at most `within`.
///
/// # Errors
/// When there is none, or it does not hold. The connection is closed.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn proxied(
    stream: Stream,
    balancer: PeerAddr,
    within: Duration,
) -> Result<(Stream, BytesMut, PeerAddr), NotProxied> {
    let mut wire = ReadAhead { stream, buffer: BytesMut::new() };
    let header = async {
        // Byte by byte is dear, but anything else must be seen to be none before 16 bytes have come.
        wire.fill(1).await?;
        if wire.buffer[0] != proxy_header::SIGNATURE[0] {
            return Err(NotProxied::Header(ProxyHeaderError::Signature));
        }
        wire.fill(FIXED).await?;
        let fixed = *wire.buffer.first_chunk::<FIXED>().ok_or(ProxyHeaderError::Signature)?;
        let length = proxy_header::body_length(&fixed)?;
        wire.fill(FIXED + length).await?;
        let source = proxy_header::parse(&fixed, &wire.buffer[FIXED..FIXED + length])?;
        wire.buffer.advance(FIXED + length);
        Ok(source)
    };
    match timeout(within, header).await {
        Ok(Ok(Source::Client(address))) => Ok((wire.stream, wire.buffer, PeerAddr::Tcp(address))),
        Ok(Ok(Source::Balancer)) => Ok((wire.stream, wire.buffer, balancer)),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(NotProxied::Timeout(within)),
    }
}
