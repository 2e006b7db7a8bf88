//! The driver of a session: does what the machine says. One task a client; no spawn, no channel and
//! no lock across an await per query.
//!
//! One query: [`Session::next_request`] finds its borders, the machine decides, [`Session::acquire`]
//! gets a server unless the session has one, [`relay`] exchanges, the machine keeps or releases.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Buf;
use smallvec::SmallVec;

use super::deadlines::{Deadlines, silence_ends};
use super::eyes::Eyes;
use super::failure::{Failure, SessionEnd};
use super::fresh::Held;
use super::machine::Machine;
use super::pins::Pins;
use super::post::Post;
use super::registry::Entry;
use super::relay::{self, RelayError};
use super::shared::Shared;
use super::signal::END_WAIT;
use super::step::Step;
use super::texts::Ran;
use crate::client::ClientConn;
use crate::cluster::NodeId;
use crate::pool::{Account, Lease};
use crate::protocol::request::{Limits, Request};
use crate::protocol::{ErrorReport, write};
use crate::routing::Decision;

/// How long a client that is sent away may take to hear why.
const GOODBYE: Duration = Duration::from_secs(2);

/// How often a request is run again before its client hears of a failure.
const ATTEMPTS: usize = 4;

/// Why a session is no longer run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Its client has said that it leaves.
    ForGood,
    /// Another worker is to run it.
    ForAnotherWorker,
}

/// One client, from its login to its end.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts of one session")]
pub struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) worker: usize,
    pub(super) client: ClientConn,
    pub(super) machine: Machine,
    pub(super) eyes: Eyes,
    pub(super) account: Arc<Account>,
    pub(super) lease: Option<Lease>,
    pub(super) entry: Entry,
    pub(super) limits: Limits,
    /// The leased server is a replica.
    pub(super) on_replica: bool,
    /// The request under way has passed the barrier, or had none to pass.
    pub(super) passed: bool,
    /// The transaction on a replica has all that was acknowledged to anybody when it was asked for.
    pub(super) global: bool,
    /// It has one snapshot: what is asked for later does not change what it sees.
    pub(super) settled: bool,
    /// Replicas that the request under way has been lost on: it is not tried there again, for the
    /// other idle servers of a node that died are as dead.
    pub(super) lost_on: SmallVec<[NodeId; 4]>,
    /// What a replica said to the request under way, which the primary now decides.
    pub(super) refusal: Option<Box<ErrorReport>>,
    /// What the request under way runs, if its bytes are gone already.
    pub(super) ran: Option<Ran>,
    /// What it must not fall behind.
    pub(super) held: Held,
    /// It is not known whether the position that it was given is of the past: it counts once the primary was asked.
    pub(super) unsure: bool,
    pins_seen: Pins,
    /// The last look at the workers that it has shown itself at.
    look_seen: u32,
    /// A pipeline failed with its server: frames up to its Sync are dropped.
    pub(super) skipping: bool,
    /// Of a session that has time limits.
    pub(super) deadlines: Option<Box<Deadlines>>,
}

