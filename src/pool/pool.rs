//! The servers of one user and database at one node.
//!
//! Invariants: `places` counts the servers that exist or are being opened, idle ones included, and
//! never exceeds `size`; while anybody waits, nothing is idle; who waits longest is served first,
//! except that a server which comes back may go to its own worker's first in line, past at most
//! `size` others: to move it to another worker costs more than a query does.
//! The lock is held for a few instructions and never across an await.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::lease::{Lease, Place};
use super::login::Login;
use crate::cluster::NodeId;
use crate::config::settings::Address;
use crate::server::connect::{self, ConnectError, Established};
use crate::server::{Identity, Laid, Peers, ServerConn};
use crate::tls::{Connector, ConnectorCell};

/// A server that has been idle for so long is not missed by the worker that it is registered with.
const UNUSED: Duration = Duration::from_millis(100);

/// What bounds a pool.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Servers at most.
    pub size: usize,
    /// How long a request may wait.
    pub wait: Duration,
    /// A server idle for longer is closed.
    pub idle_timeout: Duration,
    /// A server older than this is closed when it comes back.
    pub max_age: Duration,
    /// Time limit for opening a server.
    pub connect_timeout: Duration,
    /// Requests that may wait at once.
    pub queue: usize,
}

/// What a session would like of a server, beside that there is one.
#[derive(Debug, Default, Clone, Copy)]
pub struct Wish<'a> {
    /// This very one, if it is idle.
    pub home: Option<&'a Identity>,
    /// One whose sequence values no other session may still ask for.
    pub unreserved: bool,
    /// The session's own mark on servers that have its sequence values.
    pub mark: Option<&'a Arc<()>>,
    /// One on which none of these custom settings exists; another will not do.
    pub without: &'a [Box<str>],
    /// One on which no custom settings exist but these; another will not do.
    pub only: Option<&'a Laid>,
}

impl Wish<'_> {
    /// Whether any server will do.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.home.is_none() && !self.unreserved && self.without.is_empty() && self.only.is_none()
    }

    fn prefers(&self, server: &ServerConn) -> bool {
        self.allows(server) && !(self.unreserved && server.sequences.are_reserved(self.mark))
    }

    fn allows(&self, server: &ServerConn) -> bool {
        let known = |laid: &Laid| server.customs.iter().all(|name| laid.statement(name).is_some());
        !self.without.iter().any(|name| server.customs.contains(name))
            && self.only.is_none_or(known)
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// All servers were busy for the whole waiting time.
    #[error("all {size} servers of the pool were busy for {waited:?}")]
    Busy {
        /// Servers in the pool.
        size: usize,
        /// How long the request waited.
        waited: Duration,
    },
    /// So many requests wait already that this one may not.
    #[error("{waiting} requests wait for the {size} servers of the pool")]
    QueueFull {
        /// Servers in the pool.
        size: usize,
        /// Requests that wait.
        waiting: usize,
    },
    /// No connection could be opened.
    #[error("no connection to the node could be opened")]
    Connect(#[source] ConnectError),
}

enum Grant {
    Server(Lease),
    Place(Place),
}

/// One who waits, with the number that it drew when it began to.
struct Waiter {
    number: u64,
    grant: oneshot::Sender<Grant>,
}

struct State {
    #[allow(clippy::vec_box, reason = "a server moves between list and lease without a copy")]
    /// Idle servers by the worker they are registered with, the most recently used last.
    idle: Vec<Vec<Box<ServerConn>>>,
    places: usize,
    /// Who waits, by worker.
    waiting: Vec<VecDeque<Waiter>>,
    last_number: u64,
    bounds: Bounds,
    /// Servers opened before are not used again.
    retired: Option<Instant>,
}

/// No server was opened yet.
const NONE: u64 = u64::MAX;

/// How many servers a pool has, and who waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// On loan or being opened.
    pub in_use: usize,
    /// Idle.
    pub idle: usize,
    /// Requests that wait.
    pub waiting: usize,
}

/// The servers of one user and database at one node.
pub struct Pool {
    /// The node.
    pub node: NodeId,
    address: Address,
    login: Arc<Login>,
    /// The number of the secret that the last server was opened with; [`NONE`] before.
    opened_with: AtomicU64,
    peers: Arc<Peers>,
    connector: ConnectorCell,
    state: Mutex<State>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub fn new(
        node: NodeId,
        address: Address,
        login: Arc<Login>,
        connector: ConnectorCell,
        bounds: Bounds,
        workers: usize,
        peers: Arc<Peers>,
    ) -> Self {
        let state = State {
            idle: (0..workers).map(|_| Vec::new()).collect(),
            places: 0,
            waiting: (0..workers).map(|_| VecDeque::new()).collect(),
            last_number: 0,
            bounds,
            retired: None,
        };
        let (state, opened_with) = (Mutex::new(state), AtomicU64::new(NONE));
        Self { node, address, login, opened_with, peers, connector, state }
    }

