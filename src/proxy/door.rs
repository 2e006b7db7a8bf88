//! The way in: threads of their own that accept connections and let clients prove themselves.
//!
//! A login costs more than many queries (a TLS handshake a hundred times as much), and whoever knocks decides how
//! many there are. So none is done where sessions are served: a storm fills the doors, of which there are few, and
//! nothing else; and where processors are short a door gives way to the workers. Owns a connection until its
//! client has proved itself, the limits on those who are not in yet, and what is logged of those who stay out. Cancel
//! requests end here as well.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::census::{Arrived, Census, Counted};
use super::crew::{Arrival, Crew};
use crate::auth::access;
use crate::auth::{Throttle, turns};
use crate::client::handshake::refuse;
use crate::client::{self, Entered, Entrance, HandshakeError, Welcome};
use crate::config::Settings;
use crate::net::{Bound, Listener, PeerAddr, Stream};
use crate::protocol::ErrorReport;
use crate::protocol::startup::{CancelKey, StartupError};
use crate::session::{Rules, Shared};

/// One door for so many workers.
const WORKERS_EACH: usize = 8;

/// How long a client that is one too many is listened to, and one whose address no rule lets in, which is owed
/// an answer over TLS as well.
const TURNED_AWAY: Duration = Duration::from_secs(1);
const STRANGER: Duration = Duration::from_secs(2);

/// Who is let in, over all doors.
#[derive(Debug)]
pub struct Gate {
    /// How many there are.
    pub census: Arc<Census>,
    /// Who has failed of late.
    pub throttle: Throttle,
}

/// What a door knows.
#[derive(Clone)]
pub struct Door {
    /// Those who serve whom it has let in.
    pub crew: Arc<Crew>,
    /// What decides who may enter.
    pub shared: Arc<Shared>,
    /// How many may.
    pub gate: Arc<Gate>,
    /// Cancelled when nobody is let in any more.
    pub drain: CancellationToken,
    /// Cancelled when all is over.
    pub halt: CancellationToken,
}

/// How many doors there are to so many workers.
#[must_use]
pub fn count(workers: usize) -> usize {
    workers.div_ceil(WORKERS_EACH)
}

/// Starts a door's thread, which accepts from these sockets. It ends when `drain` is cancelled and the logins
/// under way have come to their end, or when `halt` is cancelled.
///
/// # Errors
/// If the operating system gives no thread or no reactor.
pub fn start(number: usize, door: Door, bound: Vec<Bound>) -> io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name(format!("causeway-door-{number}")).spawn(move || {
        turns::give_way();
        runtime.block_on(serve(door, bound));
    })
}

async fn serve(door: Door, bound: Vec<Bound>) {
    let logins = TaskTracker::new();
    for one in bound {
        match one.listen() {
            Ok(listener) => drop(tokio::spawn(accept(listener, door.clone(), logins.clone()))),
            Err(error) => tracing::error!(%error, "cannot listen"),
        }
    }
    tokio::select! {
        () = door.drain.cancelled() => {}
        () = door.halt.cancelled() => {}
    }
    logins.close();
    tokio::select! {
        () = door.halt.cancelled() => {}
        () = logins.wait() => {}
    }
}

/// Accepts until nobody is let in any more; the socket is closed then.
async fn accept(listener: Listener, door: Door, logins: TaskTracker) {
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = door.drain.cancelled() => return,
        };
        let rules = door.shared.rules.load_full();
        match door.gate.census.arrive(&rules.settings.limits) {
            Arrived::Unheard => drop(stream),
            arrived => {
                let door = door.clone();
                logins.spawn(async move { door.receive(stream, peer, &rules, arrived).await });
            }
        }
    }
}

