//! `pg_terminate_backend()` and `pg_cancel_backend()` of a session, by the process id that its client was told.
//!
//! That id is no server's, and what `pg_backend_pid()` told is that of a server which may serve somebody else by now.
//! Where a statement names either, a server's stands in for it in the request, in as many bytes: that of the server at
//! work for the session, or of another that was opened as its user. So PostgreSQL judges, as ever, who may do this, and
//! its answer is the client's. When it has said yes, the session itself is ended, or what it waits for cancelled. A
//! server that stood in is closed: what was meant for the session must not hit the next one it serves.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;

use super::driver::Session;
use super::judge::Judge;
use super::machine::{Machine, Signal, bind_fields};
use super::registry::{LAST_OF_SERVERS, Registry, Slot, carry_out};
use super::texts::{Runs, Texts};
use crate::cluster::NodeId;
use crate::pool::pool::Wish;
use crate::pool::{Account, Lease};
use crate::protocol::request::{End, Frame, Request};
use crate::server::Identity;
use crate::sql::Script;
use crate::sql::statement::Class;

/// How long a server is waited for that could stand in. Without one PostgreSQL says that it knows no such process.
const STAND_IN_WAIT: Duration = Duration::from_secs(2);

/// A session that a request names, and the server that stands in for it.
#[derive(Debug)]
struct Named {
    slot: Arc<Slot>,
    stands_in: StandIn,
}

#[derive(Debug)]
enum StandIn {
    /// The server at work for it; it serves nobody else meanwhile.
    Own(Held),
    /// Another, leased for this.
    Other(Lease),
    /// The one that runs the request.
    Runs,
}

/// A server that is not given back while this lives.
#[derive(Debug)]
struct Held(Arc<Identity>);

impl Held {
    fn new(server: Arc<Identity>) -> Self {
        server.cancel_sent();
        Self(server)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.cancel_delivered();
    }
}

/// What is to be done when the server has answered.
#[derive(Debug)]
pub(super) struct Signals {
    signal: Signal,
    registry: Arc<Registry>,
    /// Who asks.
    asks: Arc<Slot>,
    /// The server that runs the request.
    here: Arc<Identity>,
    /// A server that may stand in for a session that has none here, and whose it is.
    spare: Option<(Lease, Arc<Account>)>,
    named: Vec<Named>,
}

impl Session {
    /// Puts servers' process ids in the place of sessions' in the request under way, which is about to be composed for
    /// the leased server. What is bound after a Flush is looked at when it comes, by [`Machine::signals`].
    ///
    /// [`Machine::signals`]: super::machine::Machine
    pub(super) async fn stand_in(&mut self, request: &Request) -> Option<Box<Signals>> {
        let signal = self.machine.signal?;
        let here = self.lease.as_ref()?.identity.clone();
        let registry = self.shared.registry.clone();
        let asks = self.entry.slot.clone();
        let mut signals = Signals { signal, registry, asks, here, spare: None, named: Vec::new() };
        let places = self.machine.places(request, &self.client.input, &self.eyes);
        let slots = places.iter().filter_map(|place| signals.named(place.process_id));
        // Whose server must be had to stand in; of what comes later only that is known who asks.
        let whose = slots
            .filter(|slot| !signals.has_server_of(slot))
            .find_map(|slot| slot.account.get().cloned());
        let whose = match request.end {
            End::Flush => whose.or_else(|| Some(self.account.clone())),
            _ => whose,
        };
        if let Some(account) = whose {
            signals.spare =
                self.spare(&account, signals.here.node).await.map(|lease| (lease, account));
        }
        for place in places {
            signals.stand_in(&place, &mut self.client.input);
        }
        Some(Box::new(signals))
    }

    async fn spare(&self, account: &Account, node: NodeId) -> Option<Lease> {
        let (pool, epoch) = {
            let topology = self.shared.cluster.load();
            (account.pool(node, &topology), topology.node(node).epoch)
        };
        let wish = Wish::default();
        let leased =
            tokio::time::timeout(STAND_IN_WAIT, pool.lease(self.worker, epoch, &wish)).await;
        let mut lease = leased.ok()?.ok()?;
        lease.spoiled = true;
        Some(lease)
    }
}

impl Machine {
    /// Where the request names processes to send a signal to.
    fn places(&self, request: &Request, buffer: &[u8], judge: &impl Judge) -> Vec<Place> {
        let (mut texts, mut places) = (Texts::default(), Vec::new());
        for frame in &request.frames {
            match (frame.kind, texts.next(*frame, buffer, self, judge)) {
                (b'Q' | b'P', _) => numbers(buffer, frame.start..frame.end, &mut places),
                (b'B', Runs::Script(script)) if sends_only(&script) => {
                    values(*frame, buffer, &mut places);
                }
                _ => {}
            }
        }
        places
    }

