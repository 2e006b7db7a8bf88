//! The way into servers: honest ones, and those that are not.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use causeway::auth::ServerSecret;
use causeway::config::settings::{Address, NodeTls, NodeTlsMode, Secret, Ways};
use causeway::net::postgres::open;
use causeway::protocol::startup::StartupPacket;
use causeway::protocol::{Blame, ErrorReport, backend, write};
use causeway::server::cancel::cancel;
use causeway::server::connect::ServerViolation as Violation;
use causeway::server::{ConnectError, Established, ServerLogin, connect};
use causeway::tls::Connector;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::fake::{FakeServer, Login, Peer};

/// Far beyond what any step takes: only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

fn login(password: Option<&str>) -> ServerLogin {
    ServerLogin {
        user: "app".to_owned(),
        database: "shop".to_owned(),
        secret: password.map(|password| ServerSecret::password(Secret::new(password))),
        parameters: vec![("application_name".to_owned(), "test".to_owned())],
    }
}

async fn against(asks: Login, password: Option<&str>) -> Result<Established, ConnectError> {
    let server = FakeServer::start(move |mut peer: Peer| {
        let asks = asks.clone();
        async move {
            let startup = peer.log_in(&asks).await?;
            assert_eq!((&*startup.user, &*startup.database), ("app", "shop"));
            assert_eq!(startup.parameters, [("application_name".to_owned(), "test".to_owned())]);
            peer.ready().await?;
            peer.until_closed().await
        }
    })
    .await;
    connect(&server.address, &Connector::disabled(), &login(password), PATIENCE).await
}

#[tokio::test]
async fn every_way_of_proof() {
    // printf '%s%s' "$(printf secretapp | md5sum | cut -c1-32)" salt | md5sum
    let md5 = Login::Md5(*b"salt", "md57f097e06031b34893c20e25a0e68242c");
    for asks in [Login::Trust, Login::Cleartext("secret"), md5, Login::Scram("secret")] {
        let established =
            against(asks.clone(), Some("secret")).await.unwrap_or_else(|e| panic!("{asks:?}: {e}"));
        assert_eq!(established.process_id, 4711);
        assert_eq!(&established.secret_key[..], b"key!");
        assert!(established.buffer.is_empty());
        assert_eq!(established.protocol_minor, 0);
        let reported: Vec<_> = established.parameters.iter().map(|(n, v)| (&**n, &**v)).collect();
        assert_eq!(
            reported,
            [(&b"server_version"[..], &b"15.0 (fake)"[..]), (b"client_encoding", b"UTF8")]
        );
        if matches!(asks, Login::Trust) {
            continue;
        }
        let wrong = against(asks.clone(), Some("wrong")).await.unwrap_err();
        assert_eq!(wrong.report().sqlstate, "28P01", "{asks:?}");
        assert_eq!(wrong.blame(), Blame::Operator);
        let none = against(asks, None).await.unwrap_err();
        assert!(matches!(none, ConnectError::NoPassword), "{none:?}");
    }
}

/// The rooms above run it on tasks that move between threads.
#[test]
fn connecting_may_move_between_threads() {
    fn movable<T: Send>(_: &T) {}
    let (address, login) = (Address { host: "x".to_owned(), port: 1 }, login(None));
    movable(&connect(&address, &Connector::disabled(), &login, PATIENCE));
    movable(&cancel(&address, &Connector::disabled(), 1, b"key!", PATIENCE));
}

type Expected = fn(&ConnectError) -> bool;

macro_rules! is {
    ($($pattern:tt)+) => { |error: &ConnectError| matches!(error, $($pattern)+) };
}

/// Appends to a buffer.
fn bytes(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::new();
    write(&mut out);
    out.to_vec()
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    bytes(|out| write::message(out, kind, |out| out.put_slice(body)))
}

/// After `AuthenticationOk`.
fn ok_then(tail: &[u8]) -> Vec<u8> {
    [bytes(backend::authentication_ok), tail.to_vec()].concat()
}

fn sasl_then(tail: &[u8]) -> Vec<u8> {
    [bytes(|out| backend::authentication_sasl(out, &["SCRAM-SHA-256"])), tail.to_vec()].concat()
}

