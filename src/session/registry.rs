//! Who may be cancelled: the keys that clients were given, and what their sessions are doing.
//!
//! A cancel request reaches the server that serves the session at that moment, or none: the slot is
//! locked while the server is taken note of, and a server whose cancel request is under way is not
//! given back (see [`Identity`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::Waker;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use rand::RngCore;
use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use crate::cluster::NodeId;
use crate::pool::Account;
use crate::server::cancel;
use crate::server::{Identity, Silence};

/// How long a node may take to accept a cancel request.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);

/// Length of the secret in a key for protocol 3.0, in bytes.
const SECRET_3_0: usize = 4;
/// The same for 3.2, where it may be up to 256.
const SECRET_3_2: usize = 32;

/// The most that a process id can be on Linux (`PID_MAX_LIMIT`). Sessions have theirs above it: who hands
/// one to `pg_terminate_backend` must not end somebody else's server.
pub(super) const LAST_OF_SERVERS: i32 = 1 << 22;

/// What a session is doing that could be cancelled.
#[derive(Debug, Default)]
enum Doing {
    /// Nothing.
    #[default]
    Nothing,
    /// It waits for a server.
    Waiting,
    /// It waits for a server of this node.
    WaitingAt(NodeId),
    /// It need not wait any longer at the node that it waited at.
    TurnedAway,
    /// A server serves it.
    Served(Arc<Identity>),
}

/// The place where a session says what it is doing.
#[derive(Debug, Default)]
pub struct Slot {
    doing: Mutex<Doing>,
    /// Told when a waiting session is cancelled, or turned away from a node that has fallen silent.
    pub cancelled: Notify,
    /// Wakes the session's task, wherever it waits.
    waker: Mutex<Option<Waker>>,
    /// Whose it is.
    pub account: OnceLock<Arc<Account>>,
    /// [`GOES_ON`], [`DOOMED`] or [`ENDED`].
    fate: AtomicU8,
    decided: Notify,
}

/// Nobody ends the session.
const GOES_ON: u8 = 0;
/// Somebody may have ended it (`pg_terminate_backend`): until that is known it begins nothing new.
const DOOMED: u8 = 1;
/// Somebody has.
const ENDED: u8 = 2;

impl Slot {
    /// The session waits for a server.
    pub fn waits(&self) {
        // A cancel that came when the wait before was just over must not end this one.
        let _ = self.cancelled.notified().now_or_never();
        *self.doing.lock() = Doing::Waiting;
    }

    /// The session waits for a server of this node.
    pub fn waits_at(&self, node: NodeId) {
        self.waits();
        *self.doing.lock() = Doing::WaitingAt(node);
    }

    /// Whether the session's last wait ended because its node has fallen silent.
    #[must_use]
    pub fn is_turned_away(&self) -> bool {
        matches!(&*self.doing.lock(), Doing::TurnedAway)
    }

    /// The session runs in the task that this wakes.
    pub fn runs_in(&self, waker: &Waker) {
        *self.waker.lock() = Some(waker.clone());
    }

    /// A node has fallen silent: if the session waits there, it is told.
    fn give_up(&self, node: NodeId, silence: Silence) {
        let mut doing = self.doing.lock();
        match &*doing {
            Doing::Served(server) if server.node == node => {
                server.fall_silent(silence);
                drop(doing);
                if let Some(waker) = &*self.waker.lock() {
                    waker.wake_by_ref();
                }
            }
            Doing::WaitingAt(at) if *at == node => {
                *doing = Doing::TurnedAway;
                self.cancelled.notify_one();
            }
            _ => {}
        }
    }

    /// A server serves the session.
    pub fn served(&self, by: &Arc<Identity>) {
        *self.doing.lock() = Doing::Served(by.clone());
    }

    /// Takes a cancel request: who waits for a server is told; a server at work is named, and is not
    /// given back before [`carry_out`] has ended. With `overdue` its refusal will speak of a timeout.
    pub fn begin_cancel(&self, overdue: bool) -> Option<Arc<Identity>> {
        match &*self.doing.lock() {
            Doing::Nothing => None,
            Doing::Waiting | Doing::WaitingAt(_) | Doing::TurnedAway => {
                self.cancelled.notify_one();
                None
            }
            Doing::Served(server) => {
                if overdue {
                    server.overdue.store(true, Ordering::Relaxed);
                }
                server.cancel_sent();
                Some(server.clone())
            }
        }
    }

