//! What is set on every TCP socket.
//!
//! Owns the choice of options, not when they are applied. `TCP_USER_TIMEOUT` is off unless asked
//! for: it also counts the time for which a healthy peer's window is closed, so it would end a client
//! that pauses in the middle of a cursor, or a server that waits for a lock in the middle of COPY.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

/// Options of one TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketOptions {
    /// Silence after which the peer is probed; `None` for no keepalive.
    pub keepalive: Option<Duration>,
    /// Time between probes.
    pub keepalive_interval: Duration,
    /// Probes without an answer after which the connection is dead.
    pub keepalive_retries: u32,
    /// How long sent bytes may stay unacknowledged; `None` for the system's own patience.
    pub user_timeout: Option<Duration>,
}

impl Default for SocketOptions {
    /// A silent peer that is gone is found after about a minute.
    fn default() -> Self {
        Self {
            keepalive: Some(Duration::from_secs(30)),
            keepalive_interval: Duration::from_secs(10),
            keepalive_retries: 3,
            user_timeout: None,
        }
    }
}

impl SocketOptions {
    /// Sets them, and `TCP_NODELAY`, on a connected socket, or on one that listens: Linux hands them down to
    /// what it accepts.
    ///
    /// # Errors
    /// When the system refuses one, in practice because the connection is already gone.
    pub fn apply<'s, S>(&self, socket: &'s S) -> io::Result<()>
    where
        SockRef<'s>: From<&'s S>,
    {
        let socket = SockRef::from(socket);
        socket.set_tcp_nodelay(true)?;
        if let Some(idle) = self.keepalive {
            let keepalive = TcpKeepalive::new()
                .with_time(idle)
                .with_interval(self.keepalive_interval)
                .with_retries(self.keepalive_retries);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        #[cfg(target_os = "linux")]
        if self.user_timeout.is_some() {
            socket.set_tcp_user_timeout(self.user_timeout)?;
        }
        Ok(())
    }
}
