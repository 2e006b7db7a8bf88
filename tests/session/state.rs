//! What a session has set and prepared follows it from server to server.

use bytes::{BufMut, BytesMut};
use causeway::protocol::write;

use super::{Bed, Client, READ};
use crate::fake::Peer;

#[tokio::test(start_paused = true)]
async fn a_setting_is_laid_in_the_same_flight_as_the_next_request() {
    let mut bed = Bed::start(1).await;
    let (mut client, mut primary) = bed.first().await;
    let set = "set application_name to 'mine'";
    client.ask(set).await;
    primary.hears(set).await;
    primary.done("SET", b'I').await;
    assert_eq!(client.answer().await, "SET Z:I");

    client.ask(READ).await;
    let mut replica = bed.replica().await;
    let bodies = replica.hears_kinds("QQ").await;
    assert!(bodies[0].starts_with(set.as_bytes()), "{bodies:?}");
    assert!(bodies[1].starts_with(READ.as_bytes()), "{bodies:?}");
    replica.done("SET", b'I').await;
    replica.row(b'I').await;
    assert_eq!(client.answer().await, "T D SELECT 1 Z:I", "only the request's own answer");

    // It is laid once, and another session on the same server does not see it.
    client.ask(READ).await;
    replica.hears(READ).await;
    replica.row(b'I').await;
    client.answer().await;
    let mut other = bed.client().await;
    other.ask("delete from t").await;
    let bodies = primary.hears_kinds("QQ").await;
    let reset = String::from_utf8_lossy(&bodies[0]);
    assert!(reset.starts_with("RESET") && reset.contains("application_name"), "{reset}");
    primary.done("RESET", b'I').await;
    primary.done("DELETE 0", b'I').await;
    assert_eq!(other.answer().await, "DELETE 0 Z:I");
}

#[tokio::test(start_paused = true)]
async fn a_setting_that_may_fail_elsewhere_is_seen_to_succeed_first() {
    let mut bed = Bed::start(1).await;
    let (mut client, mut primary) = bed.first().await;
    client.ask("set default_tablespace to 'fast'").await;
    primary.hears("set default_tablespace to 'fast'").await;
    primary.done("SET", b'I').await;
    assert_eq!(client.answer().await, "SET Z:I");
    client.ask(READ).await;
    let mut replica = bed.replica().await;
    replica.hears_kinds("Q").await;
    replica.hears_nothing().await;
    replica.refuses("42501", b'I').await;
    assert_eq!(client.answer().await, "E:42501 Z:I");
}

#[tokio::test(start_paused = true)]
async fn a_set_that_was_rolled_back_is_laid_nowhere() {
    let mut bed = Bed::start(1).await;
    let (mut client, mut primary) = bed.first().await;
    client.asks("begin").await;
    client.ask("set application_name to 'mine'").await;
    primary.hears("begin").await;
    primary.hears_kinds("Q").await;
    primary.done("BEGIN", b'T').await;
    primary.done("SET", b'T').await;
    client.answer().await;
    client.ask("rollback").await;
    primary.hears("rollback").await;
    primary.done("ROLLBACK", b'I').await;
    assert_eq!(client.answer().await, "ROLLBACK Z:I");
    client.ask(READ).await;
    let mut replica = bed.replica().await;
    replica.hears(READ).await;
    replica.row(b'I').await;
    client.answer().await;
}

pub(super) fn parse(out: &mut BytesMut, name: &str, text: &str) {
    write::parse(out, name.as_bytes(), text.as_bytes(), &[0, 0]);
}

pub(super) fn bind_and_execute(out: &mut BytesMut, name: &str) {
    write::message(out, b'B', |body| {
        body.put_u8(0);
        body.put_slice(name.as_bytes());
        body.put_slice(&[0; 7]);
    });
    write::message(out, b'E', |body| body.put_slice(&[0; 5]));
    write::sync(out);
}

pub(super) async fn answers(peer: &mut Peer, completions: &[u8]) {
    for kind in completions {
        write::message(&mut peer.out, *kind, |_| ());
    }
    peer.done("SELECT 0", b'I').await;
}

pub(super) async fn sends(client: &mut Client, write: impl FnOnce(&mut BytesMut)) {
    write(&mut client.peer.out);
    client.peer.flush().await.unwrap();
}

/// The name under which a Parse prepares the first statement at a server.
fn server_name(parse: &[u8]) -> &[u8] {
    let name = parse.split(|byte| *byte == 0).next().unwrap();
    assert!(name.starts_with(b"cw_") && name.len() == 15 && name.ends_with(b"_1"), "{name:?}");
    name
}

#[tokio::test(start_paused = true)]
async fn a_prepared_statement_is_there_on_every_server() {
    let mut bed = Bed::start(2).await;
    let (mut client, _primary) = bed.first().await;
    sends(&mut client, |out| {
        parse(out, "mine", READ);
        bind_and_execute(out, "mine");
    })
    .await;
    let mut first = bed.replica().await;
    let bodies = first.hears_kinds("PBES").await;
    let name = server_name(&bodies[0]);
    assert!(bodies[1].starts_with(&[b"\0", name, b"\0"].concat()), "{bodies:?}");
    answers(&mut first, b"12").await;
    assert_eq!(client.answer().await, "1 2 SELECT 0 Z:I");

    // The other replica has it prepared in the same flight; the client hears nothing of that.
    sends(&mut client, |out| bind_and_execute(out, "mine")).await;
    let mut second = bed.replica().await;
    let bodies = second.hears_kinds("PBES").await;
    assert!(server_name(&bodies[0]) != name, "a name that could be guessed: {bodies:?}");
    answers(&mut second, b"12").await;
    assert_eq!(client.answer().await, "2 SELECT 0 Z:I");

    // Each has it now, also for another client that prepares the same text under another name.
    sends(&mut client, |out| bind_and_execute(out, "mine")).await;
    first.hears_kinds("BES").await;
    answers(&mut first, b"2").await;
    assert_eq!(client.answer().await, "2 SELECT 0 Z:I");
    let mut other = bed.client().await;
    sends(&mut other, |out| {
        parse(out, "theirs", READ);
        bind_and_execute(out, "theirs");
    })
    .await;
    second.hears_kinds("BES").await;
    answers(&mut second, b"2").await;
    assert_eq!(other.answer().await, "1 2 SELECT 0 Z:I");
}

