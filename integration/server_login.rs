//! Causeway's way into real servers, and what real servers make of its verifiers.

use std::time::Duration;

use bytes::BytesMut;
use causeway::auth::verifier::ITERATIONS;
use causeway::auth::{ServerSecret, Verifier};
use causeway::cli::demo::cluster::{Cluster, ClusterOptions};
use causeway::config::settings::{Address, Secret};
use causeway::net::Stream;
use causeway::protocol::{Blame, ErrorReport, write};
use causeway::server::cancel::cancel;
use causeway::server::connect::connect;
use causeway::server::{ConnectError, Established, ServerLogin};
use causeway::tls::Connector;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::{Config, NoTls};

const PATIENCE: Duration = Duration::from_secs(60);

/// A lone primary on which each role proves itself in the way it is named after.
async fn server() -> (Cluster, Address) {
    let cluster = Cluster::start(&ClusterOptions { replicas: 0, ..Default::default() }).unwrap();
    let node = cluster.primary();
    node.execute(
        "CREATE ROLE trusted LOGIN;
         CREATE ROLE cleartext LOGIN PASSWORD 'secret';
         CREATE ROLE scram LOGIN PASSWORD 'secret';
         CREATE ROLE odd LOGIN PASSWORD U&'I\\00ADX\\00A0\\2168';
         CREATE ROLE prohibited LOGIN PASSWORD U&'a\\0007b';
         SET password_encryption = 'md5';
         CREATE ROLE hashed LOGIN PASSWORD 'secret'",
    )
    .await
    .unwrap();
    let client = node.connect("postgres").await.unwrap();
    let hba = client.query_one("SHOW hba_file", &[]).await.unwrap();
    let rules = "host all trusted 127.0.0.1/32 trust\n\
                 host all cleartext 127.0.0.1/32 password\n\
                 host all hashed 127.0.0.1/32 md5\n\
                 host all locked 127.0.0.1/32 reject\n";
    let path = hba.get::<_, &str>(0);
    let before = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, format!("{rules}{before}")).unwrap();
    client.simple_query("SELECT pg_reload_conf()").await.unwrap();
    // The postmaster reads the file when it gets round to the signal.
    let address = Address { host: "127.0.0.1".to_owned(), port: node.port() };
    let trusted = login("trusted", None);
    for _ in 0..600 {
        if connect(&address, &Connector::disabled(), &trusted, PATIENCE).await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (cluster, address)
}

fn login(user: &str, password: Option<&str>) -> ServerLogin {
    ServerLogin {
        user: user.to_owned(),
        database: "postgres".to_owned(),
        secret: password.map(|password| ServerSecret::password(Secret::new(password))),
        parameters: vec![("application_name".to_owned(), "causeway test".to_owned())],
    }
}

