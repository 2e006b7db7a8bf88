//! Cancel requests: the right server or none, also for who waits, for pinned sessions, on replicas,
//! and by keys of protocol 3.2.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{two_servers, world};
use crate::harness::{Proxy, SOON, shared_cluster};
use crate::wire::{Wire, frame, query, read_to_end};

/// A session with its key.
async fn login(proxy: &Proxy, database: &str, minor: u16) -> (Wire, Bytes) {
    let (wire, greeting) = Wire::login_speaking(proxy.address, database, &[], minor).await;
    let key = greeting.into_iter().find(|(kind, _)| *kind == b'K').unwrap().1;
    (wire, key)
}

/// Sends a cancel request with a key as BackendKeyData told it, and waits for its end.
async fn cancel(proxy: &Proxy, key: &[u8]) {
    let mut packet = BytesMut::new();
    packet.put_u32(u32::try_from(8 + key.len()).unwrap());
    packet.put_u32(80_877_102);
    packet.put_slice(key);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(&packet).await.unwrap();
    assert!(read_to_end(&mut stream, SOON).await.is_empty(), "a cancel request is not answered");
}

/// Asks for a long sleep, cancels it once it is under way, and returns what came back.
async fn cancelled(proxy: &Proxy, session: &mut (Wire, Bytes), text: &str) -> String {
    let key = session.1.clone();
    cancelled_by(&mut session.0, text, async || cancel(proxy, &key).await).await
}

