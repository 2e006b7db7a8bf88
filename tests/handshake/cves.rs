//! What was published against PgBouncer, which stands in the same place: each as a test by its number.
//!
//! Those about users in the database (CVE-2015-6817, CVE-2025-2291, CVE-2025-12819) and start-up options
//! (CVE-2026-107349) need a real one: `integration/access.rs`.

use bytes::BytesMut;
use causeway::auth::scram::nonce;
use causeway::auth::scram_client::{AwaitingChallenge, Binding, Prover, ScramClientError};
use causeway::client::{Entered, HandshakeError};
use causeway::protocol::{ErrorReport, frontend};
use causeway::server::ConnectError;
use causeway::server::connect::ServerViolation;

use super::hostile::{
    SSL, last_words, log_in, message, play, session_packet, then, with_first, with_last,
};
use crate::fake::{FakeServer, Peer};

async fn refused(name: &str, bytes: &[u8]) -> Option<ErrorReport> {
    let (outcome, heard) = play(bytes, true).await;
    assert!(outcome.is_err(), "{name}: let in");
    last_words(&heard)
}

/// A long database name overflowed a buffer.
#[tokio::test]
async fn cve_2012_4575_long_database_names() {
    let name = "d".repeat(9_800);
    let startup = session_packet(&["user", "app", "database", &name]);
    let Ok(Entered::Session(welcome)) = log_in(&startup, false, b"", 4096).await else {
        panic!("not let in");
    };
    assert_eq!(welcome.database, "d".repeat(63), "cut as PostgreSQL cuts it");
    let longer = session_packet(&["user", "app", "database", &"d".repeat(10_000)]);
    assert!(refused("longer", &longer).await.is_none());
}

/// A password before the start-up packet followed a pointer that was not there.
#[tokio::test]
async fn cve_2015_4054_a_password_before_the_startup_packet() {
    for bytes in [
        message(b'p', b"secret\0"),
        [message(b'p', b"\0"), session_packet(&["user", "app"])].concat(),
    ] {
        assert!(refused("a password first", &bytes).await.is_none());
    }
}

/// What a man in the middle sent in plain text before the TLS handshake was run inside of it
/// (PostgreSQL's own is CVE-2021-23214).
#[tokio::test]
async fn cve_2021_3935_plain_text_before_tls() {
    for injected in [session_packet(&["user", "app"]), message(b'Q', b"drop table t\0"), vec![0]] {
        let report = refused("injected", &[&SSL[..], &injected].concat()).await;
        let report = report.expect("told");
        assert_eq!(report.message, "received unencrypted data after SSL request");
    }
}

/// The length inside SASLInitialResponse wrapped around and passed the check of bounds.
#[tokio::test]
async fn cve_2026_6664_a_sasl_length_that_wraps() {
    for length in [u32::MAX - 1, u32::MAX - 17, 0x8000_0000, 0x7FFF_FFFF, 5, 3] {
        let body = [&b"SCRAM-SHA-256\0"[..], &length.to_be_bytes(), b"AAAA"].concat();
        let report = refused("a length that lies", &then(&message(b'p', &body))).await;
        assert_eq!(report.expect("told").message, "invalid message format", "{length:#x}");
    }
    // All ones mean that there is no response; then there must be none.
    let body = [&b"SCRAM-SHA-256\0"[..], &u32::MAX.to_be_bytes(), b"AAAA"].concat();
    assert!(refused("none, and yet", &then(&message(b'p', &body))).await.is_some());
}

/// The rest of a challenge behind our nonce.
fn challenge(client: &AwaitingChallenge, rest: &str) -> Vec<u8> {
    let ours = String::from_utf8_lossy(client.message()).replace("n,,n=,", "");
    format!("{ours}{rest}").into_bytes()
}

/// A server's long nonce overflowed the buffer of the client-final-message.
#[test]
fn cve_2026_6665_a_server_with_a_long_nonce() {
    let client = AwaitingChallenge::new(Prover::password("secret"), Binding::Impossible);
    let long = "n".repeat(60_000);
    let sent = challenge(&client, &format!("{long},s=AAAA,i=1"));
    let proof = client.on_challenge(&sent).expect("long, but right");
    assert!(proof.message().len() > long.len());
    assert_eq!(proof.on_server_final(b"v=AAAA"), Err(ScramClientError::ServerSignature));
}

