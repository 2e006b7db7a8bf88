//! One connection to a PostgreSQL node, logged in and ready.
//!
//! Owns its socket, what is in flight on it, and what Causeway knows to be on it: the settings that
//! were laid and the statements that were prepared. It belongs to exactly one place at a time: a
//! pool's idle list or a lease.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use rustc_hash::FxHashMap;
use tokio::io::AsyncWrite;
use tokio::sync::Notify;
use tokio_util::io::poll_read_buf;

use super::connect::Reported;
use super::laid::{Laid, is_misplaced};
use super::peers::Peers;
use super::prepared::PreparedHere;
use crate::cluster::NodeId;
use crate::config::settings::Address;
use crate::net::Stream;
use crate::protocol::response::Responses;
use crate::protocol::write;
use crate::protocol::{ErrorReport, frame};
use crate::tls::Connector;

/// Room for what a server says unasked, in bytes.
const HEAR: usize = 1 << 10;

/// Who a server is, for those who want to cancel what it runs.
pub struct Identity {
    /// The node it is a connection to.
    pub node: NodeId,
    /// Where the node listens.
    pub address: Address,
    /// From its BackendKeyData.
    pub process_id: i32,
    /// From its BackendKeyData.
    pub secret_key: Bytes,
    /// What it runs is being cancelled because it took too long.
    pub overdue: Arc<AtomicBool>,
    session: AtomicI32,
    /// The session that was to be ended with it.
    condemned: AtomicI32,
    /// How the node is spoken to.
    pub connector: Connector,
    cancels: AtomicU32,
    cancelled: Notify,
    silence: AtomicU8,
}

impl std::fmt::Debug for Identity {
    /// The secret does not show.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { node, address, process_id, .. } = self;
        f.debug_struct("Identity")
            .field("node", node)
            .field("address", address)
            .field("process_id", process_id)
            .finish_non_exhaustive()
    }
}

/// What the silence of a node means to a request that waits for one of its servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Silence {
    /// The node may speak again: what can be run elsewhere need not wait for that.
    Open = 1,
    /// Another node has its place now: nothing waits for it.
    Final = 2,
}

impl Identity {
    /// Names a server.
    #[must_use]
    pub fn new(node: NodeId, address: Address, process_id: i32, secret_key: Bytes) -> Self {
        Self {
            node,
            address,
            process_id,
            secret_key,
            overdue: Arc::default(),
            session: AtomicI32::new(0),
            condemned: AtomicI32::new(0),
            connector: Connector::disabled(),
            cancels: AtomicU32::new(0),
            cancelled: Notify::new(),
            silence: AtomicU8::new(0),
        }
    }

    /// The node has fallen silent. The server is not used again once it is given back.
    pub fn fall_silent(&self, silence: Silence) {
        self.silence.fetch_max(silence as u8, Ordering::Relaxed);
    }

    /// Whether a request need not wait for the server any longer; `runs_again` tells whether it can
    /// be run elsewhere.
    #[must_use]
    pub fn is_given_up(&self, runs_again: bool) -> bool {
        let least = if runs_again { Silence::Open } else { Silence::Final };
        self.silence.load(Ordering::Relaxed) >= least as u8
    }

    /// The same, of a node that is spoken to like this.
    #[must_use]
    pub fn over(self, connector: Connector) -> Self {
        Self { connector, ..self }
    }

    /// The server serves this session from now on, by the process id that its client was told.
    pub fn serve(&self, session: i32) {
        self.pardon();
        self.session.store(session, Ordering::Relaxed);
    }

    /// The session that it serves or served last; 0 for none.
    #[must_use]
    pub fn session(&self) -> i32 {
        self.session.load(Ordering::Relaxed)
    }

    /// Somebody ends it to end the session that it serves.
    pub fn condemn(&self) {
        self.condemned.store(self.session(), Ordering::Relaxed);
    }

    /// It is not, or was not.
    pub fn pardon(&self) {
        self.condemned.store(0, Ordering::Relaxed);
    }

    /// Whether its end is the end of the session that it serves.
    #[must_use]
    pub fn is_condemned(&self) -> bool {
        let session = self.session();
        session != 0 && self.condemned.load(Ordering::Relaxed) == session
    }

