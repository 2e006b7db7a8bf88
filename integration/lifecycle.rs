//! Signals, reload, and what is served over HTTP.

use std::time::{Duration, Instant};

use tokio_postgres::NoTls;

use crate::harness::{Proxy, ProxyOptions, SOON, await_until, fresh_database, shared_cluster};

#[tokio::test(flavor = "multi_thread")]
async fn livez_readyz_and_metrics_answer() {
    let proxy = Proxy::start(shared_cluster(), &ProxyOptions::default()).await;
    let client = proxy.connect("app").await;
    proxy.await_catalog(shared_cluster(), "app").await;
    client.query("SELECT 1", &[]).await.unwrap();
    client.batch_execute("CREATE TEMP TABLE t (n int); DROP TABLE t").await.unwrap();
    assert_eq!(proxy.get("/livez").await.unwrap().0, 200);
    assert_eq!(proxy.get("/readyz").await.unwrap().0, 200);
    assert_eq!(proxy.get("/nowhere").await.unwrap().0, 404);

    let metrics = proxy.metrics().await;
    for node in shared_cluster().nodes() {
        let address = node.address();
        for name in ["node_role", "node_state", "lag_bytes", "lag_seconds", "node_reads_total"] {
            let of_node = metrics.sum(&format!("causeway_{name}"), &[("node", &address)]);
            assert!(of_node.is_some(), "no {name} for {}", node.name());
        }
    }
    assert!(proxy.metric("causeway_node_reads_total", None).await >= 1.0);
    let primary = shared_cluster().primary();
    assert!(proxy.metric("causeway_node_writes_total", Some(primary)).await >= 1.0);
    assert!(proxy.metric("causeway_statements_total", None).await >= 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_a_transaction_finish_and_nobody_in() {
    let database = fresh_database(shared_cluster()).await;
    let mut proxy = Proxy::start(shared_cluster(), &ProxyOptions::default()).await;
    let idle = proxy.connect(&database).await;
    let client = proxy.connect(&database).await;
    client.batch_execute("CREATE TABLE kept (n int)").await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO kept VALUES (1)").await.unwrap();

    proxy.signal("TERM");
    await_until("idle clients are sent away", async || idle.is_closed()).await;
    assert!(proxy.config(&database).connect(NoTls).await.is_err(), "it still lets clients in");
    if let Some((status, _)) = proxy.get("/readyz").await {
        assert_eq!(status, 503);
    }
    client.batch_execute("INSERT INTO kept VALUES (2); COMMIT").await.unwrap();
    let status = proxy.wait(SOON).await;
    assert!(status.success(), "{status}");

    let direct = shared_cluster().primary().connect(&database).await.unwrap();
    let row = direct.query_one("SELECT count(*) FROM kept", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_ends_it_at_once() {
    let database = fresh_database(shared_cluster()).await;
    let mut proxy = Proxy::start(shared_cluster(), &ProxyOptions::default()).await;
    let client = proxy.connect(&database).await;
    client.batch_execute("CREATE TABLE lost (n int)").await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO lost VALUES (1)").await.unwrap();
    let since = Instant::now();
    proxy.signal("INT");
    proxy.wait(SOON).await;
    assert!(since.elapsed() < Duration::from_secs(5), "took {:?}", since.elapsed());

    let direct = shared_cluster().primary().connect(&database).await.unwrap();
    let row = direct.query_one("SELECT count(*) FROM lost", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 0);
}

/// A password that has changed on the nodes and in the file: sessions that are there open their next servers with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_in_the_file_reaches_sessions_that_are_there() {
    let cluster = shared_cluster();
    let primary = cluster.primary();
    primary.execute("CREATE ROLE rekeyed LOGIN PASSWORD 'old'").await.unwrap();
    cluster.await_replay().await.unwrap();
    let (old, new) = (
        "[[user]]\nname = \"rekeyed\"\npassword = \"old\"",
        "[[user]]\nname = \"rekeyed\"\npassword = \"new\"",
    );
    let options = ProxyOptions { more: old, ..ProxyOptions::default() };
    let proxy = Proxy::start(cluster, &options).await;
    let mut config = proxy.config("app");
    config.user("rekeyed").password("old");
    let (session, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    session.batch_execute("CREATE TEMP TABLE t (n int); DROP TABLE t").await.unwrap();
    primary.execute("ALTER ROLE rekeyed PASSWORD 'new'").await.unwrap();
    let options = ProxyOptions { more: new, ..options };
    std::fs::write(&proxy.config, options.file(cluster, proxy.address, proxy.http)).unwrap();
    proxy.signal("HUP");
    await_until("it is read", async || proxy.log().contains("reloaded")).await;
    let text = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rekeyed'";
    primary.execute(text).await.unwrap();
    await_until("a server is opened with the new password", async || {
        session.batch_execute("CREATE TEMP TABLE t (n int); DROP TABLE t").await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_all_or_nothing() {
    let cluster = shared_cluster();
    let role = "CREATE ROLE reloaded LOGIN PASSWORD 'reloaded'";
    cluster.primary().execute(role).await.unwrap();
    cluster.await_replay().await.unwrap();
    let options = ProxyOptions::default();
    let proxy = Proxy::start(cluster, &options).await;
    let old = proxy.connect("app").await;
    let mut config = proxy.config("app");
    config.user("reloaded").password("reloaded");
    assert!(config.connect(NoTls).await.is_err(), "nobody told the proxy of this user yet");

    let user = "[[user]]\nname = \"reloaded\"\npassword = \"reloaded\"";
    let more = ProxyOptions { more: user, ..options.clone() };
    let good = more.file(cluster, proxy.address, proxy.http);
    // A bad key in a file that is otherwise good, and has one more good thing in it.
    std::fs::write(&proxy.config, format!("{good}\n[pooll]\nsize = 1\n[poool]\nsize = 1\n"))
        .unwrap();
    proxy.signal("HUP");
    await_until("the bad file is complained about", async || proxy.log().contains("pooll")).await;
    assert!(config.connect(NoTls).await.is_err(), "a part of a bad file was taken");
    let log = proxy.log();
    let about = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert!(!log.contains("\\n"), "one record for each problem: {log}");
    assert_eq!((about("pooll"), about("poool")), (1, 1), "{log}");

    std::fs::write(&proxy.config, &good).unwrap();
    proxy.signal("HUP");
    await_until("the new user is let in", async || config.connect(NoTls).await.is_ok()).await;
    // Through it all the old connection was kept.
    assert_eq!(old.query_one("SELECT 1", &[]).await.unwrap().get::<_, i32>(0), 1);
}