/// An ErrorResponse without SQLSTATE followed a pointer that was not there. In a session:
/// `session::hostile`.
#[tokio::test]
async fn cve_2026_6666_a_server_error_without_sqlstate() {
    for body in [&b"SFATAL\0Mno\0\0"[..], b"\0", b"", b"C\0\0", b"SFATAL\0C\0\0", b"C28P01"] {
        let server = FakeServer::start(move |mut peer: Peer| async move {
            peer.first_packet().await?;
            peer.send(&message(b'E', body)).await?;
            peer.hang_up().await
        })
        .await;
        let error = super::connect_to(&server.address).await;
        let wrong = matches!(
            error,
            ConnectError::Protocol(ServerViolation::ErrorWithoutSqlstate { .. })
                | ConnectError::Refused(_)
        );
        assert!(wrong, "{body:?}: {error:?}");
        assert_eq!(error.report().sqlstate.len(), 5, "what the client hears has one");
    }
}

/// Growing a buffer to a length near 2^32 never came to an end.
#[tokio::test]
async fn cve_2026_6668_and_107348_lengths_above_2_31() {
    for length in [0x8000_0000_u32, 0x8000_0001, 0xFFFF_FFFB, u32::MAX] {
        let word = length.to_be_bytes();
        assert!(refused("a start-up packet", &word).await.is_none());
        let answer = [&b"p"[..], &word, b"SCRAM"].concat();
        let report = refused("an answer", &then(&answer)).await;
        assert_eq!(report.expect("told").message, "invalid message length");
    }
}

/// A server that asked for 2^31 rounds kept the whole pooler busy.
#[test]
fn cve_2026_6669_a_server_that_asks_for_endless_rounds() {
    for rounds in ["2147483647", "4294967295", "100001", "0", "-1", "99999999999999999999"] {
        let client = AwaitingChallenge::new(Prover::password("secret"), Binding::Impossible);
        let sent = challenge(&client, &format!("{},s=AAAA,i={rounds}", nonce()));
        let refused = client.on_challenge(&sent).err();
        let expected = ScramClientError::Challenge("a number of rounds out of range");
        assert_eq!(refused, Some(expected), "{rounds}");
    }
}

/// A client-final-message without a mandatory attribute was taken for whole.
#[tokio::test]
async fn cve_2026_19888_a_last_message_without_an_attribute() {
    for last in [
        "c=biws",
        "r=abc",
        "p=AAAA",
        "c=biws,p=AAAA",
        "c=biws,r=abc",
        "c=,r=,p=",
        "c=biws,r=abc,",
        "c=biws,r=abc,x=1",
    ] {
        let report = refused(last, &with_last(last.as_bytes())).await;
        assert_eq!(report.expect("told").sqlstate, "08P01", "{last}");
    }
}

/// A second start-up packet in the middle of SCRAM changed the user that the proof was for.
#[tokio::test]
async fn cve_2026_107350_a_second_startup_packet() {
    let second = session_packet(&["user", "kept"]);
    let mut initial = BytesMut::new();
    frontend::sasl_initial_response(&mut initial, "SCRAM-SHA-256", b"n,,n=,r=abc");
    for (name, bytes) in [
        ("before the first message", then(&second)),
        ("between the messages", [with_first(b"n,,n=,r=abc"), second.clone()].concat()),
        ("and then the first message", then(&[&second[..], &initial].concat())),
    ] {
        let (outcome, heard) = play(&bytes, true).await;
        let unexpected = matches!(outcome, Err(HandshakeError::UnexpectedMessage { kind: 0 }));
        assert!(unexpected, "{name}: {outcome:?}");
        assert_eq!(last_words(&heard).expect("told").sqlstate, "08P01", "{name}");
    }
    // Behind the proof it belongs to the session, which is whose the proof was.
    let startup = session_packet(&["user", "app"]);
    let Ok(Entered::Session(welcome)) = log_in(&startup, false, &second, 4096).await else {
        panic!("not let in");
    };
    assert_eq!((&*welcome.user, &welcome.buffer[..]), ("app", &second[..]));
}

/// A login cut at every byte ends, half-closed or not, and nobody is let in by it.
#[tokio::test]
async fn a_login_cut_anywhere_ends() {
    let good = with_last(b"c=biws,r=abc,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    for cut in 0..good.len() {
        let (outcome, heard) = play(&good[..cut], true).await;
        assert!(matches!(outcome, Err(HandshakeError::Gone { .. })), "cut at {cut}: {outcome:?}");
        assert_eq!(last_words(&heard), None, "cut at {cut}: nobody is left to be told");
    }
}
