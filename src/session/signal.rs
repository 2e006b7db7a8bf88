//! `pg_terminate_backend()` and `pg_cancel_backend()` of a session, by the process id that its client was told.
//!
//! That id is no server's, and what `pg_backend_pid()` told is that of a server which may serve somebody else by now.
//! Where a request is nothing but `SELECT` of one of the functions, with a number or a parameter, a server's id stands in
//! for it, in as many bytes: that of the server at work for the session, or of another that was opened as its user. So
//! PostgreSQL judges, as ever, who may do this, and its answer is the client's. The session ends if the server that
//! stood in for it does; nothing that a client says is believed instead. What it runs on another node is cancelled only
//! for its own user. A server that stood in serves nobody else while the request is under way, for [`HOLD`] at most.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::driver::Session;
use super::fields::{bind_fields, parse_fields};
use super::machine::Machine;
use super::registry::{LAST_OF_SERVERS, Registry, Slot, carry_out};
use crate::cluster::NodeId;
use crate::pool::pool::Wish;
use crate::pool::{Account, Lease};
use crate::protocol::request::{End, Frame, Request};
use crate::protocol::response::SqlState;
use crate::server::Identity;

/// What a request asks for that hits servers, named by process id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// `pg_terminate_backend`
    Terminate,
    /// `pg_cancel_backend`
    Cancel,
}

/// How long a server is waited for that could stand in. Without one PostgreSQL says that it knows no such process.
const STAND_IN_WAIT: Duration = Duration::from_secs(2);
/// How long a server at work for another session is kept from being given back.
const HOLD: Duration = Duration::from_secs(1);
/// How long a server may take to end that was told to.
pub(super) const END_WAIT: Duration = Duration::from_secs(5);
/// The same of one that most likely was not.
const REFUSED_WAIT: Duration = Duration::from_millis(300);

/// What is to be done when the server has answered.
#[derive(Debug)]
pub(super) struct Signals {
    signal: Signal,
    registry: Arc<Registry>,
    /// Who asks, and as whom.
    asks: Arc<Slot>,
    user: Arc<str>,
    /// The server that runs the request.
    here: Arc<Identity>,
    /// A server that may stand in for a session that has none here, and whose it is.
    spare: Option<(Lease, Arc<Account>)>,
    /// The session that a spare server stands in for.
    named: Option<Arc<Slot>>,
    /// Nothing else is in the request: its error is about the signal.
    alone: bool,
    /// The server of another session, and what ends its hold when it is dropped.
    hold: Option<(Arc<Identity>, oneshot::Sender<()>)>,
    /// What stood in the request before, and where.
    before: Option<(usize, Box<[u8]>)>,
}

impl Session {
    /// Puts a server's process id in the place of a session's in the request under way, which is about to be composed
    /// for the leased server. What is bound after a Flush is looked at when it comes, by [`Machine::look_at`].
    pub(super) async fn stand_in(&mut self, request: &Request) -> Option<Box<Signals>> {
        let signal = self.machine.asks.signal?;
        let place = self.machine.place(request, &self.client.input);
        if place.is_none() && request.end != End::Flush {
            return None;
        }
        let mut signals = Signals {
            signal,
            registry: self.shared.registry.clone(),
            asks: self.entry.slot.clone(),
            user: self.account.user.clone(),
            here: self.lease.as_ref()?.identity.clone(),
            spare: None,
            named: None,
            alone: self.machine.is_alone(request),
            hold: None,
            before: None,
        };
        let slot = place.as_ref().and_then(|place| signals.session_of(place.process_id));
        // Whose server must be had to stand in; of what comes later only that is known who asks.
        let account = match (&slot, request.end) {
            (Some(slot), _) if signals.has_server_of(slot) => None,
            (Some(slot), _) => slot.account.get().filter(|of| signals.may_need(of)).cloned(),
            (None, End::Flush) => Some(self.account.clone()),
            (None, _) => None,
        };
        if let Some(account) = account {
            let spare = self.spare(&account, signals.here.node).await;
            signals.spare = spare.map(|lease| (lease, account));
        }
        if let Some(place) = place {
            signals.put(&place, &mut self.client.input);
        }
        Some(Box::new(signals))
    }