    /// An idle server that is registered with `worker`, if there is one. What [`lease`](Self::lease)
    /// begins with, for those who would have to prepare for waiting.
    pub fn lease_own(self: &Arc<Self>, worker: usize, epoch: u64) -> Option<Lease> {
        while !self.is_in_doubt() {
            let server = self.state.lock().idle[worker].pop()?;
            let mut lease = Lease::new(server, Place::new(self.clone()));
            if lease.epoch == epoch && lease.is_alive() {
                return Some(lease);
            }
        }
        None
    }

    /// A server for the session that runs on `worker`: an idle one, a new one while there is room,
    /// else the next that comes back. `epoch` is the node's; servers of an older one are closed.
    /// Where there is a choice, the server is as `wish` has it; one that is not as it must be is
    /// closed, and another opened in its place.
    ///
    /// # Errors
    /// If none came back in time, or a new one could not be opened.
    ///
    /// # Cancel safety
    /// Safe: a place in the queue is given up, a server that was granted meanwhile is passed on.
    pub async fn lease(
        self: &Arc<Self>,
        worker: usize,
        epoch: u64,
        wish: &Wish<'_>,
    ) -> Result<Lease, LeaseError> {
        if wish.is_none()
            && let Some(lease) = self.lease_own(worker, epoch)
        {
            return Ok(lease);
        }
        let waiting = match self.try_take(worker, epoch, wish) {
            Taken::Lease(lease) if !wish.allows(&lease) || self.is_in_doubt() => {
                return self.open(lease.close(), worker, epoch).await;
            }
            Taken::Lease(lease) => return Ok(lease),
            Taken::Place(place) => return self.open(place, worker, epoch).await,
            Taken::Queue(waiting) => waiting,
            Taken::Full { size, waiting } => return Err(LeaseError::QueueFull { size, waiting }),
        };
        let bounds = self.bounds();
        let mut waiting = Waiting { granted: waiting, pool: self, epoch };
        match tokio::time::timeout(bounds.wait, &mut waiting.granted).await {
            Ok(Ok(Grant::Server(mut lease)))
                if lease.epoch == epoch && wish.allows(&lease) && !self.is_in_doubt() =>
            {
                match lease.rehome(worker) {
                    Ok(()) => Ok(lease),
                    Err(source) => Err(LeaseError::Connect(ConnectError::Unreachable(source))),
                }
            }
            // A server of an epoch that is over, or that will not do, leaves its place to a new one.
            Ok(Ok(Grant::Server(lease))) => self.open(lease.close(), worker, epoch).await,
            Ok(Ok(Grant::Place(place))) => self.open(place, worker, epoch).await,
            Ok(Err(_)) | Err(_) => Err(LeaseError::Busy { size: bounds.size, waited: bounds.wait }),
        }
    }

    /// Whether the account has another secret than the idle servers were opened with. What has been proved may be
    /// another role of the same name, so a server is opened before one of these is used.
    fn is_in_doubt(&self) -> bool {
        let with = self.opened_with.load(Ordering::Acquire);
        with != NONE && with != self.login.number()
    }

    /// Whether this server is idle here.
    #[must_use]
    pub fn has_idle(&self, server: &Identity) -> bool {
        let state = self.state.lock();
        state.idle.iter().flatten().any(|idle| std::ptr::eq(Arc::as_ptr(&idle.identity), server))
    }

    fn try_take(self: &Arc<Self>, worker: usize, epoch: u64, wish: &Wish<'_>) -> Taken {
        loop {
            let found = {
                let mut state = self.state.lock();
                let room = state.places < state.bounds.size;
                match state.pop(worker, room, wish) {
                    Some(server) => server,
                    None if room => {
                        state.places += 1;
                        return Taken::Place(Place::new(self.clone()));
                    }
                    None if state.is_full() => {
                        let (size, waiting) = (state.bounds.size, state.bounds.queue);
                        return Taken::Full { size, waiting };
                    }
                    None => return Taken::Queue(state.queue(worker)),
                }
            };
            let mut lease = Lease::new(found, Place::new(self.clone()));
            if lease.epoch == epoch && lease.is_alive() && lease.rehome(worker).is_ok() {
                return Taken::Lease(lease);
            }
        }
    }

