//! Never older than what was seen, whatever asks: sessions before nodes whose clocks the test plays.

use std::time::{Duration, Instant};

use bytes::BufMut;
use causeway::cluster::{Lsn, NodeId, Tick};
use causeway::protocol::write;

use super::state::{answers, bind_and_execute, parse, sends};
use super::{Bed, Client, READ, settle};
use crate::fake::Peer;

const ROW: &str = "T D SELECT 1 Z:I";

impl Bed {
    /// At level `session`, with clocks that say nothing yet.
    async fn fresh(replicas: usize) -> Self {
        Self::with(replicas, "", "size = 10").await
    }

    /// A node's clock ticks: it is here, and shows all that has begun before.
    fn tick(&self, node: u16, position: u64) {
        let (now, position) = (Instant::now(), Lsn(position));
        let connected = now.checked_sub(Duration::from_secs(3600)).unwrap();
        let tick = match node {
            0 => Tick::of_primary(position, 1000 + position.0, connected, now),
            _ => Tick::of_replica(position, connected, now),
        };
        self.shared.cluster.topology().node(NodeId(node)).clock.push(tick);
    }

    /// The next server, which must be a replica's, after which its clock ticks once more.
    async fn fresh_replica(&mut self, position: u64) -> Peer {
        let replica = self.replica().await;
        settle().await;
        self.tick(1, position);
        replica
    }

    /// A client at level `session` that has read on the replica, and the servers of both.
    async fn has_read(&mut self) -> (Client, Peer, Peer) {
        let (mut client, primary) = self.first().await;
        client.ask(READ).await;
        let mut replica = self.replica().await;
        replica.hears(READ).await;
        replica.row(b'I').await;
        assert_eq!(client.answer().await, ROW);
        (client, primary, replica)
    }
}

/// A text waits for the barrier, and is then run on the primary.
async fn waits_for_the_barrier(text: &str) {
    let mut bed = Bed::fresh(1).await;
    let (mut client, mut primary, _replica) = bed.has_read().await;
    client.ask(text).await;
    settle().await;
    primary.hears_nothing().await;
    bed.tick(0, 20);
    bed.tick(1, 20);
    primary.hears(text).await;
    primary.row(b'I').await;
    assert_eq!(client.answer().await, ROW, "{text}");
}

