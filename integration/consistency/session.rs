//! A session that reads and writes counters and notes what it did. What it does next is said by its
//! owner: chance ([`super::counting`]) or a script ([`super::mutants`]).

use std::io;
use std::sync::Arc;

use bytes::BytesMut;

use super::client::{Answer, Client, Protocol, Sql};
use super::counters::{Act, Op, Row};
use super::ground::Ground;
use super::history::{Done, Key, Moment, Outcome, Value};
use super::world::{Form, Place, Request, Which, row};

/// A client, and what it did.
pub struct Session {
    pub number: usize,
    pub protocol: Protocol,
    pub ground: Arc<Ground>,
    /// The counters that it alone writes, each with the last value that it tried.
    pub own: Vec<(Key, Value)>,
    client: Client,
    /// What it read last of another's: the cause of what it writes next.
    saw: (Key, Value),
    ops: Vec<Op>,
}

/// What a read is called that failed when rows of it had been shown.
pub const CUT_OFF: &str = "a read that had begun";

/// One statement of a pipeline.
#[derive(Debug, Clone)]
pub enum Planned {
    Read(Which),
    /// The next value of the session's counter with this place.
    Write(usize),
}

impl Session {
    pub fn new(
        number: usize,
        client: Client,
        protocol: Protocol,
        own: &[Key],
        ground: Arc<Ground>,
    ) -> Self {
        let own = own.iter().map(|key| (*key, 0)).collect();
        Self { number, protocol, ground, own, client, saw: (0, 0), ops: Vec::new() }
    }

    /// The last value of another's counter that it has read.
    pub fn last_seen(&self) -> Value {
        self.saw.1
    }

    /// What it did.
    pub fn into_ops(self) -> Vec<Op> {
        self.ops
    }

    /// One read by itself.
    pub async fn read(&mut self, which: &Which, place: Place, witness: bool) -> io::Result<()> {
        let sent = self.ground.clock.now();
        self.select(sent, which, place, witness).await.map(drop)
    }

    /// Reads in one transaction: for all of it counts what was known when it began.
    pub async fn read_together(&mut self, all: &[Which], place: Place) -> io::Result<()> {
        let sent: Vec<Moment> = all.iter().map(|_| self.ground.clock.now()).collect();
        let begin = if place == Place::ReadOnly { "BEGIN READ ONLY" } else { "BEGIN" };
        let mut good = self.run(begin).await?;
        for (which, sent) in all.iter().zip(sent) {
            good = good && self.select(sent, which, place, true).await?;
        }
        self.run(if good { "COMMIT" } else { "ROLLBACK" }).await.map(drop)
    }

    async fn select(
        &mut self,
        sent: Moment,
        which: &Which,
        place: Place,
        witness: bool,
    ) -> io::Result<bool> {
        let answer = self.client.ask(self.protocol, &which.select(place, witness)).await?;
        Ok(self.was_read(sent, place, which, answer))
    }

    /// Notes a read; false if it was refused.
    fn was_read(&mut self, sent: Moment, place: Place, which: &Which, answer: Answer) -> bool {
        let answered = self.ground.clock.now();
        let form = place.name();
        if let Some(refusal) = answer.refusal {
            let what = if answer.rows.is_empty() { form } else { CUT_OFF };
            self.ground.refused(self.number, what, refusal);
            return false;
        }
        let rows: Vec<Row> = answer.rows.iter().filter_map(|columns| row(columns)).collect();
        assert_eq!(rows.len(), which.count(), "{form}: every counter has a row");
        let mut foreign = rows.iter().filter(|row| self.own.iter().all(|(key, _)| row.key != *key));
        if let Some(row) = foreign.next_back() {
            self.saw = (row.key, row.value);
        }
        let witness = answer.rows.first().and_then(|columns| columns.get(4)?.clone());
        self.ground.count(1, 0);
        self.note(sent, answered, form, witness.unwrap_or_default(), Act::Read(rows));
        true
    }

    /// Writes the next value of its counter with this place.
    pub async fn write(&mut self, place: usize, form: Form) -> io::Result<()> {
        let row = self.next_row(place);
        let sent = self.ground.clock.now();
        let (requests, acknowledged) = form.requests(row, &format!("{}_{}", row.key, row.value));
        let mut answered = None;
        let mut outcome = Outcome::Committed;
        for (number, request) in requests.iter().enumerate() {
            let answer = match self.request(request).await {
                Ok(answer) => answer,
                Err(error) => {
                    self.was_written(sent, None, row, form, Outcome::Unknown);
                    return Err(error);
                }
            };
            if let Some(refusal) = answer.refusal {
                let unknown = refusal.sqlstate.starts_with("08") || form == Form::TwoPhase;
                outcome = if unknown { Outcome::Unknown } else { Outcome::RolledBack };
                self.ground.refused(self.number, form.name(), refusal);
                self.client.run("ROLLBACK").await?;
                break;
            }
            if number + 1 == acknowledged {
                answered = Some(self.ground.clock.now());
            }
        }
        if form == Form::RolledBack {
            outcome = Outcome::RolledBack;
        }
        self.was_written(sent, answered, row, form, outcome);
        Ok(())
    }