    /// Puts servers' process ids in the place of sessions' in a frame that came after a Flush.
    pub(super) fn look_at(&mut self, frame: Frame, buffer: &mut [u8]) {
        if self.signals.is_none() || frame.kind != b'B' {
            return;
        }
        let Some((_, name, _)) = bind_fields(frame.body(buffer)) else { return };
        let script = match name {
            b"" => self.statements.unnamed.get().map(|unnamed| unnamed.2.clone()),
            name => self.named(name).map(|prepared| prepared.script.clone()),
        };
        if script.is_some_and(|script| sends_only(&script))
            && let Some(signals) = &mut self.signals
        {
            signals.look_at(frame, buffer);
        }
    }
}

impl Signals {
    /// The session of a process id that it was told, be it its own or its server's.
    fn named(&self, process_id: i32) -> Option<Arc<Slot>> {
        if process_id > LAST_OF_SERVERS {
            return self.registry.slot_of(process_id);
        }
        self.registry.slot_told(self.here.node, process_id, &self.asks)
    }

    /// Whether a server is at work for it here.
    fn has_server_of(&self, slot: &Arc<Slot>) -> bool {
        Arc::ptr_eq(slot, &self.asks) || slot.server_at(self.here.node).is_some()
    }

    /// Puts a server's process id in the place of a session's in a frame that is composed later.
    fn look_at(&mut self, frame: Frame, buffer: &mut [u8]) {
        let mut places = Vec::new();
        values(frame, buffer, &mut places);
        for place in places {
            self.stand_in(&place, buffer);
        }
    }

    fn stand_in(&mut self, place: &Place, buffer: &mut [u8]) {
        let Some(slot) = self.named(place.process_id) else { return };
        let (stands_in, process_id) = if Arc::ptr_eq(&slot, &self.asks) {
            (StandIn::Runs, self.here.process_id)
        } else if let Some(server) = slot.server_at(self.here.node) {
            let process_id = server.process_id;
            (StandIn::Own(Held::new(server)), process_id)
        } else {
            let whose = |(_, account): &mut (Lease, Arc<Account>)| {
                slot.account.get().is_some_and(|of| Arc::ptr_eq(of, account))
            };
            let Some((lease, _)) = self.spare.take_if(whose) else { return };
            let process_id = lease.identity.process_id;
            (StandIn::Other(lease), process_id)
        };
        if place.put(process_id, buffer) {
            if self.signal == Signal::Terminate {
                slot.may_end();
            }
            self.named.push(Named { slot, stands_in });
        }
    }

    /// The server has answered. If it has not `refused`, it has sent the signal.
    pub(super) fn answered(self, refused: bool) {
        for Named { slot, stands_in } in self.named {
            if refused {
                slot.goes_on();
                continue;
            }
            match (self.signal, stands_in) {
                (Signal::Terminate, StandIn::Own(held)) => {
                    slot.end();
                    drop(held);
                }
                (Signal::Cancel, StandIn::Own(held)) => drop(held),
                (_, StandIn::Runs) => {}
                (signal, StandIn::Other(lease)) => {
                    if signal == Signal::Terminate {
                        slot.end();
                    }
                    drop(lease);
                    if let Some(server) = slot.begin_cancel(false) {
                        tokio::spawn(async move { carry_out(&server).await });
                    }
                }
            }
        }
    }
}

/// Where a request may name a session by a process id.
struct Place {
    at: Range<usize>,
    binary: bool,
    process_id: i32,
}

impl Place {
    /// Puts another in its place. False if that is longer: it cannot be than a session's own.
    fn put(&self, process_id: i32, buffer: &mut [u8]) -> bool {
        let place = &mut buffer[self.at.clone()];
        if self.binary {
            place.copy_from_slice(&process_id.to_be_bytes());
            return true;
        }
        let text = format!("{process_id:>width$}", width = place.len());
        let fits = text.len() == place.len();
        if fits {
            place.copy_from_slice(text.as_bytes());
        }
        fits
    }
}

/// Whether a text does nothing but send a signal, so that what is bound to it is a process id.
fn sends_only(script: &Script) -> bool {
    let [only] = &script.statements[..] else { return false };
    let [call] = &only.calls[..] else { return false };
    only.class == Class::Read
        && only.relations.is_empty()
        && matches!(&*call.name.name, "pg_terminate_backend" | "pg_cancel_backend")
}

/// What the functions' names end with.
const CALLED: &[u8] = b"_backend";

