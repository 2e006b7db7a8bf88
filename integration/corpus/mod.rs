//! Statements with their truth, against a real primary and replica: what Causeway sends to a replica is
//! accepted there and gives the primary's rows; what must not go there does not.
//!
//! The project's own statements (`statements.sql`, over `world.sql`) are held against the nodes in every
//! run, and so is what they claim of a replica. Any corpus of JSON lines in the directory that
//! `CAUSEWAY_CORPUS` names (`make corpus-live`; its format is in `scripts/corpus.py`) is compared
//! in the same way, and the net's catch rate printed.

mod elsewhere;
mod wishes;

use std::net::SocketAddr;

use causeway::cli::demo::cluster::{Cluster, Node};

use crate::harness::{Proxy, ProxyOptions, fresh_database, shared_cluster};
use crate::wire::{Wire, frame, query};

/// What a statement came to: its rows, in no order, or the SQLSTATE of its error.
pub type Outcome = Result<Vec<Vec<u8>>, String>;

/// An answer to one simple query.
#[derive(Debug)]
pub struct Answer {
    pub outcome: Outcome,
    /// Node and reason of each attempt, as `causeway.explain` tells them.
    pub attempts: Vec<(String, String)>,
}

/// Asks in a session of its own, so that no statement meets what another left.
pub async fn ask(address: SocketAddr, database: &str, text: &str) -> Answer {
    ask_with(address, database, &[], text).await
}

/// The same with settings in the start-up packet.
pub async fn ask_with(
    address: SocketAddr,
    database: &str,
    settings: &[(&str, &str)],
    text: &str,
) -> Answer {
    let explain = [("causeway.explain", "on")];
    let settings: Vec<(String, String)> = settings
        .iter()
        .chain(&explain)
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let (mut wire, _) = Wire::login_at(address, database, &settings).await;
    wire.send(&query(text)).await;
    let mut rows = Vec::new();
    let mut error = None;
    let mut attempts = Vec::new();
    loop {
        let (kind, body) = wire.message().await;
        match kind {
            b'D' | b'd' => rows.push(body.to_vec()),
            b'G' => wire.send(&frame(b'f', b"no data\0")).await,
            b'E' => error = error.or(Some(field(&body, b'C'))),
            b'N' => {
                let said = field(&body, b'M');
                let attempt = said.strip_prefix("causeway: node ").and_then(|rest| {
                    let (node, reason) = rest.split_once(", reason ")?;
                    Some((node.to_owned(), reason.to_owned()))
                });
                attempts.extend(attempt);
            }
            b'Z' => break,
            _ => {}
        }
    }
    wire.send(&frame(b'X', b"")).await;
    rows.sort();
    Answer { outcome: error.map_or(Ok(rows), Err), attempts }
}

/// One field of an ErrorResponse or NoticeResponse.
fn field(body: &[u8], code: u8) -> String {
    let mut fields = body.split(|byte| *byte == 0);
    let found = fields.find(|field| field.first() == Some(&code));
    found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
}

pub fn address(node: &Node) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], node.port()))
}

/// Whether only a node in recovery ends so.
pub fn is_refusal(outcome: &Outcome) -> bool {
    matches!(outcome, Err(code) if matches!(code.as_str(), "25006" | "0A000" | "55000" | "XX000" | "40001" | "57P04"))
}

/// An outcome in a line.
pub fn brief(outcome: &Outcome) -> String {
    match outcome {
        Err(code) => code.clone(),
        Ok(rows) => {
            let first =
                rows.first().map(|row| row[..row.len().min(200)].escape_ascii().to_string());
            format!("{} rows, {}", rows.len(), first.unwrap_or_default())
        }
    }
}

/// What the file claims of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    Read,
    Refused,
    Silent,
}

fn statements() -> Vec<(Claim, String)> {
    let mut claim = None;
    let mut list: Vec<(Claim, String)> = Vec::new();
    for line in include_str!("statements.sql").lines() {
        match line.strip_prefix("-- ") {
            Some(head) if head.starts_with("reads:") => claim = Some(Claim::Read),
            Some(head) if head.starts_with("refused:") => claim = Some(Claim::Refused),
            Some(head) if head.starts_with("silent:") => claim = Some(Claim::Silent),
            Some(_) => {}
            None if line.starts_with(' ') => {
                let (_, statement) = list.last_mut().expect("a statement to go on with");
                *statement = format!("{statement}\n{line}");
            }
            None if line.is_empty() || line == "--" => {}
            None => list.push((claim.expect("a head before the first statement"), line.into())),
        }
    }
    list
}

/// A database with the world in it, and a proxy that knows it.
async fn stage(cluster: &'static Cluster) -> (Proxy, String) {
    let database = fresh_database(cluster).await;
    let direct = cluster.primary().connect(&database).await.unwrap();
    direct.batch_execute(include_str!("world.sql")).await.unwrap();
    cluster.await_replay().await.unwrap();
    let proxy = Proxy::start(cluster, &ProxyOptions::default()).await;
    proxy.await_catalog(cluster, &database).await;
    (proxy, database)
}

#[tokio::test(flavor = "multi_thread")]
async fn own_statements_go_where_their_truth_says() {
    let cluster = shared_cluster();
    let (proxy, database) = stage(cluster).await;
    let (primary, replica) = (cluster.primary(), &cluster.replicas()[0]);
    let mut wrong = Vec::new();
    let mut counts = [0_usize; 3];
    for (claim, text) in statements() {
        counts[claim as usize] += 1;
        let there = ask(address(replica), &database, &text).await.outcome;
        let through = ask(proxy.address, &database, &text).await;
        let on_primary = through.attempts.iter().all(|(node, _)| *node == primary.address());
        let mut say = |what: &str| {
            let (there, outcome) = (brief(&there), brief(&through.outcome));
            let attempts = &through.attempts;
            wrong.push(format!("{what}: {text}\n    {outcome} by {attempts:?}\n    there {there}"));
        };
        match claim {
            Claim::Read => {
                let here = ask(address(primary), &database, &text).await.outcome;
                if here != there || here.is_err() {
                    say(&format!("is no read ({} on the primary)", brief(&here)));
                } else if through.outcome != here {
                    say("has other rows through Causeway");
                } else if through.attempts.len() != 1 || on_primary {
                    say("is kept from the replicas");
                }
            }
            Claim::Refused if !is_refusal(&there) => say("is not refused by a replica"),
            Claim::Silent if is_refusal(&there) => say("is refused by a replica"),
            Claim::Refused | Claim::Silent if !on_primary || through.attempts.is_empty() => {
                say("went to a replica");
            }
            Claim::Refused | Claim::Silent => {}
        }
    }
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
    assert!(wrong.is_empty(), "{} of {counts:?} wrong:\n{}", wrong.len(), wrong.join("\n"));
}