impl Door {
    /// From a connection to a client that a worker has, or one that was told why not.
    async fn receive(
        self,
        mut stream: Stream,
        mut peer: PeerAddr,
        rules: &Rules,
        mut arrived: Arrived,
    ) {
        let limits = &rules.settings.limits;
        let now = tokio::time::Instant::now();
        let deadline = now + limits.startup_timeout;
        let mut buffer = BytesMut::new();
        if speaks_for_others(&rules.settings, peer) {
            let within = if matches!(arrived, Arrived::Guest(_)) {
                limits.startup_timeout
            } else {
                TURNED_AWAY
            };
            match client::proxied(stream, peer, within).await {
                Ok((proxied, read_ahead, from)) => {
                    (stream, buffer, peer) = (proxied, read_ahead, from);
                }
                Err(error) => {
                    self.shared.metrics.refused_logins.inc();
                    tracing::info!(%peer, %error, "connection refused");
                    return;
                }
            }
        }
        if let Arrived::Guest(counted) = arrived {
            let awaited = access::awaits(&rules.settings.access, ip(peer));
            arrived = counted.comes_from(peer, awaited, limits);
        }
        match arrived {
            Arrived::Guest(counted) => {
                self.log_in(stream, buffer, peer, rules, counted, deadline).await;
            }
            Arrived::Stranger(counted) => {
                let deadline = deadline.min(now + STRANGER);
                self.log_in(stream, buffer, peer, rules, counted, deadline).await;
            }
            Arrived::TurnedAway(_counted, report) => {
                let within = TURNED_AWAY.min(limits.startup_timeout);
                match client::turn_away(stream, buffer, &report, within).await {
                    Some((stream, key)) => self.cancel(stream, &key).await,
                    None => self.shared.metrics.refused_logins.inc(),
                }
            }
            Arrived::Unheard => {}
        }
    }

    async fn log_in(
        self,
        stream: Stream,
        buffer: BytesMut,
        peer: PeerAddr,
        rules: &Rules,
        counted: Counted,
        deadline: tokio::time::Instant,
    ) {
        let limits = &rules.settings.limits;
        let closed = self.drain.is_cancelled().then(shutting_down);
        let entrance = Entrance {
            credentials: &rules.credentials,
            roles: rules.roles.as_deref(),
            access: &rules.settings.access,
            peer,
            throttle: &self.gate.throttle,
            limits,
            deadline,
            closed: closed.as_ref(),
            tls: rules.tls.as_ref(),
        };
        let entered = client::enter(stream, buffer, entrance).await;
        match entered {
            Ok(Entered::Session(welcome)) => {
                self.hand_over(Box::new(Arrival { welcome, peer, counted })).await;
            }
            Ok(Entered::Cancel { stream, key }) => {
                self.cancel(stream, &key).await;
            }
            Err(error) => {
                self.shared.metrics.refused_logins.inc();
                log_refused(&error, peer);
            }
        }
    }

    /// Who asks learns by its connection's end that it was done.
    async fn cancel(&self, stream: Stream, key: &CancelKey) {
        self.shared.registry.cancel(key.process_id, &key.secret).await;
        drop(stream);
    }

    /// Gives a client that has proved itself to a worker, unless there are too many like it.
    async fn hand_over(&self, mut arrival: Box<Arrival>) {
        let Welcome { user, database, .. } = &arrival.welcome;
        let limits = &self.shared.rules.load_full().settings.limits;
        let report = match arrival.counted.logged_in(user, database, limits) {
            Err(report) => report,
            Ok(()) => match self.crew.admit(arrival) {
                Ok(()) => return,
                Err(back) => {
                    arrival = back;
                    Box::new(shutting_down())
                }
            },
        };
        let Arrival { welcome, peer, counted: _counted } = *arrival;
        let Welcome { stream, user, database, unsent, .. } = welcome;
        self.shared.metrics.refused_logins.inc();
        tracing::info!(%peer, user, database, %report, "login refused");
        refuse(stream, unsent, &report).await;
    }
}

fn ip(peer: PeerAddr) -> Option<IpAddr> {
    match peer {
        PeerAddr::Tcp(address) => Some(address.ip()),
        PeerAddr::Local => None,
    }
}

fn shutting_down() -> ErrorReport {
    ErrorReport::fatal("57P03", "the database system is shutting down")
}

/// Whether a connection from there is to begin with a header that says whom it is for.
fn speaks_for_others(settings: &Settings, peer: PeerAddr) -> bool {
    let listed = &settings.proxy.proxy_protocol_from;
    matches!(peer, PeerAddr::Tcp(from) if listed.iter().any(|network| network.contains(from.ip())))
}

fn log_refused(error: &HandshakeError, peer: PeerAddr) {
    if let HandshakeError::Throttled(_) = error {
        // As many as they like; the metric counts them, and the failures before them stand in the log.
        tracing::debug!(%peer, %error, "login refused");
        return;
    }
    if let Some(report) = error.report() {
        let error = super::describe(error);
        tracing::info!(%peer, error, sqlstate = %report.sqlstate, "login refused");
    } else if let HandshakeError::Startup(StartupError::Length) = error {
        tracing::info!(%peer, %error, "connection closed");
    } else if let HandshakeError::Tls(_) = error {
        // The client heard an alert of one word: why is told here.
        tracing::info!(%peer, error = error.to_string(), "TLS handshake failed");
    } else {
        tracing::debug!(%peer, %error, "connection ended before its login");
    }
}
