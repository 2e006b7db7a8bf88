//! The clients of the demo: a mixture of reads and writes through the proxy, as applications send
//! them, each outcome counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, Error, NoTls};

/// Clients that only read.
const READERS: u32 = 6;
/// Clients that write.
const WRITERS: u32 = 2;
/// Rows of `items`.
const ITEMS: i32 = 1000;

/// Makes what the clients read and write. Through the proxy, so that roles are found and not asked for.
pub const SETUP: &str = "DROP SCHEMA IF EXISTS causeway_demo CASCADE; \
    CREATE SCHEMA causeway_demo; \
    CREATE TABLE causeway_demo.items (id int PRIMARY KEY, n int NOT NULL); \
    INSERT INTO causeway_demo.items SELECT id, id * 2 FROM generate_series(1, 1000) id; \
    CREATE TABLE causeway_demo.journal (id bigserial PRIMARY KEY, writer int, note text)";

/// Removes it again.
pub const CLEANUP: &str = "DROP SCHEMA IF EXISTS causeway_demo CASCADE";

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Counts {
    /// Reads answered, rightly.
    pub reads: AtomicU64,
    /// Rows written and committed.
    pub writes: AtomicU64,
    /// Statements that failed, wrong answers and lost connections included.
    pub failed: AtomicU64,
    /// The first few failures in words.
    pub failures: Mutex<Vec<String>>,
}

/// The clients at work. Dropped, they stop where they are.
#[derive(Debug)]
pub struct Workload {
    /// Shared with the clients.
    pub counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Workload {
    /// Connects all clients and sets them to work.
    ///
    /// # Errors
    /// When one cannot connect.
    pub async fn start(config: &Config) -> Result<Self, Error> {
        let mut workload =
            Self { counts: Arc::default(), stop: Arc::default(), clients: JoinSet::new() };
        for number in 0..READERS + WRITERS {
            let (client, connection) = config.connect(NoTls).await?;
            tokio::spawn(connection);
            let (counts, stop) = (Arc::clone(&workload.counts), Arc::clone(&workload.stop));
            workload.clients.spawn(async move {
                if number < READERS {
                    read(client, number, &counts, &stop).await;
                } else {
                    write(client, number, &counts, &stop).await;
                }
            });
        }
        Ok(workload)
    }

    /// Lets every client finish its statement; returns what they saw.
    pub async fn finish(mut self) -> Arc<Counts> {
        self.stop.store(true, Relaxed);
        while self.clients.join_next().await.is_some() {}
        self.counts
    }
}

impl Counts {
    fn fail(&self, what: String) {
        self.failed.fetch_add(1, Relaxed);
        let mut failures = self.failures.lock();
        if failures.len() < 10 {
            failures.push(what);
        }
    }
}

/// Reads of three kinds, one after the other: prepared, one-shot with parameters, plain text. Every
/// answer is known beforehand.
async fn read(client: Client, number: u32, counts: &Counts, stop: &AtomicBool) {
    const BY_ID: &str = "SELECT n FROM causeway_demo.items WHERE id = $1";
    let prepared = client.prepare(BY_ID).await;
    let mut id = i32::try_from(number).unwrap_or_default() * 100;
    while !stop.load(Relaxed) && !client.is_closed() {
        id = id % ITEMS + 1;
        let right = match (id % 3, &prepared) {
            (0, Ok(prepared)) => client.query_one(prepared, &[&id]).await.map(|row| row.get(0)),
            (1, _) => client.query_one(BY_ID, &[&id]).await.map(|row| row.get(0)),
            _ => {
                let text = format!("SELECT n FROM causeway_demo.items WHERE id = {id}");
                client.simple_query(&text).await.map(|messages| simple_answer(&messages))
            }
        };
        match right {
            Ok(answer) if answer == id * 2 => drop(counts.reads.fetch_add(1, Relaxed)),
            Ok(answer) => counts.fail(format!("item {id} is {}, said to be {answer}", id * 2)),
            Err(error) => counts.fail(said(&error)),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if client.is_closed() && !stop.load(Relaxed) {
        counts.fail("a reader lost its connection".to_owned());
    }
}

/// The number in the only row of a simple query's answer; -1 where there is none.
fn simple_answer(messages: &[tokio_postgres::SimpleQueryMessage]) -> i32 {
    let mut rows = messages.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    });
    rows.next().unwrap_or(-1)
}

/// Writes of two kinds in turn: one statement, and a transaction that reads what it wrote.
async fn write(mut client: Client, number: u32, counts: &Counts, stop: &AtomicBool) {
    let writer = i32::try_from(number).unwrap_or_default();
    let mut in_transaction = false;
    while !stop.load(Relaxed) && !client.is_closed() {
        in_transaction = !in_transaction;
        let done = if in_transaction {
            transaction(&mut client, writer).await
        } else {
            const ONE: &str = "INSERT INTO causeway_demo.journal (writer, note) VALUES ($1, 'one')";
            client.execute(ONE, &[&writer]).await.map(|_| 1)
        };
        match done {
            Ok(rows) => drop(counts.writes.fetch_add(rows, Relaxed)),
            Err(error) => counts.fail(said(&error)),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if client.is_closed() && !stop.load(Relaxed) {
        counts.fail("a writer lost its connection".to_owned());
    }
}

async fn transaction(client: &mut Client, writer: i32) -> Result<u64, Error> {
    let transaction = client.transaction().await?;
    let insert = "INSERT INTO causeway_demo.journal (writer, note) VALUES ($1, 'two') RETURNING id";
    let id: i64 = transaction.query_one(insert, &[&writer]).await?.get(0);
    // Its own row, not committed yet: no replica could know it.
    let select = "SELECT note FROM causeway_demo.journal WHERE id = $1";
    transaction.query_one(select, &[&id]).await?;
    transaction.commit().await?;
    Ok(1)
}

/// An error as one line, the server's own words where there are some.
fn said(error: &Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)
}
