//! One attempt of a request on the leased server: composed, exchanged, and taken into the books.
//!
//! [`driver`](super::driver) gets the server and tries again; [`recovery`](super::recovery) says what it means that an
//! exchange broke off.

use std::time::Duration;

use bytes::Buf;

use super::audit::{self, AuditError};
use super::driver::Session;
use super::failure::{Failure, SessionEnd};
use super::judge::Judge;
use super::lend;
use super::relay::{self, Outcome, RelayError, Turn};
use super::step::After;
use super::texts::Ran;
use crate::protocol::ErrorReport;
use crate::protocol::request::{End, Request};
use crate::routing::Decision;
use crate::routing::decision::Reason;

/// Most of a pipeline that is written before any of its answer is read, in bytes. It fits into
/// what the kernel buffers for a socket, so that the write ends whatever the server does.
const IN_TURNS: usize = 16 << 10;

/// How long the catalog is waited for, so that a function's settings are known by name.
const CATALOG_WAIT: Duration = Duration::from_millis(500);

impl Session {
    /// One attempt on the leased server.
    pub(super) async fn attempt(
        &mut self,
        request: &Request,
        decision: &Decision,
    ) -> Result<(), Failure> {
        let Some(server) = self.lease.as_mut() else { return Err(Failure::NoPrimary) };
        let fresh = server.responses.status() == b'I';
        server.responses.begin();
        server.output.clear();
        if fresh {
            if self.machine.compose_settings(server) {
                Box::pin(relay::settle(server, &mut self.client.output))
                    .await
                    .map_err(|error| self.lost(request, error, fresh))?;
            }
            let Some(server) = self.lease.as_mut() else { return Err(Failure::NoPrimary) };
            if let Some(report) = server.responses.own_failure() {
                let report = report.clone();
                self.drop_lease();
                if self.machine.on_setting_refused(&report) {
                    return Err(Failure::ServerLost);
                }
                return Err(Failure::Setting(Box::new(report)));
            }
            self.machine.compose_prefix(server, self.entry.process_id);
        }
        let misplaced = fresh && self.misplace_check();
        if self.machine.asks.signal.is_some() {
            self.machine.asks.signals = Box::pin(self.stand_in(request)).await;
        }
        let Some(server) = self.lease.as_mut() else { return Err(Failure::NoPrimary) };
        self.machine.compose(request, &self.client.input, server, &self.eyes);
        if misplaced {
            lend::query(b"COMMIT", server);
        }
        if self.eyes.options.explain {
            let topology = self.shared.cluster.load();
            let name = &topology.node(server.identity.node).name;
            let text = format!("causeway: node {name}, reason {}", decision.reason);
            ErrorReport::new("NOTICE", "00000", text).encode(&mut self.client.output);
        }
        let outcome = match request.end {
            End::Flush | End::Overflow => Box::pin(self.stream(request, Turn::Pipeline)).await,
            // A server may stop reading until its answers are read: so much cannot go in turns.
            End::Sync if server.output.len() > IN_TURNS => {
                Box::pin(self.stream(request, Turn::Answer)).await
            }
            _ => {
                let unseen = self.on_replica && self.machine.is_unseen();
                let hold = unseen || fresh && (self.on_replica || decision.reason == Reason::Read);
                // What keeps the session at a replica cannot be taken along.
                let may_go = self.on_replica && self.machine.pins().is_free();
                let refusals = if may_go { refused_by_replica } else { |_: &[u8]| false };
                relay::exchange(&mut self.client, server, hold, refusals).await
            }
        };
        let outcome = match outcome {
            Ok(Outcome::CopyIn) => {
                let turn = match request.end {
                    End::Query => Turn::QueryCopy,
                    _ => Turn::Pipeline,
                };
                Box::pin(self.stream(request, turn)).await
            }
            other => other,
        };
        if self.machine.asks.its_server
            && let Some(lease) = &self.lease
        {
            self.shared.registry.told(&lease.identity, self.entry.process_id);
        }
        if let Some(signals) = self.machine.asks.signals.take() {
            let ready = matches!(outcome, Ok(Outcome::Ready));
            if !ready && !self.client.streamed {
                signals.put_back(&mut self.client.input);
            }
            self.end_signals(*signals, ready);
        }
        match outcome {
            Ok(Outcome::Refused) => Box::pin(self.on_refused()).await,
            Ok(_) => self.on_ready(request).await,
            Err(error) => Err(self.lost(request, error, fresh)),
        }
    }