/// Numbers in a text that stand where one of the functions takes a process id.
fn numbers(buffer: &[u8], range: Range<usize>, places: &mut Vec<Place>) {
    let text = &buffer[range.clone()];
    for (at, called) in text.windows(CALLED.len()).enumerate() {
        if !called.eq_ignore_ascii_case(CALLED) {
            continue;
        }
        let rest = &text[at + CALLED.len()..];
        let opening = |byte: &u8| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b'(' | b'\'');
        let Some(from) = rest.iter().position(opening) else { continue };
        let digits = &rest[from..];
        let length = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
        let ends =
            digits.get(length).is_some_and(|byte| matches!(byte, b')' | b'\'' | b' ' | b':'));
        let number =
            std::str::from_utf8(&digits[..length]).ok().and_then(|number| number.parse().ok());
        if let Some(process_id) = number.filter(|_| ends && rest[..from].contains(&b'(')) {
            let from = range.start + at + CALLED.len() + from;
            places.push(Place { at: from..from + length, binary: false, process_id });
        }
    }
}

/// The same of the first value of a Bind, in either format.
fn values(frame: Frame, buffer: &[u8], places: &mut Vec<Place>) {
    let Some((_, _, mut rest)) = bind_fields(frame.body(buffer)) else { return };
    let Ok(formats) = rest.try_get_u16() else { return };
    let Some(after) = rest.get(2 * usize::from(formats)..) else { return };
    rest = after;
    let (Ok(1..), Ok(length)) = (rest.try_get_u16(), rest.try_get_i32()) else { return };
    let Some(value) = usize::try_from(length).ok().and_then(|length| rest.get(..length)) else {
        return;
    };
    let from = frame.end - rest.len();
    let at = from..from + value.len();
    let text = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
    if let Some(process_id) = text {
        places.push(Place { at, binary: false, process_id });
    } else if let Ok(bytes) = <[u8; 4]>::try_from(value) {
        let process_id = i32::from_be_bytes(bytes);
        places.push(Place { at, binary: true, process_id });
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::protocol::request::{Indexer, Limits};
    use crate::protocol::write;

    const ID: i32 = LAST_OF_SERVERS + 1;

    fn found(kind: u8, buffer: &mut BytesMut, put: i32) -> usize {
        let limits = Limits { message: 1 << 20, pipeline: 1 << 20, statement: 1 << 20 };
        let request = Indexer::default().index(buffer, &limits).unwrap().unwrap();
        let (frame, mut places) = (request.frames[0], Vec::new());
        match kind {
            b'Q' => numbers(buffer, frame.start..frame.end, &mut places),
            _ => values(frame, buffer, &mut places),
        }
        let named = places.iter().filter(|place| place.process_id == ID);
        named.filter(|place| place.put(put, buffer)).count()
    }

    #[test]
    fn a_session_is_named_in_a_text_where_the_function_takes_it() {
        for (text, named) in [
            ("SELECT pg_terminate_backend(4194305), 4194305", 1),
            ("select PG_Cancel_Backend ( 4194305 )", 1),
            ("SELECT pg_terminate_backend('4194305'), pg_terminate_backend(4194305::int, 100)", 2),
            ("INSERT INTO log VALUES (4194305); SELECT pg_terminate_backend($1)", 0),
            ("SELECT pg_terminate_backend(4194305.5), pg_terminate_backend(41943050)", 0),
            ("SELECT pg_terminate_backend(4194305", 0),
            ("SELECT a_backend 4194305 )", 0),
            ("_backend", 0),
            ("_backend(", 0),
        ] {
            let mut buffer = BytesMut::new();
            write::query(&mut buffer, text.as_bytes());
            assert_eq!(found(b'Q', &mut buffer, 77), named, "{text}");
            let left = text.matches("4194305").count() - named;
            let written = String::from_utf8_lossy(&buffer).into_owned();
            assert_eq!(written.matches("4194305").count(), left, "{written}");
            assert_eq!(written.matches("     77").count(), named, "{written}");
        }
    }

    #[test]
    fn a_session_is_named_by_the_first_value() {
        let text = ID.to_string();
        for (value, new) in [
            (text.as_bytes(), &b"4194304"[..]),
            (&ID.to_be_bytes()[..], &4_194_304_i32.to_be_bytes()[..]),
        ] {
            let mut buffer = BytesMut::new();
            write::message(&mut buffer, b'B', |body| {
                body.extend_from_slice(b"\0\0\0\x01\0\x01\0\x02");
                for _ in 0..2 {
                    body.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
                    body.extend_from_slice(value);
                }
                body.extend_from_slice(b"\0\0");
            });
            write::sync(&mut buffer);
            let before = buffer.len();
            assert_eq!(found(b'B', &mut buffer, 4_194_304), 1);
            assert_eq!(buffer.len(), before);
            let count =
                |what: &[u8]| buffer.windows(what.len()).filter(|part| *part == what).count();
            assert_eq!((count(value), count(new)), (1, 1));
            for end in 5..buffer.len() - 5 {
                values(Frame { kind: b'B', start: 0, end }, &buffer, &mut Vec::new());
            }
        }
    }
}