fn without_sqlstate(body: &[u8]) -> Vec<u8> {
    message(b'E', body)
}

/// What a server says after the start-up packet, and what it must be taken for.
#[allow(clippy::too_many_lines, reason = "a table")]
fn lies() -> Vec<(&'static str, Vec<u8>, Expected)> {
    use ConnectError::{Protocol, Refused, Unreachable, UnsupportedAuthentication};
    let challenge =
        |text: &str| bytes(|out| backend::authentication_sasl_continue(out, text.as_bytes()));
    let reported: Vec<u8> = (0..2000u32)
        .flat_map(|n| message(b'S', format!("p{n}\0{}\0", "v".repeat(20)).as_bytes()))
        .collect();
    let idle = message(b'Z', b"I");
    vec![
        ("nothing", vec![], is!(Unreachable(_))),
        ("half a header", b"R\0".to_vec(), is!(Unreachable(_))),
        ("a message that lies", b"R\0\0\0\x08\0\0".to_vec(), is!(Unreachable(_))),
        ("ok and no more", ok_then(b""), is!(Unreachable(_))),
        (
            "length 0",
            b"R\0\0\0\0".to_vec(),
            is!(Protocol(Violation::Length { kind: b'R', length: 0 })),
        ),
        ("length 3", b"R\0\0\0\x03".to_vec(), is!(Protocol(Violation::Length { .. }))),
        (
            "length beyond 64 KiB",
            b"R\0\x01\0\x01".to_vec(),
            is!(Protocol(Violation::Length { .. })),
        ),
        ("length of 2 GiB", b"E\x7f\xff\xff\xff".to_vec(), is!(Protocol(Violation::Length { .. }))),
        ("negative length", b"N\xff\xff\xff\xff".to_vec(), is!(Protocol(Violation::Length { .. }))),
        (
            "HTTP",
            b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
            is!(Protocol(Violation::Length { kind: b'H', .. })),
        ),
        (
            "MySQL",
            b"J\0\0\0\x0a5.7.44\0".to_vec(),
            is!(Protocol(Violation::UnexpectedMessage { kind: b'J' }) | Unreachable(_)),
        ),
        ("a protocol 2 error", b"EFATAL: no\n\0".to_vec(), is!(Protocol(Violation::Length { .. }))),
        (
            "ready before ok",
            idle.clone(),
            is!(Protocol(Violation::UnexpectedMessage { kind: b'Z' })),
        ),
        (
            "a parameter before ok",
            message(b'S', b"a\0b\0"),
            is!(Protocol(Violation::UnexpectedMessage { .. })),
        ),
        (
            "a row before ok",
            message(b'D', b"\0\0"),
            is!(Protocol(Violation::UnexpectedMessage { .. })),
        ),
        (
            "an empty request",
            message(b'R', b""),
            is!(Protocol(Violation::Malformed { kind: b'R' })),
        ),
        ("ok with more", message(b'R', b"\0\0\0\0x"), is!(Protocol(Violation::Malformed { .. }))),
        (
            "md5 without salt",
            message(b'R', b"\0\0\0\x05"),
            is!(Protocol(Violation::Malformed { .. })),
        ),
        ("GSSAPI", message(b'R', b"\0\0\0\x07"), is!(UnsupportedAuthentication { code: 7 })),
        (
            "a request of the future",
            message(b'R', b"\x7f\0\0\x07"),
            is!(UnsupportedAuthentication { .. }),
        ),
        (
            "other mechanisms",
            bytes(|out| backend::authentication_sasl(out, &["OAUTHBEARER", "SCRAM-SHA-256-PLUS"])),
            is!(Protocol(Violation::Mechanisms)),
        ),
        (
            "no mechanism",
            bytes(|out| backend::authentication_sasl(out, &[])),
            is!(Protocol(Violation::Mechanisms)),
        ),
        (
            "a challenge unasked",
            challenge("r=x,s=AA==,i=1"),
            is!(Protocol(Violation::AuthenticationOrder)),
        ),
        (
            "a final unasked",
            bytes(|out| backend::authentication_sasl_final(out, b"v=AA==")),
            is!(Protocol(Violation::AuthenticationOrder)),
        ),
        (
            "ok instead of a challenge",
            sasl_then(&ok_then(&idle)),
            is!(Protocol(Violation::AuthenticationOrder)),
        ),
        (
            "final instead of a challenge",
            sasl_then(&bytes(|out| backend::authentication_sasl_final(out, b"v=AA=="))),
            is!(Protocol(Violation::AuthenticationOrder)),
        ),
        ("SASL twice", sasl_then(&sasl_then(b"")), is!(Protocol(Violation::AuthenticationOrder))),
        (
            "a password after SASL",
            sasl_then(&message(b'R', b"\0\0\0\x03")),
            is!(Protocol(Violation::AuthenticationOrder)),
        ),
        (
            "somebody else's nonce",
            sasl_then(&challenge("r=xyz,s=AA==,i=4096")),
            is!(Protocol(Violation::Scram(_))),
        ),
        ("an empty challenge", sasl_then(&challenge("")), is!(Protocol(Violation::Scram(_)))),
        (
            "a challenge of bytes",
            sasl_then(&bytes(|out| backend::authentication_sasl_continue(out, &[0xff; 50]))),
            is!(Protocol(Violation::Scram(_))),
        ),
        (
            "a password twice",
            [message(b'R', b"\0\0\0\x03"), message(b'R', b"\0\0\0\x03")].concat(),
            is!(Protocol(Violation::AuthenticationOrder)),
        ),
        (
            "an error without fields",
            without_sqlstate(b"\0"),
            is!(Protocol(Violation::ErrorWithoutSqlstate { .. })),
        ),
        (
            "an error without SQLSTATE",
            without_sqlstate(b"SFATAL\0Mno\0\0"),
            is!(Protocol(Violation::ErrorWithoutSqlstate { .. })),
        ),
        (
            "an error with half a SQLSTATE",
            without_sqlstate(b"SFATAL\0C28\0Mno\0\0"),
            is!(Protocol(Violation::ErrorWithoutSqlstate { .. })),
        ),
        (
            "an empty error",
            without_sqlstate(b""),
            is!(Protocol(Violation::ErrorWithoutSqlstate { .. })),
        ),
        ("an error", message(b'E', b"SFATAL\0C57P03\0Mstarting up\0\0"), is!(Refused(_))),
        (
            "an error after ok",
            ok_then(&message(b'E', b"SFATAL\0C3D000\0Mno such\0\0")),
            is!(Refused(_)),
        ),
        (
            "ok twice",
            ok_then(&ok_then(&idle)),
            is!(Protocol(Violation::UnexpectedMessage { kind: b'R' })),
        ),
        (
            "a row after ok",
            ok_then(&message(b'D', b"\0\0")),
            is!(Protocol(Violation::UnexpectedMessage { kind: b'D' })),
        ),
        (
            "a parameter without value",
            ok_then(&message(b'S', b"a\0")),
            is!(Protocol(Violation::Malformed { kind: b'S' })),
        ),
        ("too many parameters", ok_then(&reported), is!(Protocol(Violation::Parameters))),
        (
            "a key too long for 3.0",
            ok_then(&message(b'K', &[1; 36])),
            is!(Protocol(Violation::Malformed { kind: b'K' })),
        ),
        (
            "a key too short",
            ok_then(&message(b'K', &[1; 7])),
            is!(Protocol(Violation::Malformed { kind: b'K' })),
        ),
        (
            "ready without status",
            ok_then(&message(b'Z', b"")),
            is!(Protocol(Violation::Malformed { kind: b'Z' })),
        ),
        (
            "ready in a transaction",
            ok_then(&message(b'Z', b"T")),
            is!(Protocol(Violation::NotIdle { status: b'T' })),
        ),
        (
            "a newer version",
            message(b'v', b"\0\x03\0\x02\0\0\0\0"),
            is!(Protocol(Violation::Version { minor: 2 })),
        ),
        (
            "COPY at a login",
            message(b'G', b"\0\0\0"),
            is!(Protocol(Violation::UnexpectedMessage { .. })),
        ),
        (
            "a list of mechanisms without end",
            message(b'R', b"\0\0\0\x0aSCRAM-SHA-256"),
            is!(Protocol(_)),
        ),
        (
            "a number of refused options that lies",
            message(b'v', b"\0\x03\0\0\x7f\xff\xff\xff"),
            is!(Unreachable(_)),
        ),
        (
            "a version after ok, and no more",
            ok_then(&message(b'v', b"\0\x03\0\0\0\0\0\0")),
            is!(Unreachable(_)),
        ),
        (
            "a final that is an error",
            sasl_then(&bytes(|out| backend::authentication_sasl_final(out, b"e=other-error"))),
            is!(Protocol(Violation::AuthenticationOrder)),
        ),
        (
            "an older version",
            message(b'v', b"\0\x02\0\0\0\0\0\0"),
            is!(Protocol(Violation::Malformed { kind: b'v' })),
        ),
    ]
}

