//! A worker: one thread, one current-thread runtime, the clients that it was handed.
//!
//! Owns a client's life from its login to its end or its move to another worker; which worker has whom
//! is the crew's to say.

use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::crew::{Arrival, Crew, Guest, Handed};
use super::describe;
use crate::session::driver::Left;
use crate::session::failure::SessionEnd;
use crate::session::{Session, Shared};
use crate::telemetry::metrics;

/// The runtimes of so many workers.
///
/// # Errors
/// If the operating system gives no reactor.
pub fn runtimes(count: usize) -> std::io::Result<Vec<Runtime>> {
    (0..count).map(|_| Builder::new_current_thread().enable_all().build()).collect()
}

/// Starts a worker's thread. It ends when `drain` is cancelled and its clients are gone (the first worker:
/// everybody's, for the nodes' clocks are asked there), or when `halt` is cancelled.
///
/// # Errors
/// If the operating system gives no thread.
pub fn start(
    number: usize,
    runtime: Runtime,
    crew: Arc<Crew>,
    handed: mpsc::UnboundedReceiver<Handed>,
    shared: Arc<Shared>,
    drain: CancellationToken,
    halt: CancellationToken,
) -> std::io::Result<thread::JoinHandle<()>> {
    let desk = Arc::new(Desk { number, crew, shared, drain, halt });
    thread::Builder::new().name(format!("causeway-{number}")).spawn(move || {
        metrics::set_worker(number + 1);
        desk.crew.report(number);
        runtime.block_on(serve(desk, handed));
    })
}

/// What a worker knows.
struct Desk {
    number: usize,
    crew: Arc<Crew>,
    shared: Arc<Shared>,
    drain: CancellationToken,
    halt: CancellationToken,
}

async fn serve(desk: Arc<Desk>, mut handed: mpsc::UnboundedReceiver<Handed>) {
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
    let gone = async {
        clients.wait().await;
        if desk.number == 0 {
            desk.crew.gone().await;
        }
    };
    tokio::select! {
        () = desk.halt.cancelled() => {}
        () = gone => {}
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

/// As large as a session at rest needs: what is over before is in a box.
async fn client_task(desk: Arc<Desk>, handed: Handed) {
    let _connection = Connection(&desk);
    let guest = match handed {
        Handed::Arrival(arrival) => Box::pin(greet(&desk, arrival)).await,
        Handed::Session(guest) => taken(&desk, guest),
    };
    if let Some(guest) = guest {
        session_task(&desk, guest).await;
    }
}

/// Takes a session from another worker.
fn taken(desk: &Desk, mut guest: Box<Guest>) -> Option<Box<Guest>> {
    match guest.session.move_to(desk.number) {
        Ok(()) => Some(guest),
        Err(error) => {
            let peer = guest.peer;
            tracing::warn!(%peer, %error, "a session could not be handed to another worker");
            None
        }
    }
}

/// Says to a client that has logged in that it is ready.
async fn greet(desk: &Desk, arrival: Box<Arrival>) -> Option<Box<Guest>> {
    let Arrival { mut welcome, peer, counted } = *arrival;
    if let Err(error) = welcome.stream.rehome() {
        tracing::warn!(%peer, %error, "a client could not be handed to its worker");
        return None;
    }
    let (user, database) = (welcome.user.clone(), welcome.database.clone());
    match Session::greet(desk.shared.clone(), desk.number, welcome).await {
        Ok(session) => {
            desk.shared.metrics.logins.inc();
            tracing::debug!(%peer, user, database, "client logged in");
            Some(Box::new(Guest { session, peer, counted }))
        }
        Err(error) => {
            desk.shared.metrics.refused_logins.inc();
            tracing::info!(%peer, user, database, error = %describe(&error), "login refused");
            None
        }
    }
}

/// Runs a session until it ends or another worker takes it.
async fn session_task(desk: &Desk, mut guest: Box<Guest>) {
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
    let Guest { session, peer, counted: _ } = &*guest;
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
