//! Playing a scenario on one stage and writing down what comes back.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use causeway::cli::demo::cluster::Cluster;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::Client;

use super::script::{Await, Scenario, Step};
use crate::wire::{Wire, frame};

/// How long an answer may take before it counts as missing.
const PATIENCE: Duration = Duration::from_secs(4);

/// Where scenarios are played.
pub struct Stage {
    address: SocketAddr,
    database: String,
    /// The primary and its replicas, which are waited for after each step: what is compared are
    /// sessions, not lag.
    nodes: Vec<Client>,
    /// Where the primary's log ended after the step before.
    written: Mutex<String>,
}

/// What answered one step: messages without what must differ.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub step: String,
    messages: Vec<(u8, Vec<u8>)>,
    end: End,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum End {
    /// As awaited.
    Good,
    /// Nothing more came.
    Silence,
    /// The connection ended.
    Closed,
}

impl Reply {
    /// In words.
    pub fn show(&self) -> String {
        let mut text = String::new();
        for (kind, body) in &self.messages {
            let body = &body[..body.len().min(300)];
            let line = format!("  {} {}\n", char::from(*kind), body.escape_ascii());
            text.push_str(&line);
        }
        text + &format!("  ({:?})", self.end)
    }
}

impl Stage {
    pub fn new(address: SocketAddr, database: String) -> Self {
        Self { address, database, nodes: Vec::new(), written: Mutex::default() }
    }

    /// Waits for this cluster's replicas after each step.
    pub async fn before(mut self, cluster: &Cluster) -> Self {
        for node in cluster.nodes() {
            self.nodes.push(node.connect("postgres").await.unwrap());
        }
        self
    }

    async fn replayed(&self) {
        let Some((primary, replicas)) = self.nodes.split_first() else { return };
        let row = primary.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await;
        let row = row.unwrap();
        let target: &str = row.get(0);
        if std::mem::replace(&mut *self.written.lock().unwrap(), target.to_owned()) == target {
            return;
        }
        let question = format!("SELECT pg_last_wal_replay_lsn() >= '{target}'::pg_lsn - 64");
        for replica in replicas {
            while !replica.query_one(&question, &[]).await.unwrap().get::<_, bool>(0) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    }

    /// Plays it from login to Terminate.
    pub async fn play(&self, scenario: &Scenario) -> Vec<Reply> {
        let (mut wire, greeting) =
            Wire::login_at(self.address, &self.database, &scenario.start).await;
        let mut parameters: Vec<(u8, Vec<u8>)> = greeting
            .into_iter()
            .filter(|(kind, _)| *kind != b'K')
            .map(|(kind, body)| (kind, body.to_vec()))
            .collect();
        parameters.sort();
        let login = Reply { step: "login".into(), messages: parameters, end: End::Good };
        let mut replies = vec![login];
        for step in &scenario.steps {
            if wire.stream.write_all(&step.bytes).await.is_err() {
                break;
            }
            let reply = read(&mut wire, step, scenario.loose).await;
            let end = reply.end;
            replies.push(reply);
            if end != End::Good {
                break;
            }
            self.replayed().await;
        }
        let _ = wire.stream.write_all(&frame(b'X', b"")).await;
        let last = Step { text: "Terminate".into(), awaits: Await::End, ..Default::default() };
        replies.push(read(&mut wire, &last, scenario.loose).await);
        replies
    }
}

async fn read(wire: &mut Wire, step: &Step, loose: bool) -> Reply {
    let mut reply = Reply { step: step.text.clone(), messages: Vec::new(), end: End::Good };
    let mut seen = 0;
    loop {
        let done = match &step.awaits {
            Await::Ready(count) => seen == *count,
            Await::Kinds(kinds) => seen == kinds.len(),
            Await::End => false,
        };
        if done {
            return reply;
        }
        let (kind, body) = match tokio::time::timeout(PATIENCE, message(wire)).await {
            Ok(Some(message)) => message,
            Ok(None) => {
                if step.awaits != Await::End {
                    reply.end = End::Closed;
                }
                return reply;
            }
            Err(_) => {
                reply.end = End::Silence;
                return reply;
            }
        };
        seen += usize::from(match &step.awaits {
            Await::Ready(_) => kind == b'Z',
            Await::Kinds(kinds) => kind == kinds[seen],
            Await::End => false,
        });
        reply.messages.push((kind, masked(kind, &body, loose)));
    }
}

async fn message(wire: &mut Wire) -> Option<(u8, Bytes)> {
    let (kind, length) = wire.header().await?;
    let mut body = vec![0; length];
    wire.stream.read_exact(&mut body).await.ok()?;
    Some((kind, body.into()))
}

/// A body without what must differ: the process of a notification, OIDs that a database gave, where in
/// its source PostgreSQL noticed that the transaction has failed (a statement may have to be prepared first),
/// and in a loose scenario all of an error but severity and SQLSTATE.
fn masked(kind: u8, body: &[u8], loose: bool) -> Vec<u8> {
    let mut body = body.to_vec();
    match kind {
        b'A' => body[..4].fill(0),
        b'T' => {
            let mut at = 2;
            while at < body.len() {
                at += body[at..].iter().position(|byte| *byte == 0).unwrap() + 1;
                for oid in [at, at + 6] {
                    let number = u32::from_be_bytes(body[oid..oid + 4].try_into().unwrap());
                    if number >= 16_384 {
                        body[oid..oid + 4].fill(0xff);
                    }
                }
                at += 18;
            }
        }
        b'E' if loose => {
            let fields = body.split(|byte| *byte == 0);
            let kept = fields.filter(|field| matches!(field.first(), Some(b'V' | b'C')));
            return kept.collect::<Vec<_>>().join(&b' ');
        }
        b'E' if body.windows(7).any(|field| field == b"C25P02\0") => {
            let fields = body.split(|byte| *byte == 0);
            let kept = fields.filter(|field| !matches!(field.first(), Some(b'F' | b'L' | b'R')));
            return kept.collect::<Vec<_>>().join(&0);
        }
        _ => {}
    }
    body
}
