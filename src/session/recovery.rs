//! What a session does when a server is lost or refuses, and what its client hears of it.
//!
//! Owns the judgement of what may be run again and what may have been done; the driver tries again, and the machine
//! keeps what state the client's transaction is in then.

use bytes::Buf;

use super::driver::Session;
use super::failure::{Failure, SessionEnd};
use super::relay::{self, RelayError};
use super::step::Step;
use crate::protocol::request::{End, Request};
use crate::protocol::{ErrorReport, write};

impl Session {
    /// What it means that an exchange broke off.
    pub(super) fn lost(&mut self, request: &Request, error: RelayError, fresh: bool) -> Failure {
        let error = match error {
            RelayError::Client(source) => {
                self.abandon();
                return Failure::Client(SessionEnd::Client(source));
            }
            RelayError::ClientFrame(error) => {
                self.drop_lease();
                return Failure::Client(SessionEnd::Frame(error));
            }
            error => error,
        };
        let ran = self.take_ran(request);
        let Some(lease) = self.lease.as_ref() else { return Failure::TransactionLost };
        let node = lease.identity.node;
        let epoch = lease.epoch;
        let responses = &lease.responses;
        let (said, committed) = (responses.last_error().cloned(), responses.committed());
        let shown = responses.shown() || self.client.streamed;
        let torn = responses.is_torn();
        let body = Box::from(responses.last_words());
        let pinned = !self.machine.pins().is_free();
        let condemned = lease.identity.is_condemned();
        tracing::info!(%error, node = %lease.identity.address, "a server was lost");
        self.drop_lease();
        self.shared.cluster.report_failure(node, epoch);
        if self.on_replica {
            self.lost_on.push(node);
        }
        if torn {
            return Failure::Client(SessionEnd::AnswerTorn);
        }
        if let Some(report) = said.as_ref().filter(|report| {
            report.sqlstate == PROTOCOL_VIOLATION
                || ran.ends_servers()
                || self.machine.has_ended_servers()
                || condemned && report.sqlstate == ADMIN_SHUTDOWN
                || is_for_silence(report) && (!fresh || pinned || report.sqlstate == TOO_LONG)
        }) {
            // The client's own doing.
            return Failure::Client(SessionEnd::Ended { said: Box::new(report.clone()), body });
        }
        if pinned {
            return Failure::Client(SessionEnd::PinnedServerLost(said.map(Box::new)));
        }
        if !fresh {
            return match ran.commits() {
                true if self.on_replica => Failure::ReadsLost,
                true => Failure::CommitUnknown,
                false => Failure::TransactionLost,
            };
        }
        let ran_nothing = said.is_some() && !committed && ran.is_undone();
        if !shown && (self.on_replica || ran_nothing || ran.only_reads()) {
            return Failure::ServerLost;
        }
        if self.on_replica {
            return Failure::AnswerLost;
        }
        // A BEGIN that was held back has gone with the request.
        let in_transaction = self.machine.client_status() != b'I';
        if in_transaction && !ran.commits() {
            Failure::TransactionLost
        } else {
            Failure::CommitUnknown
        }
    }

    /// A replica said "not here" before anything was shown.
    pub(super) async fn on_refused(&mut self) -> Result<(), Failure> {
        let Some(server) = self.lease.as_mut() else { return Ok(()) };
        let report = server.responses.last_error().cloned();
        let drained = relay::drain(server).await;
        let clean = drained.is_ok() && server.responses.status() == b'I';
        server.unnamed = None;
        self.machine.on_refused(server);
        if clean && self.machine.suspicion.opaque {
            // What it locked and prepared before it was refused has outlived the error.
            self.drop_lease();
        } else if clean {
            self.release().await;
        } else if drained.is_ok() {
            Box::pin(self.leave_refused()).await;
        } else {
            self.drop_lease();
        }
        let Some(report) = report else { return Ok(()) };
        if report.sqlstate != RECOVERY_CONFLICT {
            self.refusal = Some(Box::new(report.clone()));
        }
        Err(Failure::Refused(Box::new(report)))
    }

    /// The primary has answered what a replica refused. Unless it says the same, the shape has nothing to
    /// look for on a replica.
    pub(super) fn learn(&mut self, request: &Request, refusal: &ErrorReport) {
        let Some(server) = self.lease.as_ref() else { return };
        if server.responses.failed_with().is_some_and(|said| said == refusal.sqlstate.as_bytes()) {
            return;
        }
        let ran = self.take_ran(request);
        for script in ran.scripts() {
            if self.eyes.rules.router.learned().learn(&self.account.database, script.shape) {
                tracing::warn!(
                    report = %refusal,
                    database = %self.account.database,
                    statement = script.statements.first().map_or("", |first| first.verb),
                    shape = format_args!("{:032x}", script.shape),
                    "a replica refused a statement: its shape goes to the primary from now on"
                );
            }
        }
    }

    /// The client has gone in the middle of an answer: what still runs for it is cancelled.
    pub(super) fn abandon(&mut self) {
        self.entry.slot.rests();
        if let Some(mut lease) = self.lease.take() {
            lease.spoiled = true;
            if !lease.responses.is_quiet() {
                let identity = lease.identity.clone();
                tokio::spawn(async move {
                    super::registry::cancel_server(&identity).await;
                    drop(lease);
                });
            }
        }
    }

