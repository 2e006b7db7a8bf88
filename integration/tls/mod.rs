//! TLS toward clients and toward nodes, with real drivers, PostgreSQL's own TLS beside it as the measure,
//! and somebody in between.

mod between;
mod drivers;
mod nodes;
mod revocation;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use causeway::cli::demo::cluster::APP;
use causeway::config::settings::{NodeTls, NodeTlsMode};
use causeway::tls::Connector;
use futures_util::{SinkExt, StreamExt};
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config};

use crate::certificates::{Authority, Identity};
use crate::harness::{Proxy, ProxyOptions, SOON, await_until, fresh_database, shared_cluster};

/// A directory of its own in that of the cluster, which goes with it.
fn directory() -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    shared_cluster().directory().join(format!("tls-{number}"))
}

/// `[tls]` in the file.
fn section(mode: &str, identity: &Identity, rest: &str) -> &'static str {
    format!(
        "[tls]\nmode = \"{mode}\"\ncertificate = \"{}\"\nkey = \"{}\"\n{rest}\n",
        identity.certificate.display(),
        identity.key.display()
    )
    .leak()
}

async fn start(more: &'static str) -> Proxy {
    Proxy::start(shared_cluster(), &ProxyOptions { more, ..ProxyOptions::default() }).await
}

/// rustls as a client's: what it verifies.
fn connector(mode: NodeTlsMode, root: Option<&Path>, identity: Option<&Identity>) -> Connector {
    let settings = NodeTls {
        mode,
        root: root.map(Path::to_owned),
        crl: None,
        certificate: identity.map(|identity| identity.certificate.clone()),
        key: identity.map(|identity| identity.key.clone()),
        require_auth: None,
    };
    Connector::load(&settings).unwrap()
}

/// "localhost" is for the certificate, 127.0.0.1 for the socket.
fn over_tls(proxy: &Proxy, database: &str) -> Config {
    let mut config = Config::new();
    config
        .host("localhost")
        .hostaddr("127.0.0.1".parse().unwrap())
        .port(proxy.address.port())
        .user(APP)
        .password(APP)
        .dbname(database)
        .connect_timeout(SOON)
        .ssl_mode(SslMode::Require)
        .channel_binding(ChannelBinding::Require);
    config
}

/// A session over TLS; notifications come out of the channel.
async fn session(
    config: &Config,
    connector: Connector,
) -> Result<(Client, tokio::sync::mpsc::UnboundedReceiver<String>), tokio_postgres::Error> {
    let (client, mut connection) = config.connect(connector).await?;
    let (told, tell) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            match message {
                Ok(AsyncMessage::Notification(heard)) => {
                    let _ = told.send(heard.payload().to_owned());
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
    });
    Ok((client, tell))
}

/// What is hard about TLS is what a socket does not say: notifications to a silent client, answers of
/// many records, both directions at once, a cancel.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_over_tls_is_a_session() {
    let authority = Authority::new(&directory(), "authority");
    let identity = authority.sign("server", "localhost", &["localhost"]);
    let database = fresh_database(shared_cluster()).await;
    let proxy = start(section("require", &identity, "")).await;
    let trusting = || connector(NodeTlsMode::VerifyFull, Some(&authority.root), None);
    let config = over_tls(&proxy, &database);
    let (listener, mut heard) = session(&config, trusting()).await.unwrap();
    let (client, _) = session(&config, trusting()).await.unwrap();

    listener.batch_execute("LISTEN news").await.unwrap();
    for number in 0..20 {
        client.batch_execute(&format!("NOTIFY news, '{number}'")).await.unwrap();
        let news = tokio::time::timeout(SOON, heard.recv()).await.expect("a silent client hears");
        assert_eq!(news.unwrap(), number.to_string());
    }

    client.batch_execute("CREATE TABLE t (n int, x text)").await.unwrap();
    let sink = client.copy_in::<_, bytes::Bytes>("COPY t FROM STDIN").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    for number in 0..200 {
        let line = format!("{number}\t{}\n", "x".repeat(100_000));
        sink.send(line.into()).await.unwrap();
    }
    assert_eq!(sink.as_mut().finish().await.unwrap(), 200);
    let out = client.copy_out("COPY t TO STDOUT").await.unwrap();
    let bytes = out.fold(0, async |sum, piece| sum + piece.unwrap().len()).await;
    assert!(bytes > 200 * 100_000, "{bytes}");

    let row = client.query_one("SELECT repeat('y', 1000000) FROM t LIMIT 1", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0).len(), 1_000_000);
    let many = "SELECT n, repeat('z', $1) FROM generate_series(1, 3000) AS n";
    let query = async || client.query(many, &[&700_i32]).await.unwrap().len();
    let (one, two, three) = tokio::join!(query(), query(), query());
    assert_eq!((one, two, three), (3000, 3000, 3000));
    let big = "p".repeat(300_000);
    let echo = async || client.query_one("SELECT length($1::text)", &[&big]).await.unwrap();
    let (one, two) = tokio::join!(echo(), echo());
    assert_eq!((one.get::<_, i32>(0), two.get::<_, i32>(0)), (300_000, 300_000));

    let token = client.cancel_token();
    let sleeping = client.batch_execute("SELECT pg_sleep(600)");
    let cancelling = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            token.cancel_query(trusting()).await.unwrap();
        }
    };
    let error = tokio::select! {
        ended = sleeping => ended.unwrap_err(),
        () = cancelling => unreachable!("it goes on for ever"),
    };
    assert_eq!(error.code().unwrap().code(), "57014");
    client.batch_execute("SELECT 1").await.unwrap();
}