#[tokio::test(start_paused = true)]
async fn what_was_prepared_before_a_refusal_is_known_to_be_there() {
    let mut bed = Bed::start(2).await;
    let (mut client, mut primary) = bed.first().await;
    sends(&mut client, |out| {
        parse(out, "mine", READ);
        bind_and_execute(out, "mine");
    })
    .await;
    let mut first = bed.replica().await;
    first.hears_kinds("PBES").await;
    answers(&mut first, b"12").await;
    client.answer().await;

    sends(&mut client, |out| bind_and_execute(out, "mine")).await;
    let mut second = bed.replica().await;
    second.hears_kinds("PBES").await;
    for kind in *b"12" {
        write::message(&mut second.out, kind, |_| ());
    }
    // A conflict with recovery, when it is run.
    second.refuses("40001", b'I').await;
    primary.hears_kinds("PBES").await;
    answers(&mut primary, b"12").await;
    assert_eq!(client.answer().await, "2 SELECT 0 Z:I");

    // A second Parse under the name that the replica has would fail.
    for replica in [&mut first, &mut second] {
        sends(&mut client, |out| bind_and_execute(out, "mine")).await;
        replica.hears_kinds("BES").await;
        answers(replica, b"2").await;
        assert_eq!(client.answer().await, "2 SELECT 0 Z:I");
    }
}

#[tokio::test(start_paused = true)]
async fn a_notification_during_the_audit_speaks_of_the_session_too() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    client.ask("listen news").await;
    primary.hears("listen news").await;
    primary.done("LISTEN", b'I').await;
    assert_eq!(client.answer().await, "LISTEN Z:I");
    let audit = primary.hears_kinds("Q").await;
    assert!(String::from_utf8_lossy(&audit[0]).contains("pg_listening_channels"), "{audit:?}");
    write::message(&mut primary.out, b'A', |body| {
        // The process that every scripted server says it is.
        body.put_i32(4711);
        body.put_slice(b"news\0mine\0");
    });
    write::message(&mut primary.out, b'T', |body| body.put_u16(0));
    write::message(&mut primary.out, b'D', |body| {
        body.put_u16(2);
        for text in ["+listen", ""] {
            body.put_i32(i32::try_from(text.len()).unwrap());
            body.put_slice(text.as_bytes());
        }
    });
    primary.done("SELECT 1", b'I').await;
    let (kind, body) = client.peer.message().await.unwrap();
    assert_eq!((kind, &body[4..]), (b'A', &b"news\0mine\0"[..]));
    assert_eq!(body[..4], client.key.0.to_be_bytes());
}

/// The one server of a pool has sequence values of the first client's; the second has asked for nothing.
async fn after_anothers_sequence() -> (Bed, Client, Client, Peer) {
    let mut bed = Bed::with_pool(0, "size = 1").await;
    let (mut other, mut primary) = bed.first().await;
    let client = bed.client().await;
    other.ask("select nextval('s')").await;
    primary.hears("select nextval('s')").await;
    primary.row(b'I').await;
    other.answer().await;
    (bed, other, client, primary)
}

#[tokio::test(start_paused = true)]
async fn anothers_sequence_values_are_discarded_outside_of_a_pipelines_transaction() {
    let (_bed, mut other, mut client, mut primary) = after_anothers_sequence().await;

    // What cannot run beside another statement; its name is not lost with the query ahead of it.
    sends(&mut client, |out| {
        parse(out, "", "create index concurrently i on t (a)");
        bind_and_execute(out, "");
    })
    .await;
    let bodies = primary.hears_kinds("QPBES").await;
    assert_eq!(bodies[0], b"DISCARD SEQUENCES\0");
    primary.done("DISCARD SEQUENCES", b'I').await;
    answers(&mut primary, b"12").await;
    assert_eq!(client.answer().await, "1 2 SELECT 0 Z:I");

    // Where something has run already, it is a transaction of several statements anyway.
    sends(&mut other, |out| {
        parse(out, "", "select 1");
        bind_and_execute(out, "");
        out.truncate(out.len() - 5);
        parse(out, "", "select nextval('s')");
        bind_and_execute(out, "");
    })
    .await;
    let bodies = primary.hears_kinds("PBECPBECCPBES").await;
    assert!(bodies[4].ends_with(b"\0DISCARD SEQUENCES\0\0\0"), "{bodies:?}");
}

#[tokio::test(start_paused = true)]
async fn what_an_error_kept_from_being_discarded_is_discarded_before_it_is_asked_for() {
    let (_bed, _other, mut client, mut primary) = after_anothers_sequence().await;

    sends(&mut client, |out| {
        parse(out, "wrong", "select from where");
        parse(out, "right", "select nextval('s')");
        bind_and_execute(out, "right");
    })
    .await;
    primary.hears_kinds("PPQBES").await;
    primary.refuses("42601", b'I').await;
    assert_eq!(client.answer().await, "E:42601 Z:I");

    client.ask("select currval('s')").await;
    let bodies = primary.hears_kinds("QQ").await;
    assert_eq!(bodies[0], b"DISCARD SEQUENCES\0");
}
