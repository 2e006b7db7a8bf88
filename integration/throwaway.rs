//! The throw-away cluster itself: what it promises, everything else stands on.

use causeway::cli::demo::cluster::{Cluster, ClusterOptions, Stop};

#[tokio::test]
async fn replicas_stream_survive_a_kill_and_nothing_is_left_behind() {
    let cluster = Cluster::start(&ClusterOptions { replicas: 1, ..Default::default() }).unwrap();
    let directory = cluster.directory().to_owned();
    cluster.primary().execute("CREATE TABLE t AS SELECT 1 AS n").await.unwrap();
    let replica = &cluster.replicas()[0];
    replica.stop(Stop::Kill).unwrap();
    cluster.primary().execute("INSERT INTO t VALUES (2)").await.unwrap();
    replica.restart().unwrap();

    cluster.await_replay().await.unwrap();
    let client = replica.connect("postgres").await.unwrap();
    let row = client.query_one("SELECT count(*), pg_is_in_recovery() FROM t", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1)), (2, true));
    drop(cluster);
    assert!(!directory.exists());
    client.simple_query("SELECT 1").await.expect_err("the server is gone");
}
