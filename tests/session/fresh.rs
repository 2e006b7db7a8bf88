//! Never older than what was seen, whatever asks: sessions before nodes whose clocks the test plays.

use std::time::{Duration, Instant};

use bytes::BufMut;
use causeway::cluster::topology::Switch;
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

/// A session that has written, and the primary's server.
async fn has_written(bed: &mut Bed) -> (Client, Peer) {
    let (mut client, mut primary) = bed.first().await;
    client.ask("update t set a = 1").await;
    primary.hears("update t set a = 1").await;
    primary.done("UPDATE 1", b'I').await;
    assert_eq!(client.answer().await, "UPDATE 1 Z:I");
    (client, primary)
}

/// How long a read waits, in virtual time, until it is the primary's.
async fn wait_for_primary(client: &mut Client, primary: &mut Peer) -> u128 {
    let began = tokio::time::Instant::now();
    client.ask(READ).await;
    primary.hears(READ).await;
    let waited = began.elapsed();
    primary.row(b'I').await;
    assert_eq!(client.answer().await, ROW);
    waited.as_millis()
}

#[tokio::test(start_paused = true)]
async fn a_replica_is_waited_for_as_long_as_the_file_says_and_no_longer() {
    // Tokio's clock has a grain of one millisecond.
    for (wait, wanted) in [("20ms", 20..=21), ("70ms", 70..=71)] {
        let routing = format!("catchup_wait = \"{wait}\"");
        let mut bed = Bed::with(1, &routing, "size = 10").await;
        let (mut client, mut primary) = has_written(&mut bed).await;
        bed.tick(0, 100);
        bed.tick(1, 50);
        let waited = wait_for_primary(&mut client, &mut primary).await;
        assert!(wanted.contains(&waited), "{wait}: {waited} ms");
        // It was waited for in vain: for a moment nobody does again.
        bed.tick(0, 101);
        assert_eq!(wait_for_primary(&mut client, &mut primary).await, 0);
        let fresh = |how: &str| bed.shared.metrics.fresh_reads(NodeId(0), how);
        assert_eq!((fresh("primary"), fresh("at_once")), (2, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_clock_holds_nobody_for_long() {
    let mut bed = Bed::fresh(1).await;
    let (mut client, mut primary) = has_written(&mut bed).await;
    let waited = wait_for_primary(&mut client, &mut primary).await;
    assert!((250..=251).contains(&waited), "{waited} ms");
    // Once it is known that nobody asks, nobody waits.
    bed.shared.cluster.topology().node(NodeId(0)).clock.stopped();
    assert_eq!(wait_for_primary(&mut client, &mut primary).await, 0);
    // Whoever waits when it becomes known waits no longer.
    bed.tick(0, 100);
    let began = tokio::time::Instant::now();
    client.ask("update t set a = 1").await;
    primary.hears("update t set a = 1").await;
    primary.done("UPDATE 1", b'I').await;
    client.answer().await;
    client.ask(READ).await;
    settle().await;
    primary.hears_nothing().await;
    bed.shared.cluster.topology().node(NodeId(0)).clock.stopped();
    primary.hears(READ).await;
    assert!(began.elapsed().as_millis() < 100);
}

#[tokio::test(start_paused = true)]
async fn a_read_is_counted_once_as_what_it_was() {
    let mut bed = Bed::fresh(1).await;
    let (mut client, mut primary) = has_written(&mut bed).await;
    bed.tick(0, 100);
    bed.tick(1, 100);
    // The replica is fresh, and its new server cannot be known to be.
    client.ask(READ).await;
    let _replica = bed.replica().await;
    primary.hears(READ).await;
    primary.row(b'I').await;
    assert_eq!(client.answer().await, ROW);
    let counts = |bed: &Bed| {
        let of = |node, how| bed.shared.metrics.fresh_reads(NodeId(node), how);
        [of(1, "at_once"), of(1, "waited"), of(0, "primary")]
    };
    assert_eq!(counts(&bed), [0, 0, 1]);
}

/// No primary is known, for so long.
fn without_primary(bed: &Bed) -> causeway::cluster::Topology {
    let there = bed.shared.cluster.topology();
    let mut gone = (*there).clone();
    (gone.primary, gone.version) = (None, 2);
    bed.shared.cluster.set(gone);
    causeway::cluster::Topology { version: 3, ..(*there).clone() }
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_to_anybody_only_a_primary_can_say() {
    let text = "/* causeway: replica, consistency=global */ select 1";
    let mut bed = Bed::fresh(1).await;
    let (mut client, _primary) = bed.first().await;
    bed.tick(1, 20);
    without_primary(&bed);
    assert_eq!(client.asks(text).await, "E:57P03 Z:I");
    assert!(bed.opened.try_recv().is_err(), "no replica was asked");

    let mut bed = Bed::fresh(1).await;
    let (mut client, _primary) = bed.first().await;
    bed.tick(1, 20);
    let back = without_primary(&bed);
    client.ask(text).await;
    settle().await;
    bed.shared.cluster.set(back);
    settle().await;
    bed.tick(0, 30);
    bed.tick(1, 30);
    bed.fresh_replica(31).await.hears(text).await;
}

#[tokio::test(start_paused = true)]
async fn a_position_of_the_future_counts_for_nothing_however_it_was_set() {
    let mut bed = Bed::fresh(1).await;
    let (mut client, mut primary) = bed.first().await;
    let text = "set causeway.after_lsn = 'FFFFFFFF/0'; select 1";
    client.ask(text).await;
    primary.hears(text).await;
    write::command_complete(&mut primary.out, "SET");
    primary.row(b'I').await;
    client.answer().await;
    let key = "set causeway.session_key = 'user:1'";
    client.ask(key).await;
    // Whatever goes to the primary does not wait to know.
    primary.hears_kinds("Q").await;
    primary.done("SET", b'I').await;
    assert_eq!(client.answer().await, "SET Z:I");
    client.ask(READ).await;
    settle().await;
    bed.tick(0, 21);
    bed.tick(1, 21);
    let mut replica = bed.fresh_replica(22).await;
    replica.hears_kinds("Q").await;
    replica.done("SET", b'I').await;
    replica.hears(READ).await;
    replica.row(b'I').await;
    // The warning goes ahead of it.
    assert_eq!(client.answer().await, format!("N {ROW}"));
}

#[tokio::test(start_paused = true)]
async fn what_is_written_before_or_together_with_a_key_is_under_it() {
    let (write, set) = ("update t set a = 1", "set causeway.session_key = 'user:1'");
    for texts in [vec![write, set], vec!["update t set a = 1; set causeway.session_key = 'user:1'"]]
    {
        let mut bed = Bed::fresh(1).await;
        let (mut one, mut primary) = bed.first().await;
        let mut two = bed.client().await;
        two.ask(set).await;
        primary.hears(set).await;
        primary.done("SET", b'I').await;
        two.answer().await;
        for (number, text) in texts.iter().enumerate() {
            one.ask(text).await;
            if number == 0 {
                // What the other has laid is taken away first.
                primary.hears_kinds("Q").await;
                primary.done("RESET", b'I').await;
            }
            primary.hears(text).await;
            primary.done("SET", b'I').await;
            one.answer().await;
        }
        two.ask(READ).await;
        settle().await;
        assert!(bed.opened.try_recv().is_err(), "{texts:?}: no replica is known to have it");
        bed.tick(0, 20);
        bed.tick(1, 20);
        bed.replica().await;
    }
}

/// What is asked of a primary that has died is asked of the next as soon as there is one.
#[tokio::test(start_paused = true)]
async fn another_primary_wakes_who_waits_for_the_first() {
    let mut bed = Bed::fresh(1).await;
    let (mut client, _primary) = has_written(&mut bed).await;
    client.ask("show causeway.lsn").await;
    settle().await;
    let began = tokio::time::Instant::now();
    let there = bed.shared.cluster.topology();
    let mut after = (*there).clone();
    (after.primary, after.timeline, after.version) = (Some(NodeId(1)), Some(2), 2);
    after.switches = std::sync::Arc::new([Switch {
        ended: 1,
        restarted: false,
        at: Lsn(50),
        exact: true,
        last_ticks: std::sync::Arc::default(),
    }]);
    bed.shared.cluster.set(after);
    settle().await;
    let (now, clock) = (Instant::now(), &there.node(NodeId(1)).clock);
    clock.push(Tick::of_primary(Lsn(60), 1000, now, now));
    let mut heir = bed.replica().await;
    heir.hears_kinds("Q").await;
    heir.done("SET", b'I').await;
    heir.hears("show causeway.lsn").await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    heir.row(b'I').await;
    // What may be lost is told first.
    assert_eq!(client.answer().await, "N T D SELECT 1 Z:I");
}

/// Whoever finds out whether it may move looks at the nodes as they are, not as they were when it began.
#[tokio::test(start_paused = true)]
async fn a_session_that_would_move_is_not_held_up_when_the_nodes_change() {
    let mut bed = Bed::fresh(2).await;
    let (mut client, _primary, mut replica) = bed.has_read().await;
    let mut held_up = false;
    // So many that others would have to stay as well.
    for version in 2..200 {
        client.ask(READ).await;
        settle().await;
        let began = tokio::time::Instant::now();
        let mut topology = (*bed.shared.cluster.topology()).clone();
        topology.version = version;
        bed.shared.cluster.set(topology);
        replica.hears(READ).await;
        held_up |= began.elapsed() > Duration::from_millis(10);
        replica.row(b'I').await;
        assert_eq!(client.answer().await, ROW);
    }
    assert!(held_up, "it has asked whether it may move");
}
