//! Clients that take their time, under a clock that the test moves.

use std::time::Duration;

use causeway::client::HandshakeError;
use causeway::protocol::ErrorReport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use super::entrance;
use super::hostile::{message, session_packet};

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_closed_without_a_word() {
    let began = Instant::now();
    let (mut client, task) = entrance().await;
    let outcome = task.await.unwrap();
    assert!(matches!(outcome, Err(HandshakeError::Timeout { started: false })), "{outcome:?}");
    assert_eq!(began.elapsed().as_secs(), 15);
    assert_eq!(client.read_to_end(&mut Vec::new()).await.unwrap(), 0);
}

/// A byte a second never reaches the end of the packet; each is progress, and none buys time.
#[tokio::test(start_paused = true)]
async fn a_client_that_drips_gets_no_more_time_than_others() {
    let began = Instant::now();
    let (mut client, task) = entrance().await;
    let drip = tokio::spawn(async move {
        for byte in session_packet(&["user", "app", "x", &"y".repeat(5000)]) {
            if client.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
    });
    let outcome = task.await.unwrap();
    assert!(matches!(outcome, Err(HandshakeError::Timeout { started: false })), "{outcome:?}");
    assert_eq!(began.elapsed().as_secs(), 15);
    drip.abort();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_answer_the_challenge_is_told() {
    for partial in [&b""[..], b"p", b"p\0\0", &message(b'p', b"SCRAM-SHA-256\0\0\0\0")[..9]] {
        let (mut client, task) = entrance().await;
        client.write_all(&session_packet(&["user", "app"])).await.unwrap();
        client.write_all(partial).await.unwrap();
        let outcome = task.await.unwrap();
        assert!(matches!(outcome, Err(HandshakeError::Timeout { .. })), "{outcome:?}");
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).await.unwrap();
        // A paused clock may run ahead of the kernel, so the packet may have come too late to be
        // seen; what is told, if anything, must be this.
        if let Some(at) = heard.iter().position(|&byte| byte == b'E') {
            let report = ErrorReport::parse(&heard[at + 5..]);
            assert_eq!(report.sqlstate, "57014");
            assert_eq!(report.message, "canceling authentication due to timeout");
        }
    }
}

/// The timeout is for the whole login, however its parts divide it.
#[tokio::test]
async fn told_of_the_timeout_in_real_time() {
    let mut short = super::limits();
    short.startup_timeout = Duration::from_millis(300);
    let (mut client, task) = super::entrance_with(short, None).await;
    client.write_all(&session_packet(&["user", "app"])).await.unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    // AuthenticationSASL comes first: 'R', 4 + 4 + 14 + 1.
    assert_eq!((heard[0], heard[4]), (b'R', 23));
    let report = ErrorReport::parse(&heard[24 + 5..]);
    assert_eq!((heard[24], &*report.sqlstate), (b'E', "57014"));
    drop(client);
    let outcome = task.await.unwrap();
    assert!(matches!(outcome, Err(HandshakeError::Timeout { started: true })), "{outcome:?}");
}
