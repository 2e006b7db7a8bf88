//! What breaks off in the middle of a frame or a pipeline, and what is answered for it.

use bytes::{BufMut, BytesMut};
use causeway::protocol::{ErrorReport, write};

use super::{Bed, Client, READ, settle};
use crate::fake::Peer;

/// More than a statement may have, and than is held of a pipeline.
const LARGE: usize = 3 << 20;

const ROW: &str = "T D SELECT 1 Z:I";

async fn sends(peer: &mut Peer, write: impl FnOnce(&mut BytesMut)) {
    write(&mut peer.out);
    peer.flush().await.unwrap();
}

/// The head of a frame of which `length` bytes of its body are to follow.
fn head(out: &mut BytesMut, kind: u8, length: usize) {
    out.put_u8(kind);
    out.put_u32(u32::try_from(length + 4).unwrap());
}

async fn row_of(client: &mut Client, primary: &mut Peer) {
    client.ask("delete from t").await;
    primary.hears("delete from t").await;
    primary.done("DELETE 0", b'I').await;
    assert_eq!(client.answer().await, "DELETE 0 Z:I");
}

/// A client that keeps the only server in a transaction.
async fn keeps_server(client: &mut Client, primary: &mut Peer) {
    client.asks("begin").await;
    client.ask("delete from t").await;
    primary.hears("begin").await;
    primary.hears("delete from t").await;
    primary.done("BEGIN", b'T').await;
    primary.done("DELETE 0", b'T').await;
    client.answer().await;
}

async fn copying(client: &mut Client, primary: &mut Peer) {
    client.ask("copy t from stdin").await;
    primary.hears("copy t from stdin").await;
    sends(primary, |out| write::message(out, b'G', |body| body.put_slice(&[0; 3]))).await;
    let next = client.peer.message().await.unwrap();
    assert_eq!(next.0, b'G');
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_fails_in_the_middle_of_a_frame_ends() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    copying(&mut client, &mut primary).await;
    sends(&mut client.peer, |out| {
        head(out, b'd', 100);
        out.put_slice(&[b'x'; 60]);
    })
    .await;
    settle().await;
    primary.refuses("22P02", b'I').await;
    settle().await;
    sends(&mut client.peer, |out| {
        out.put_slice(&[b'x'; 40]);
        write::message(out, b'c', |_| ());
    })
    .await;
    assert_eq!(client.answer().await, "E:22P02 Z:I");
    primary.hears_kinds("d").await;
    row_of(&mut client, &mut primary).await;
}

#[tokio::test(start_paused = true)]
async fn what_follows_of_a_frame_whose_server_is_lost_is_no_message() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    copying(&mut client, &mut primary).await;
    let mut smuggled = BytesMut::new();
    write::query(&mut smuggled, b"drop table t");
    sends(&mut client.peer, |out| {
        head(out, b'd', 60 + smuggled.len());
        out.put_slice(&[b'x'; 60]);
    })
    .await;
    settle().await;
    drop(primary);
    assert_eq!(client.answer().await, "E:08007 Z:I");
    sends(&mut client.peer, |out| {
        out.put_slice(&smuggled);
        write::message(out, b'f', |body| body.put_u8(0));
    })
    .await;
    let mut primary = {
        client.ask("delete from t").await;
        bed.primary().await
    };
    primary.hears("delete from t").await;
    primary.done("DELETE 0", b'I').await;
    assert_eq!(client.answer().await, "DELETE 0 Z:I");
}

#[tokio::test(start_paused = true)]
async fn a_large_query_that_fails_in_the_proxy_is_answered_to_its_end() {
    // Before it has a server, and when its server has gone.
    for lost in [false, true] {
        let mut bed = Bed::with_pool(0, "size = 1\nwait = \"1s\"").await;
        let (mut client, mut primary) = bed.first().await;
        let mut other = bed.client().await;
        if !lost {
            keeps_server(&mut other, &mut primary).await;
        }
        sends(&mut client.peer, |out| {
            head(out, b'Q', LARGE);
            out.put_slice(&vec![b' '; 2 << 20]);
        })
        .await;
        if lost {
            settle().await;
            drop(primary);
        }
        let sqlstate = if lost { "08007" } else { "53300" };
        assert_eq!(client.answer().await, format!("E:{sqlstate} Z:I"));
        sends(&mut client.peer, |out| out.put_slice(&vec![b' '; 1 << 20])).await;
        drop(other);
        client.ask("delete from t").await;
        let mut primary = bed.primary().await;
        primary.hears("delete from t").await;
        primary.done("DELETE 0", b'I').await;
        assert_eq!(client.answer().await, "DELETE 0 Z:I");
    }
}