    /// The server of this node that is at work for the session.
    #[must_use]
    pub fn server_at(&self, node: NodeId) -> Option<Arc<Identity>> {
        match &*self.doing.lock() {
            Doing::Served(server) if server.node == node => Some(server.clone()),
            _ => None,
        }
    }

    /// The same; it is not given back before [`Identity::cancel_delivered`]. If somebody `ends` it, the session ends
    /// with it.
    #[must_use]
    pub fn hold_server_at(&self, node: NodeId, ends: bool) -> Option<Arc<Identity>> {
        match &*self.doing.lock() {
            Doing::Served(server) if server.node == node => {
                server.cancel_sent();
                if ends {
                    server.condemn();
                }
                Some(server.clone())
            }
            _ => None,
        }
    }

    /// The session begins nothing new until it is [ended](Self::end) or [spared](Self::spare).
    pub fn doom(&self) {
        self.turn(GOES_ON, DOOMED);
    }

    /// The session goes on, unless somebody else has ended it.
    pub fn spare(&self) {
        self.turn(DOOMED, GOES_ON);
        self.decided.notify_waiters();
    }

    fn turn(&self, from: u8, to: u8) {
        // Whatever else it is stays so.
        let _ = self.fate.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The session is to end, as soon as it is not waiting for a server any more.
    pub fn end(&self) {
        self.fate.store(ENDED, Ordering::Release);
        self.decided.notify_waiters();
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }

    /// Whether nobody ends the session, for all that is known.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.fate.load(Ordering::Acquire) == GOES_ON
    }

    /// Whether it has been ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.fate.load(Ordering::Acquire) == ENDED
    }

    /// Waits until it is known whether it has. Cancel safe.
    pub async fn decided(&self) {
        loop {
            let decided = self.decided.notified();
            if self.fate.load(Ordering::Acquire) != DOOMED {
                return;
            }
            decided.await;
        }
    }

    /// Ends a wait for a server.
    pub fn stop_waiting(&self) {
        if matches!(&*self.doing.lock(), Doing::Waiting | Doing::WaitingAt(_)) {
            self.cancelled.notify_one();
        }
    }

    /// Nothing is left to cancel.
    pub fn rests(&self) {
        *self.doing.lock() = Doing::Nothing;
    }
}

/// All sessions that can be cancelled.
#[derive(Debug, Default)]
pub struct Registry(Mutex<Sessions>);

#[derive(Debug)]
struct Sessions {
    by_process_id: HashMap<i32, (CancelSecret, Arc<Slot>)>,
    /// Who was last told (`pg_backend_pid()`) that this server is its own.
    by_server: HashMap<(NodeId, i32), (Weak<Identity>, i32)>,
    last_process_id: i32,
}

impl Default for Sessions {
    fn default() -> Self {
        Self {
            by_process_id: HashMap::new(),
            by_server: HashMap::new(),
            last_process_id: LAST_OF_SERVERS,
        }
    }
}

/// What a client must know to cancel what its session runs; never shown.
#[derive(Clone)]
pub struct CancelSecret(Box<[u8]>);

impl std::ops::Deref for CancelSecret {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for CancelSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CancelSecret(***)")
    }
}

/// A session's entry; dropping it forgets the key.
#[derive(Debug)]
pub struct Entry {
    registry: Arc<Registry>,
    /// What the client is told in BackendKeyData.
    pub process_id: i32,
    /// The same.
    pub secret: CancelSecret,
    /// What the session is doing.
    pub slot: Arc<Slot>,
}

