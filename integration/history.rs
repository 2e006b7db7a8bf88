//! What a failover has lost is said: to the sessions that had it, in the log, and in the metrics.

use std::sync::{Arc, Mutex};

use causeway::cli::demo::cluster::Stop;
use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::harness::{Proxy, ProxyOptions, await_until, fresh_database, own_cluster};

/// A client whose notices are kept: SQLSTATE and text.
async fn client_with_notices(
    proxy: &Proxy,
    database: &str,
) -> (Client, Arc<Mutex<Vec<(String, String)>>>) {
    let (client, mut connection) = proxy.config(database).connect(NoTls).await.unwrap();
    let notices = Arc::new(Mutex::new(Vec::new()));
    let kept = notices.clone();
    tokio::spawn(async move {
        let mut messages = std::pin::pin!(poll_fn(|cx| connection.poll_message(cx)));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notice(notice) = message {
                let entry = (notice.code().code().to_owned(), notice.message().to_owned());
                kept.lock().unwrap().push(entry);
            }
        }
    });
    (client, notices)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_promotion_has_lost_is_told_to_whom_it_concerns() {
    let cluster = own_cluster();
    let database = fresh_database(&cluster).await;
    let proxy = Proxy::start(&cluster, &ProxyOptions::default()).await;
    proxy.await_catalog(&cluster, &database).await;
    let (loser, told) = client_with_notices(&proxy, &database).await;
    let (keeper, untold) = client_with_notices(&proxy, &database).await;
    loser.batch_execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)").await.unwrap();
    keeper.batch_execute("INSERT INTO kept VALUES (2)").await.unwrap();
    let position = |client| async move {
        let rows: Vec<tokio_postgres::SimpleQueryMessage> =
            Client::simple_query(client, "SHOW causeway.lsn").await.unwrap();
        rows.iter().any(|row| matches!(row, tokio_postgres::SimpleQueryMessage::Row(_)))
    };
    assert!(position(&keeper).await);
    cluster.await_replay().await.unwrap();

    // From here on nothing reaches a replica.
    for replica in cluster.replicas() {
        replica.execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
        replica.execute("SELECT pg_reload_conf()").await.unwrap();
    }
    let receivers = "SELECT pid FROM pg_stat_wal_receiver";
    for replica in cluster.replicas() {
        let direct = replica.connect("postgres").await.unwrap();
        await_until("the receiver has stopped", async || {
            direct.query(receivers, &[]).await.unwrap().is_empty()
        })
        .await;
    }
    loser.batch_execute("INSERT INTO kept VALUES (3)").await.unwrap();
    assert!(position(&loser).await, "the acknowledged write has a position");

    cluster.primary().stop(Stop::Kill).unwrap();
    proxy.await_state(cluster.primary(), "down").await;
    let heir = &cluster.replicas()[0];
    heir.promote().await.unwrap();
    await_until("there is a primary", async || {
        proxy.get("/readyz").await.is_some_and(|(status, _)| status == 200)
    })
    .await;

    let count = "SELECT count(*) FROM kept";
    for client in [&loser, &keeper] {
        let rows: i64 = client.query_one(count, &[]).await.unwrap().get(0);
        assert_eq!(rows, 2, "the third is lost");
    }
    let told = told.lock().unwrap().clone();
    assert_eq!(told.len(), 1, "told once: {told:?}");
    assert_eq!(told[0].0, "01000");
    assert!(told[0].1.contains("has lost"), "{told:?}");
    assert_eq!(*untold.lock().unwrap(), [], "all that this one wrote is there");
    assert!((proxy.metric("causeway_lost_history_total", None).await - 1.0).abs() < 0.1);
    assert!(proxy.log().contains("a failover has lost what a session had written or read"));
}