/// The same by another way to cancel.
async fn cancelled_by(session: &mut Wire, text: &str, mut cancel: impl AsyncFnMut()) -> String {
    session.send(&query(text)).await;
    let (kind, length) = loop {
        // It may come before the query does, and then does nothing.
        match tokio::time::timeout(Duration::from_millis(300), session.header()).await {
            Ok(header) => break header.unwrap(),
            Err(_) => cancel().await,
        }
    };
    let mut kinds = String::from(char::from(kind));
    session.skip(length).await;
    if kind != b'Z' {
        kinds.push_str(&session.until_ready().await.0);
    }
    kinds
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_request_reaches_the_right_server_or_none() {
    let cluster = shared_cluster();
    let database = world(cluster).await;
    let proxy = Proxy::start(cluster, &two_servers()).await;
    proxy.await_catalog(cluster, &database).await;
    for minor in [0, 2] {
        let mut session = login(&proxy, &database, minor).await;
        let length = if minor == 0 { 8 } else { 36 };
        assert_eq!(session.1.len(), length, "the key of protocol 3.{minor}");
        // On a replica, on the primary, in a transaction, and pinned.
        let read = "SELECT pg_sleep(60)";
        assert_eq!(cancelled(&proxy, &mut session, read).await, "TEZ");
        let write = "INSERT INTO w SELECT 1 FROM pg_sleep(60)";
        assert_eq!(cancelled(&proxy, &mut session, write).await, "EZ");
        session.0.ask("BEGIN").await;
        assert_eq!(cancelled(&proxy, &mut session, write).await, "EZ");
        session.0.ask("ROLLBACK").await;
        session.0.ask("CREATE TEMP TABLE tt (n int)").await;
        assert_eq!(cancelled(&proxy, &mut session, read).await, "TEZ");
        session.0.ask("DROP TABLE tt").await;

        // A key with one wrong byte, and the right one while nothing runs: neither does anything.
        let mut wrong = session.1.to_vec();
        *wrong.last_mut().unwrap() ^= 1;
        session.0.send(&query("SELECT pg_sleep(0.5)")).await;
        cancel(&proxy, &wrong).await;
        assert_eq!(session.0.until_ready().await.0, "TDCZ");
        cancel(&proxy, &session.1).await;
        assert_eq!(session.0.ask("SELECT 1").await, "TDCZ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_server_is_cancelled_and_nobody_else() {
    let cluster = shared_cluster();
    let database = world(cluster).await;
    let proxy = Proxy::start(cluster, &two_servers()).await;
    let mut holders = Vec::new();
    for _ in 0..2 {
        let mut holder = login(&proxy, &database, 0).await.0;
        holder.ask("BEGIN").await;
        holder.ask("INSERT INTO w VALUES (1)").await;
        holders.push(holder);
    }
    let mut waiting = login(&proxy, &database, 2).await;
    assert_eq!(cancelled(&proxy, &mut waiting, "INSERT INTO w VALUES (2)").await, "EZ");
    for holder in &mut holders {
        assert_eq!(holder.ask("SELECT 1").await, "TDCZ", "its server was left alone");
        holder.ask("ROLLBACK").await;
    }
    assert_eq!(waiting.0.ask("INSERT INTO w VALUES (2)").await, "CZ");
}

/// The process id that a session was told.
fn process_id(session: &(Wire, Bytes)) -> i32 {
    i32::from_be_bytes(session.1[..4].try_into().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_ended_by_the_process_id_that_it_was_told() {
    let cluster = shared_cluster();
    let database = world(cluster).await;
    let proxy = Proxy::start(cluster, &two_servers()).await;
    proxy.await_catalog(cluster, &database).await;
    let mut killer = Wire::login(&proxy, &database).await;
    for (before, answer) in [
        (&[][..], ""),
        (&["SELECT 1"], "TDCZ"),
        (&["BEGIN", "INSERT INTO w VALUES (7)"], "CZ"),
        (&["BEGIN READ ONLY", "SELECT n FROM t WHERE n = 1"], "TDCZ"),
        (&["CREATE TEMP TABLE tt (n int)"], "CZ"),
    ] {
        let mut victim = login(&proxy, &database, 0).await;
        let mut last = String::new();
        for text in before {
            last = victim.0.ask(text).await;
        }
        assert_eq!(last, answer, "{before:?}");
        let id = process_id(&victim);
        killer.ask("SET ROLE diff_b").await;
        let answer = killer.ask(&format!("SELECT pg_terminate_backend({id})")).await;
        assert_eq!(answer, "TEZ", "not everybody may, after {before:?}");
        killer.ask("RESET ROLE").await;
        assert_eq!(victim.0.ask("SELECT 1").await, "TDCZ", "it goes on after {before:?}");
        let sent = frame(b'P', b"\0SELECT pg_terminate_backend($1)\0\0\0");
        let value = id.to_string();
        let mut bind = BytesMut::from(&b"\0\0\0\0\0\x01"[..]);
        bind.put_u32(u32::try_from(value.len()).unwrap());
        bind.put_slice(value.as_bytes());
        bind.put_slice(b"\0\0");
        let whole = [sent, frame(b'B', &bind), frame(b'E', &[0; 5]), frame(b'S', &[])].concat();
        killer.send(&whole).await;
        assert_eq!(killer.until_ready().await.0, "12DCZ", "no warning after {before:?}");
        let heard = read_to_end(&mut victim.0.stream, SOON).await;
        let heard = String::from_utf8_lossy(&heard).into_owned();
        assert!(heard.contains("57P01"), "{heard:?} after {before:?}");
        // Its client hears of its end a moment before it has ended.
        let mut again = String::new();
        for _ in 0..50 {
            killer.send(&query(&format!("SELECT pg_terminate_backend({id})"))).await;
            again = killer.until_ready().await.0;
            if again.contains('N') {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(again.contains('N'), "{again}: nobody is there any more, after {before:?}");
    }
    assert_eq!(killer.ask("SELECT n FROM w WHERE n = 7").await, "TCZ", "it was rolled back");

    let mut own = login(&proxy, &database, 0).await;
    let text = format!("SELECT pg_terminate_backend({})", process_id(&own));
    own.0.send(&query(&text)).await;
    let heard = read_to_end(&mut own.0.stream, SOON).await;
    assert!(String::from_utf8_lossy(&heard).contains("57P01"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_cancelled_by_the_process_id_that_it_was_told() {
    let cluster = shared_cluster();
    let database = world(cluster).await;
    let proxy = Proxy::start(cluster, &two_servers()).await;
    proxy.await_catalog(cluster, &database).await;
    let mut canceller = Wire::login(&proxy, &database).await;
    let mut session = login(&proxy, &database, 0).await;
    let ask = format!("SELECT pg_cancel_backend({})", process_id(&session));
    for text in ["SELECT pg_sleep(60)", "INSERT INTO w SELECT 1 FROM pg_sleep(60)"] {
        let cancel = async || assert_eq!(canceller.ask(&ask).await, "TDCZ");
        let kinds = cancelled_by(&mut session.0, text, cancel).await;
        assert!(kinds.ends_with("EZ"), "{kinds} after {text}");
        assert_eq!(session.0.ask("SELECT 1").await, "TDCZ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_ended_by_the_process_id_that_it_asked_for() {
    let cluster = shared_cluster();
    let database = world(cluster).await;
    let proxy = Proxy::start(cluster, &two_servers()).await;
    proxy.await_catalog(cluster, &database).await;
    let killer = proxy.connect(&database).await;
    for then in ["SELECT 1", "BEGIN; SELECT 1", "BEGIN READ ONLY; SELECT n FROM t LIMIT 1"] {
        let victim = proxy.connect(&database).await;
        let told: i32 = victim.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        victim.batch_execute(then).await.unwrap();
        let kill = "SELECT pg_terminate_backend($1)";
        let ended: bool = killer.query_one(kill, &[&told]).await.unwrap().get(0);
        assert!(ended, "after {then}");
        let error = victim.batch_execute("SELECT 1").await.unwrap_err();
        let said = error.code().map(tokio_postgres::error::SqlState::code);
        assert!(error.is_closed() || said == Some("57P01"), "{error:?} after {then}");
        killer.batch_execute("SELECT 1").await.unwrap();
    }
}
