//! What a client hears, and does not hear, when servers fail.

use causeway::protocol::{ErrorReport, write};

use super::{Bed, Client, READ, settle};

const ROW: &str = "T D SELECT 1 Z:I";

#[tokio::test(start_paused = true)]
async fn a_read_is_run_on_another_replica_when_the_first_dies_before_a_row() {
    let mut bed = Bed::start(2).await;
    let (mut client, _primary) = bed.first().await;
    client.ask(READ).await;
    let (first, mut dying) = bed.next().await;
    dying.hears(READ).await;
    drop(dying);
    let (second, mut other) = bed.next().await;
    assert!(first != second && first != 0 && second != 0, "{first} {second}");
    other.hears(READ).await;
    other.row(b'I').await;
    assert_eq!(client.answer().await, ROW);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_was_shown_is_not_shown_again() {
    let mut bed = Bed::start(2).await;
    let (mut client, _primary) = bed.first().await;
    client.ask(READ).await;
    let mut dying = bed.replica().await;
    dying.hears(READ).await;
    dying.send(b"T\0\0\0\x06\0\0D\0\0\0\x06\0\0").await.unwrap();
    settle().await;
    drop(dying);
    assert_eq!(client.answer().await, "T D E:08006 Z:I");
    // The session goes on.
    client.ask(READ).await;
    let mut other = bed.replica().await;
    other.hears(READ).await;
    other.row(b'I').await;
    assert_eq!(client.answer().await, ROW);
}

#[tokio::test(start_paused = true)]
async fn rows_that_came_with_a_replicas_last_words_were_not_shown() {
    // A server that is told to stop writes what it has of the answer and its last words at once; one
    // that is killed may have written a part of a message.
    let farewell = |out: &mut bytes::BytesMut| {
        out.extend_from_slice(b"T\0\0\0\x06\0\0D\0\0\0\x06\0\0");
        ErrorReport::fatal("57P01", "terminating connection").encode(out);
    };
    let torso = |out: &mut bytes::BytesMut| out.extend_from_slice(b"T\0\0\0\x06\0");
    for last in [&farewell as &dyn Fn(&mut bytes::BytesMut), &torso] {
        let mut bed = Bed::start(2).await;
        let (mut client, _primary) = bed.first().await;
        client.ask(READ).await;
        let (first, mut dying) = bed.next().await;
        dying.hears(READ).await;
        last(&mut dying.out);
        dying.flush().await.unwrap();
        drop(dying);
        let (second, mut other) = bed.next().await;
        assert!(first != second && second != 0, "{first} {second}");
        other.hears(READ).await;
        other.row(b'I').await;
        assert_eq!(client.answer().await, ROW);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_acknowledged_with_the_servers_last_words_is_not_run_again() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    client.ask("delete from t").await;
    primary.hears("delete from t").await;
    primary.out.extend_from_slice(b"C\0\0\0\x0dDELETE 1\0");
    ErrorReport::fatal("57P01", "terminating connection").encode(&mut primary.out);
    primary.flush().await.unwrap();
    drop(primary);
    assert_eq!(client.answer().await, "E:08007 Z:I");
    assert_eq!(bed.nodes[0].accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_replica_refuses_the_primary_runs_unseen() {
    let mut bed = Bed::start(1).await;
    let (mut client, mut primary) = bed.first().await;
    client.ask(READ).await;
    let mut replica = bed.replica().await;
    // The conflict passes: the next read comes again, and on the same connection.
    for sqlstate in ["40001", "25006"] {
        replica.hears(READ).await;
        replica.refuses(sqlstate, b'I').await;
        primary.hears(READ).await;
        primary.row(b'I').await;
        assert_eq!(client.answer().await, ROW);
        client.ask(READ).await;
    }
    // The other does not: texts of this shape are not tried there again.
    primary.hears(READ).await;
    primary.row(b'I').await;
    assert_eq!(client.answer().await, ROW);
    assert_eq!(bed.nodes[1].accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_error_that_a_client_made_is_the_clients() {
    let mut bed = Bed::start(1).await;
    let (mut client, mut primary) = bed.first().await;
    client.ask(READ).await;
    let mut replica = bed.replica().await;
    replica.hears(READ).await;
    replica.refuses("22012", b'I').await;
    assert_eq!(client.answer().await, "E:22012 Z:I");
    primary.hears_nothing().await;
}

#[tokio::test(start_paused = true)]
async fn a_transaction_whose_server_is_lost_can_be_rolled_back() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    assert_eq!(client.asks("begin").await, "BEGIN Z:T");
    primary.hears_nothing().await;
    client.ask("select 1").await;
    // The BEGIN that was held comes in the same flight.
    primary.hears("begin").await;
    primary.hears("select 1").await;
    primary.done("BEGIN", b'T').await;
    primary.row(b'T').await;
    assert_eq!(client.answer().await, "T D SELECT 1 Z:T");
    client.ask("update t set a = 1").await;
    primary.hears("update t set a = 1").await;
    drop(primary);
    assert_eq!(client.answer().await, "E:40001 Z:E");
    assert_eq!(client.asks("select 1").await, "E:25P02 Z:E");
    assert_eq!(client.asks("rollback").await, "ROLLBACK Z:I");
    client.ask("insert into t values (1)").await;
    let mut primary = bed.primary().await;
    primary.hears("insert into t values (1)").await;
    primary.done("INSERT 0 1", b'I').await;
    assert_eq!(client.answer().await, "INSERT 0 1 Z:I");
}

#[tokio::test(start_paused = true)]
async fn a_server_lost_at_commit_leaves_the_outcome_unknown() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    client.asks("begin").await;
    client.ask("delete from t").await;
    primary.hears("begin").await;
    primary.hears("delete from t").await;
    primary.done("BEGIN", b'T').await;
    primary.done("DELETE 1", b'T').await;
    assert_eq!(client.answer().await, "DELETE 1 Z:T");
    client.ask("commit").await;
    primary.hears("commit").await;
    drop(primary);
    assert_eq!(client.answer().await, "E:08007 Z:I");
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_only_read_is_over_when_its_replica_is_lost_at_its_end() {
    for (end, answer) in [("commit", "E:40001 Z:I"), ("rollback", "ROLLBACK Z:I")] {
        let mut bed = Bed::start(1).await;
        let (mut client, _primary) = bed.first().await;
        assert_eq!(client.asks("begin read only").await, "BEGIN Z:T");
        client.ask(READ).await;
        let mut replica = bed.replica().await;
        replica.hears("begin read only").await;
        replica.hears(READ).await;
        replica.done("BEGIN", b'T').await;
        replica.row(b'T').await;
        assert_eq!(client.answer().await, "T D SELECT 1 Z:T");
        client.ask(end).await;
        replica.hears(end).await;
        drop(replica);
        assert_eq!(client.answer().await, answer);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_is_never_run_twice_on_a_guess() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    client.ask("delete from t").await;
    primary.hears("delete from t").await;
    drop(primary);
    assert_eq!(client.answer().await, "E:08007 Z:I");
    assert_eq!(bed.nodes[0].accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_told_to_go_has_run_nothing() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    client.ask("delete from t").await;
    primary.hears("delete from t").await;
    ErrorReport::fatal("57P01", "terminating connection").encode(&mut primary.out);
    primary.flush().await.unwrap();
    drop(primary);
    let mut primary = bed.primary().await;
    primary.hears("delete from t").await;
    primary.done("DELETE 1", b'I').await;
    assert_eq!(client.answer().await, "DELETE 1 Z:I");
}

/// A pool of one server, which another session holds in a transaction.
async fn taken() -> (Bed, super::Client, crate::fake::Peer, super::Client) {
    let mut bed = Bed::with_pool(0, "size = 1\nwait = \"3s\"").await;
    let (mut first, mut primary) = bed.first().await;
    first.asks("begin").await;
    first.ask("select 1").await;
    primary.hears("begin").await;
    primary.hears("select 1").await;
    primary.done("BEGIN", b'T').await;
    primary.row(b'T').await;
    first.answer().await;
    let mut second = bed.client().await;
    second.ask("delete from t").await;
    settle().await;
    (bed, first, primary, second)
}

#[tokio::test(start_paused = true)]
async fn a_busy_pool_says_so_when_the_wait_is_over() {
    let began = tokio::time::Instant::now();
    let (bed, mut first, mut primary, mut second) = taken().await;
    assert_eq!(second.answer().await, "E:53300 Z:I");
    let waited = began.elapsed().as_secs_f64();
    assert!((3.0..3.5).contains(&waited), "{waited} s");
    // Who holds the server has noticed nothing, and gives it to who comes next.
    second.ask("delete from t").await;
    settle().await;
    first.ask("commit").await;
    primary.hears("commit").await;
    primary.done("COMMIT", b'I').await;
    assert_eq!(first.answer().await, "COMMIT Z:I");
    primary.hears("delete from t").await;
    primary.done("DELETE 0", b'I').await;
    assert_eq!(second.answer().await, "DELETE 0 Z:I");
    assert_eq!(bed.nodes[0].accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_server_can_be_cancelled() {
    let began = tokio::time::Instant::now();
    let (bed, _first, mut primary, mut second) = taken().await;
    bed.shared.registry.cancel(second.key.0, b"nope").await;
    let (process_id, secret) = second.key.clone();
    bed.shared.registry.cancel(process_id, &secret).await;
    assert_eq!(second.answer().await, "E:57014 Z:I");
    assert!(began.elapsed().as_secs_f64() < 3.0);
    primary.hears_nothing().await;
    assert_eq!(bed.nodes[0].accepted(), 1, "no cancel request may reach the other's server");
}

/// Drivers that prepare with Flush (asyncpg) send their Sync when they have heard of the failure: it is
/// answered once, whatever the connection did before.
#[tokio::test(start_paused = true)]
async fn a_pipeline_that_finds_no_server_ends_at_its_sync() {
    let mut bed = Bed::with_pool(0, "size = 1\nwait = \"3s\"").await;
    let (mut client, mut primary) = bed.first().await;
    let prepares = |client: &mut Client| {
        write::parse(&mut client.peer.out, b"", b"select 1", &[0, 0]);
        write::flush(&mut client.peer.out);
    };
    // One that comes to its end, with a Sync.
    prepares(&mut client);
    client.peer.flush().await.unwrap();
    primary.hears_kinds("PH").await;
    write::message(&mut primary.out, b'1', |_| ());
    primary.flush().await.unwrap();
    assert_eq!(client.peer.message().await.unwrap().0, b'1');
    write::sync(&mut client.peer.out);
    client.peer.flush().await.unwrap();
    primary.hears_kinds("S").await;
    write::ready_for_query(&mut primary.out, b'I');
    primary.flush().await.unwrap();
    assert_eq!(client.answer().await, "Z:I");

    let mut other = bed.client().await;
    other.ask("delete from t").await;
    primary.hears("delete from t").await;
    prepares(&mut client);
    client.peer.flush().await.unwrap();
    let (kind, body) = client.peer.message().await.unwrap();
    assert_eq!((kind, &*ErrorReport::parse(&body).sqlstate), (b'E', "53300"));
    write::sync(&mut client.peer.out);
    client.peer.flush().await.unwrap();
    assert_eq!(client.answer().await, "Z:I");
    primary.done("DELETE 1", b'I').await;
    assert_eq!(other.answer().await, "DELETE 1 Z:I");
    // Nothing more was said than that.
    assert_eq!(client.asks("").await, "I Z:I");
}

#[tokio::test(start_paused = true)]
async fn who_ends_their_own_server_ends_with_it_also_in_a_pipeline_that_was_flushed() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    let out = &mut client.peer.out;
    write::parse(out, b"end", b"select pg_terminate_backend(pg_backend_pid())", &[0, 0]);
    write::flush(out);
    client.peer.flush().await.unwrap();
    primary.hears_kinds("PH").await;
    write::message(&mut primary.out, b'1', |_| ());
    primary.flush().await.unwrap();
    assert_eq!(client.peer.message().await.unwrap().0, b'1');

    let out = &mut client.peer.out;
    write::message(out, b'B', |body| body.extend_from_slice(b"\0end\0\0\0\0\0\0\0"));
    write::message(out, b'E', |body| body.extend_from_slice(&[0; 5]));
    write::sync(out);
    client.peer.flush().await.unwrap();
    primary.hears_kinds("BES").await;
    write::message(&mut primary.out, b'2', |_| ());
    ErrorReport::fatal("57P01", "terminating connection").encode(&mut primary.out);
    primary.flush().await.unwrap();
    drop(primary);
    assert_eq!(client.answer().await, "2 E:57P01 end");
}
