//! Clients that vanish and servers that lie: nobody else notices.

use std::time::Duration;

use causeway::protocol::write;

use super::{Bed, HANG, READ, settle};
use crate::fake::Peer;

#[tokio::test(start_paused = true)]
async fn a_client_that_vanishes_takes_its_server_with_it() {
    let mut bed = Bed::start(1).await;
    let (mut client, _primary) = bed.first().await;
    client.ask(READ).await;
    let mut replica = bed.replica().await;
    replica.hears(READ).await;
    replica.send(b"T\0\0\0\x06\0\0D\0\0\0\x06\0\0").await.unwrap();
    settle().await;
    let super::Client { peer, task, .. } = client;
    drop(peer);
    let ended = tokio::time::timeout(HANG, task).await.expect("the session ends").unwrap();
    assert!(ended.is_err(), "it did not say goodbye");
    tokio::time::timeout(HANG, replica.until_closed()).await.expect("closed").ok();
    assert_eq!(bed.nodes[1].accepted(), 2, "what still ran was cancelled");

    let mut other = bed.client().await;
    other.ask(READ).await;
    let mut replica = bed.replica().await;
    replica.hears(READ).await;
    replica.row(b'I').await;
    assert_eq!(other.answer().await, "T D SELECT 1 Z:I");
}

#[tokio::test(start_paused = true)]
async fn what_comes_after_the_end_of_an_answer_reaches_nobody() {
    // At once, and when the server is back in the pool.
    for later in [false, true] {
        let mut bed = Bed::start(1).await;
        let (mut client, _primary) = bed.first().await;
        client.ask(READ).await;
        let mut replica = bed.replica().await;
        replica.hears(READ).await;
        if later {
            replica.row(b'I').await;
            assert_eq!(client.answer().await, "T D SELECT 1 Z:I");
            settle().await;
            replica.send(b"D\0\0\0\x06\0\0").await.unwrap();
            settle().await;
        } else {
            write::command_complete(&mut replica.out, "SELECT 0");
            write::ready_for_query(&mut replica.out, b'I');
            replica.out.extend_from_slice(b"D\0\0\0\x06\0\0");
            replica.flush().await.unwrap();
            assert_eq!(client.answer().await, "SELECT 0 Z:I");
        }
        let mut other = bed.client().await;
        other.ask(READ).await;
        let mut fresh = bed.replica().await;
        fresh.hears(READ).await;
        fresh.row(b'I').await;
        assert_eq!(other.answer().await, "T D SELECT 1 Z:I", "later: {later}");
    }
}

/// Not what a server may say to a simple query; some of it is half an answer.
const NONSENSE: &[&[u8]] = &[
    b"",
    b"x\0\0\0\x04",
    b"\0\0\0\0\0\0\0\0",
    b"D\0\0\0\0",
    b"D\0\0\0\x03",
    b"D\xff\xff\xff\xff",
    b"D\x7f\xff\xff\xff\0\0",
    b"S\x7f\xff\xff\xff",
    b"E\0\0\0\x04",
    b"E\0\0\0\x05\0",
    b"E\0\0\0\x09SERRO",
    b"Z\0\0\0\x04",
    b"Z\0\0\0\x05?",
    b"Z\0\0\0\x05IZ\0\0\0\x05I",
    b"1\0\0\0\x04",
    b"2\0\0\0\x043\0\0\0\x04",
    b"C\0\0\0\x04",
    b"G\0\0\0\x07\0\0\0Z\0\0\0\x05I",
    b"W\0\0\0\x07\0\0\0",
    b"R\0\0\0\x08\0\0\0\0",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"T\0\0\0\x06\xff\xffD\0\0\0\x06\xff\xff",
    b"S\0\0\0\x05\0",
    b"S\0\0\0\x08abcd",
    b"A\0\0\0\x04",
    b"A\0\0\0\x08\0\0\0\x01",
    b"N\0\0\0\x04",
    b"I\0\0\0\x04I\0\0\0\x04",
    b"H\0\0\0\x07\0\0\0d\0\0\0\x03",
    b"V\0\0\0\x04",
    b"t\0\0\0\x06\x7f\xff",
    b"n\0\0\0\x04Z\0\0\0\x06II",
    b"s\0\0\0\x04",
    b"K\0\0\0\x0c\0\0\0\x01\0\0\0\x01",
    b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0",
];