#[tokio::test(start_paused = true)]
async fn a_query_behind_a_close_is_answered_by_itself() {
    let mut bed = Bed::with_pool(0, "size = 1\nwait = \"1s\"").await;
    let (mut client, mut primary) = bed.first().await;
    let mut other = bed.client().await;
    keeps_server(&mut other, &mut primary).await;
    sends(&mut client.peer, |out| {
        write::close_statement(out, b"");
        write::query(out, b"delete from t");
    })
    .await;
    assert_eq!(client.answer().await, "E:53300 Z:I");
    assert_eq!(client.asks("begin").await, "BEGIN Z:T");
    assert_eq!(client.asks("rollback").await, "ROLLBACK Z:I");
}

#[tokio::test(start_paused = true)]
async fn a_lost_transaction_answers_a_pipeline_once() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    client.asks("begin").await;
    client.ask("delete from t").await;
    primary.hears("begin").await;
    primary.hears("delete from t").await;
    drop(primary);
    assert_eq!(client.answer().await, "E:40001 Z:E");
    // An error is followed by nothing up to Sync, however the pipeline is cut.
    sends(&mut client.peer, |out| {
        write::parse(out, b"", b"delete from t", &[0, 0]);
        write::flush(out);
        write::parse(out, b"", b"delete from t", &[0, 0]);
        write::sync(out);
    })
    .await;
    assert_eq!(client.answer().await, "E:25P02 Z:E");
    // A query ends what stands before it.
    sends(&mut client.peer, |out| {
        write::close_statement(out, b"");
        write::query(out, b"rollback");
    })
    .await;
    assert_eq!(client.answer().await, "3 ROLLBACK Z:I");
    assert_eq!(client.asks("begin").await, "BEGIN Z:T");
}