    async fn spare(&self, account: &Account, node: NodeId) -> Option<Lease> {
        let (pool, epoch) = {
            let topology = self.shared.cluster.load();
            (account.pool(node, &topology), topology.node(node).epoch)
        };
        let wish = Wish::default();
        let leased = timeout(STAND_IN_WAIT, pool.lease(self.worker, epoch, &wish)).await;
        leased.ok()?.ok()
    }

    /// The request has been answered as `outcome` tells.
    pub(super) fn end_signals(&self, signals: Signals, ready: bool) {
        let lease = self.lease.as_ref();
        // Without one it is the server that is gone.
        let failed = lease.map_or(Some(GONE), |lease| lease.responses.failed_with());
        if let Some(unhurt) = signals.answered(ready, failed) {
            let epoch = self.shared.cluster.load().node(unhurt.identity.node).epoch;
            unhurt.give_back(epoch);
        }
    }
}

impl Machine {
    /// Where a request that does nothing else names a process to send a signal to.
    fn place(&self, request: &Request, buffer: &[u8]) -> Option<Place> {
        match (request.end, &request.frames[..]) {
            (End::Query, [frame]) => number(*frame, buffer),
            (End::Sync, frames) => {
                let mut texts = frames.iter().filter(|frame| matches!(frame.kind, b'P' | b'B'));
                let (parse, bind) = match (texts.next()?, texts.next(), texts.next()) {
                    (bind, None, None) => (None, bind),
                    (parse, Some(bind), None) => (Some(parse), bind),
                    _ => return None,
                };
                let (b'B', (_, name, _)) = (bind.kind, bind_fields(bind.body(buffer))?) else {
                    return None;
                };
                let takes = match parse {
                    Some(frame) => {
                        let (parsed, text, _) = parse_fields(frame.body(buffer))?;
                        if frame.kind == b'P' && parsed == name {
                            takes_parameter(text)
                        } else {
                            None
                        }
                    }
                    None => self.takes_parameter(name),
                };
                takes.and_then(|_| value(*bind, buffer))
            }
            _ => None,
        }
    }

    /// Whether an error of the request can only be that of the one statement in it.
    fn is_alone(&self, request: &Request) -> bool {
        let executes = request.frames.iter().filter(|frame| frame.kind == b'E').count();
        match request.end {
            End::Query => true,
            // In a transaction there may be a portal of another.
            End::Sync => self.is_idle() && executes == 1,
            _ => false,
        }
    }

    fn takes_parameter(&self, name: &[u8]) -> Option<Signal> {
        match name {
            b"" => self.statements.unnamed.get().and_then(|unnamed| takes_parameter(unnamed.0)),
            name => self.named(name).and_then(|prepared| takes_parameter(&prepared.text)),
        }
    }

    /// Puts a server's process id in the place of a session's in a frame that came after a Flush.
    pub(super) fn look_at(&mut self, frame: Frame, buffer: &mut [u8]) {
        if self.asks.signals.is_none() || frame.kind != b'B' {
            return;
        }
        let Some((_, name, _)) = bind_fields(frame.body(buffer)) else { return };
        let takes = self.takes_parameter(name);
        // Of several the first counts.
        let first = |signals: &Signals| {
            Some(signals.signal) == takes && signals.named.is_none() && signals.hold.is_none()
        };
        if self.asks.signals.as_deref().is_some_and(first)
            && let Some(place) = value(frame, buffer)
            && let Some(signals) = &mut self.asks.signals
        {
            signals.put(&place, buffer);
            // It is consumed before anything could be tried again.
            signals.before = None;
        }
    }
}