#[tokio::test(start_paused = true)]
async fn every_level_above_eventual_passes_the_barrier() {
    for text in [
        "update t set a = 1",
        "/* causeway: consistency=global */ update t set a = 1",
        "/* causeway: consistency=primary */ update t set a = 1",
        "/* causeway: consistency=primary, replica */ select 1",
    ] {
        waits_for_the_barrier(text).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_keeps_the_level_of_its_hint() {
    let mut bed = Bed::fresh(1).await;
    let (mut client, mut primary, _replica) = bed.has_read().await;
    assert_eq!(client.asks("begin").await, "BEGIN Z:T");
    let text = "/* causeway: consistency=eventual */ update t set a = 1";
    client.ask(text).await;
    primary.hears("begin").await;
    primary.hears(text).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_written_after_a_show_of_ones_own_is_a_write() {
    let mut bed = Bed::fresh(1).await;
    let (mut client, mut primary) = bed.first().await;
    sends(&mut client, |out| {
        for text in ["show causeway.lsn", "update t set a = 1"] {
            parse(out, "", text);
            bind_and_execute(out, "");
            // One Sync for both.
            out.truncate(out.len() - 5);
        }
        write::sync(out);
    })
    .await;
    // The position is laid ahead of it.
    primary.hears_kinds("Q").await;
    primary.done("SET", b'I').await;
    primary.hears_kinds("PBEPBES").await;
    answers(&mut primary, b"12").await;
    client.answer().await;
    client.ask(READ).await;
    settle().await;
    assert!(bed.opened.try_recv().is_err(), "no replica is known to have it");
    bed.tick(0, 20);
    bed.tick(1, 20);
    // Nor is the position, which was good once, left there for anybody to read.
    let mut replica = bed.fresh_replica(21).await;
    let laid = replica.hears_kinds("Q").await;
    assert!(laid[0].ends_with(b"\"lsn\" TO ''\n;\0"), "{laid:?}");
    replica.done("SET", b'I').await;
    replica.hears(READ).await;
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_has_the_level_of_its_strictest_statement() {
    let mut bed = Bed::fresh(1).await;
    let (mut client, mut primary) = bed.first().await;
    client.ask("update t set a = 1").await;
    primary.hears("update t set a = 1").await;
    primary.done("UPDATE 1", b'I').await;
    client.answer().await;
    sends(&mut client, |out| {
        parse(out, "one", "/* causeway: replica, consistency=eventual */ select 1");
        parse(out, "two", READ);
        bind_and_execute(out, "two");
    })
    .await;
    settle().await;
    assert!(bed.opened.try_recv().is_err(), "no replica is known to have it");
    bed.tick(0, 20);
    bed.tick(1, 20);
    bed.fresh_replica(21).await.hears_kinds("PPBES").await;
}

#[tokio::test(start_paused = true)]
async fn an_execute_has_hints_of_its_own() {
    let mut bed = Bed::fresh(1).await;
    let (mut client, mut primary) = bed.first().await;
    let prepare = "/* causeway: replica */ prepare p as select 1";
    client.ask(prepare).await;
    primary.hears(prepare).await;
    primary.done("PREPARE", b'I').await;
    client.answer().await;
    for text in
        ["/* causeway: consistency=primary */ execute p", "/* causeway: primary */ execute p"]
    {
        client.ask(text).await;
        primary.hears(text).await;
        primary.row(b'I').await;
        assert_eq!(client.answer().await, ROW);
    }
}

/// A transaction that reads on a replica, before it was proved to have anything.
async fn reads_on_replica(bed: &mut Bed) -> (Client, Peer, Peer) {
    let (mut client, primary) = bed.first().await;
    assert_eq!(client.asks("begin read only").await, "BEGIN Z:T");
    client.ask(READ).await;
    let mut replica = bed.replica().await;
    replica.hears("begin read only").await;
    replica.done("BEGIN", b'T').await;
    replica.hears(READ).await;
    replica.row(b'T').await;
    assert_eq!(client.answer().await, "T D SELECT 1 Z:T");
    (client, primary, replica)
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_for_in_the_middle_of_a_transaction_holds_from_there() {
    for set in ["set causeway.consistency = 'global'", "set local causeway.consistency = 'global'"]
    {
        let mut bed = Bed::fresh(1).await;
        let (mut client, _primary, mut replica) = reads_on_replica(&mut bed).await;
        client.ask(set).await;
        replica.hears(set).await;
        replica.done("SET", b'T').await;
        assert_eq!(client.answer().await, "SET Z:T");
        client.ask(READ).await;
        settle().await;
        replica.hears_nothing().await;
        bed.tick(0, 20);
        bed.tick(1, 20);
        replica.hears(READ).await;
        replica.row(b'T').await;
        assert_eq!(client.answer().await, "T D SELECT 1 Z:T", "{set}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_leaves_a_replica_that_stays_behind() {
    let mut bed = Bed::fresh(1).await;
    let (mut client, mut primary, mut replica) = reads_on_replica(&mut bed).await;
    let text = "/* causeway: replica, consistency=primary */ select 2";
    client.ask(text).await;
    replica.hears_kinds("Q").await;
    isolation(&mut replica, "read committed").await;
    replica.hears("ROLLBACK").await;
    replica.done("ROLLBACK", b'I').await;
    // What the replica has shown the primary shows as well.
    settle().await;
    bed.tick(0, 20);
    bed.tick(1, 20);
    primary.hears("begin read only").await;
    primary.done("BEGIN", b'T').await;
    // The transaction has seen something.
    primary.hears("SELECT").await;
    primary.done("SELECT 0", b'T').await;
    primary.hears(text).await;
    primary.row(b'T').await;
    assert_eq!(client.answer().await, "T D SELECT 1 Z:T");

    // One snapshot is one read.
    let mut bed = Bed::fresh(1).await;
    let (mut client, _primary, mut replica) = reads_on_replica(&mut bed).await;
    client.ask(text).await;
    for _ in 0..2 {
        replica.hears_kinds("Q").await;
        isolation(&mut replica, "repeatable read").await;
    }
    replica.hears(text).await;
    replica.row(b'T').await;
    assert_eq!(client.answer().await, "T D SELECT 1 Z:T");
}

/// A server says how its transaction sees the database.
async fn isolation(peer: &mut Peer, level: &str) {
    write::message(&mut peer.out, b'T', |body| body.put_u16(0));
    write::message(&mut peer.out, b'D', |body| {
        body.put_u16(2);
        for text in ["isolation", level] {
            body.put_i32(i32::try_from(text.len()).unwrap());
            body.put_slice(text.as_bytes());
        }
    });
    peer.done("SELECT 1", b'T').await;
}

#[tokio::test(start_paused = true)]
async fn a_position_is_not_shown_before_what_it_would_not_cover() {
    let mut bed = Bed::fresh(0).await;
    let (mut client, mut primary) = bed.first().await;
    for text in ["update t set a = 1; show causeway.lsn", "select 1; show causeway.lsn"] {
        assert_eq!(client.asks(text).await, "E:0A000 Z:I", "{text}");
    }
    let in_turn = |out: &mut bytes::BytesMut| {
        parse(out, "", "update t set a = 1");
        bind_and_execute(out, "");
        out.truncate(out.len() - 5);
        parse(out, "", "show causeway.lsn");
        bind_and_execute(out, "");
    };
    sends(&mut client, in_turn).await;
    assert_eq!(client.answer().await, "E:0A000 Z:I");
    // Up to the client's Flush there is no ReadyForQuery yet.
    sends(&mut client, |out| {
        in_turn(out);
        out.truncate(out.len() - 5);
        write::message(out, b'H', |_| ());
    })
    .await;
    let (kind, _) = client.peer.message().await.unwrap();
    assert_eq!(kind, b'E');
    sends(&mut client, |out| {
        parse(out, "", "select 1");
        write::sync(out);
    })
    .await;
    assert_eq!(client.answer().await, "Z:I");
    primary.hears_nothing().await;
}