impl Session {
    /// A session that is about to be told that it is ready.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        worker: usize,
        client: ClientConn,
        machine: Machine,
        account: Arc<Account>,
        entry: Entry,
    ) -> Self {
        let eyes = Eyes::new(shared.clone(), account.clone(), machine.settings.current());
        let limits = Shared::request_limits(&eyes.rules.settings.limits);
        // A session has one account for good.
        let _ = entry.slot.account.set(account.clone());
        Self {
            shared,
            worker,
            client,
            machine,
            eyes,
            account,
            lease: None,
            entry,
            limits,
            on_replica: false,
            passed: false,
            global: false,
            settled: false,
            lost_on: SmallVec::new(),
            refusal: None,
            ran: None,
            held: Held::default(),
            unsure: false,
            pins_seen: Pins::default(),
            look_seen: 0,
            skipping: false,
            deadlines: None,
        }
    }

    /// Serves the client until it leaves, or, once `post` says that sessions shall end, until it is
    /// between transactions. Also returns, between two requests and without a server, when `post`
    /// wants sessions to leave for another worker: it is to be run again there.
    ///
    /// # Errors
    /// Why the session ended other than by the client's Terminate.
    pub async fn run(&mut self, post: &Post) -> Result<Left, SessionEnd> {
        // Polled once, it wakes this task whenever sessions are told to end: no query pays for that.
        let mut told = pin!(post.told());
        poll_fn(|cx| {
            self.entry.slot.runs_in(cx.waker());
            Poll::Ready(told.as_mut().poll(cx).is_ready())
        })
        .await;
        let ended = loop {
            let movable = self.lease.is_none() && self.machine.is_idle();
            if movable && post.leaves(&mut self.look_seen) {
                return Ok(Left::ForAnotherWorker);
            }
            let request = match self.next_request(post).await {
                Ok(request) => request,
                Err(end) => break end,
            };
            if let Err(end) = self.serve(request).await {
                break end;
            }
        };
        if let SessionEnd::Ended { body, .. } = &ended {
            write::message(&mut self.client.output, b'E', |out| out.extend_from_slice(body));
        }
        if let Some(report) = ended.report() {
            report.encode(&mut self.client.output);
        }
        if !self.client.output.is_empty() {
            // The client may be gone, or not listen; there is nobody else to tell.
            let _ = tokio::time::timeout(GOODBYE, self.client.flush()).await;
        }
        match ended {
            SessionEnd::Terminated => Ok(Left::ForGood),
            other => Err(other),
        }
    }

    /// Another worker runs the session from now on; to be called within its runtime.
    ///
    /// # Errors
    /// If the operating system refuses to register the client's socket there.
    pub fn move_to(&mut self, worker: usize) -> std::io::Result<()> {
        self.worker = worker;
        // They are kept by the old worker's clock, and begin anew with the next wait.
        self.deadlines = None;
        self.client.stream.rehome()
    }

    /// Whose session it is.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The next request, whole. While the client is silent the leased server is listened to, if
    /// there is one.
    async fn next_request(&mut self, post: &Post) -> Result<Request, SessionEnd> {
        if self.eyes.miss(self.machine.settings.effective()) {
            self.look();
        }
        if self.eyes.timed || self.deadlines.is_some() {
            self.on_silence();
        }
        loop {
            if !self.entry.slot.goes_on() {
                Box::pin(self.entry.slot.decided()).await;
                if self.entry.slot.is_ended() {
                    return Err(SessionEnd::Drained);
                }
            }
            if let Some(request) = self.client.buffered_request(&self.limits)? {
                return Ok(request);
            }
            if self.lease.is_some() {
                self.wait_with_server(post).await?;
                continue;
            }
            let may_end = self.machine.is_idle();
            let (client, slot) = (&mut self.client, &self.entry.slot);
            client.rest();
            let read = poll_fn(|cx| match client.poll_read(cx) {
                Poll::Pending if may_end && post.is_draining() || slot.is_ended() => {
                    Poll::Ready(None)
                }
                read => read.map(Some),
            });
            tokio::select! {
                biased;
                read = read => read.ok_or(SessionEnd::Drained)??,
                end = silence_ends(self.deadlines.as_deref()) => return Err(end),
            }
        }
    }

    /// Waits for the client or for what the leased server says unasked (a notification, its end).
    async fn wait_with_server(&mut self, post: &Post) -> Result<(), SessionEnd> {
        enum Spoke {
            Client(io::Result<()>),
            Server(io::Result<()>),
            End(SessionEnd),
        }
        if self.lease.as_ref().is_some_and(|lease| !lease.input.is_empty()) {
            self.note_heard();
            let Some(lease) = self.lease.as_mut() else { return Ok(()) };
            match relay::pass_on(&mut self.client, lease).await {
                Ok(()) => self.machine.on_overheard(lease),
                Err(error) => return self.on_idle_server_lost(error),
            }
        }
        let Some(lease) = self.lease.as_mut() else { return Ok(()) };
        let may_end = self.machine.is_idle();
        let (client, slot) = (&mut self.client, &self.entry.slot);
        let spoke = poll_fn(|cx| {
            if let Poll::Ready(read) = client.poll_read(cx) {
                return Poll::Ready(Spoke::Client(read));
            }
            if let Poll::Ready(heard) = lease.poll_hear(cx) {
                return Poll::Ready(Spoke::Server(heard));
            }
            let ends = may_end && post.is_draining() || slot.is_ended();
            if ends { Poll::Ready(Spoke::End(SessionEnd::Drained)) } else { Poll::Pending }
        });
        let spoke = tokio::select! {
            biased;
            spoke = spoke => spoke,
            end = silence_ends(self.deadlines.as_deref()) => Spoke::End(end),
        };
        match spoke {
            Spoke::Client(read) => Ok(read?),
            Spoke::End(end) => Err(end),
            // What was heard is passed on in the next round.
            Spoke::Server(Ok(())) => Ok(()),
            Spoke::Server(Err(error)) => self.on_idle_server_lost(RelayError::Server(error)),
        }
    }

    /// Looks again at all that the session's eyes see.
    pub(super) fn look(&mut self) {
        if self.eyes.renew(self.machine.settings.effective(), self.machine.names_are_utf8()) {
            self.adopt_options();
        }
    }

    async fn serve(&mut self, request: Request) -> Result<(), SessionEnd> {
        if self.skipping {
            return self.skip(&request).await;
        }
        let status = self.lease.as_ref().map(|lease| lease.responses.status());
        self.look();
        let (input, lexis) = (&self.client.input, self.machine.lexis);
        let limit = self.limits.statement;
        self.eyes.studied.study(&request, input, lexis, limit, &self.shared.scripts).await;
        if self.eyes.timed || self.deadlines.is_some() {
            self.on_request_time(&request);
        }
        let began = Instant::now();
        (self.machine.furthest, self.machine.position) = (None, None);
        let mut step = self.machine.on_request(&request, &self.client.input, status, &self.eyes);
        loop {
            let known = match step {
                Step::Consult(question) => Box::pin(self.consult(question)).await,
                Step::Exchange(decision) if self.is_undecided(&decision) => {
                    Box::pin(self.await_catalog(began)).await
                }
                Step::Exchange(decision) if self.falls_behind(&decision) => {
                    Box::pin(self.keep_up(&decision, began)).await
                }
                _ => break,
            };
            match known.map_err(|failure| self.why_cancelled(failure)) {
                Ok(()) => {}
                Err(Failure::Client(end)) => return Err(end),
                Err(failure) => return self.fail(&request, &failure).await,
            }
            self.look();
            let status = self.lease.as_ref().map(|lease| lease.responses.status());
            step = self.machine.on_request(&request, &self.client.input, status, &self.eyes);
        }
        match step {
            Step::Consult(_) => Ok(()),
            Step::Terminate => Err(SessionEnd::Terminated),
            Step::Ignore => {
                self.ignore(&request);
                Ok(())
            }
            Step::Answer(decision) => {
                self.shared.metrics.count(decision.reason);
                self.client.input.advance(request.length);
                self.client.output.extend_from_slice(&self.machine.reply);
                // An error passes over all that comes before Sync.
                self.skipping = self.machine.asks.goes_on && self.machine.asks.refused;
                Ok(self.client.flush().await?)
            }
            Step::Exchange(decision) => self.exchange(&request, decision, began).await,
        }
    }

    /// CopyData that nobody waits for: dropped, as far as it has arrived.
    pub(super) fn ignore(&mut self, request: &Request) {
        if request.length > 0 {
            self.client.input.advance(request.length);
        } else {
            self.client.drop_frame();
        }
    }

    /// Runs a request on a server, on another if the first fails before anything was shown.
    async fn exchange(
        &mut self,
        request: &Request,
        first: Decision,
        began: Instant,
    ) -> Result<(), SessionEnd> {
        let mut answered = began;
        let mut decision = first;
        let mut attempt = 0;
        self.lost_on.clear();
        self.refusal = None;
        self.ran = None;
        let taken = self.taken_by(request);
        loop {
            attempt += 1;
            self.make_way();
            let now = if attempt == 1 { began } else { Instant::now() };
            let served = match self.acquire(&mut decision, now).await {
                Ok(node) => {
                    self.depart(node, taken.as_ref());
                    let balancer = &self.eyes.rules.balancer;
                    let told = self.on_replica && balancer.weighs_loads();
                    let balancer = told.then(|| balancer.clone());
                    let flight =
                        balancer.as_ref().map(|balancer| (balancer.begin(node), Instant::now()));
                    let served = self.attempt_in_time(request, &decision).await;
                    answered = Instant::now();
                    if let Some((flight, sent)) = flight.filter(|_| served.is_ok()) {
                        flight.answered(answered.duration_since(sent), answered);
                    }
                    self.note_answer(node, &decision, taken.as_ref(), answered);
                    served
                }
                Err(failure) => Err(self.why_cancelled(failure)),
            };
            match served {
                Ok(()) => break,
                Err(Failure::Client(end)) => return Err(end),
                Err(failure) if attempt < ATTEMPTS => match failure.again(&decision) {
                    Some(next) => {
                        self.shared.metrics.retries.inc();
                        decision = next;
                    }
                    None => return self.fail(request, &failure).await,
                },
                Err(failure) => return self.fail(request, &failure).await,
            }
        }
        self.shared.metrics.count(decision.reason);
        self.shared.metrics.latency.observe(answered.duration_since(began));
        Ok(())
    }

    pub(super) fn count_pins(&mut self) {
        let pins = self.machine.pins();
        if pins != self.pins_seen {
            for pin in pins.iter().filter(|pin| !self.pins_seen.has(*pin)) {
                self.shared.metrics.pinned(pin);
                tracing::debug!(
                    user = %self.account.user,
                    database = %self.account.database,
                    process_id = self.entry.process_id,
                    reason = %pin.reason(),
                    "session pinned to its server"
                );
            }
            self.pins_seen = pins;
        }
    }

    /// Gives the server back, once no cancel request for it is under way.
    pub(super) async fn release(&mut self) {
        self.entry.slot.rests();
        if let Some(lease) = self.lease.take() {
            if lease.identity.is_being_cancelled() {
                lease.identity.cancels_delivered().await;
            }
            if lease.identity.is_condemned() {
                return Box::pin(self.await_end(lease)).await;
            }
            let epoch = self.shared.cluster.load().node(lease.identity.node).epoch;
            lease.give_back(epoch);
        }
    }

    /// Somebody ends the server to end the session.
    async fn await_end(&self, mut lease: Lease) {
        lease.spoiled = true;
        let ended = tokio::time::timeout(END_WAIT, lease.ended_by_administrator()).await;
        if ended == Ok(true) {
            self.entry.slot.end();
        }
    }

    /// Closes the server.
    pub(super) fn drop_lease(&mut self) {
        self.entry.slot.rests();
        if let Some(mut lease) = self.lease.take() {
            lease.spoiled = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<'a, F>(_: fn(&'a mut Session, &'a Post) -> F) -> usize {
        size_of::<F>()
    }

    /// What an idle client costs is this and little more; what is seldom needed belongs into a box.
    #[test]
    fn a_session_and_its_task_are_small() {
        let (session, task) = (size_of::<Session>(), size(Session::run));
        assert!(session <= 1512 && task <= 1104, "{session} bytes, and its task {task}");
    }
}