impl Signals {
    /// The session of a process id that it was told, be it its own or its server's.
    fn session_of(&self, process_id: i32) -> Option<Arc<Slot>> {
        if process_id > LAST_OF_SERVERS {
            return self.registry.slot_of(process_id);
        }
        self.registry.slot_told(self.here.node, process_id, &self.asks)
    }

    /// Whether a server is at work for it here.
    fn has_server_of(&self, slot: &Arc<Slot>) -> bool {
        Arc::ptr_eq(slot, &self.asks) || slot.server_at(self.here.node).is_some()
    }

    /// Whether a server of that account's may have to stand in: nobody but its user may cancel what is idle.
    fn may_need(&self, account: &Account) -> bool {
        self.signal == Signal::Terminate || *account.user == *self.user
    }

    fn put(&mut self, place: &Place, buffer: &mut [u8]) {
        let Some(slot) = self.session_of(place.process_id) else { return };
        let ends = self.signal == Signal::Terminate;
        if Arc::ptr_eq(&slot, &self.asks) {
            self.before = place.put(self.here.process_id, buffer);
        } else if let Some(server) = slot.hold_server_at(self.here.node, ends) {
            self.before = place.put(server.process_id, buffer);
            if self.before.is_none() {
                server.pardon();
            }
            self.hold = Some((server.clone(), release_later(server)));
        } else {
            let of = slot.account.get().filter(|of| self.may_need(of));
            let Some((lease, account)) = &mut self.spare else { return };
            if of.is_some_and(|of| Arc::ptr_eq(of, account)) {
                self.before = place.put(lease.identity.process_id, buffer);
                // From now on it may be ended.
                lease.spoiled = self.before.is_some();
                self.named = self.before.is_some().then_some(slot);
            }
        }
    }