#[tokio::test]
async fn lies_are_found_out() {
    for (name, says, expected) in lies() {
        let server = FakeServer::start(move |mut peer: Peer| {
            let says = says.clone();
            async move {
                peer.first_packet().await?;
                peer.send(&says).await?;
                peer.hang_up().await
            }
        })
        .await;
        let error =
            connect(&server.address, &Connector::disabled(), &login(Some("secret")), PATIENCE)
                .await
                .unwrap_err();
        assert!(expected(&error), "{name}: {error:?}");
        assert_eq!(error.report().severity, "FATAL", "{name}");
        let _ = error.blame();
    }
}

/// An impostor that has never heard of the password says that it is fine.
#[tokio::test]
async fn a_server_must_prove_itself() {
    for last in ["v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=", "v=", "e=other-error", ""] {
        let server = FakeServer::start(move |mut peer: Peer| async move {
            peer.first_packet().await?;
            backend::authentication_sasl(&mut peer.out, &["SCRAM-SHA-256"]);
            peer.flush().await?;
            let (_, first) = peer.message().await?;
            let at = first.windows(2).position(|two| two == b"r=").unwrap();
            let nonce = String::from_utf8_lossy(&first[at..]).into_owned();
            let challenge = format!("{nonce}theirs,s=MDEyMw==,i=1");
            backend::authentication_sasl_continue(&mut peer.out, challenge.as_bytes());
            peer.flush().await?;
            peer.message().await?;
            backend::authentication_sasl_final(&mut peer.out, last.as_bytes());
            backend::authentication_ok(&mut peer.out);
            peer.flush().await?;
            peer.ready().await
        })
        .await;
        let error =
            connect(&server.address, &Connector::disabled(), &login(Some("secret")), PATIENCE)
                .await
                .unwrap_err();
        assert!(matches!(error, ConnectError::Protocol(Violation::Scram(_))), "{last}: {error:?}");
    }
}

