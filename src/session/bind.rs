//! Bind: a statement under the server's name, and the portal that it makes, as far as that changes the session.
//!
//! Pure, as [`compose`](super::compose), which does the rest of a request.

use std::sync::Arc;

use bytes::{BufMut, Bytes};

use super::audit::custom_names;
use super::compose::pass;
use super::fields::bind_fields;
use super::judge::Judge;
use super::lend::refuse_in_failed;
use super::machine::{Machine, changes};
use super::phase::Bound;
use super::statements::{By, Prepared};
use super::step::{Book, Portal};
use super::{relocation, texts};
use crate::protocol::response::Sent;
use crate::protocol::write;
use crate::server::ServerConn;

impl Machine {
    pub(super) fn compose_bind(
        &mut self,
        bytes: &[u8],
        body: &[u8],
        server: &mut ServerConn,
        judge: &impl Judge,
    ) {
        let Some((portal, name, rest)) = bind_fields(body) else {
            return pass(bytes, Sent::Bind, server);
        };
        let prepared = if name.is_empty() { None } else { self.named(name) };
        let calls = self.note_bound(name, portal, prepared.as_deref(), server, judge);
        self.note_values(portal, prepared.as_deref(), rest);
        if calls {
            self.note_names(name, rest);
        }
        let Some(prepared) = prepared else { return pass(bytes, Sent::Bind, server) };
        if prepared.by == By::Sql || prepared.parameters(self.lexis) != values_brought(rest) {
            // The server's complaint will name the statement.
            self.lend(name, server);
        }
        if server.lent.get(name) == Some(&prepared.number) {
            return pass(bytes, Sent::Bind, server);
        }
        if prepared.by == By::Sql {
            refuse_in_failed(server);
            return pass(bytes, Sent::Bind, server);
        }
        self.ensure_prepared(&prepared, server);
        write::message(&mut server.output, b'B', |out| {
            out.extend_from_slice(portal);
            out.put_u8(0);
            server.prepared.put_name(out, prepared.number);
            out.put_u8(0);
            out.extend_from_slice(rest);
        });
        server.responses.expect(Sent::Bind, None);
    }

    /// What a Bind means that does not depend on its values; whether it calls what may do anything.
    pub(super) fn note_bound(
        &mut self,
        name: &[u8],
        portal: &[u8],
        prepared: Option<&Prepared>,
        server: &mut ServerConn,
        judge: &impl Judge,
    ) -> bool {
        let script = match prepared {
            Some(prepared) => Some(prepared.script.clone()),
            None => self.statements.unnamed.get().map(|unnamed| unnamed.2.clone()),
        };
        let effective = script.as_ref().map(|script| self.effective(script));
        if let Some(effective) = &effective {
            if effective.statements.iter().any(texts::ends_servers) {
                self.book(Book::Ending);
            }
            self.claim_sequences(effective, true, server, judge);
        }
        self.bound = true;
        if name.is_empty() {
            self.ensure_unnamed(server);
        }
        self.note_portal(portal, prepared, name.is_empty());
        if let Some(script) = script {
            self.lend_names(&script, server);
        }
        effective.is_some_and(|effective| self.note_calls(&effective, judge))
    }

    /// Remembers a portal whose execution would change the session.
    pub(super) fn note_portal(
        &mut self,
        portal: &[u8],
        prepared: Option<&Prepared>,
        unnamed: bool,
    ) {
        self.asks.makes_portal |= !portal.is_empty();
        self.portals.retain(|known| known.name != portal);
        let bound = match (prepared, unnamed) {
            (Some(prepared), _) => Some((&prepared.script, &prepared.text[..])),
            (None, true) => {
                self.statements.unnamed.get().map(|(text, _, script, _)| (script, text))
            }
            (None, false) => None,
        };
        if let Some((script, text)) = bound
            && changes(script)
        {
            self.portals.push(Portal {
                name: Bytes::copy_from_slice(portal),
                script: script.clone(),
                text: Bytes::copy_from_slice(text),
                bound: None,
            });
        }
    }

    /// The values and the text of a Bind may name the custom settings that a function sets.
    fn note_names(&mut self, name: &[u8], rest: &[u8]) {
        let custom = &mut self.suspicion.custom;
        custom_names(rest, custom);
        match self
            .pending
            .get(name)
            .cloned()
            .flatten()
            .or_else(|| self.statements.get(name).cloned())
        {
            Some(prepared) => custom_names(&prepared.text, custom),
            None => {
                if let Some((text, ..)) = self.statements.unnamed.get() {
                    custom_names(text, custom);
                }
            }
        }
    }

    /// A parameter may name the setting that set_config() will set, and the value.
    fn note_values(&mut self, portal: &[u8], prepared: Option<&Prepared>, rest: &[u8]) {
        let Some(noted) = self.portals.last_mut().filter(|noted| noted.name == portal) else {
            return;
        };
        if !relocation::sets_by_value(&noted.script) {
            return;
        }
        custom_names(rest, &mut self.suspicion.custom);
        if prepared.is_some_and(|prepared| prepared.by == By::Sql) {
            // Its text is that of a PREPARE.
            return;
        }
        let types = match prepared {
            Some(prepared) => prepared.types.clone(),
            None => self
                .statements
                .unnamed
                .get()
                .map_or_else(Bytes::new, |unnamed| Bytes::copy_from_slice(unnamed.1)),
        };
        let (text, values) = (noted.text.clone(), Bytes::copy_from_slice(rest));
        noted.bound = Some(Arc::new(Bound { text, types, values }));
    }
}

/// How many values a Bind brings; `rest` follows its two names.
fn values_brought(rest: &[u8]) -> Option<u16> {
    let (formats, rest) = rest.split_first_chunk()?;
    let values = rest.get(2 * usize::from(u16::from_be_bytes(*formats))..)?.first_chunk()?;
    Some(u16::from_be_bytes(*values))
}
