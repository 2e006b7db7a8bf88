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
use super::machine::{Signal, bind_fields};
use super::registry::{LAST_OF_SERVERS, Registry, Slot, carry_out};
use crate::cluster::NodeId;
use crate::pool::pool::Wish;
use crate::pool::{Account, Lease};
use crate::protocol::request::{End, Frame, Request};
use crate::server::Identity;

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
        let places = places(request, &self.client.input);
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
    pub(super) fn look_at(&mut self, frame: Frame, buffer: &mut [u8]) {
        let mut places = Vec::new();
        if frame.kind == b'B' {
            values(frame, buffer, &mut places);
        }
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

fn places(request: &Request, buffer: &[u8]) -> Vec<Place> {
    let mut places = Vec::new();
    for frame in &request.frames {
        match frame.kind {
            b'Q' | b'P' => numbers(buffer, frame.start..frame.end, &mut places),
            b'B' => values(*frame, buffer, &mut places),
            _ => {}
        }
    }
    places
}

/// Numbers in a text that may be process ids.
fn numbers(buffer: &[u8], range: Range<usize>, places: &mut Vec<Place>) {
    let mut at = range.start;
    while at < range.end {
        let rest = &buffer[at..range.end];
        let word = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$');
        let length = rest.iter().position(|byte| !word(byte)).unwrap_or(rest.len());
        let number = std::str::from_utf8(&rest[..length]).ok().and_then(|word| word.parse().ok());
        if let Some(process_id) = number.filter(|number| *number > 0) {
            places.push(Place { at: at..at + length, binary: false, process_id });
        }
        at += length + 1;
    }
}

/// The same of the values of a Bind, in either format.
fn values(frame: Frame, buffer: &[u8], places: &mut Vec<Place>) {
    let Some((_, _, mut rest)) = bind_fields(frame.body(buffer)) else { return };
    let Ok(formats) = rest.try_get_u16() else { return };
    let Some(after) = rest.get(2 * usize::from(formats)..) else { return };
    rest = after;
    let Ok(count) = rest.try_get_u16() else { return };
    for _ in 0..count {
        let Ok(length) = rest.try_get_i32() else { return };
        let Ok(length) = usize::try_from(length) else { continue };
        let Some(value) = rest.get(..length) else { return };
        let at = frame.end - rest.len();
        numbers(buffer, at..at + length, places);
        if let Ok(bytes) = <[u8; 4]>::try_from(value)
            && let process_id = i32::from_be_bytes(bytes)
            && process_id > 0
        {
            places.push(Place { at: at..at + length, binary: true, process_id });
        }
        rest = &rest[length..];
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::protocol::request::{Indexer, Limits};
    use crate::protocol::write;

    const ID: i32 = LAST_OF_SERVERS + 1;

    fn found(buffer: &mut BytesMut, put: i32) -> usize {
        let limits = Limits { message: 1 << 20, pipeline: 1 << 20, statement: 1 << 20 };
        let request = Indexer::default().index(buffer, &limits).unwrap().unwrap();
        let places = places(&request, buffer);
        let named = places.iter().filter(|place| place.process_id == ID);
        named.filter(|place| place.put(put, buffer)).count()
    }

    #[test]
    fn a_session_is_named_in_a_text() {
        let mut buffer = BytesMut::new();
        let text =
            format!("SELECT pg_terminate_backend({ID}), '{ID}', a{ID}, {ID}.5, 77, {ID}0000");
        write::query(&mut buffer, text.as_bytes());
        assert_eq!(found(&mut buffer, 77), 2);
        let text = String::from_utf8_lossy(&buffer[5..]).into_owned();
        assert!(
            text.starts_with("SELECT pg_terminate_backend(     77), '     77', a4194305, "),
            "{text}"
        );
    }

    #[test]
    fn a_session_is_named_by_a_value() {
        let mut buffer = BytesMut::new();
        write::message(&mut buffer, b'B', |body| {
            body.extend_from_slice(b"\0\0\0\x02\0\0\0\x01\0\x03\0\0\0\x07");
            body.extend_from_slice(ID.to_string().as_bytes());
            body.extend_from_slice(b"\0\0\0\x04");
            body.extend_from_slice(&ID.to_be_bytes());
            body.extend_from_slice(b"\xff\xff\xff\xff\0\0");
        });
        write::sync(&mut buffer);
        let before = buffer.len();
        assert_eq!(found(&mut buffer, 4_194_304), 2);
        assert_eq!(buffer.len(), before);
        assert_eq!(found(&mut buffer, 1), 0);
        assert!(buffer.windows(7).any(|window| window == b"4194304"));
        assert!(buffer.windows(4).any(|window| window == 4_194_304_i32.to_be_bytes()));
    }
}
