//! A worker: one thread, one current-thread runtime, the clients that it was handed.
//!
//! Owns a client's life from its connection to its end or its move to another worker; which worker
//! has whom is the crew's to say.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::census::{Census, Counted};
use super::crew::{Crew, Guest, Handed};
use crate::auth::Throttle;
use crate::client::{self, Entered, Entrance, HandshakeError};
use crate::config::Settings;
use crate::net::{PeerAddr, Stream};
use crate::protocol::ErrorReport;
use crate::session::driver::Left;
use crate::session::failure::SessionEnd;
use crate::session::{Session, Shared};
use crate::telemetry::metrics;

/// Starts a worker's thread. It ends when `drain` is cancelled and its clients are gone, or when
/// `halt` is cancelled.
///
/// # Errors
/// If the operating system gives no thread or no reactor.
pub fn start(
    number: usize,
    crew: Arc<Crew>,
    handed: mpsc::UnboundedReceiver<Handed>,
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    drain: CancellationToken,
    halt: CancellationToken,
) -> std::io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let desk = Desk { number, crew, shared, gate, drain, halt };
    thread::Builder::new().name(format!("causeway-{number}")).spawn(move || {
        metrics::set_worker(number + 1);
        desk.crew.report(number);
        runtime.block_on(serve(desk, handed));
    })
}

/// Who is let in, over all workers.
#[derive(Debug)]
pub struct Gate {
    /// How many there are.
    pub census: Arc<Census>,
    /// Who has failed of late.
    pub throttle: Throttle,
}

/// What a worker knows.
#[derive(Clone)]
struct Desk {
    number: usize,
    crew: Arc<Crew>,
    shared: Arc<Shared>,
    gate: Arc<Gate>,
    drain: CancellationToken,
    halt: CancellationToken,
}

async fn serve(desk: Desk, mut handed: mpsc::UnboundedReceiver<Handed>) {
    let clients = TaskTracker::new();
    let clock = tokio::spawn({
        let desk = desk.clone();
        async move { desk.shared.clocks.of(desk.number).run(&desk.shared.metrics).await }
    });
    loop {
        tokio::select! {
            () = desk.halt.cancelled() => break,
            next = handed.recv() => match next {
                Some(next) => drop(clients.spawn(client_task(desk.clone(), next))),
                None => break,
            },
            () = desk.drain.cancelled() => break,
        }
    }
    // From here on nothing can be handed over; what was on its way is still taken.
    handed.close();
    desk.crew.post(desk.number).drain();
    while let Some(next) = handed.recv().await {
        clients.spawn(client_task(desk.clone(), next));
    }
    clients.close();
    tokio::select! {
        () = desk.halt.cancelled() => {}
        () = clients.wait() => {}
    }
    clock.abort();
}

/// Lowers what was raised for a connection, however its task ends.
struct Connection<'a>(&'a Desk);

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        self.0.crew.left(self.0.number);
    }
}

async fn client_task(desk: Desk, handed: Handed) {
    let _connection = Connection(&desk);
    match handed {
        Handed::Connection(stream, peer) => {
            if let Some(guest) = enter(&desk, stream, peer).await {
                session_task(&desk, guest).await;
            }
        }
        Handed::Session(mut guest) => match guest.session.move_to(desk.number) {
            Ok(()) => session_task(&desk, guest).await,
            Err(error) => {
                let peer = guest.peer;
                tracing::warn!(%peer, %error, "a session could not be handed to another worker");
            }
        },
    }
}