/// ... or skips the proof altogether.
#[tokio::test]
async fn ok_before_the_proof_is_no_ok() {
    let server = FakeServer::start(|mut peer: Peer| async move {
        peer.first_packet().await?;
        backend::authentication_sasl(&mut peer.out, &["SCRAM-SHA-256"]);
        peer.flush().await?;
        let (_, first) = peer.message().await?;
        let at = first.windows(2).position(|two| two == b"r=").unwrap();
        let nonce = String::from_utf8_lossy(&first[at..]).into_owned();
        let challenge = format!("{nonce}theirs,s=MDEyMw==,i=1");
        backend::authentication_sasl_continue(&mut peer.out, challenge.as_bytes());
        peer.flush().await?;
        peer.message().await?;
        backend::authentication_ok(&mut peer.out);
        peer.ready().await
    })
    .await;
    let error = connect(&server.address, &Connector::disabled(), &login(Some("secret")), PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Protocol(Violation::AuthenticationOrder)), "{error:?}");
}

#[tokio::test]
async fn what_is_odd_but_right_is_taken() {
    let notice = message(b'N', b"SNOTICE\0C00000\0Mhello\0\0");
    let cases = [
        ("notices everywhere", [&notice[..], &ok_then(&notice), &notice].concat()),
        ("a confirmed version", [message(b'v', b"\0\x03\0\0\0\0\0\0"), ok_then(b"")].concat()),
        ("a message of 64 KiB", [message(b'N', &vec![0; (64 << 10) - 4]), ok_then(b"")].concat()),
    ];
    for (name, says) in cases {
        let server = FakeServer::start(move |mut peer: Peer| {
            let says = says.clone();
            async move {
                peer.first_packet().await?;
                for part in says.chunks(97) {
                    peer.send(part).await?;
                    tokio::task::yield_now().await;
                }
                peer.ready().await?;
                peer.send(&message(b'N', b"\0")).await?;
                peer.until_closed().await
            }
        })
        .await;
        let established =
            connect(&server.address, &Connector::disabled(), &login(None), PATIENCE).await;
        assert_eq!(established.unwrap_or_else(|e| panic!("{name}: {e}")).process_id, 4711);
    }
}