    /// A cancel request is about to be sent: until [`cancel_delivered`](Self::cancel_delivered) the
    /// server must not serve anybody else.
    pub fn cancel_sent(&self) {
        self.cancels.fetch_add(1, Ordering::AcqRel);
    }

    /// The node has taken the cancel request (it closed the connection that brought it).
    pub fn cancel_delivered(&self) {
        self.cancels.fetch_sub(1, Ordering::AcqRel);
        self.cancelled.notify_waiters();
    }

    /// Whether a cancel request is under way.
    #[must_use]
    pub fn is_being_cancelled(&self) -> bool {
        self.cancels.load(Ordering::Acquire) > 0
    }

    /// Waits until no cancel request is under way.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn cancels_delivered(&self) {
        while self.is_being_cancelled() {
            let delivered = self.cancelled.notified();
            if self.is_being_cancelled() {
                delivered.await;
            }
        }
    }
}

/// Whose values the sequence functions of a server would give.
#[derive(Debug)]
pub enum Sequences {
    /// Nobody's.
    Clean,
    /// Those of the session with this mark, and no other's.
    Of(Weak<()>),
    /// Nobody knows.
    Unknown,
}

impl Sequences {
    /// Whether they are those of the session with this mark.
    #[must_use]
    pub fn are_of(&self, mark: &Arc<()>) -> bool {
        matches!(self, Self::Of(owner) if owner.as_ptr() == Arc::as_ptr(mark))
    }

    /// Whether another session than the one with this mark may still ask for them.
    #[must_use]
    pub fn are_reserved(&self, mark: Option<&Arc<()>>) -> bool {
        match self {
            Self::Of(owner) => {
                owner.strong_count() > 0 && !mark.is_some_and(|mark| self.are_of(mark))
            }
            Self::Clean | Self::Unknown => false,
        }
    }
}

/// One server connection.
#[derive(Debug)]
pub struct ServerConn {
    /// Its socket.
    pub stream: Stream,
    /// What was read and not yet handed on.
    pub input: BytesMut,
    /// What is to be written.
    pub output: BytesMut,
    /// What is in flight.
    pub responses: Responses,
    /// Its name for cancel requests.
    pub identity: Arc<Identity>,
    /// The node's epoch it was opened in.
    pub epoch: u64,
    /// The worker whose reactor it is registered with.
    pub home: usize,
    /// When it was opened.
    pub opened_at: Instant,
    /// When it was last put back.
    pub idle_since: Instant,
    /// The settings laid on it.
    pub applied: Laid,
    /// The statements prepared on it.
    pub prepared: PreparedHere,
    /// The session that it last served, by the process id that its client was given; 0 for none.
    pub served: i32,
    /// Statements that are on the server under names of the session that it last served, by their
    /// numbers; 0 if it is not known whether one is there. They are closed before it serves another.
    pub lent: FxHashMap<Bytes, u64>,
    /// Whose values its sequence functions (currval, lastval) would give.
    pub sequences: Sequences,
    /// Custom settings that exist on it, if only empty: they never go away again.
    pub customs: BTreeSet<Box<str>>,
    /// Hash of the text in the unnamed statement, as far as known.
    pub unnamed: Option<u64>,
    /// Where the processes behind notifications are looked up.
    pub peers: Option<Arc<Peers>>,
    /// What it reported when it was opened (ParameterStatus), until somebody takes note of it.
    pub greeting: Option<Vec<Reported>>,
    /// What it is, is no longer known: it must be closed and not used again.
    pub spoiled: bool,
}

impl ServerConn {
    /// A server that has just been opened, in this epoch of its node and by this worker.
    #[must_use]
    pub fn new(stream: Stream, identity: Identity, epoch: u64, home: usize) -> Self {
        let now = Instant::now();
        Self {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            responses: Responses::of(identity.overdue.clone()),
            identity: Arc::new(identity),
            epoch,
            home,
            opened_at: now,
            idle_since: now,
            applied: Laid::default(),
            prepared: PreparedHere::default(),
            served: 0,
            lent: FxHashMap::default(),
            sequences: Sequences::Clean,
            customs: BTreeSet::new(),
            unnamed: None,
            peers: None,
            greeting: None,
            spoiled: false,
        }
    }