impl Registry {
    /// A new key for a client that speaks this minor version of protocol 3.
    pub fn enter(self: &Arc<Self>, protocol_minor: u16) -> Entry {
        let length = if protocol_minor >= 2 { SECRET_3_2 } else { SECRET_3_0 };
        let mut secret = vec![0; length].into_boxed_slice();
        rand::rng().fill_bytes(&mut secret);
        let secret = CancelSecret(secret);
        let slot = Arc::new(Slot::default());
        let mut sessions = self.0.lock();
        let process_id = loop {
            let last = sessions.last_process_id;
            let next = last.checked_add(1).unwrap_or(LAST_OF_SERVERS + 1);
            sessions.last_process_id = next;
            if !sessions.by_process_id.contains_key(&next) {
                break next;
            }
        };
        sessions.by_process_id.insert(process_id, (secret.clone(), slot.clone()));
        drop(sessions);
        Entry { registry: self.clone(), process_id, secret, slot }
    }

    /// What the session of this process id is doing.
    #[must_use]
    pub fn slot_of(&self, process_id: i32) -> Option<Arc<Slot>> {
        self.0.lock().by_process_id.get(&process_id).map(|(_, slot)| slot.clone())
    }

    /// A session was told the process id of a server as its own.
    pub fn told(&self, server: &Arc<Identity>, process_id: i32) {
        let mut sessions = self.0.lock();
        sessions.by_server.retain(|_, (server, _)| server.strong_count() > 0);
        let key = (server.node, server.process_id);
        sessions.by_server.insert(key, (Arc::downgrade(server), process_id));
    }

    /// The session that was last told this process id of a server as its own, unless the server is at work for
    /// another than it or `asks`.
    #[must_use]
    pub fn slot_told(&self, node: NodeId, server: i32, asks: &Arc<Slot>) -> Option<Arc<Slot>> {
        let sessions = self.0.lock();
        // Another process may have the id of a server that is gone.
        let (alive, process_id) = sessions.by_server.get(&(node, server))?;
        alive.upgrade()?;
        let told = &sessions.by_process_id.get(process_id)?.1;
        let other = |slot: &Arc<Slot>| !Arc::ptr_eq(slot, told) && !Arc::ptr_eq(slot, asks);
        let at_work =
            |slot: &Arc<Slot>| slot.server_at(node).is_some_and(|found| found.process_id == server);
        let mut slots = sessions.by_process_id.values().map(|(_, slot)| slot);
        (!slots.any(|slot| other(slot) && at_work(slot))).then(|| told.clone())
    }

    /// A node has fallen silent: every session that waits for it, or for one of its servers, is told.
    pub fn give_up(&self, node: NodeId, silence: Silence) {
        for (_, slot) in self.0.lock().by_process_id.values() {
            slot.give_up(node, silence);
        }
    }

    /// Carries a cancel request out. Returns when the node has taken it, or when there was nothing
    /// to cancel; a wrong key is nothing.
    ///
    /// # Cancel safety
    /// Not safe: the server would never be given back.
    pub async fn cancel(&self, process_id: i32, secret: &[u8]) {
        let slot = {
            let sessions = self.0.lock();
            match sessions.by_process_id.get(&process_id) {
                Some((known, slot)) if bool::from(known.0.ct_eq(secret)) => slot.clone(),
                _ => return,
            }
        };
        if let Some(server) = slot.begin_cancel(false) {
            carry_out(&server).await;
        }
    }
}

/// Sends what [`Slot::begin_cancel`] began, and frees the server.
///
/// # Cancel safety
/// Not safe: the server would never be given back.
pub async fn carry_out(server: &Identity) {
    send(server).await;
    server.cancel_delivered();
}

/// Cancels what a server runs for a client that is gone.
pub async fn cancel_server(server: &Identity) {
    send(server).await;
}