    /// Opens a server in a place that is taken.
    async fn open(
        self: &Arc<Self>,
        place: Place,
        worker: usize,
        epoch: u64,
    ) -> Result<Lease, LeaseError> {
        let timeout = self.bounds().connect_timeout;
        let connector = self.connector.load();
        // Apart, lest each session that may wait for it has room for the state of a handshake.
        let established = Box::pin(self.log_in(&connector, timeout)).await?;
        let identity = Identity::new(
            self.node,
            self.address.clone(),
            established.process_id,
            established.secret_key,
        )
        .over(connector);
        let mut server = ServerConn::new(established.stream, identity, epoch, worker);
        server.input = established.buffer;
        server.greeting = Some(established.parameters);
        self.peers.enter(&server.identity);
        server.peers = Some(self.peers.clone());
        Ok(Lease::new(Box::new(server), place))
    }

    /// With what its account logs in with now, or with what it did before that.
    async fn log_in(
        self: &Arc<Self>,
        connector: &Connector,
        timeout: Duration,
    ) -> Result<Established, LeaseError> {
        let mut login = self.login.now();
        let mut opened = connect::connect(&self.address, connector, &login, timeout).await;
        // Twice: a replica may hear of the new one between two attempts.
        for _ in 0..2 {
            let Err(error) = &opened else { break };
            let Some(instead) = self.login.instead(&login, error) else { break };
            login = instead;
            opened = connect::connect(&self.address, connector, &login, timeout).await;
        }
        let established = opened.map_err(LeaseError::Connect)?;
        let number = self.login.opened(&login);
        let before = self.opened_with.swap(number, Ordering::AcqRel);
        if before != NONE && before != number {
            self.retire();
        }
        Ok(established)
    }

    /// Puts a clean server back: to who waits longest, else among the idle ones.
    pub(super) fn put_back(self: Arc<Self>, mut server: Box<ServerConn>, epoch: u64) {
        let now = Instant::now();
        server.idle_since = now;
        let mut state = self.state.lock();
        let too_old = now.duration_since(server.opened_at) > state.bounds.max_age
            || state.retired.is_some_and(|retired| server.opened_at <= retired);
        if server.epoch != epoch || too_old || state.places > state.bounds.size {
            drop(state);
            drop(server);
            return self.free_place();
        }
        while let Some(waiter) = state.next_waiter(server.home) {
            let lease = Lease::new(server, Place::new(self.clone()));
            match waiter.grant.send(Grant::Server(lease)) {
                Ok(()) => return,
                Err(Grant::Server(lease)) => server = lease.take_back(),
                Err(Grant::Place(_)) => unreachable!("a server was granted"),
            }
        }
        let home = server.home;
        state.idle[home].push(server);
    }

    /// A place has become free: who waits longest may open a server in it.
    pub(super) fn free_place(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.places > state.bounds.size {
            state.places -= 1;
            return;
        }
        while let Some(waiter) = state.longest_waiting() {
            match waiter.grant.send(Grant::Place(Place::new(self.clone()))) {
                Ok(()) => return,
                Err(Grant::Place(place)) => drop(place.keep()),
                Err(Grant::Server(_)) => unreachable!("a place was granted"),
            }
        }
        state.places -= 1;
    }

    /// Closes idle servers that are too old, idle for too long, or of another epoch.
    pub fn reap(self: &Arc<Self>, now: Instant, epoch: u64) {
        let mut closed = Vec::new();
        {
            let mut state = self.state.lock();
            let bounds = state.bounds;
            for idle in &mut state.idle {
                closed.extend(idle.extract_if(.., |server| {
                    server.epoch != epoch
                        || now.duration_since(server.idle_since) > bounds.idle_timeout
                        || now.duration_since(server.opened_at) > bounds.max_age
                }));
            }
        }
        for server in closed {
            drop(server);
            self.free_place();
        }
    }

    /// Closes the idle servers, and those on loan as they come back.
    pub fn retire(self: &Arc<Self>) {
        self.state.lock().retired = Some(Instant::now());
        // An epoch that no server was opened in.
        self.reap(Instant::now(), u64::MAX);
    }

