//! A worker: one thread, one current-thread runtime, the clients that it was handed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bytes::BytesMut;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::{self, Entered, Entrance, HandshakeError};
use crate::net::{PeerAddr, Stream};
use crate::protocol::ErrorReport;
use crate::session::failure::SessionEnd;
use crate::session::{Session, Shared};
use crate::telemetry::metrics;

/// A worker, as the acceptor sees it.
#[derive(Debug)]
pub struct Worker {
    hand_over: mpsc::UnboundedSender<(Stream, PeerAddr)>,
    /// Connections that it has and that are on their way to it.
    load: Arc<AtomicUsize>,
}

impl Worker {
    /// Starts the thread. It ends when `drain` is cancelled and its clients are gone, or when
    /// `halt` is cancelled.
    ///
    /// # Errors
    /// If the operating system gives no thread or no reactor.
    pub fn start(
        number: usize,
        shared: Arc<Shared>,
        clients: Arc<AtomicUsize>,
        drain: CancellationToken,
        halt: CancellationToken,
    ) -> std::io::Result<(Self, thread::JoinHandle<()>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (hand_over, handed) = mpsc::unbounded_channel();
        let load = Arc::new(AtomicUsize::new(0));
        let desk = Desk { number, shared, clients, load: load.clone(), drain, halt };
        let thread =
            thread::Builder::new().name(format!("causeway-{number}")).spawn(move || {
                metrics::set_worker(number + 1);
                runtime.block_on(serve(desk, handed));
            })?;
        Ok((Self { hand_over, load }, thread))
    }

    /// How many connections it has.
    #[must_use]
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Hands a connection over.
    pub fn hand_over(&self, stream: Stream, peer: PeerAddr) {
        self.load.fetch_add(1, Ordering::Relaxed);
        // A worker that has ended is shutting down: the connection is closed with what was sent.
        let _ = self.hand_over.send((stream, peer));
    }
}

/// What a worker knows.
#[derive(Clone)]
struct Desk {
    number: usize,
    shared: Arc<Shared>,
    clients: Arc<AtomicUsize>,
    load: Arc<AtomicUsize>,
    drain: CancellationToken,
    halt: CancellationToken,
}

async fn serve(desk: Desk, mut handed: mpsc::UnboundedReceiver<(Stream, PeerAddr)>) {
    let clients = TaskTracker::new();
    // A token of its own, so that waiting sessions of two workers share no lock.
    let drain = desk.drain.child_token();
    let clock = tokio::spawn({
        let desk = desk.clone();
        async move { desk.shared.clocks.of(desk.number).run(&desk.shared.metrics).await }
    });
    loop {
        tokio::select! {
            () = desk.halt.cancelled() => break,
            next = handed.recv() => match next {
                Some((stream, peer)) => {
                    clients.spawn(client_task(desk.clone(), stream, peer, drain.clone()));
                }
                None => break,
            },
            () = desk.drain.cancelled() => break,
        }
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
        self.0.load.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn client_task(desk: Desk, mut stream: Stream, peer: PeerAddr, drain: CancellationToken) {
    let _connection = Connection(&desk);
    if let Err(error) = stream.rehome() {
        tracing::warn!(%peer, %error, "a connection could not be handed to its worker");
        return;
    }
    let rules = desk.shared.rules.load_full();
    let closed = closed_report(&desk, &drain, rules.settings.limits.clients);
    let entrance = Entrance {
        credentials: &rules.credentials,
        limits: &rules.settings.limits,
        closed: closed.as_ref(),
    };
    match Box::pin(client::enter(stream, BytesMut::new(), entrance)).await {
        Ok(Entered::Session(welcome)) => {
            drop(rules);
            session_task(&desk, welcome, peer, drain).await;
        }
        Ok(Entered::Cancel { stream, key }) => {
            desk.shared.registry.cancel(key.process_id, &key.secret).await;
            drop(stream);
        }
        Err(error) => {
            desk.shared.metrics.refused_logins.inc();
            log_refused(&error, peer);
        }
    }
}

/// Why nobody may enter now, if that is so.
fn closed_report(desk: &Desk, drain: &CancellationToken, most: usize) -> Option<ErrorReport> {
    if drain.is_cancelled() {
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

async fn session_task(
    desk: &Desk,
    welcome: client::Welcome,
    peer: PeerAddr,
    drain: CancellationToken,
) {
    let _counted = Counted::new(desk);
    let (user, database) = (welcome.user.clone(), welcome.database.clone());
    let greeted = Box::pin(Session::greet(desk.shared.clone(), desk.number, welcome)).await;
    let session = match greeted {
        Ok(session) => session,
        Err(error) => {
            desk.shared.metrics.refused_logins.inc();
            tracing::info!(%peer, user, database, error = %describe(&error), "login refused");
            return;
        }
    };
    desk.shared.metrics.logins.inc();
    tracing::debug!(%peer, user, database, "client logged in");
    match Box::pin(session.run(drain)).await {
        Ok(()) | Err(SessionEnd::Drained) => {
            tracing::debug!(%peer, user, database, "client left");
        }
        Err(SessionEnd::Client(error)) => {
            tracing::debug!(%peer, user, database, %error, "client vanished");
        }
        Err(error) => tracing::info!(%peer, user, database, %error, "session ended"),
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