async fn send(server: &Identity) {
    let (process_id, key) = (server.process_id, &server.secret_key);
    if let Err(error) =
        cancel::cancel(&server.address, &server.connector, process_id, key, CANCEL_TIMEOUT).await
    {
        tracing::warn!(node = %server.address, %error, "a cancel request did not reach its node");
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut sessions = self.registry.0.lock();
        sessions.by_process_id.remove(&self.process_id);
        if !sessions.by_server.is_empty() {
            sessions.by_server.retain(|_, (_, told)| *told != self.process_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Address;

    #[tokio::test]
    async fn only_the_right_key_cancels_and_only_what_is_being_done() {
        let registry = Arc::new(Registry::default());
        let one = registry.enter(0);
        let two = registry.enter(2);
        assert!(one.process_id > LAST_OF_SERVERS && two.process_id > one.process_id);
        assert_eq!((one.secret.len(), two.secret.len()), (4, 32));
        one.slot.waits();
        registry.cancel(one.process_id, b"nope").await;
        registry.cancel(two.process_id, &two.secret).await;
        let waiting = one.slot.cancelled.notified();
        registry.cancel(one.process_id, &one.secret).await;
        waiting.await;
        // One that came too late for the wait that it was meant for is not kept for the next.
        registry.cancel(one.process_id, &one.secret).await;
        one.slot.waits();
        assert!(one.slot.cancelled.notified().now_or_never().is_none());
    }

    #[test]
    fn process_ids_begin_anew_above_those_of_servers() {
        let registry = Arc::new(Registry::default());
        let first = registry.enter(0);
        registry.0.lock().last_process_id = i32::MAX - 1;
        let last = registry.enter(0);
        assert_eq!(last.process_id, i32::MAX);
        assert_eq!(registry.enter(0).process_id, first.process_id + 1);
    }

    #[test]
    fn who_is_ended_stays_so() {
        let slot = Slot::default();
        slot.doom();
        assert!(!slot.goes_on() && !slot.is_ended() && slot.decided().now_or_never().is_none());
        slot.spare();
        assert!(slot.goes_on() && slot.decided().now_or_never().is_some());
        slot.end();
        slot.doom();
        slot.spare();
        assert!(slot.is_ended() && slot.decided().now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_waits_at_a_silent_node_is_told() {
        let registry = Arc::new(Registry::default());
        let (waiting, served) = (registry.enter(0), registry.enter(0));
        let address = Address { host: "127.0.0.1".into(), port: 1 };
        let node = Arc::new(Identity::new(NodeId(0), address, 1, bytes::Bytes::new()));
        served.slot.served(&node);
        waiting.slot.waits_at(NodeId(0));
        registry.give_up(NodeId(1), Silence::Final);
        assert!(!waiting.slot.is_turned_away() && !node.is_given_up(true));
        registry.give_up(NodeId(0), Silence::Open);
        assert!(waiting.slot.cancelled.notified().now_or_never().is_some());
        assert!(waiting.slot.is_turned_away());
        assert!(node.is_given_up(true) && !node.is_given_up(false));
        registry.give_up(NodeId(0), Silence::Final);
        assert!(node.is_given_up(false));
        waiting.slot.waits_at(NodeId(1));
        assert!(!waiting.slot.is_turned_away());
    }

    #[tokio::test]
    async fn a_server_is_free_again_when_its_node_does_not_answer() {
        let registry = Arc::new(Registry::default());
        let entry = registry.enter(0);
        // Port 1 on loopback refuses at once.
        let address = Address { host: "127.0.0.1".into(), port: 1 };
        let server = Arc::new(Identity::new(NodeId(0), address, 1, bytes::Bytes::new()));
        entry.slot.served(&server);
        registry.cancel(entry.process_id, &entry.secret).await;
        assert!(!server.is_being_cancelled());
        let (id, secret) = (entry.process_id, entry.secret.clone());
        drop(entry);
        registry.cancel(id, &secret).await;
    }

    #[tokio::test]
    async fn keys_do_not_show() {
        let registry = Arc::new(Registry::default());
        let mut entry = registry.enter(2);
        entry.secret = CancelSecret([0xab, 0xcd].into());
        let of_server = bytes::Bytes::from_static(b"hidden");
        let address = crate::config::settings::Address { host: "pg1".into(), port: 5432 };
        let identity = Identity::new(NodeId(0), address, 7, of_server.clone());
        let established = crate::server::Established {
            stream: crate::net::Stream::Unix(tokio::net::UnixStream::pair().unwrap().0),
            buffer: bytes::BytesMut::new(),
            process_id: 7,
            secret_key: of_server,
            parameters: Vec::new(),
            protocol_minor: 0,
        };
        let shown = format!("{entry:?} {registry:?} {identity:?} {established:?}");
        assert!(shown.contains("CancelSecret(***)") && shown.contains("pg1"), "{shown}");
        for secret in ["171, 205", "ab, cd", "hidden"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
