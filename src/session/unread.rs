//! What is passed on without having been read as a whole, and what runs where the books do not follow it.
//!
//! The rest of [`compose`](super::compose): heads of frames that are passed on in parts, function calls, and queries
//! inside of a pipeline. Such a server is asked afterwards what was left on it.

use bytes::BufMut;

use super::fields::bind_fields;
use super::judge::Judge;
use super::machine::Machine;
use super::pins::Pin;
use super::relocation;
use super::statements::By;
use crate::protocol::frame;
use crate::protocol::response::Sent;
use crate::server::ServerConn;
use crate::sql::Script;
use crate::sql::statement::{SessionEffect, Statement};

impl Machine {
    /// Writes the part of a large frame that has arrived; the rest is passed on as it comes. False
    /// if more of it is needed first.
    pub fn compose_head(
        &mut self,
        arrived: &[u8],
        header: frame::Header,
        server: &mut ServerConn,
        judge: &impl Judge,
    ) -> bool {
        match header.kind {
            b'B' => {
                let Some((portal, name, rest)) = bind_fields(&arrived[frame::HEADER..]) else {
                    return false;
                };
                let prepared = self.named(name);
                self.note_bound(name, portal, prepared.as_deref(), server, judge);
                let noted = self.portals.last().filter(|noted| noted.name == portal);
                // What its values name has not come yet.
                self.suspicion.opaque |=
                    noted.is_some_and(|noted| relocation::sets_by_value(&noted.script));
                if let Some(prepared) = &prepared
                    && prepared.by == By::Sql
                {
                    self.lend(name, server);
                }
                if let Some(prepared) =
                    prepared.filter(|one| server.lent.get(name) != Some(&one.number))
                {
                    self.ensure_prepared(&prepared, server);
                    let mut renamed = bytes::BytesMut::new();
                    server.prepared.put_name(&mut renamed, prepared.number);
                    let (head, tail) = (&arrived[frame::HEADER + portal.len() + 1..], rest.len());
                    let called = head.len() - tail - 1;
                    // The frame's length counts neither its type nor the old name any more.
                    let length = header.length - 1 - called + renamed.len();
                    server.output.put_u8(b'B');
                    server.output.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
                    server.output.extend_from_slice(portal);
                    server.output.put_u8(0);
                    server.output.extend_from_slice(&renamed);
                    server.output.put_u8(0);
                    server.output.extend_from_slice(rest);
                } else {
                    server.output.extend_from_slice(arrived);
                }
                server.responses.expect(Sent::Bind, None);
            }
            kind => {
                // The data of a COPY is nothing that runs.
                if matches!(kind, b'Q' | b'F') {
                    self.run_unexamined(server);
                }
                server.output.extend_from_slice(arrived);
                match kind {
                    b'Q' => {
                        server.unnamed = None;
                        self.statements.unnamed.clear();
                        server.responses.expect(Sent::Query, None);
                    }
                    b'F' => server.responses.expect(Sent::FunctionCall, None),
                    _ => {}
                }
            }
        }
        true
    }

    /// A query inside a pipeline is not taken into the books: what it may do that no audit tells.
    pub(super) fn note_unordered(
        &mut self,
        script: &Script,
        opaque: bool,
        server: &mut ServerConn,
    ) {
        for statement in &script.statements {
            self.note_class(statement);
            if statement.session.contains(&SessionEffect::Load) {
                self.pins.add(Pin::Load);
            }
        }
        let mut named = false;
        for effect in script.statements.iter().flat_map(|statement| &statement.session) {
            if let SessionEffect::Prepare(name) | SessionEffect::Deallocate(name) = effect {
                // What it means from now on only this server knows, which the session stays at.
                self.statements.remove(name.as_bytes());
                named = true;
            }
        }
        if opaque || named {
            // What is there then is the session's, whoever put it there.
            server.lent.clear();
        }
    }

    /// What nobody has read may have changed anything.
    pub(super) fn run_unexamined(&mut self, server: &mut ServerConn) {
        self.claim_for_unexamined(server);
        self.suspect = true;
        self.suspicion.opaque = true;
        self.stay();
    }
}

/// Whether nothing is prepared any more when a statement has run.
pub(super) fn deallocates(statement: &Statement) -> bool {
    let all = |effect: &SessionEffect| {
        matches!(effect, SessionEffect::DeallocateAll | SessionEffect::DiscardAll)
    };
    statement.session.iter().any(all)
}