    /// Puts the sender's session in the place of the sender's process, at the head of a notification.
    pub fn name_notifier(&self, process_id: &mut [u8]) {
        if let Some(peers) = &self.peers
            && let Some(known) = process_id.first_chunk_mut()
            && let Some(session) = peers.session_of(self.identity.node, i32::from_be_bytes(*known))
        {
            *known = session.to_be_bytes();
        }
    }

    /// Takes note of settings that have been laid.
    pub fn set_applied(&mut self, laid: &Laid) {
        if self.applied.is(laid) {
            return;
        }
        // Where they are equal the session's copy is kept: the next look at it tells by its place.
        let applied = std::mem::replace(&mut self.applied, laid.clone());
        if applied != *laid {
            for (name, _) in laid.iter().filter(|(name, _)| name.contains('.')) {
                if !self.customs.contains(name) {
                    self.customs.insert(name.into());
                    // It would be heard of by whoever loads the library here.
                    self.spoiled |= is_misplaced(name);
                }
            }
        }
    }

    /// Whether its connection is still there, as far as the reactor knows: an idle server that has
    /// something to say has been closed by the node, or is about to be.
    #[must_use]
    pub fn is_alive(&mut self) -> bool {
        self.stream.is_silent()
    }

    /// Reads what it says; pending while it is silent. For a server of which nothing is asked.
    ///
    /// # Errors
    /// If its connection is broken or has ended.
    ///
    /// # Cancel safety
    /// Safe: what was read is in the buffer.
    pub fn poll_hear(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stream.poll_read_ready(cx)? {
            Poll::Ready(()) => self.input.reserve(HEAR),
            Poll::Pending if self.identity.is_given_up(false) => return Poll::Ready(Err(silent())),
            Poll::Pending => return Poll::Pending,
        }
        self.poll_read(false, cx)
    }

    /// Waits for its last words; whether an administrator has ended it. It must be idle and quiet.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn ended_by_administrator(&mut self) -> bool {
        loop {
            while let Ok(Some(header)) = frame::backend(&self.input)
                && header.length <= self.input.len()
            {
                let message = self.input.split_to(header.length);
                let body = &message[frame::HEADER..];
                if header.kind == b'E' && ErrorReport::parse(body).sqlstate == "57P01" {
                    return true;
                }
            }
            if poll_fn(|cx| self.poll_hear(cx)).await.is_err() {
                return false;
            }
        }
    }

    /// Reads some of its answer into the room that `input` has; `runs_again` tells whether the request
    /// can be run elsewhere. Gives up when its node has fallen silent (see [`Silence`]).
    ///
    /// # Errors
    /// If its connection is broken, has ended or is given up.
    ///
    /// # Cancel safety
    /// Safe: what was read is in the buffer.
    pub fn poll_read(&mut self, runs_again: bool, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(read) => Poll::Ready(read.map(drop)),
            Poll::Pending if self.identity.is_given_up(runs_again) => Poll::Ready(Err(silent())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Registers the socket with the reactor of the worker that runs this.
    ///
    /// # Errors
    /// If the operating system refuses the registration.
    pub fn rehome(&mut self, worker: usize) -> io::Result<()> {
        if self.home != worker {
            self.stream.rehome()?;
            self.home = worker;
        }
        Ok(())
    }

    /// Whether nothing is in flight in either direction and nothing is unknown.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        !self.spoiled
            && !self.identity.is_given_up(true)
            && self.responses.is_quiet()
            && self.responses.status() == b'I'
            && self.input.is_empty()
            && self.output.is_empty()
    }
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "its node has fallen silent")
}

impl Drop for ServerConn {
    fn drop(&mut self) {
        // A courtesy that saves the node a log line; nothing depends on it.
        if self.is_clean() {
            let mut cx = Context::from_waker(Waker::noop());
            let _ = Pin::new(&mut self.stream).poll_write(&mut cx, &write::TERMINATE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_is_kept_while_a_cancel_is_under_way() {
        let address = Address { host: "127.0.0.1".into(), port: 1 };
        let identity = Arc::new(Identity::new(NodeId(0), address, 1, Bytes::new()));
        identity.cancel_sent();
        let waiting = tokio::spawn({
            let identity = identity.clone();
            async move { identity.cancels_delivered().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        identity.cancel_delivered();
        waiting.await.unwrap();
    }
}