    /// How many servers there are, and who waits.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = self.state.lock();
        let idle = state.idle.iter().map(Vec::len).sum();
        let waiting = state.waiting.iter().flatten();
        let waiting = waiting.filter(|waiter| !waiter.grant.is_closed()).count();
        Counts { in_use: state.places - idle, idle, waiting }
    }

    /// What bounds it now.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.state.lock().bounds
    }

    /// Takes new bounds. Servers beyond a smaller size are closed as they come back.
    pub fn set_bounds(&self, bounds: Bounds) {
        self.state.lock().bounds = bounds;
    }

    /// Whether nothing is left in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state.lock().places == 0
    }
}

impl State {
    /// Whether nobody more may wait. Who has stopped waiting does not count.
    fn is_full(&mut self) -> bool {
        let waiting = |state: &Self| state.waiting.iter().map(VecDeque::len).sum::<usize>();
        if waiting(self) < self.bounds.queue {
            return false;
        }
        for line in &mut self.waiting {
            line.retain(|waiter| !waiter.grant.is_closed());
        }
        waiting(self) >= self.bounds.queue
    }

    /// An idle server as it is wished; if none can be opened, any.
    fn pop(&mut self, worker: usize, room: bool, wish: &Wish<'_>) -> Option<Box<ServerConn>> {
        if wish.is_none() {
            return self.borrow(room);
        }
        if let Some(home) = wish.home
            && let Some(server) =
                self.pop_where(worker, |server| std::ptr::eq(Arc::as_ptr(&server.identity), home))
        {
            return Some(server);
        }
        let found = self.pop_where(worker, |server| wish.prefers(server));
        if found.is_some() || room { found } else { self.borrow(false) }
    }

    /// The worker's own most recently used server of this kind, else another worker's.
    fn pop_where(
        &mut self,
        worker: usize,
        is_it: impl Fn(&ServerConn) -> bool,
    ) -> Option<Box<ServerConn>> {
        let workers = self.idle.len();
        (0..workers).map(|next| (worker + next) % workers).find_map(|worker| {
            let at = self.idle[worker].iter().rposition(|server| is_it(server))?;
            Some(self.idle[worker].remove(at))
        })
    }

    /// The least recently used server of the worker that has the most idle: it is needed there least.
    /// While there is `room` to open one more, a server that was in use a moment ago stays where it
    /// is, lest two workers take it from each other again and again.
    fn borrow(&mut self, room: bool) -> Option<Box<ServerConn>> {
        let fullest = self.idle.iter_mut().max_by_key(|idle| idle.len())?;
        let unused = fullest.first().is_some_and(|server| server.idle_since.elapsed() > UNUSED);
        (unused || !room && !fullest.is_empty()).then(|| fullest.remove(0))
    }

    fn queue(&mut self, worker: usize) -> oneshot::Receiver<Grant> {
        let (grant, granted) = oneshot::channel();
        self.last_number += 1;
        self.waiting[worker].push_back(Waiter { number: self.last_number, grant });
        granted
    }

    /// Who gets a server that is registered with `home`.
    fn next_waiter(&mut self, home: usize) -> Option<Waiter> {
        let (first, number) = self.first_in_line()?;
        let overtakes = self.bounds.size as u64;
        let own = self.waiting[home].front();
        let near = own.is_some_and(|waiter| waiter.number <= number + overtakes);
        self.waiting[if near { home } else { first }].pop_front()
    }

    fn longest_waiting(&mut self) -> Option<Waiter> {
        let (worker, _) = self.first_in_line()?;
        self.waiting[worker].pop_front()
    }

    /// The worker on which somebody waits longest, and the number that was drawn.
    fn first_in_line(&self) -> Option<(usize, u64)> {
        let fronts = self.waiting.iter().enumerate();
        let numbers = fronts.filter_map(|(worker, line)| Some((worker, line.front()?.number)));
        numbers.min_by_key(|(_, number)| *number)
    }
}

enum Taken {
    Lease(Lease),
    Place(Place),
    Queue(oneshot::Receiver<Grant>),
    Full { size: usize, waiting: usize },
}

/// A place in the queue. What was granted when its owner stopped waiting is passed on.
struct Waiting<'a> {
    granted: oneshot::Receiver<Grant>,
    pool: &'a Arc<Pool>,
    epoch: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.granted.close();
        if let Ok(Grant::Server(lease)) = self.granted.try_recv() {
            debug_assert!(Arc::ptr_eq(lease.pool(), self.pool));
            lease.give_back(self.epoch);
        }
    }
}

#[cfg(test)]
mod tests;