#[tokio::test(start_paused = true)]
async fn nonsense_from_a_server_neither_hangs_nor_kills() {
    for text in [READ, "delete from t"] {
        for nonsense in NONSENSE {
            let bed = Bed::start(1).await;
            let Bed { shared, nodes, mut opened, post, moves } = bed;
            let lies = tokio::spawn(async move {
                while let Some((_, mut peer)) = opened.recv().await {
                    tokio::spawn(async move {
                        peer.message().await?;
                        peer.send(nonsense).await?;
                        peer.hang_up().await
                    });
                }
            });
            let (_nobody, silent) = tokio::sync::mpsc::unbounded_channel();
            let bed = Bed { shared, nodes, opened: silent, post, moves };
            let mut client = bed.client().await;
            client.ask(text).await;
            if nonsense.first() == Some(&b'G') {
                // It was asked for data, and gives none.
                write::message(&mut client.peer.out, b'f', |out| out.extend_from_slice(b"no\0"));
                client.peer.flush().await.ok();
            }
            let said = client.answer().await;
            let bounded = bed.nodes.iter().map(crate::fake::FakeServer::accepted).sum::<usize>();
            assert!(bounded <= 10, "{bounded} connections over {nonsense:?}");
            if said.ends_with("end") {
                let ended = tokio::time::timeout(HANG, client.task).await.expect("it ends");
                assert!(ended.is_ok(), "a panic over {nonsense:?}: {said}");
            } else {
                // The session lives: it answers what needs no server.
                assert_eq!(client.asks("begin").await, "BEGIN Z:T", "after {nonsense:?}: {said}");
            }
            lies.abort();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }
}

/// An error that names no SQLSTATE, or nothing at all (CVE-2026-6666 of PgBouncer): it is taken for an
/// internal one, which from a replica sends a read to the primary. The client hears it as it is, and
/// the session goes on.
#[tokio::test(start_paused = true)]
async fn an_error_without_sqlstate_is_an_error() {
    let bodies: [&'static [u8]; 5] =
        [b"SERROR\0VERROR\0Mno\0\0", b"\0", b"Mno\0\0", b"C\0\0", b"SERROR\0C\0Mno\0\0"];
    for body in bodies {
        for text in [READ, "delete from t"] {
            let mut bed = Bed::start(1).await;
            let (mut client, mut primary) = bed.first().await;
            let refuse = async |server: &mut Peer| {
                server.hears(text).await;
                write::message(&mut server.out, b'E', |out| out.extend_from_slice(body));
                write::ready_for_query(&mut server.out, b'I');
                server.flush().await.unwrap();
            };
            client.ask(text).await;
            if text == READ {
                refuse(&mut bed.replica().await).await;
            }
            let said = tokio::select! {
                biased;
                said = client.answer() => said,
                said = async { refuse(&mut primary).await; std::future::pending().await } => said,
            };
            assert!(said.starts_with("E:") && said.ends_with(" Z:I"), "{body:?}: {said}");
            assert_eq!(client.asks("begin").await, "BEGIN Z:T");
        }
    }
}

/// A good answer that breaks off after any of its bytes: the client never takes a part for the whole.
#[tokio::test(start_paused = true)]
async fn an_answer_cut_anywhere_is_no_answer() {
    let mut answer = bytes::BytesMut::new();
    write::message(&mut answer, b'T', |out| {
        out.extend_from_slice(b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
    });
    write::message(&mut answer, b'D', |out| out.extend_from_slice(b"\0\x01\0\0\0\x04abcd"));
    write::command_complete(&mut answer, "SELECT 1");
    write::ready_for_query(&mut answer, b'I');
    for text in [READ, "delete from t returning a"] {
        for cut in 0..answer.len() {
            let part = answer[..cut].to_vec();
            let Bed { shared, nodes, mut opened, post, moves } = Bed::start(1).await;
            let breaks_off = tokio::spawn(async move {
                while let Some((_, mut peer)) = opened.recv().await {
                    let part = part.clone();
                    tokio::spawn(async move {
                        peer.message().await?;
                        peer.send(&part).await?;
                        peer.hang_up().await
                    });
                }
            });
            let (_nobody, silent) = tokio::sync::mpsc::unbounded_channel();
            let bed = Bed { shared, nodes, opened: silent, post, moves };
            let mut client = bed.client().await;
            client.ask(text).await;
            let said = client.answer().await;
            let honest = said.ends_with("end") || said.contains("E:");
            assert!(honest, "{text}, cut at {cut}: {said}");
            assert!(!said.contains("SELECT 1 Z"), "{text}, cut at {cut}: {said}");
            breaks_off.abort();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }
}

/// Reports of settings without end, all at once, are more than any server has to say: it is lost, and what it
/// said of itself is not kept.
#[tokio::test]
async fn endless_reports_are_not_kept() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    client.ask("delete from t").await;
    primary.hears("delete from t").await;
    let flood = async {
        for number in 0.. {
            write::parameter_status(&mut primary.out, format!("x.{number}").as_bytes(), b"y");
            if primary.out.len() > 60_000 && primary.flush().await.is_err() {
                return;
            }
        }
    };
    let ((), said) = tokio::time::timeout(HANG, async { tokio::join!(flood, client.answer()) })
        .await
        .expect("it ends");
    assert!(said.contains("E:08007"), "{said}");
}

/// Notices without end are passed on as fast as the client takes them, and no faster: memory is
/// bounded by the client's own pace, and a cancel ends it.
#[tokio::test]
async fn endless_notices_are_not_piled_up() {
    let mut bed = Bed::start(0).await;
    let (mut client, mut primary) = bed.first().await;
    client.ask("delete from t").await;
    primary.hears("delete from t").await;
    let mut notice = bytes::BytesMut::new();
    write::message(&mut notice, b'N', |out| {
        out.extend_from_slice(b"SNOTICE\0C00000\0M");
        out.extend_from_slice(&[b'x'; 8000]);
        out.extend_from_slice(b"\0\0");
    });
    // The client reads nothing: what the kernel and the proxy hold on the way is soon full.
    let mut taken = 0;
    while let Ok(sent) = tokio::time::timeout(Duration::from_secs(1), primary.send(&notice)).await {
        sent.expect("the server is still there");
        taken += notice.len();
        assert!(taken < 64 << 20, "{taken} bytes are piled up for a client that does not read");
    }
    drop(client);
    tokio::time::timeout(HANG, primary.until_closed()).await.expect("closed").ok();
}