    /// Puts back what stood in the request, which is still at the buffer's beginning.
    pub(super) fn put_back(&self, buffer: &mut [u8]) {
        if let Some((at, bytes)) = &self.before {
            buffer[*at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// The server has answered, and is `ready`; something in the request may have `failed` with this SQLSTATE. Gives
    /// back the server that was to stand in, if nothing was sent to it.
    fn answered(self, ready: bool, failed: Option<SqlState>) -> Option<Lease> {
        if let Some((server, _)) = self.hold.as_ref().filter(|_| failed.is_some() || !ready) {
            server.pardon();
        }
        let (mut lease, _) = self.spare?;
        let Some(slot) = self.named else { return Some(lease) };
        if !ready {
            return None;
        }
        if failed == Some(NOT_ALLOWED) && self.alone {
            lease.spoiled = false;
            return Some(lease);
        }
        match self.signal {
            Signal::Terminate => {
                // The failure may be another's: the server tells.
                let limit = if failed.is_some() { REFUSED_WAIT } else { END_WAIT };
                if failed.is_none() {
                    slot.doom();
                }
                tokio::spawn(async move {
                    let ended = timeout(limit, lease.ended_by_administrator()).await;
                    if ended == Ok(true) {
                        slot.end();
                        cancel(&slot).await;
                    } else {
                        slot.spare();
                    }
                });
            }
            Signal::Cancel if failed.is_some() => {}
            Signal::Cancel => {
                drop(lease);
                tokio::spawn(async move { cancel(&slot).await });
            }
        }
        None
    }
}

/// What PostgreSQL says to who may not signal a process: it has not.
const NOT_ALLOWED: SqlState = *b"42501";

/// That of a connection that broke.
const GONE: SqlState = *b"08006";

async fn cancel(slot: &Slot) {
    if let Some(server) = slot.begin_cancel(false) {
        carry_out(&server).await;
    }
}

/// Lets a server that is held be given back when the sender is dropped, or after [`HOLD`].
fn release_later(server: Arc<Identity>) -> oneshot::Sender<()> {
    let (hold, dropped) = oneshot::channel();
    tokio::spawn(async move {
        let _ = timeout(HOLD, dropped).await;
        server.cancel_delivered();
    });
    hold
}

/// Where a request names a process.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    at: Range<usize>,
    binary: bool,
    process_id: i32,
}

impl Place {
    /// Puts another in its place, unless that is longer: than a session's own it cannot be. What was there, and where.
    fn put(&self, process_id: i32, buffer: &mut [u8]) -> Option<(usize, Box<[u8]>)> {
        let place = &mut buffer[self.at.clone()];
        let before = Box::from(&*place);
        if self.binary {
            place.copy_from_slice(&process_id.to_be_bytes());
        } else {
            let text = format!("{process_id:>width$}", width = place.len());
            if text.len() != place.len() {
                return None;
            }
            place.copy_from_slice(text.as_bytes());
        }
        Some((self.at.start, before))
    }
}

/// Whether a text is `SELECT` of one of the functions and nothing else, up to its argument; what is left of it.
fn called(text: &[u8]) -> Option<(Signal, &[u8])> {
    let rest = text.trim_ascii_start();
    let (select, rest) = rest.split_at_checked(6)?;
    let after = rest.first()?;
    if !select.eq_ignore_ascii_case(b"select") || !after.is_ascii_whitespace() {
        return None;
    }
    let mut rest = rest.trim_ascii_start();
    for part in [&b"pg_catalog."[..], b""] {
        for (signal, name) in [
            (Signal::Terminate, &b"pg_terminate_backend"[..]),
            (Signal::Cancel, b"pg_cancel_backend"),
        ] {
            let length = part.len() + name.len();
            let Some((head, tail)) = rest.split_at_checked(length) else { continue };
            if head[..part.len()].eq_ignore_ascii_case(part)
                && head[part.len()..].eq_ignore_ascii_case(name)
            {
                rest = tail.trim_ascii_start();
                let argument = rest.strip_prefix(b"(").map(<[u8]>::trim_ascii_start);
                return argument.map(|argument| (signal, argument));
            }
        }
    }
    None
}

/// Whether nothing follows the argument but what ends the statement.
fn ends(rest: &[u8]) -> bool {
    let rest = rest.trim_ascii_start().strip_prefix(b")").map(<[u8]>::trim_ascii);
    rest.is_some_and(|rest| matches!(rest, b"" | b";"))
}

/// Which signal a text sends to what is bound to it, if it does nothing else.
fn takes_parameter(text: &[u8]) -> Option<Signal> {
    let (signal, rest) = called(text)?;
    let rest = rest.strip_prefix(b"$1")?;
    ends(rest.strip_prefix(b"::int").unwrap_or(rest)).then_some(signal)
}

/// The number that a simple query sends a signal to, if it does nothing else.
fn number(frame: Frame, buffer: &[u8]) -> Option<Place> {
    let body = frame.body(buffer);
    let text = body.strip_suffix(b"\0").unwrap_or(body);
    let (_, rest) = called(text)?;
    let length = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    let (digits, after) = rest.split_at(length);
    let process_id = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let from = frame.end - (body.len() - text.len()) - rest.len();
    ends(after).then_some(Place { at: from..from + length, binary: false, process_id })
}

/// The only value of a Bind, in either format.
fn value(frame: Frame, buffer: &[u8]) -> Option<Place> {
    let (_, _, mut rest) = bind_fields(frame.body(buffer))?;
    let formats = rest.try_get_u16().ok()?;
    let (first, after) = rest.split_at_checked(2 * usize::from(formats))?;
    let binary = first.starts_with(&[0, 1]);
    rest = after;
    let (1, length) = (rest.try_get_u16().ok()?, rest.try_get_i32().ok()?) else { return None };
    let value = rest.get(..usize::try_from(length).ok()?)?;
    let from = frame.end - rest.len();
    let process_id = match <[u8; 4]>::try_from(value) {
        Ok(bytes) if binary => i32::from_be_bytes(bytes),
        _ if binary => return None,
        _ => std::str::from_utf8(value).ok()?.parse().ok()?,
    };
    Some(Place { at: from..from + value.len(), binary, process_id })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::protocol::request::{Indexer, Limits};
    use crate::protocol::write;

    const ID: i32 = LAST_OF_SERVERS + 1;

    fn request(buffer: &[u8]) -> Request {
        let limits = Limits { message: 1 << 20, pipeline: 1 << 20, statement: 1 << 20 };
        Indexer::default().index(buffer, &limits).unwrap().unwrap()
    }

    #[test]
    fn a_text_names_a_session_only_if_it_does_nothing_else() {
        for (text, named) in [
            ("SELECT pg_terminate_backend(4194305)", true),
            (" select\n PG_CATALOG.PG_Cancel_Backend ( 4194305 ) ; ", true),
            ("SELECT pg_terminate_backend(4194305), 1", false),
            ("SELECT pg_terminate_backend(4194305) WHERE false", false),
            ("SELECT pg_terminate_backend(0), 4194305", false),
            ("SELECT pg_terminate_backend(4194305); SELECT 1", false),
            ("SELECT pg_terminate_backend(4194305.5)", false),
            ("SELECT pg_terminate_backend(4194305", false),
            ("SELECT my.pg_terminate_backend(4194305)", false),
            ("SELECTpg_terminate_backend(4194305)", false),
            ("SELECT pg_terminate_backend(99999999999)", false),
            ("SELECT pg_terminate_backend()", false),
            ("SELECT", false),
            ("", false),
        ] {
            let mut buffer = BytesMut::new();
            write::query(&mut buffer, text.as_bytes());
            let place = number(request(&buffer).frames[0], &buffer);
            assert_eq!(place.is_some(), named, "{text}");
            let Some(place) = place else { continue };
            assert_eq!(place.process_id, ID);
            let (at, before) = place.put(77, &mut buffer).unwrap();
            assert_eq!(*before, *b"4194305");
            assert_eq!(buffer[at..at + 7], *b"     77");
            assert_eq!(place.put(i32::MIN, &mut buffer), None, "it is longer");
        }
        for (text, takes) in [
            ("select pg_terminate_backend($1)", true),
            ("SELECT pg_cancel_backend($1::int);", true),
            ("select pg_terminate_backend($1) from t", false),
            ("select pg_terminate_backend($12)", false),
            ("insert into t values ($1)", false),
        ] {
            assert_eq!(takes_parameter(text.as_bytes()).is_some(), takes, "{text}");
        }
    }

    #[test]
    fn a_value_names_a_session_in_either_format() {
        for (format, old, new) in [
            (0, ID.to_string().as_bytes(), &b"4194304"[..]),
            (1, &ID.to_be_bytes()[..], &4_194_304_i32.to_be_bytes()[..]),
        ] {
            let mut buffer = BytesMut::new();
            write::message(&mut buffer, b'B', |body| {
                body.extend_from_slice(&[0, 0, 0, 1, 0, format, 0, 1]);
                body.extend_from_slice(&u32::try_from(old.len()).unwrap().to_be_bytes());
                body.extend_from_slice(old);
                body.extend_from_slice(b"\0\0");
            });
            write::sync(&mut buffer);
            let frame = request(&buffer).frames[0];
            let place = value(frame, &buffer).unwrap();
            assert_eq!(place.process_id, ID);
            let (at, before) = place.put(4_194_304, &mut buffer).unwrap();
            assert_eq!((&*before, &buffer[at..at + new.len()]), (old, new));
            for end in 5..frame.end - 2 {
                assert_eq!(value(Frame { kind: b'B', start: 0, end }, &buffer), None, "{end}");
            }
        }
    }
}
