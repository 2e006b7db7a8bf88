//! Limits, as a client meets them: in PostgreSQL's words, and with nothing left running on the nodes.

use std::time::{Duration, Instant};

use tokio_postgres::error::DbError;

use crate::harness::{Proxy, ProxyOptions, await_until, shared_cluster};

const LIMITS: &str = "
[limits]
query_timeout = \"1s\"
idle_in_transaction_timeout = \"2s\"
transaction_timeout = \"3s\"

[[routing.rule]]
application_name = \"patient\"
query_timeout = \"0s\"
transaction_timeout = \"0s\"
";

fn report(error: &tokio_postgres::Error) -> (&str, &str) {
    let report: &DbError = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    (report.code().code(), report.message())
}

/// How many servers run this for clients, over all nodes.
async fn running(text: &str) -> i64 {
    let mut running = 0;
    for node in shared_cluster().nodes() {
        let direct = node.connect("postgres").await.unwrap();
        let row = direct
            .query_one(
                "SELECT count(*) FROM pg_stat_activity \
                 WHERE query LIKE '%' || $1 || '%' AND state <> 'idle' AND pid <> pg_backend_pid()",
                &[&text],
            )
            .await
            .unwrap();
        running += row.get::<_, i64>(0);
    }
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_is_cancelled_and_told_as_by_postgresql() {
    let options = ProxyOptions { more: LIMITS, ..Default::default() };
    let proxy = Proxy::start(shared_cluster(), &options).await;
    let client = proxy.connect("app").await;
    let late = ("57014", "canceling statement due to statement timeout");
    for text in [
        "SELECT pg_sleep(611)",
        "SELECT pg_sleep(611) FOR UPDATE",
        "CREATE TABLE late AS SELECT pg_sleep(611)::text",
        "DO $$ BEGIN PERFORM pg_sleep(611); END $$",
    ] {
        let began = Instant::now();
        let error = client.simple_query(text).await.unwrap_err();
        assert_eq!(report(&error), late, "{text}");
        assert!(began.elapsed() >= Duration::from_secs(1), "{text}");
        let error = client.query(text, &[]).await.unwrap_err();
        assert_eq!(report(&error), late, "{text}, extended");
    }
    client.simple_query("SELECT 1").await.expect("the session goes on");
    await_until("nothing sleeps on", async || running("pg_sleep(611)").await == 0).await;

    // In a transaction: it has failed, and the client is in time to end it.
    client.batch_execute("BEGIN; CREATE TABLE gone (n int)").await.unwrap();
    assert_eq!(report(&client.simple_query("SELECT pg_sleep(611)").await.unwrap_err()), late);
    let error = client.simple_query("SELECT 1").await.unwrap_err();
    assert_eq!(report(&error).0, "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();

    client.batch_execute("BEGIN; CREATE TABLE gone (n int)").await.unwrap();
    await_until("silence ends the client", async || client.is_closed()).await;
    let patient = {
        let mut config = proxy.config("app");
        config.application_name("patient");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    patient.simple_query("SELECT pg_sleep(1.5)").await.expect("a rule gives it time");
    patient.batch_execute("BEGIN; CREATE TABLE gone (n int)").await.expect("the lock is free");
    for _ in 0..2 {
        patient.simple_query("SELECT pg_sleep(1.6)").await.expect("a rule gives it time");
    }
    patient.batch_execute("ROLLBACK").await.unwrap();

    let busy = proxy.connect("app").await;
    busy.batch_execute("BEGIN").await.unwrap();
    // One after the other, without a pause in which the limit could be reached.
    let naps = (0..12).map(|_| busy.simple_query("SELECT pg_sleep(0.5) FROM pg_class LIMIT 1"));
    let slept = futures_util::future::join_all(naps).await;
    let error = slept.into_iter().find_map(Result::err).expect("twice as long as it may take");
    let told = ("25P04", "terminating connection due to transaction timeout");
    assert_eq!(report(&error), told);
    for limit in ["query_timeout", "idle_in_transaction_timeout", "transaction_timeout"] {
        let counted = proxy.metrics().await.sum("causeway_timeouts_total", &[("limit", limit)]);
        assert!(counted.is_some_and(|count| count >= 1.0), "{limit}: {counted:?}");
    }
}

/// `pool.queue` wait for a server of one pool; one more is told so at once, and those who wait are served.
#[tokio::test(flavor = "multi_thread")]
async fn who_would_wait_behind_too_many_is_told_so_at_once() {
    let options = ProxyOptions {
        pool: "size = 1\nqueue = 2\nwait = \"30s\"",
        routing: "consistency = \"primary\"",
        ..Default::default()
    };
    let proxy = Proxy::start(shared_cluster(), &options).await;
    let holder = proxy.connect("app").await;
    let others = [proxy.connect("app").await, proxy.connect("app").await];
    let late = proxy.connect("app").await;
    holder.batch_execute("BEGIN; CREATE TEMP TABLE held (n int)").await.unwrap();
    let waiting = others.map(|client| {
        tokio::spawn(async move { client.simple_query("SELECT 1").await.map(|_| ()) })
    });
    let unserved = async |limit: &str| {
        let metrics = proxy.metrics().await;
        metrics.sum("causeway_unserved_requests_total", &[("limit", limit)]).unwrap_or_default()
    };
    await_until("two wait", async || {
        let waiting = [("state", "waiting")];
        let waiting = proxy.metrics().await.sum("causeway_pool_servers", &waiting);
        waiting.is_some_and(|count| count >= 2.0)
    })
    .await;
    let began = Instant::now();
    let error = late.simple_query("SELECT 1").await.unwrap_err();
    assert_eq!(report(&error).0, "53300", "{error}");
    assert!(began.elapsed() < Duration::from_secs(15), "not after pool.wait");
    assert!(unserved("queue").await >= 1.0);
    holder.batch_execute("ROLLBACK").await.unwrap();
    for one in waiting {
        one.await.unwrap().expect("who waited is served");
    }
    late.simple_query("SELECT 1").await.expect("and so is who comes later");
    assert!(unserved("wait").await < 1.0);
}