#[tokio::test]
async fn a_parameter_reported_twice_is_kept_once() {
    let server = FakeServer::start(|mut peer: Peer| async move {
        peer.log_in(&Login::Trust).await?;
        for round in 0..5000 {
            let value = format!("{round}");
            write::parameter_status(&mut peer.out, b"a", value.as_bytes());
        }
        write::ready_for_query(&mut peer.out, b'I');
        peer.flush().await?;
        peer.until_closed().await
    })
    .await;
    let established =
        connect(&server.address, &Connector::disabled(), &login(None), PATIENCE).await.unwrap();
    assert_eq!(established.parameters, [(Box::from(&b"a"[..]), Box::from(&b"4999"[..]))]);
    assert_eq!((established.process_id, established.secret_key.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn silence_is_waited_for_no_longer_than_told() {
    let server = FakeServer::start(|mut peer: Peer| async move { peer.until_closed().await }).await;
    let error =
        connect(&server.address, &Connector::disabled(), &login(None), Duration::from_secs(5))
            .await
            .unwrap_err();
    assert!(matches!(error, ConnectError::Timeout(_)), "{error:?}");
    assert_eq!(error.report().sqlstate, "08001");
}

#[tokio::test]
async fn endless_notices_are_bounded_by_the_time() {
    let server = FakeServer::start(|mut peer: Peer| async move {
        peer.first_packet().await?;
        let notices = message(b'N', b"SNOTICE\0C00000\0Mhello\0\0").repeat(100);
        loop {
            peer.send(&notices).await?;
        }
    })
    .await;
    let error =
        connect(&server.address, &Connector::disabled(), &login(None), Duration::from_millis(500))
            .await
            .unwrap_err();
    assert!(matches!(error, ConnectError::Timeout(_)), "{error:?}");
}

#[tokio::test]
async fn a_node_that_is_not_there() {
    let port = FakeServer::start(|_| async { Ok(()) }).await.address.port;
    tokio::task::yield_now().await;
    let gone = Address { host: "127.0.0.1".to_owned(), port };
    let error = connect(&gone, &Connector::disabled(), &login(None), PATIENCE).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error:?}");
    assert_eq!(error.blame(), Blame::Server);
    let nowhere = Address { host: "no-such-host.invalid".to_owned(), port: 1 };
    let error =
        connect(&nowhere, &Connector::disabled(), &login(None), PATIENCE).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error:?}");
}

#[tokio::test]
async fn a_cancel_waits_until_the_server_has_closed() {
    let (heard, mut cancelled) = mpsc::unbounded_channel();
    let server = FakeServer::start(move |mut peer: Peer| {
        let heard = heard.clone();
        async move {
            let StartupPacket::Cancel(key) = peer.first_packet().await? else { panic!() };
            tokio::time::sleep(Duration::from_millis(50)).await;
            heard.send((key.process_id, key.secret)).unwrap();
            Ok(())
        }
    })
    .await;
    cancel(&server.address, &Connector::disabled(), 4711, b"key!", PATIENCE).await.unwrap();
    let (process_id, secret) =
        cancelled.try_recv().expect("cancel returned before the server closed");
    assert_eq!((process_id, &secret[..]), (4711, &b"key!"[..]));
    assert_eq!(server.accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_is_not_closed_is_an_error() {
    let server = FakeServer::start(|mut peer: Peer| async move { peer.until_closed().await }).await;
    let error = cancel(&server.address, &Connector::disabled(), 1, b"key!", Duration::from_secs(5))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

/// The fake that others build on: a whole conversation with a real driver.
#[tokio::test]
async fn a_fake_that_answers() {
    let server = FakeServer::answering(|text, out| {
        if text == "fail" {
            ErrorReport::error("42601", "no").encode(out);
        } else {
            write::command_complete(out, "SELECT 0");
        }
    })
    .await;
    let Address { host, port } = &server.address;
    let (client, connection) = tokio_postgres::connect(
        &format!("host={host} port={port} user=app dbname=shop sslmode=disable"),
        tokio_postgres::NoTls,
    )
    .await
    .unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute("select").await.unwrap();
    let error = client.batch_execute("fail").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42601");
    drop(client);
    connection.await.unwrap().unwrap();
}

/// A node beyond this machine, as far as its name tells: the system's resolver knows better.
fn elsewhere(fake: &FakeServer) -> Address {
    Address { host: "127.1".to_owned(), port: fake.address.port }
}

fn connector(require_auth: Option<Ways>) -> Connector {
    let settings = NodeTls {
        mode: NodeTlsMode::Disable,
        root: None,
        crl: None,
        certificate: None,
        key: None,
        require_auth,
    };
    Connector::load(&settings).unwrap()
}

/// Somebody who stands in a node's place may ask for anything: what would give the password away is not answered,
/// neither by Causeway's own connections nor by those of tokio-postgres.
#[tokio::test]
async fn a_password_is_not_given_to_whoever_asks() {
    let salted = postgres_protocol::authentication::md5_hash(b"app", b"secret", *b"salt");
    let salted: &'static str = salted.leak();
    let asks = [
        (Login::Trust, Ways::NONE, "no"),
        (Login::Cleartext("secret"), Ways::PASSWORD, "password"),
        (Login::Md5(*b"salt", salted), Ways::MD5, "md5"),
        (Login::Scram("secret"), Ways::SCRAM, "scram-sha-256"),
    ];
    for (asked, way, word) in asks {
        let fake = FakeServer::start(move |mut peer| {
            let asked = asked.clone();
            async move {
                peer.log_in(&asked).await?;
                peer.ready().await?;
                peer.answer_queries(|_, _| {}).await
            }
        })
        .await;
        let here = fake.address.clone();
        let quiet = Ways::SCRAM.with(Ways::NONE);
        for (address, required, allowed) in [
            (&here, None, true),
            (&elsewhere(&fake), None, quiet.has(way)),
            (&here, Some(Ways::SCRAM), way == Ways::SCRAM),
            (
                &elsewhere(&fake),
                Some(Ways::SCRAM.with(Ways::MD5)),
                [Ways::SCRAM, Ways::MD5].contains(&way),
            ),
            // In plain never, be it asked for.
            (&elsewhere(&fake), Some(Ways::ALL), way != Ways::PASSWORD),
            (&here, Some(Ways::PASSWORD), way == Ways::PASSWORD),
        ] {
            let connector = connector(required);
            let own = connect(address, &connector, &login(Some("secret")), PATIENCE).await;
            let refused = matches!(&own, Err(ConnectError::NotAllowed { asked }) if *asked == word);
            assert_eq!((own.is_ok(), refused), (allowed, !allowed), "{word} {address} {own:?}");
            let mut config = tokio_postgres::Config::new();
            config.host(&address.host).port(address.port).user("app").password("secret");
            config.ssl_mode(connector.ssl_mode(address));
            let theirs = timeout(PATIENCE, open(&config, &connector)).await.expect("it hangs");
            if let Err(error) = &theirs {
                let cause = std::error::Error::source(error).map(ToString::to_string);
                let cause = cause.unwrap_or_default();
                assert!(cause.contains(&format!("asks for {word} authentication")), "{cause}");
            }
            assert_eq!(theirs.is_ok(), allowed, "{word} {address}");
        }
    }
}