    /// The leased server has gone while the client was silent.
    pub(super) fn on_idle_server_lost(&mut self, error: RelayError) -> Result<(), SessionEnd> {
        if let RelayError::Client(source) = error {
            return Err(SessionEnd::Client(source));
        }
        let condemned = self.lease.as_ref().is_some_and(|lease| lease.identity.is_condemned());
        let responses = self.lease.as_ref().map(|lease| &lease.responses);
        let report = responses.and_then(|responses| responses.last_error().cloned());
        let body = responses.map_or_else(Box::default, |said| Box::from(said.last_words()));
        self.drop_lease();
        let ends = |said: &ErrorReport| {
            is_for_silence(said) || condemned && said.sqlstate == ADMIN_SHUTDOWN
        };
        if let Some(said) = report.clone().filter(ends) {
            return Err(SessionEnd::Ended { said: Box::new(said), body });
        }
        if self.machine.is_idle() {
            // What pinned the session is gone with the server; the client must not go on as if not.
            return Err(SessionEnd::PinnedServerLost(report.map(Box::new)));
        }
        self.machine.on_server_lost(true);
        self.machine.tell_lost(Failure::TransactionLost.report());
        Ok(())
    }

    /// Tells the client that its request failed, and what state it is in now.
    pub(super) async fn fail(
        &mut self,
        request: &Request,
        failure: &Failure,
    ) -> Result<(), SessionEnd> {
        self.shared.metrics.errors.inc();
        let in_transaction = self.machine.client_status() != b'I' && !failure.ends_transaction();
        if self.keeps_server() {
            return self.turn_down(request, failure).await;
        }
        if self.lease.is_some() {
            let pinned = !self.machine.pins().is_free();
            self.drop_lease();
            if pinned {
                return Err(SessionEnd::PinnedServerLost(Some(Box::new(failure.report()))));
            }
        }
        let done = matches!(failure, Failure::TransactionLost)
            && !self.client.streamed
            && self.machine.ran(request, &self.client.input, &self.eyes).rolls_back();
        if in_transaction || self.lease.is_none() {
            self.drop_lease();
            self.machine.on_server_lost(in_transaction);
        }
        if done {
            // What the client asks for has come about by itself.
            let input = &self.client.input;
            let step = self.machine.on_request(request, input, None, &self.eyes);
            if matches!(step, Step::Answer(_)) {
                self.client.input.advance(request.length);
                self.client.output.extend_from_slice(&self.machine.reply);
                return Ok(self.client.flush().await?);
            }
        }
        self.turn_down(request, failure).await
    }

    /// Whether what the session has on its server is untouched by a request that failed: nothing of it was sent
    /// there. Of a transaction that is open there it could not be told as failed.
    fn keeps_server(&self) -> bool {
        let quiet = self.lease.as_ref().is_some_and(|lease| lease.responses.is_quiet());
        quiet && self.machine.is_idle() && !self.client.streamed
    }

    /// Answers a request with an error of Causeway's own, and passes over it.
    async fn turn_down(&mut self, request: &Request, failure: &Failure) -> Result<(), SessionEnd> {
        let report: ErrorReport = failure.report();
        tracing::info!(%report, user = %self.account.user, "a request failed in the proxy");
        report.encode(&mut self.client.output);
        self.client.forsake_frame();
        let over = if std::mem::take(&mut self.client.streamed) {
            self.client.sync_passed
        } else {
            self.client.input.advance(request.length);
            match request.end {
                // It is the query that failed; before it nothing can have.
                End::Overflow if matches!(self.client.next_kind(), Some(b'Q' | b'F')) => {
                    self.client.drop_frame();
                    true
                }
                End::Flush | End::Overflow => false,
                _ => true,
            }
        };
        // Of a request that never reached a server no Sync has passed.
        self.skipping = !over;
        if over {
            write::ready_for_query(&mut self.client.output, self.machine.client_status());
        }
        Ok(self.client.flush().await?)
    }

    /// After a pipeline failed with its server: PostgreSQL drops everything up to Sync, and so do we.
    pub(super) async fn skip(&mut self, request: &Request) -> Result<(), SessionEnd> {
        match request.end {
            End::Terminate => return Err(SessionEnd::Terminated),
            End::Sync => {
                self.skipping = false;
                write::ready_for_query(&mut self.client.output, self.machine.client_status());
            }
            _ => {}
        }
        self.ignore(request);
        Ok(self.client.flush().await?)
    }
}

/// What a server says last that was told to end.
const ADMIN_SHUTDOWN: &str = "57P01";

/// What a server says last when a client has broken the protocol.
const PROTOCOL_VIOLATION: &str = "08P01";

/// What a server says last whose client's transaction took longer than `transaction_timeout`.
const TOO_LONG: &str = "25P04";

/// Whether a server ended the connection because its client was silent for longer than it had said
/// it would be, or its transaction took longer.
fn is_for_silence(report: &ErrorReport) -> bool {
    matches!(&*report.sqlstate, "25P03" | "57P05" | TOO_LONG)
}

/// What a replica says when replay had to end a statement: nothing about the statement itself.
const RECOVERY_CONFLICT: &str = "40001";