    /// Goes on in both directions at once; the request's bytes are done with.
    async fn stream(&mut self, request: &Request, turn: Turn) -> Result<Outcome, RelayError> {
        let Some(server) = self.lease.as_mut() else { return Ok(Outcome::Ready) };
        // Who asks later what it ran cannot read it any more.
        self.ran = Some(self.machine.ran(request, &self.client.input, &self.eyes));
        self.client.input.advance(request.length);
        self.client.streamed = true;
        self.client.sync_passed = turn != Turn::Pipeline;
        let limits = self.limits;
        relay::duplex(&mut self.client, server, &mut self.machine, &self.eyes, &limits, turn)
            .await?;
        Ok(Outcome::Ready)
    }

    /// What the request under way runs.
    pub(super) fn take_ran(&mut self, request: &Request) -> Ran {
        let ran = self.ran.take();
        ran.unwrap_or_else(|| self.machine.ran(request, &self.client.input, &self.eyes))
    }

    /// Asks the server what the session has left on it.
    async fn audit(&mut self) -> Result<After, Failure> {
        if self.machine.suspicion.called && !self.eyes.has_had_catalog() {
            self.name_hidden_settings().await;
        }
        let Some(server) = self.lease.as_mut() else { return Ok(After::Keep) };
        let user = &self.account.user;
        let suspicion = self.machine.take_suspicion();
        let heard = &mut self.client.output;
        let shown = heard.len();
        let findings = audit::audit(server, user, &suspicion, heard).await;
        if let Err(error) = &findings {
            tracing::warn!(%error, user = %user, "a session's state could not be read");
            server.spoiled = true;
        }
        if matches!(findings, Err(AuditError::Io(_))) && !suspicion.firm {
            // What there may have been is gone with its server, and most likely there was nothing.
            self.drop_lease();
            return Ok(After::Release);
        }
        let after = self.machine.on_audit(findings.ok(), server);
        if self.client.output.len() > shown {
            self.note_heard();
        }
        if !self.client.output.is_empty() {
            let flushed = self.client.flush().await;
            flushed.map_err(|error| Failure::Client(SessionEnd::Client(error)))?;
        }
        Ok(after)
    }

    /// What custom settings functions may have set the catalog tells; while it is loaded, it is waited for a
    /// moment, with the answer already shown.
    async fn name_hidden_settings(&mut self) {
        if tokio::time::timeout(CATALOG_WAIT, self.eyes.await_catalog()).await.is_err() {
            self.eyes.give_up_catalog();
        }
        self.look();
        let names = self.eyes.custom_settings().iter().cloned();
        self.machine.suspicion.hidden.extend(names);
    }

    /// The server is ready: the machine keeps it or gives it back.
    async fn on_ready(&mut self, request: &Request) -> Result<(), Failure> {
        if let Some(refusal) = self.refusal.take() {
            self.learn(request, &refusal);
        }
        let Some(server) = self.lease.as_mut() else { return Ok(()) };
        if let Some(report) = server.responses.own_failure() {
            let report = report.clone();
            self.drop_lease();
            self.machine.on_setting_refused(&report);
            // A transaction that was to begin there has failed.
            let in_transaction = self.machine.client_status() != b'I';
            self.machine.on_server_lost(in_transaction);
            return Err(Failure::SettingUnseen(Box::new(report)));
        }
        if !std::mem::take(&mut self.client.streamed) {
            self.client.input.advance(request.length);
        }
        let mut after = self.machine.on_ready(server, self.on_replica);
        if after == After::Audit {
            after = Box::pin(self.audit()).await?;
        }
        self.settle_disturbances();
        if self.machine.changed_catalog() {
            self.shared.catalogs.note_ddl(&self.account.database);
        }
        if self.machine.may_have_changed_catalog() {
            self.eyes.doubt_catalog();
        }
        self.count_pins();
        if after == After::Release {
            self.release().await;
        }
        Ok(())
    }
}

/// SQLSTATEs that only a replica gives for a statement that the primary could run: read-only
/// transaction, feature not supported, not in prerequisite state, internal error "during recovery",
/// recovery conflict, database dropped by recovery.
fn refused_by_replica(sqlstate: &[u8]) -> bool {
    matches!(sqlstate, b"25006" | b"0A000" | b"55000" | b"XX000" | b"40001" | b"57P04")
}
