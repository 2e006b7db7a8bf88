//! A session of transactions that append to lists and read them.

use std::io;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::client::{Answer, Client, Protocol, Sql};
use super::ground::Ground;
use super::history::{Done, Key, Outcome};
use super::lists::{Element, Step, Transaction};

/// A session at work.
pub struct Appending {
    number: usize,
    client: Client,
    protocol: Protocol,
    ground: Arc<Ground>,
    random: StdRng,
    transactions: Vec<Transaction>,
}

/// A transaction as it grows.
struct Growing {
    steps: Vec<Step>,
    witness: String,
    /// A statement was refused: it can only be rolled back.
    failed: bool,
}

impl Appending {
    pub fn new(number: usize, client: Client, protocol: Protocol, ground: Arc<Ground>) -> Self {
        let random = StdRng::seed_from_u64(1_000 + number as u64);
        Self { number, client, protocol, ground, random, transactions: Vec::new() }
    }

    /// Works until the run ends or the connection is lost; returns what it did.
    pub async fn work(mut self) -> Vec<Transaction> {
        while !self.ground.ended() {
            if let Err(error) = self.turn().await {
                self.ground.lost(self.number, &error);
                break;
            }
            let pause = self.ground.mix.pause;
            if !pause.is_zero() {
                tokio::time::sleep(pause.mul_f64(self.random.random_range(0.0..2.0))).await;
            }
        }
        self.transactions
    }

    async fn turn(&mut self) -> io::Result<()> {
        match self.random.random_range(0..10) {
            0..4 => self.transaction("", &["", "read"]).await,
            4 => self.transaction("BEGIN READ ONLY", &["BEGIN READ ONLY", "reads"]).await,
            5 => {
                let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY";
                self.transaction(begin, &[begin, "reads"]).await
            }
            _ => self.transaction("BEGIN", &["BEGIN", "appends"]).await,
        }
    }

    /// Begins so, if it is more than one statement, and does what `kind` names.
    async fn transaction(&mut self, begin: &str, kind: &[&'static str; 2]) -> io::Result<()> {
        let sent = self.ground.clock.now();
        let mut growing = Growing { steps: Vec::new(), witness: String::new(), failed: false };
        if !begin.is_empty() {
            self.ask(&mut growing, &Sql::new(begin, &[])).await?;
        }
        match kind[1] {
            "read" => self.read(&mut growing).await?,
            "reads" => {
                for _ in 0..self.random.random_range(2..4) {
                    self.read(&mut growing).await?;
                }
            }
            _ => self.append(&mut growing).await?,
        }
        let roll_back = growing.failed || self.random.random_bool(0.1);
        let mut outcome = if roll_back { Outcome::RolledBack } else { Outcome::Committed };
        if !begin.is_empty() {
            let end = if roll_back { "ROLLBACK" } else { "COMMIT" };
            let ended = self.ask(&mut growing, &Sql::new(end, &[])).await;
            if ended.is_err() || (growing.failed && !roll_back) {
                outcome = Outcome::Unknown;
            }
        }
        let answered = self.ground.clock.now();
        let how = [kind[1], self.protocol.name()];
        let Growing { steps, witness, .. } = growing;
        let done = Done { session: self.number, sent, answered, how, witness: witness.into() };
        let repeatable = begin.contains("REPEATABLE");
        self.transactions.push(Transaction { done, steps, outcome, repeatable });
        Ok(())
    }

    /// Reads two or three lists in one statement.
    async fn read(&mut self, growing: &mut Growing) -> io::Result<()> {
        let mut keys: Vec<Key> = (0..self.random.random_range(2..4)).map(|_| 0).collect();
        let open: Vec<Key> = self.ground.open_lists().collect();
        for key in &mut keys {
            *key = *open.choose(&mut self.random).expect("some are open");
        }
        keys.sort_unstable();
        keys.dedup();
        let places: Vec<String> = (1..=keys.len()).map(|number| format!("${number}")).collect();
        let text = format!(
            "SELECT key, items, (SELECT witness()) FROM lists WHERE key IN ({})",
            places.join(", ")
        );
        let values: Vec<u64> = keys.iter().map(|key| u64::from(*key)).collect();
        let Some(answer) = self.ask(growing, &Sql::new(text, &values)).await? else {
            return Ok(());
        };
        let found: Vec<(Key, Vec<Element>)> =
            answer.rows.iter().map(|columns| list(columns)).collect();
        if let Some(witness) = answer.rows.first().and_then(|columns| columns[2].clone()) {
            growing.witness = witness;
        }
        // A list without a row is empty.
        let lists = keys.into_iter().map(|key| {
            let list = found.iter().find(|(other, _)| *other == key);
            (key, list.map(|(_, list)| list.clone()).unwrap_or_default())
        });
        growing.steps.push(Step::Read(lists.collect()));
        self.ground.count(1, 0);
        Ok(())
    }

    /// Appends to one or two lists, in one order for all so that nobody waits in a circle.
    async fn append(&mut self, growing: &mut Growing) -> io::Result<()> {
        if self.random.random_bool(0.5) {
            self.read(growing).await?;
        }
        let open: Vec<Key> = self.ground.open_lists().collect();
        let mut keys: Vec<Key> = (0..self.random.random_range(1..4))
            .map(|_| *open.choose(&mut self.random).expect("some are open"))
            .collect();
        keys.sort_unstable();
        for key in keys {
            let element = self.ground.next_element();
            growing.steps.push(Step::Append(key, element));
            let text = "INSERT INTO lists VALUES ($1, ARRAY[$2::bigint]) ON CONFLICT (key) \
                        DO UPDATE SET items = lists.items || excluded.items";
            self.ask(growing, &Sql::new(text, &[u64::from(key), element])).await?;
            self.ground.count(0, 1);
        }
        if self.random.random_bool(0.3) {
            self.read(growing).await?;
        }
        Ok(())
    }

    /// The answer, unless the statement was refused or an earlier one was.
    async fn ask(&mut self, growing: &mut Growing, sql: &Sql) -> io::Result<Option<Answer>> {
        if growing.failed && sql.text != "ROLLBACK" {
            return Ok(None);
        }
        let answer = self.client.ask(self.protocol, sql).await?;
        if let Some(refusal) = answer.refusal {
            growing.failed = true;
            self.ground.refused(self.number, "a transaction", refusal);
            return Ok(None);
        }
        Ok(Some(answer))
    }
}

/// Key and elements of a row of `lists`.
pub fn list(columns: &[Option<String>]) -> (Key, Vec<Element>) {
    let text = |at: usize| columns[at].as_deref().expect("no column of lists is null");
    let elements = text(1).trim_matches(['{', '}']).split(',').filter(|item| !item.is_empty());
    let elements = elements.map(|item| item.parse().expect("elements are numbers"));
    (text(0).parse().expect("keys are numbers"), elements.collect())
}
