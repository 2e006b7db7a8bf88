//! Time limits: what is late is cancelled at its server and told in PostgreSQL's words, and a server
//! that does not listen costs its client no more than the grace.

use std::time::Duration;

use causeway::session::deadlines::Overdue;
use causeway::session::failure::SessionEnd;
use tokio::time::Instant;

use super::{Bed, Client, HANG, READ, settle};
use crate::fake::Peer;

impl Bed {
    /// A primary and a replica, with these lines in `[limits]` or in sections after it.
    async fn with_limits(limits: &str) -> Self {
        let bed = Self::with_pool(1, &format!("size = 1\n[limits]\n{limits}")).await;
        let shared = bed.shared.clone();
        tokio::spawn(async move { shared.clocks.of(0).run(&shared.metrics).await });
        bed
    }

    /// What limits were run into, and how often.
    fn overdue(&self) -> String {
        let counted = Overdue::ALL.map(|overdue| (overdue, self.shared.metrics.timeouts(overdue)));
        let counted = counted.iter().filter(|(_, count)| *count > 0);
        let words: Vec<_> =
            counted.map(|(overdue, count)| format!("{} {count}", overdue.as_str())).collect();
        words.join(", ")
    }

    /// Waits for a further connection to the node: a cancel request, which the script takes for a
    /// login that fails. How long it took.
    async fn cancel_at(&self, node: usize) -> Duration {
        let (before, began) = (self.nodes[node].accepted(), Instant::now());
        while self.nodes[node].accepted() == before {
            assert!(began.elapsed() < HANG, "nothing was cancelled");
            settle().await;
        }
        began.elapsed()
    }
}

/// The message of the error in the client's next answer.
async fn message(client: &mut Client) -> String {
    loop {
        let (kind, body) =
            tokio::time::timeout(HANG, client.peer.message()).await.unwrap().unwrap();
        if kind == b'E' {
            return causeway::protocol::ErrorReport::parse(&body).message.into_owned();
        }
    }
}

fn about(took: Duration, expected: u64) -> bool {
    (expected..expected + 500).contains(&u64::try_from(took.as_millis()).unwrap())
}

const LATE: &str = "canceling statement due to statement timeout";
const TWO_SECONDS: &str = "query_timeout = \"2s\"";
const BY_USER_RULE: &str =
    "query_timeout = \"1d\"\n[[routing.rule]]\nuser = \"app\"\nquery_timeout = \"2s\"";
const BY_STATEMENT_RULE: &str = "query_timeout = \"1d\"\n[[routing.rule]]\ntable = \"t\"\n\
    query_timeout = \"2s\"\n[[routing.rule]]\nquery_timeout = \"3d\"";

#[tokio::test(start_paused = true)]
async fn a_late_statement_is_cancelled_at_its_server() {
    for (limits, text) in [
        (TWO_SECONDS, READ),
        (TWO_SECONDS, "update t set a = 1"),
        (BY_USER_RULE, READ),
        (BY_STATEMENT_RULE, "update t set a = 1"),
    ] {
        let mut bed = Bed::with_limits(limits).await;
        let (mut client, primary) = bed.first().await;
        client.ask(text).await;
        let (node, mut server) = if text == READ { bed.next().await } else { (0, primary) };
        server.hears(text).await;
        let took = bed.cancel_at(node).await;
        assert!(about(took, 2000), "{limits}: after {took:?}");
        server.refuses("57014", b'I').await;
        assert_eq!(message(&mut client).await, LATE, "{limits}");
        assert_eq!(client.answer().await, "Z:I", "{limits}");
        assert_eq!(bed.overdue(), "query_timeout 1", "{limits}");
        // A cancel that the client asks for is told as such.
        client.ask(text).await;
        server.hears(text).await;
        server.refuses("57014", b'I').await;
        assert_eq!(message(&mut client).await, "no", "{limits}");
    }
}

