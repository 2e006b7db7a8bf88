//! Cancelling what a server runs.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

use super::open::{OpenError, open};
use crate::config::settings::Address;
use crate::protocol::frontend;
use crate::tls::Connector;

/// Sends a CancelRequest and waits until the server closes the connection. By then the signal has been
/// sent to the process, if the key was right; what it was running may still go on for a moment.
/// A server that was lent on meanwhile would lose its new client's statement, so whoever cancels must
/// hold the server until this returns.
///
/// # Errors
/// When the node is not reached or does not close within `timeout`: then it is unknown whether the
/// signal was sent.
///
/// # Cancel safety
/// Safe in the sense that nothing leaks, but it is then unknown whether the signal was sent.
pub async fn cancel(
    address: &Address,
    connector: &Connector,
    process_id: i32,
    secret_key: &[u8],
    timeout: Duration,
) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    let mut request = BytesMut::with_capacity(16);
    frontend::cancel_request(&mut request, process_id, secret_key);
    let exchange = async {
        let mut stream = open(address, connector, deadline).await.map_err(|error| match error {
            OpenError::Unreachable(error) => error,
            other => io::Error::other(other),
        })?;
        stream.write_all(&request).await?;
        stream.flush().await?;
        let mut nothing = [0; 64];
        loop {
            match stream.read(&mut nothing).await {
                Ok(0) => return Ok(()),
                // A server says nothing here; if it does, the end is still what counts.
                Ok(_) => {}
                // PostgreSQL may close with our bytes half read, which arrives as a reset.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    };
    timeout_at(deadline, exchange).await.unwrap_or_else(|elapsed| Err(elapsed.into()))
}