/// Sends a simple query and reads up to `ReadyForQuery`: what came, type by type.
async fn query(server: &mut Established, text: &str) -> Vec<(u8, Vec<u8>)> {
    let mut out = BytesMut::new();
    write::query(&mut out, text.as_bytes());
    server.stream.write_all(&out).await.unwrap();
    let mut came = Vec::new();
    loop {
        let kind = server.stream.read_u8().await.unwrap();
        let mut body = vec![0; server.stream.read_u32().await.unwrap() as usize - 4];
        server.stream.read_exact(&mut body).await.unwrap();
        if kind == b'Z' {
            return came;
        }
        came.push((kind, body));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn causeway_logs_in_however_it_is_asked() {
    let (cluster, address) = server().await;
    for (user, password) in [
        ("trusted", ""),
        ("cleartext", "secret"),
        ("hashed", "secret"),
        ("scram", "secret"),
        ("odd", "I\u{ad}X\u{a0}\u{2168}"),
        ("odd", "IX IX"),
        ("prohibited", "a\u{7}b"),
    ] {
        let login = login(user, Some(password));
        let mut server = connect(&address, &Connector::disabled(), &login, PATIENCE)
            .await
            .unwrap_or_else(|e| panic!("{user}: {e}"));
        assert!(matches!(server.stream, Stream::Tcp(_)));
        assert!(server.buffer.is_empty());
        assert!(server.process_id > 0);
        assert_eq!(server.secret_key.len(), 4);
        let reported = |name: &[u8]| {
            server.parameters.iter().any(|(known, value)| **known == *name && !value.is_empty())
        };
        assert!(reported(b"server_version") && reported(b"client_encoding"));
        let came =
            query(&mut server, "SELECT current_user || current_setting('application_name')").await;
        let row = came.iter().find(|(kind, _)| *kind == b'D').expect("a row");
        assert!(row.1.ends_with(format!("{user}causeway test").as_bytes()));
    }
    for user in ["cleartext", "hashed", "scram"] {
        let wrong =
            connect(&address, &Connector::disabled(), &login(user, Some("wrong")), PATIENCE)
                .await
                .unwrap_err();
        assert_eq!(wrong.report().sqlstate, "28P01", "{user}");
        assert_eq!(wrong.blame(), Blame::Operator);
        let none = connect(&address, &Connector::disabled(), &login(user, None), PATIENCE)
            .await
            .unwrap_err();
        assert!(matches!(none, ConnectError::NoPassword), "{user}: {none:?}");
    }
    let mut nowhere = login("trusted", None);
    nowhere.database = "nowhere".to_owned();
    let error = connect(&address, &Connector::disabled(), &nowhere, PATIENCE).await.unwrap_err();
    assert_eq!((&*error.report().sqlstate, error.blame()), ("3D000", Blame::Client));
    let locked = connect(&address, &Connector::disabled(), &login("locked", None), PATIENCE)
        .await
        .unwrap_err();
    assert_eq!(locked.report().sqlstate, "28000");
    drop(cluster);
    let gone = connect(&address, &Connector::disabled(), &login("trusted", None), PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(gone, ConnectError::Unreachable(_)), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_reaches_the_process_it_names() {
    let (_cluster, address) = server().await;
    let mut server =
        connect(&address, &Connector::disabled(), &login("trusted", None), PATIENCE).await.unwrap();
    let (process_id, key) = (server.process_id, server.secret_key.clone());
    let sleeping = tokio::spawn(async move { query(&mut server, "SELECT pg_sleep(600)").await });
    // A wrong key is no error and does nothing; so is a cancel that comes before the query.
    cancel(&address, &Connector::disabled(), process_id, b"nope", PATIENCE).await.unwrap();
    while !sleeping.is_finished() {
        cancel(&address, &Connector::disabled(), process_id, &key, PATIENCE).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let came = sleeping.await.unwrap();
    let error = came.iter().find(|(kind, _)| *kind == b'E').expect("an error");
    assert_eq!(ErrorReport::parse(&error.1).sqlstate, "57014");
}

/// PostgreSQL takes verifiers made here, and makes the same ones of the same passwords.
#[tokio::test(flavor = "multi_thread")]
async fn verifiers_are_postgresqls_own() {
    let (cluster, address) = server().await;
    let client = cluster.primary().connect("postgres").await.unwrap();
    for (at, password) in [
        "secret",
        "with space ",
        "pass\u{a0}word",
        "I\u{ad}X",
        "\u{2168}",
        "a\u{7}b",
        "\u{627}\u{31}",
        "\u{221}",
        "\u{ad}",
        "\u{e9}\u{301}",
        "\u{1f980}",
    ]
    .into_iter()
    .enumerate()
    {
        let quoted = password.replace('\'', "''");
        let theirs = format!("theirs{at}");
        client
            .batch_execute(&format!("CREATE ROLE {theirs} LOGIN PASSWORD '{quoted}'"))
            .await
            .unwrap();
        let kept = "SELECT rolpassword FROM pg_authid WHERE rolname = $1";
        let kept = client.query_one(kept, &[&theirs]).await.unwrap();
        let kept = Verifier::parse(kept.get(0)).unwrap();
        assert_eq!(Verifier::derive(password, &kept.salt, kept.iterations), kept, "{password:?}");

        let ours = Verifier::derive(password, b"salt of ours", ITERATIONS).to_text();
        client
            .batch_execute(&format!("CREATE ROLE ours{at} LOGIN PASSWORD '{ours}'"))
            .await
            .unwrap();
        // A driver that follows RFC 4013 to the letter prepares this one to nothing.
        if password == "\u{ad}" {
            continue;
        }
        let mut config = Config::new();
        config.host("127.0.0.1").port(address.port).dbname("postgres");
        config.user(format!("ours{at}")).password(password);
        let connected = config.connect(NoTls).await;
        drop(connected.unwrap_or_else(|error| panic!("{password:?}: {error}")));
    }
}