#[tokio::test(start_paused = true)]
async fn zero_in_a_narrower_place_is_no_limit() {
    let rule = "[[routing.rule]]\nuser = \"app\"\nquery_timeout = \"0s\"";
    let mut bed = Bed::with_limits(&format!("{TWO_SECONDS}\n{rule}")).await;
    let (mut client, mut primary) = bed.first().await;
    client.ask("update t set a = 1").await;
    primary.hears("update t set a = 1").await;
    tokio::time::sleep(Duration::from_secs(1000)).await;
    primary.done("UPDATE 1", b'I').await;
    assert_eq!(client.answer().await, "UPDATE 1 Z:I");
    assert_eq!((bed.overdue(), bed.nodes[0].accepted()), (String::new(), 1));
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_a_server_counts() {
    let mut bed = Bed::with_limits(TWO_SECONDS).await;
    let (mut first, mut primary) = bed.first().await;
    let mut second = bed.client().await;
    first.ask("begin").await;
    assert_eq!(first.answer().await, "BEGIN Z:T");
    first.ask("update t set a = 1").await;
    primary.hears_kinds("Q").await;
    primary.hears("update t set a = 1").await;
    let began = Instant::now();
    second.ask("update u set a = 1").await;
    assert_eq!(message(&mut second).await, LATE);
    assert!(about(began.elapsed(), 2000), "{:?}", began.elapsed());
}

/// It took the cancel request and goes on: after the grace it is given up.
#[tokio::test(start_paused = true)]
async fn a_server_that_ignores_a_cancel_is_given_up() {
    // What may have been done is not denied.
    for (text, expected) in [(READ, "E:57014 Z:I"), ("update t set a = 1", "E:08007 Z:I")] {
        let mut bed = Bed::with_limits(TWO_SECONDS).await;
        let (mut client, primary) = bed.first().await;
        let began = Instant::now();
        client.ask(text).await;
        let mut server = if text == READ { bed.replica().await } else { primary };
        server.hears(text).await;
        assert_eq!(client.answer().await, expected, "{text}");
        assert!(about(began.elapsed(), 12_000), "{:?}", began.elapsed());
        tokio::time::timeout(HANG, server.until_closed()).await.expect("closed").ok();
    }
}

async fn ended(client: Client) -> Overdue {
    match tokio::time::timeout(HANG, client.task).await.expect("it ends").unwrap() {
        Err(SessionEnd::Overdue(overdue)) => overdue,
        other => panic!("{other:?}"),
    }
}

/// A transaction that is open on the primary.
async fn in_transaction(bed: &mut Bed) -> (Client, Peer) {
    let (mut client, mut primary) = bed.first().await;
    client.ask("begin").await;
    assert_eq!(client.answer().await, "BEGIN Z:T");
    client.ask("update t set a = 1").await;
    primary.hears("begin").await;
    primary.done("BEGIN", b'T').await;
    primary.hears("update t set a = 1").await;
    primary.done("UPDATE 1", b'T').await;
    assert_eq!(client.answer().await, "UPDATE 1 Z:T");
    (client, primary)
}

#[tokio::test(start_paused = true)]
async fn silence_in_a_transaction_ends_it() {
    // Also where no server knows of the transaction yet.
    for held in [false, true] {
        let mut bed = Bed::with_limits("idle_in_transaction_timeout = \"5s\"").await;
        let (mut client, mut primary) = if held {
            let (mut client, primary) = bed.first().await;
            client.ask("begin").await;
            client.answer().await;
            (client, primary)
        } else {
            in_transaction(&mut bed).await
        };
        let began = Instant::now();
        assert_eq!(client.answer().await, "E:25P03 end", "held: {held}");
        assert!(about(began.elapsed(), 5000), "{:?}", began.elapsed());
        assert_eq!(ended(client).await, Overdue::IdleInTransaction);
        if !held {
            tokio::time::timeout(HANG, primary.until_closed()).await.expect("closed").ok();
        }
        assert_eq!(bed.overdue(), "idle_in_transaction_timeout 1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_takes_too_long_ends() {
    for running in [false, true] {
        let mut bed = Bed::with_limits("transaction_timeout = \"5s\"").await;
        let (mut client, mut primary) = in_transaction(&mut bed).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        if running {
            client.ask("select 1").await;
            primary.hears("select 1").await;
        }
        let (before, began) = (bed.nodes[0].accepted(), Instant::now());
        assert_eq!(client.answer().await, "E:25P04 end", "running: {running}");
        assert!(about(began.elapsed(), 2000), "{:?}", began.elapsed());
        assert_eq!(ended(client).await, Overdue::Transaction);
        settle().await;
        let cancels = bed.nodes[0].accepted() - before;
        assert_eq!(cancels, usize::from(running), "what runs is cancelled");
        tokio::time::timeout(HANG, primary.until_closed()).await.expect("closed").ok();
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_is_sent_away_and_a_busy_one_is_not() {
    let mut bed = Bed::with_limits("idle_timeout = \"5s\"").await;
    let (mut client, mut primary) = bed.first().await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(4)).await;
        client.ask("update t set a = 1").await;
        primary.hears("update t set a = 1").await;
        primary.done("UPDATE 1", b'I').await;
        assert_eq!(client.answer().await, "UPDATE 1 Z:I");
    }
    let began = Instant::now();
    assert_eq!(client.answer().await, "E:57P05 end");
    assert!(about(began.elapsed(), 5000), "{:?}", began.elapsed());
    assert_eq!(ended(client).await, Overdue::Idle);
}