#[tokio::test(start_paused = true)]
async fn a_setting_that_is_refused_in_an_open_pipeline_is_followed_by_nothing() {
    let mut bed = Bed::start(0).await;
    let (mut client, _primary) = bed.first().await;
    sends(&mut client.peer, |out| {
        write::parse(out, b"", b"set causeway.route = 'nowhere'", &[0, 0]);
        write::flush(out);
        write::sync(out);
    })
    .await;
    assert_eq!(client.answer().await, "E:22023 Z:I");
    assert_eq!(client.asks("begin").await, "BEGIN Z:T");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_pinned_keeps_its_server_when_only_causeway_could_not_answer() {
    let mut bed = Bed::with_pool(0, "mode = \"session\"\nwait = \"1s\"").await;
    let (mut client, mut primary) = bed.first().await;
    row_of(&mut client, &mut primary).await;
    // Nobody asks the nodes for their positions here.
    assert_eq!(client.asks("show causeway.lsn").await, "E:57P03 Z:I");
    row_of(&mut client, &mut primary).await;
    assert_eq!(bed.nodes[0].accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_transaction_in_which_causeway_could_not_answer_is_rolled_back() {
    let mut bed = Bed::with_pool(0, "wait = \"1s\"").await;
    let (mut client, mut primary) = bed.first().await;
    keeps_server(&mut client, &mut primary).await;
    assert_eq!(client.asks("show causeway.lsn").await, "E:57P03 Z:E");
    assert_eq!(client.asks("rollback").await, "ROLLBACK Z:I");
    primary.until_closed().await.unwrap();
    client.ask("delete from t").await;
    bed.primary().await.hears("delete from t").await;
}

#[tokio::test(start_paused = true)]
async fn notices_of_a_read_are_not_piled_up() {
    let mut bed = Bed::start(1).await;
    let (mut client, _primary) = bed.first().await;
    client.ask(READ).await;
    let mut replica = bed.replica().await;
    replica.hears(READ).await;
    for _ in 0..100 {
        ErrorReport::new("NOTICE", "00000", "x".repeat(1000)).encode(&mut replica.out);
        // PostgreSQL's type of a notice.
        replica.out[0] = b'N';
        replica.flush().await.unwrap();
    }
    settle().await;
    let next = tokio::time::timeout(super::HANG, client.peer.message()).await;
    assert_eq!(next.expect("a notice").unwrap().0, b'N');
    replica.row(b'I').await;
    assert!(client.answer().await.ends_with(ROW));
}

#[tokio::test(start_paused = true)]
async fn what_commits_on_its_way_is_not_run_again() {
    for text in ["call purge()", "create index concurrently on t (a)", "do $$ begin commit; end $$"]
    {
        let mut bed = Bed::start(0).await;
        let (mut client, mut primary) = bed.first().await;
        client.ask(text).await;
        primary.hears(text).await;
        ErrorReport::fatal("57P01", "terminating connection").encode(&mut primary.out);
        primary.flush().await.unwrap();
        drop(primary);
        assert_eq!(client.answer().await, "E:08007 Z:I", "{text}");
        assert_eq!(bed.nodes[0].accepted(), 1, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_for_a_transactions_time_ends_its_client() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    client.ask("delete from t").await;
    primary.hears("delete from t").await;
    ErrorReport::fatal("25P04", "terminating connection due to transaction timeout")
        .encode(&mut primary.out);
    primary.flush().await.unwrap();
    drop(primary);
    assert_eq!(client.answer().await, "E:25P04 end");
    assert_eq!(bed.nodes[0].accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_of_transactions_is_a_setting_as_any_other() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    let set = "set transaction_timeout = '200ms'";
    client.ask(set).await;
    primary.hears(set).await;
    primary.done("SET", b'I').await;
    assert_eq!(client.answer().await, "SET Z:I");
    let mut other = bed.client().await;
    other.ask("delete from t").await;
    let bodies = primary.hears_kinds("Q").await;
    let reset = String::from_utf8_lossy(&bodies[0]);
    assert!(reset.starts_with("RESET") && reset.contains("transaction_timeout"), "{reset}");
}

#[tokio::test(start_paused = true)]
async fn nobody_asks_for_anothers_sequence_values_unexamined() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    client.ask("select nextval('s')").await;
    primary.hears("select nextval('s')").await;
    primary.row(b'I').await;
    client.answer().await;
    let mut other = bed.client().await;
    // lastval(), by its number.
    sends(&mut other.peer, |out| {
        write::message(out, b'F', |body| {
            body.put_u32(2559);
            body.put_slice(&[0; 6]);
        });
    })
    .await;
    primary.hears("DISCARD SEQUENCES").await;
    primary.hears_kinds("F").await;
}

#[tokio::test(start_paused = true)]
async fn what_a_large_bind_runs_is_looked_at_afterwards() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    sends(&mut client.peer, |out| {
        write::parse(out, b"", b"select remember($1)", &[0, 0]);
        head(out, b'B', 2 + 2 + 2 + 4 + LARGE + 2);
        out.put_slice(&[0; 4]);
        out.put_u16(1);
        out.put_u32(u32::try_from(LARGE).unwrap());
    })
    .await;
    for _ in 0..3 {
        sends(&mut client.peer, |out| out.put_slice(&vec![b'x'; 1 << 20])).await;
    }
    sends(&mut client.peer, |out| {
        out.put_u16(0);
        write::message(out, b'E', |body| body.put_slice(&[0; 5]));
        write::sync(out);
    })
    .await;
    primary.hears_kinds("PBES").await;
    for kind in [b'1', b'2'] {
        write::message(&mut primary.out, kind, |_| ());
    }
    primary.done("SELECT 1", b'I').await;
    let audit = primary.hears_kinds("Q").await;
    assert!(String::from_utf8_lossy(&audit[0]).contains("pg_settings"), "{audit:?}");
}
