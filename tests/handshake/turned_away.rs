//! Clients that are one too many: what they hear, and how little is waited for.

use std::time::Duration;

use bytes::BytesMut;
use causeway::client::turn_away;
use causeway::net::Stream;
use causeway::protocol::ErrorReport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use super::HANG;
use super::hostile::session_packet;

const REASON: &str = "too many connections are logging in";

/// What a client hears that sends this, and whether it asked for a cancel.
async fn hears(sent: &[u8]) -> (Vec<u8>, bool) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let task = tokio::spawn(async move {
        let report = ErrorReport::fatal("53300", REASON);
        turn_away(Stream::Tcp(stream), BytesMut::new(), &report, Duration::from_secs(1))
            .await
            .map(|(_, key)| key.process_id)
    });
    client.write_all(sent).await.unwrap();
    let mut heard = Vec::new();
    timeout(HANG, client.read_to_end(&mut heard)).await.expect("it is closed").unwrap();
    (heard, task.await.unwrap() == Some(1))
}

#[tokio::test]
async fn who_is_one_too_many_is_told_before_it_has_said_all() {
    let session = session_packet(&["user", "app", "database", "app"]);
    for sent in [
        &session[..],
        // The head of a packet is enough.
        &session[..8],
        // No handshake is done: a plain error instead of an answer, as of a PostgreSQL that cannot fork.
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"\0\0\0\x08\x04\xd2\x16\x30",
    ] {
        let (heard, cancels) = hears(sent).await;
        assert_eq!(heard.first(), Some(&b'E'), "{sent:?}");
        let report = ErrorReport::parse(&heard[5..]);
        assert_eq!((&*report.sqlstate, &*report.message), ("53300", REASON));
        assert!(!cancels);
    }
}

#[tokio::test]
async fn a_cancel_request_passes_all_the_same() {
    let cancel = b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02";
    assert_eq!(hears(cancel).await, (Vec::new(), true));
}

#[tokio::test]
async fn who_does_not_begin_as_a_client_does_hears_nothing() {
    for sent in [
        &b"\x16\x03\x01\x02\0\x01\0\x01"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\x04\0\x03\0\0",
        b"\0\0\x10\0\x04\xd2\x16\x2e\0\0\0\x01",
    ] {
        // Unread bytes may turn the end into a reset; either way nothing was said.
        let (heard, cancels) = hears(sent).await;
        assert!(heard.is_empty() && !cancels, "{sent:?} {heard:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_not_waited_for() {
    for sent in [&b""[..], b"\0\0\0\x10\x04\xd2\x16"] {
        let began = Instant::now();
        assert_eq!(hears(sent).await, (Vec::new(), false));
        assert_eq!(began.elapsed().as_secs(), 1);
    }
}