    async fn request(&mut self, request: &Request) -> io::Result<Answer> {
        match request {
            Request::Sql(sql) => self.client.ask(self.protocol, sql).await,
            Request::Script(script) => self.client.run(script).await,
            Request::Copy(copy, lines) => self.client.copy(copy, lines).await,
        }
    }

    fn was_written(
        &mut self,
        sent: Moment,
        answered: Option<Moment>,
        row: Row,
        form: Form,
        outcome: Outcome,
    ) {
        let answered = answered.unwrap_or_else(|| self.ground.clock.now());
        self.ground.count(0, 1);
        self.note(sent, answered, form.name(), String::new(), Act::Write(row, outcome));
    }

    /// Several statements, all sent before the first is answered.
    pub async fn pipeline(&mut self, planned: &[Planned]) -> io::Result<()> {
        let mut requests = BytesMut::new();
        let mut sent = Vec::new();
        for plan in planned {
            let (sql, row) = match plan {
                Planned::Read(which) => (which.select(Place::Any, true), None),
                Planned::Write(place) => {
                    let row = self.next_row(*place);
                    (Form::update(row), Some(row))
                }
            };
            requests.extend_from_slice(&self.client.request(self.protocol, &sql));
            sent.push((self.ground.clock.now(), row));
        }
        self.client.send(&requests).await?;
        for (plan, (sent, row)) in planned.iter().zip(sent) {
            let answer = self.client.answer().await;
            match (plan, row) {
                (Planned::Read(which), _) => {
                    self.was_read(sent, Place::Any, which, answer?);
                }
                (Planned::Write(_), Some(row)) => {
                    let done = matches!(&answer, Ok(Answer { refusal: None, .. }));
                    let outcome = if done { Outcome::Committed } else { Outcome::Unknown };
                    self.was_written(sent, None, row, Form::Update, outcome);
                    if let Some(refusal) = answer?.refusal {
                        self.ground.refused(self.number, "UPDATE", refusal);
                    }
                }
                (Planned::Write(_), None) => unreachable!("a write has its row"),
            }
        }
        Ok(())
    }

    /// Shows a token to the others.
    pub async fn show_token(&mut self) -> io::Result<()> {
        let (number, sent) = (self.ground.next_token(), self.ground.clock.now());
        let form = "SHOW causeway.lsn";
        let answer = self.client.ask(self.protocol, &Sql::new(form, &[])).await?;
        let token = answer.rows.first().and_then(|columns| columns.first()?.clone());
        // Noted before it is offered: whoever takes it takes it later.
        if self.was_exchanged(sent, form, Act::Show(number), answer) {
            self.ground.offer_token(number, token.expect("a token is shown"));
        }
        Ok(())
    }

    /// Takes a token of another's, if there is one.
    pub async fn take_token(&mut self) -> io::Result<()> {
        let Some((number, token)) = self.ground.take_token() else { return Ok(()) };
        let sent = self.ground.clock.now();
        let statement = format!("SET causeway.after_lsn = '{token}'");
        let answer = self.client.ask(self.protocol, &Sql::new(statement, &[])).await?;
        self.was_exchanged(sent, "SET causeway.after_lsn", Act::Take(number), answer);
        Ok(())
    }

    fn was_exchanged(&mut self, sent: Moment, form: &'static str, act: Act, got: Answer) -> bool {
        let answered = self.ground.clock.now();
        if let Some(refusal) = got.refusal {
            self.ground.refused(self.number, form, refusal);
            return false;
        }
        self.note(sent, answered, form, String::new(), act);
        true
    }

    /// A statement of no interest by itself; false if it was refused.
    pub async fn run(&mut self, text: &'static str) -> io::Result<bool> {
        let answer = self.client.ask(self.protocol, &Sql::new(text, &[])).await?;
        let good = answer.refusal.is_none();
        if let Some(refusal) = answer.refusal {
            self.ground.refused(self.number, text, refusal);
        }
        Ok(good)
    }

    fn next_row(&mut self, place: usize) -> Row {
        let (key, value) = &mut self.own[place];
        *value += 1;
        Row { key: *key, value: *value, cause: Some(self.saw) }
    }

    fn note(
        &mut self,
        sent: Moment,
        answered: Moment,
        form: &'static str,
        witness: String,
        act: Act,
    ) {
        let how = [form, self.protocol.name()];
        let done = Done { session: self.number, sent, answered, how, witness: witness.into() };
        self.ops.push(Op { done, act });
    }
}