/// Logs a client in. `None`: it was only a cancel request, or it was refused.
async fn enter(desk: &Desk, mut stream: Stream, mut peer: PeerAddr) -> Option<Guest> {
    if let Err(error) = stream.rehome() {
        tracing::warn!(%peer, %error, "a connection could not be handed to its worker");
        return None;
    }
    let rules = desk.shared.rules.load_full();
    let limits = &rules.settings.limits;
    let mut buffer = BytesMut::new();
    if speaks_for_others(&rules.settings, peer) {
        match client::proxied(stream, peer, limits.startup_timeout).await {
            Ok((proxied, read_ahead, from)) => (stream, buffer, peer) = (proxied, read_ahead, from),
            Err(error) => {
                desk.shared.metrics.refused_logins.inc();
                tracing::info!(%peer, %error, "connection refused");
                return None;
            }
        }
    }
    let (counted, full) = desk.gate.census.arrive(peer, limits);
    let closed = if desk.drain.is_cancelled() { Some(shutting_down()) } else { full };
    let entrance = Entrance {
        credentials: &rules.credentials,
        roles: rules.roles.as_deref(),
        access: &rules.settings.access,
        peer,
        wait: desk.gate.wait(peer),
        limits,
        closed: closed.as_ref(),
        tls: rules.tls.as_ref(),
    };
    let entered = Box::pin(client::enter(stream, buffer, entrance)).await;
    desk.gate.learn(peer, &entered);
    match entered {
        Ok(Entered::Session(welcome)) => {
            drop(rules);
            greet(desk, welcome, counted, peer).await
        }
        Ok(Entered::Cancel { stream, key }) => {
            desk.shared.registry.cancel(key.process_id, &key.secret).await;
            drop(stream);
            None
        }
        Err(error) => {
            desk.shared.metrics.refused_logins.inc();
            log_refused(&error, peer);
            None
        }
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

impl Gate {
    fn wait(&self, peer: PeerAddr) -> Duration {
        match peer {
            PeerAddr::Tcp(from) => self.throttle.wait(from.ip(), Instant::now()),
            PeerAddr::Local => Duration::ZERO,
        }
    }

    fn learn(&self, peer: PeerAddr, entered: &Result<Entered, HandshakeError>) {
        let PeerAddr::Tcp(from) = peer else { return };
        match entered {
            Ok(Entered::Session(_)) => self.throttle.succeeded(from.ip()),
            Err(HandshakeError::Authentication { .. }) => {
                self.throttle.failed(from.ip(), Instant::now());
            }
            _ => {}
        }
    }
}

fn log_refused(error: &HandshakeError, peer: PeerAddr) {
    if let Some(report) = error.report() {
        let error = describe(error);
        tracing::info!(%peer, error, sqlstate = %report.sqlstate, "login refused");
    } else {
        tracing::debug!(%peer, %error, "connection ended before its login");
    }
}

/// Says to a client that has logged in that it is ready.
async fn greet(
    desk: &Desk,
    welcome: client::Welcome,
    mut counted: Counted,
    peer: PeerAddr,
) -> Option<Guest> {
    let (user, database) = (welcome.user.clone(), welcome.database.clone());
    let full = counted.logged_in(&user, &database, &desk.shared.rules.load().settings.limits);
    if let Err(report) = full {
        desk.shared.metrics.refused_logins.inc();
        tracing::info!(%peer, user, database, %report, "login refused");
        client::handshake::refuse(welcome.stream, &report).await;
        return None;
    }
    match Box::pin(Session::greet(desk.shared.clone(), desk.number, welcome)).await {
        Ok(session) => {
            desk.shared.metrics.logins.inc();
            tracing::debug!(%peer, user, database, "client logged in");
            Some(Guest { session: Box::new(session), peer, counted })
        }
        Err(error) => {
            desk.shared.metrics.refused_logins.inc();
            tracing::info!(%peer, user, database, error = %describe(&error), "login refused");
            None
        }
    }
}

/// Runs a session until it ends or another worker takes it.
async fn session_task(desk: &Desk, mut guest: Guest) {
    let post = desk.crew.post(desk.number);
    let ended = loop {
        match guest.session.run(&post).await {
            Ok(Left::ForAnotherWorker) => match desk.crew.relieve(guest) {
                Ok(()) => return,
                Err(back) => guest = back,
            },
            ended => break ended,
        }
    };
    let Guest { session, peer, counted: _ } = &guest;
    let account = session.account();
    let (user, database) = (&account.user, &account.database);
    match ended {
        Ok(_) | Err(SessionEnd::Drained) => {
            tracing::debug!(%peer, %user, %database, "client left");
        }
        Err(SessionEnd::Client(error)) => {
            tracing::debug!(%peer, %user, %database, %error, "client vanished");
        }
        Err(error) => tracing::info!(%peer, %user, %database, %error, "session ended"),
    }
}

/// An error with its causes, on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
