//! A worker: one thread, one current-thread runtime, the clients that it was handed.
//!
//! Owns a client's life from its connection to its end or its move to another worker; which worker
//! has whom is the crew's to say.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::BytesMut;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::crew::{Crew, Handed};
use crate::client::{self, Entered, Entrance, HandshakeError};
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
    clients: Arc<AtomicUsize>,
    drain: CancellationToken,
    halt: CancellationToken,
) -> std::io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let desk = Desk { number, crew, shared, clients, drain, halt };
    thread::Builder::new().name(format!("causeway-{number}")).spawn(move || {
        metrics::set_worker(number + 1);
        desk.crew.report(number);
        runtime.block_on(serve(desk, handed));
    })
}

/// What a worker knows.
#[derive(Clone)]
struct Desk {
    number: usize,
    crew: Arc<Crew>,
    shared: Arc<Shared>,
    clients: Arc<AtomicUsize>,
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
            if let Some(session) = enter(&desk, stream, peer).await {
                session_task(&desk, session, peer).await;
            }
        }
        Handed::Session(mut session, peer) => match session.move_to(desk.number) {
            Ok(()) => session_task(&desk, session, peer).await,
            Err(error) => {
                tracing::warn!(%peer, %error, "a session could not be handed to another worker");
            }
        },
    }
}

/// Logs a client in. `None`: it was only a cancel request, or it was refused.
async fn enter(desk: &Desk, mut stream: Stream, peer: PeerAddr) -> Option<Box<Session>> {
    if let Err(error) = stream.rehome() {
        tracing::warn!(%peer, %error, "a connection could not be handed to its worker");
        return None;
    }
    let rules = desk.shared.rules.load_full();
    let closed = closed_report(desk, rules.settings.limits.clients);
    let entrance = Entrance {
        credentials: &rules.credentials,
        limits: &rules.settings.limits,
        closed: closed.as_ref(),
    };
    match Box::pin(client::enter(stream, BytesMut::new(), entrance)).await {
        Ok(Entered::Session(welcome)) => {
            drop(rules);
            greet(desk, welcome, peer).await
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

/// Why nobody may enter now, if that is so.
fn closed_report(desk: &Desk, most: usize) -> Option<ErrorReport> {
    if desk.drain.is_cancelled() {
        return Some(ErrorReport::fatal("57P03", "the database system is shutting down"));
    }
    (desk.clients.load(Ordering::Relaxed) >= most).then(|| {
        ErrorReport::fatal("53300", "sorry, too many clients already")
            .with_detail(format!("The proxy has {most} clients, as many as limits.clients allows."))
    })
}

fn log_refused(error: &HandshakeError, peer: PeerAddr) {
    if let Some(report) = error.report() {
        tracing::info!(%peer, %error, sqlstate = %report.sqlstate, "login refused");
    } else {
        tracing::debug!(%peer, %error, "connection ended before its login");
    }
}

/// Counts a client for as long as it has a session.
struct Counted<'a>(&'a Desk);

impl<'a> Counted<'a> {
    fn new(desk: &'a Desk) -> Self {
        desk.clients.fetch_add(1, Ordering::Relaxed);
        desk.shared.metrics.clients.inc();
        Self(desk)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
        self.0.shared.metrics.clients.dec();
    }
}

/// Says to a client that has logged in that it is ready.
async fn greet(desk: &Desk, welcome: client::Welcome, peer: PeerAddr) -> Option<Box<Session>> {
    let (user, database) = (welcome.user.clone(), welcome.database.clone());
    match Box::pin(Session::greet(desk.shared.clone(), desk.number, welcome)).await {
        Ok(session) => {
            desk.shared.metrics.logins.inc();
            tracing::debug!(%peer, user, database, "client logged in");
            Some(Box::new(session))
        }
        Err(error) => {
            desk.shared.metrics.refused_logins.inc();
            tracing::info!(%peer, user, database, error = %describe(&error), "login refused");
            None
        }
    }
}

/// Runs a session until it ends or another worker takes it.
async fn session_task(desk: &Desk, mut session: Box<Session>, peer: PeerAddr) {
    let _counted = Counted::new(desk);
    let post = desk.crew.post(desk.number);
    let ended = loop {
        match session.run(&post).await {
            Ok(Left::ForAnotherWorker) => match desk.crew.relieve(session, peer) {
                Ok(()) => return,
                Err(back) => session = back,
            },
            ended => break ended,
        }
    };
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