/// One login with libpq, as `psql` makes it: whether it got in, or what it was told.
async fn psql(address: SocketAddr, host: &str, words: &str) -> Result<(), String> {
    let mut command = Command::new("psql");
    let port = address.port();
    command
        .arg(format!("host={host} hostaddr=127.0.0.1 port={port} user=app dbname=app {words}"))
        .args(["-X", "-A", "-t", "-c", "SELECT 1"])
        .env("PGPASSWORD", "app")
        .env("HOME", "/nonexistent");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    if output.status.success() {
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1");
        return Ok(());
    }
    let told = String::from_utf8_lossy(&output.stderr).replace(&port.to_string(), "PORT");
    Err(told.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_in_every_sslmode() {
    let directory = directory();
    let authority = Authority::new(&directory, "authority");
    let stranger = Authority::new(&directory, "stranger");
    let identity = authority.sign("server", "localhost", &["localhost"]);
    let root = authority.root.display();
    let strange = stranger.root.display();
    let allowing = start(section("allow", &identity, "")).await;
    let requiring = start(section("require", &identity, "")).await;
    for (words, host, in_allow, in_require) in [
        ("sslmode=disable".to_owned(), "localhost", None, Some("connection requires TLS")),
        ("sslmode=allow".to_owned(), "localhost", None, None),
        ("sslmode=prefer".to_owned(), "localhost", None, None),
        ("sslmode=require".to_owned(), "localhost", None, None),
        (format!("sslmode=verify-ca sslrootcert={root}"), "other", None, None),
        (format!("sslmode=verify-full sslrootcert={root}"), "localhost", None, None),
        (
            format!("sslmode=verify-full sslrootcert={root} channel_binding=require"),
            "localhost",
            None,
            None,
        ),
        ("sslmode=require channel_binding=disable".to_owned(), "localhost", None, None),
        (
            "sslmode=disable channel_binding=require".to_owned(),
            "localhost",
            Some("channel binding required"),
            Some("connection requires TLS"),
        ),
        (
            format!("sslmode=verify-full sslrootcert={root}"),
            "other",
            Some("does not match host name \"other\""),
            Some("does not match host name \"other\""),
        ),
        (
            format!("sslmode=verify-ca sslrootcert={strange}"),
            "localhost",
            Some("certificate verify failed"),
            Some("certificate verify failed"),
        ),
        (
            format!("sslmode=verify-full sslrootcert={strange}"),
            "localhost",
            Some("certificate verify failed"),
            Some("certificate verify failed"),
        ),
        ("sslmode=require ssl_max_protocol_version=TLSv1.2".to_owned(), "localhost", None, None),
        ("sslmode=require ssl_min_protocol_version=TLSv1.3".to_owned(), "localhost", None, None),
        (
            "sslmode=require ssl_max_protocol_version=TLSv1.1 ssl_min_protocol_version=TLSv1"
                .to_owned(),
            "localhost",
            Some("SSL error"),
            Some("SSL error"),
        ),
    ] {
        for (proxy, expected) in [(&allowing, in_allow), (&requiring, in_require)] {
            let heard = psql(proxy.address, host, &words).await;
            match (&heard, expected) {
                (Ok(()), None) => {}
                (Err(told), Some(part)) if told.contains(part) => {}
                _ => panic!("{words} to {host}: {heard:?}, and should be {expected:?}"),
            }
        }
    }
}

/// A pure driver with rustls: each sslmode that it knows, in each mode of the proxy's, with the right roots and others.
#[tokio::test(flavor = "multi_thread")]
async fn tokio_postgres_in_every_sslmode() {
    use NodeTlsMode::{Require, VerifyCa, VerifyFull};
    let directory = directory();
    let authority = Authority::new(&directory, "authority");
    let stranger = Authority::new(&directory, "stranger");
    let identity = authority.sign("server", "localhost", &["localhost"]);
    let without = start("").await;
    let allowing = start(section("allow", &identity, "")).await;
    let requiring = start(section("require", &identity, "")).await;
    let (right, wrong) = (Some(authority.root.as_path()), Some(stranger.root.as_path()));
    let (plain, encrypted) = (Ok(false), Ok(true));
    let (only_tls, no_tls) = (Err("connection requires TLS"), Err("server does not support TLS"));
    let unknown = Err("UnknownIssuer");
    let name = Err("not valid for name");
    for (mode, verify, root, host, expected) in [
        (SslMode::Disable, Require, None, "localhost", [plain, plain, only_tls]),
        (SslMode::Prefer, Require, None, "localhost", [plain, encrypted, encrypted]),
        (SslMode::Prefer, VerifyFull, wrong, "localhost", [plain, unknown, unknown]),
        (SslMode::Require, Require, None, "localhost", [no_tls, encrypted, encrypted]),
        (SslMode::Require, VerifyCa, right, "other", [no_tls, encrypted, encrypted]),
        (SslMode::Require, VerifyCa, wrong, "localhost", [no_tls, unknown, unknown]),
        (SslMode::Require, VerifyFull, right, "localhost", [no_tls, encrypted, encrypted]),
        (SslMode::Require, VerifyFull, right, "other", [no_tls, name, name]),
        (SslMode::Require, VerifyFull, wrong, "localhost", [no_tls, unknown, unknown]),
    ] {
        for (proxy, expected) in [&without, &allowing, &requiring].into_iter().zip(expected) {
            for binding in
                [ChannelBinding::Prefer, ChannelBinding::Require, ChannelBinding::Disable]
            {
                let mut config = over_tls_to(host, proxy);
                config.ssl_mode(mode).channel_binding(binding);
                let heard = session(&config, connector(verify, root, None)).await;
                let case = format!("{mode:?} {verify:?} {root:?} {host} {binding:?}");
                match (heard, expected) {
                    // What is to be bound to needs TLS.
                    (Err(_), Ok(false)) if binding == ChannelBinding::Require => {}
                    (Ok((client, _)), Ok(_)) => drop(client),
                    (Err(error), Err(part)) => {
                        let told = told(&error);
                        assert!(told.contains(part), "{case}: {told}");
                    }
                    (heard, _) => panic!("{case}: {:?}, not {expected:?}", heard.map(|_| ())),
                }
            }
        }
    }
}

/// The same for another name of the host.
fn over_tls_to(host: &str, proxy: &Proxy) -> Config {
    let mut config = Config::new();
    config
        .host(host)
        .hostaddr("127.0.0.1".parse().unwrap())
        .port(proxy.address.port())
        .user(APP)
        .password(APP)
        .dbname("app")
        .connect_timeout(SOON);
    config
}

/// An error with its causes.
fn told(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_without_dropping_anybody() {
    let directory = directory();
    let old = Authority::new(&directory, "old");
    let new = Authority::new(&directory, "new");
    let served = old.sign("server", "localhost", &["localhost"]);
    let proxy = start(section("require", &served, "")).await;
    let config = over_tls(&proxy, "app");
    let with =
        |authority: &Authority| connector(NodeTlsMode::VerifyFull, Some(&authority.root), None);
    let (kept, _) = session(&config, with(&old)).await.unwrap();
    assert!(session(&config, with(&new)).await.is_err());

    // A bad one changes nothing, and is told of.
    let good = std::fs::read(&served.certificate).unwrap();
    let other = old.sign("other", "localhost", &["localhost"]);
    for (bad, wanted) in [
        (b"nonsense".to_vec(), "no certificate in PEM form"),
        (std::fs::read(&other.certificate).unwrap(), "cannot be used with the certificate"),
    ] {
        std::fs::write(&served.certificate, bad).unwrap();
        proxy.signal("HUP");
        await_until("the bad certificate is complained about", async || {
            proxy.log().contains(wanted)
        })
        .await;
        let check = Command::new(env!("CARGO_BIN_EXE_causeway"))
            .args(["check", "--config"])
            .arg(&proxy.config)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&check.stdout);
        assert!(said.contains(wanted) && said.contains("server.crt"), "{said}");
        assert!(!check.status.success());
        session(&config, with(&old)).await.expect("the old one is still served");
    }
    std::fs::write(&served.certificate, good).unwrap();

    new.sign("server", "localhost", &["localhost"]);
    proxy.signal("HUP");
    await_until("the new one is served", async || session(&config, with(&new)).await.is_ok()).await;
    assert!(session(&config, with(&old)).await.is_err());
    kept.batch_execute("SELECT 1").await.expect("who was there stays");

    old.sign_expired("server", "localhost", &["localhost"]);
    proxy.signal("HUP");
    await_until("the expired one is served", async || session(&config, with(&new)).await.is_err())
        .await;
    let error = session(&config, with(&old)).await.expect_err("an expired one is refused");
    assert!(format!("{error:?}").contains("Expired"), "{error:?}");
}

/// For clients that know no SCRAM: the password itself, which only TLS may carry.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_may_ask_for_the_password_itself() {
    let authority = Authority::new(&directory(), "authority");
    let served = authority.sign("server", "localhost", &["localhost"]);
    let rule = "[[access]]\nfrom = \"loopback\"\ntls = true\nmethod = \"password\"";
    let proxy = start(section("allow", &served, rule)).await;
    let nobody = "sslmode=require user=nobody";
    for (words, expected) in [
        ("sslmode=require", None),
        ("sslmode=require password=wrong", Some("password authentication failed")),
        (nobody, Some("password authentication failed for user \"nobody\"")),
        // It is not SCRAM that is asked for.
        ("sslmode=require channel_binding=require", Some("channel binding required")),
        // The rule is for TLS; what has none proves itself by SCRAM.
        ("sslmode=disable", None),
    ] {
        let heard = psql(proxy.address, "localhost", words).await;
        match (&heard, expected) {
            (Ok(()), None) => {}
            (Err(told), Some(part)) if told.contains(part) => {}
            _ => panic!("{words}: {heard:?}, and should be {expected:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_known_by_their_certificates() {
    let directory = directory();
    let authority = Authority::new(&directory, "authority");
    let stranger = Authority::new(&directory, "stranger");
    let served = authority.sign("server", "localhost", &["localhost"]);
    let root = format!("client_root = \"{}\"", authority.root.display());
    let plain = start(section("verify-full", &served, &root)).await;
    let alone = format!("{root}\n[[access]]\nfrom = \"loopback\"\ntls = true\nmethod = \"cert\"");
    // A client may show a certificate, and then needs nothing else.
    let alone = start(section("allow", &served, &alone)).await;
    let mapped = format!("{root}\n[[tls.name]]\ncertificate = \"web.example\"\nuser = \"app\"");
    let mapped = start(section("verify-full", &served, &mapped)).await;
    let app = authority.sign("app", "app", &[]);
    let web = authority.sign("web", "web.example", &[]);
    let forged = stranger.sign("forged", "app", &[]);
    let expired = authority.sign_expired("expired", "app", &[]);
    let words = |identity: &Identity| {
        let (certificate, key) = (identity.certificate.display(), identity.key.display());
        format!("sslmode=require sslcert={certificate} sslkey={key}")
    };
    let none = "sslmode=require sslcert=/nonexistent".to_owned();
    for (proxy, words, expected) in [
        (&plain, words(&app), None),
        (&plain, words(&web), Some("certificate authentication failed for user \"app\"")),
        (&plain, none.clone(), Some("connection requires a valid client certificate")),
        (&plain, words(&forged), Some("SSL error")),
        (&plain, words(&expired), Some("SSL error")),
        (&plain, "sslmode=disable".to_owned(), Some("connection requires TLS")),
        (&plain, format!("{} password=wrong", words(&app)), Some("password authentication failed")),
        (&alone, format!("{} password=wrong", words(&app)), None),
        (&alone, words(&web), Some("certificate authentication failed for user \"app\"")),
        (&alone, none, Some("connection requires a valid client certificate")),
        (&alone, words(&forged), Some("SSL error")),
        (&alone, "sslmode=disable".to_owned(), None),
        (&mapped, words(&web), None),
        (&mapped, words(&app), Some("certificate authentication failed for user \"app\"")),
    ] {
        let heard = psql(proxy.address, "localhost", &words).await;
        match (&heard, expected) {
            (Ok(()), None) => {}
            (Err(told), Some(part)) if told.contains(part) => {}
            _ => panic!("{words}: {heard:?}, and should be {expected:?}"),
        }
    }
}
