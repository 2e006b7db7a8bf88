//! Nodes that lag, die, come back and change places while clients work. Each test breaks a cluster of
//! its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use causeway::cli::demo::cluster::{Cluster, Node, Stop};
use tokio_postgres::error::SqlState;

use crate::harness::{
    Proxy, ProxyOptions, await_until, fresh_database, last_statement, own_cluster, served,
};

/// Clients that read, and one that writes, until told to end; every failure is kept.
struct Load {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    tasks: tokio::task::JoinSet<Vec<String>>,
}

impl Load {
    async fn start(proxy: &Proxy, database: &str, readers: usize) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            reads: Arc::default(),
            tasks: tokio::task::JoinSet::new(),
        };
        for number in 0..readers {
            let client = proxy.connect(database).await;
            let (stop, reads) = (Arc::clone(&load.stop), Arc::clone(&load.reads));
            load.tasks.spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let answer = if number % 2 == 0 {
                        client.simple_query("SELECT n FROM items").await.map(|_| ())
                    } else {
                        client.query("SELECT n FROM items WHERE n = $1", &[&1]).await.map(|_| ())
                    };
                    match answer {
                        Ok(()) => drop(reads.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => failures.push(format!("reader {number}: {error:?}")),
                    }
                    if client.is_closed() {
                        failures.push(format!("reader {number} lost its connection"));
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                failures
            });
        }
        load
    }

    async fn and_writes(mut self, proxy: &Proxy, database: &str) -> Self {
        let client = proxy.connect(database).await;
        let stop = Arc::clone(&self.stop);
        self.tasks.spawn(async move {
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = client.execute("UPDATE items SET n = n", &[]).await {
                    failures.push(format!("writer: {error:?}"));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            failures
        });
        self
    }

    fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Waits until so many more reads were answered.
    async fn go_on(&self, more: u64) {
        let goal = self.reads() + more;
        await_until("reads go on", async || self.reads() >= goal).await;
    }

    /// Ends the clients and returns what failed.
    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.tasks.join_all().await.concat()
    }
}

/// A cluster to break, with a database that has a table `items`, and a proxy before it.
async fn broken_ground(options: &ProxyOptions) -> (Cluster, String, Proxy) {
    let cluster = own_cluster();
    let database = fresh_database(&cluster).await;
    let client = cluster.primary().connect(&database).await.unwrap();
    let create = "CREATE TABLE items AS SELECT 1 AS n; ALTER TABLE items OWNER TO app";
    client.batch_execute(create).await.unwrap();
    cluster.await_replay().await.unwrap();
    let proxy = Proxy::start(&cluster, options).await;
    proxy.await_catalog(&cluster, &database).await;
    (cluster, database, proxy)
}

/// Waits until clients' statements reach the node.
async fn await_statements_on(node: &Node, database: &str) {
    await_until(&format!("statements reach {}", node.name()), async || {
        last_statement(node, database).await.is_some_and(|ago| ago < 0.5)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lags_is_left_out_and_comes_back() {
    let options = ProxyOptions {
        monitor: "max_lag = \"1s\"\nreadmit_lag = \"500ms\"\ninterval = \"250ms\"",
        ..Default::default()
    };
    let (cluster, database, proxy) = broken_ground(&options).await;
    let load = Load::start(&proxy, &database, 8).await.and_writes(&proxy, &database).await;
    let (lagging, other) = (&cluster.replicas()[0], &cluster.replicas()[1]);
    await_statements_on(lagging, &database).await;

    let paused_at = Instant::now();
    lagging.pause_replay().await.unwrap();
    proxy.await_state(lagging, "ejected").await;
    // max_lag and two intervals, and some seconds for a busy machine.
    let took = paused_at.elapsed();
    assert!(took < Duration::from_millis(1500 + 3000), "ejected only after {took:?}");
    assert!(took > Duration::from_millis(700), "ejected already after {took:?}");

    tokio::time::sleep(Duration::from_millis(1500)).await;
    load.go_on(200).await;
    let ago = last_statement(lagging, &database).await;
    assert!(ago.is_none_or(|ago| ago > 1.0), "a statement reached it {ago:?} s ago");
    await_statements_on(other, &database).await;

    lagging.resume_replay().await.unwrap();
    proxy.await_state(lagging, "up").await;
    await_statements_on(lagging, &database).await;
    assert_eq!(load.end().await, Vec::<String>::new());
    let ejections = proxy.metric("causeway_ejections_total", Some(lagging)).await;
    assert!(ejections >= 1.0, "{ejections}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_killed_under_load_fails_no_read() {
    let (cluster, database, proxy) = broken_ground(&ProxyOptions::default()).await;
    let load = Load::start(&proxy, &database, 16).await;
    let victim = &cluster.replicas()[0];
    for _ in 0..2 {
        await_statements_on(victim, &database).await;
        victim.stop(Stop::Kill).unwrap();
        load.go_on(500).await;
        proxy.await_state(victim, "down").await;
        victim.restart().unwrap();
        proxy.await_state(victim, "up").await;
    }
    await_statements_on(victim, &database).await;
    assert_eq!(load.end().await, Vec::<String>::new());
}

/// A node that hangs keeps its connections open: whoever can be served elsewhere must not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_hangs_under_load_holds_up_no_read() {
    let (cluster, database, proxy) = broken_ground(&ProxyOptions::default()).await;
    let load = Load::start(&proxy, &database, 16).await;
    let victim = &cluster.replicas()[0];
    await_statements_on(victim, &database).await;
    let hanging = victim.hang().unwrap();
    proxy.await_state(victim, "down").await;
    load.go_on(500).await;
    // Each of them has to come back from where it is, while the node still hangs.
    let ended = tokio::time::timeout(Duration::from_secs(20), load.end()).await;
    drop(hanging);
    assert_eq!(ended.expect("somebody still waits for the node that hangs"), Vec::<String>::new());
    proxy.await_state(victim, "up").await;
    let load = Load::start(&proxy, &database, 4).await;
    await_statements_on(victim, &database).await;
    assert_eq!(load.end().await, Vec::<String>::new());
}

/// Who waits for a primary that hangs goes on waiting, as directly, until another has its place.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_primary_that_was_replaced_is_told() {
    let (cluster, database, proxy) = broken_ground(&ProxyOptions::default()).await;
    let client = proxy.connect(&database).await;
    client.execute("INSERT INTO items VALUES (1)", &[]).await.unwrap();
    client.batch_execute("BEGIN; INSERT INTO items VALUES (2)").await.unwrap();
    let hanging = cluster.primary().hang().unwrap();
    let waiting = tokio::spawn(async move {
        let failed = client.execute("INSERT INTO items VALUES (3)", &[]).await.unwrap_err();
        (client, failed.code().cloned())
    });
    proxy.await_state(cluster.primary(), "down").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!waiting.is_finished(), "it was given up although nobody had its place");

    cluster.replicas()[0].promote().await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(20), waiting).await;
    let (client, code) = told.expect("it still waits for the node that hangs").unwrap();
    assert_eq!(
        code.as_ref().map(SqlState::code),
        Some("40001"),
        "the transaction is to be repeated"
    );
    client.batch_execute("ROLLBACK").await.unwrap();
    await_until("writes go on", async || {
        client.execute("INSERT INTO items VALUES (4)", &[]).await.is_ok()
    })
    .await;
    drop(hanging);
    proxy.await_state(cluster.primary(), "banned").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_replicas_the_primary_serves_reads_until_they_are_back() {
    let (cluster, database, proxy) = broken_ground(&ProxyOptions::default()).await;
    let load = Load::start(&proxy, &database, 4).await;
    load.go_on(100).await;
    // One is shut down in order, the other dies.
    cluster.replicas()[0].stop(Stop::Fast).unwrap();
    cluster.replicas()[1].stop(Stop::Kill).unwrap();
    load.go_on(500).await;
    await_statements_on(cluster.primary(), &database).await;
    assert_eq!(proxy.get("/readyz").await.unwrap().0, 200);

    for replica in cluster.replicas() {
        replica.restart().unwrap();
        proxy.await_state(replica, "up").await;
        await_statements_on(replica, &database).await;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let ago = last_statement(cluster.primary(), &database).await;
    assert!(ago.is_none_or(|ago| ago > 1.0), "reads stay on the primary ({ago:?} s ago)");
    assert_eq!(load.end().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_follow_a_promotion() {
    let (cluster, database, proxy) = broken_ground(&ProxyOptions::default()).await;
    let client = proxy.connect(&database).await;
    client.execute("INSERT INTO items VALUES (2)", &[]).await.unwrap();
    cluster.await_replay().await.unwrap();
    // Until it has asked where a write stands in the log (20 ms), nobody can tell who has it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let [heir, other] = cluster.replicas() else { panic!("two replicas") };

    cluster.primary().stop(Stop::Fast).unwrap();
    proxy.await_state(cluster.primary(), "down").await;
    // With no primary there are still reads, and not ready means no writes.
    client.query("SELECT n FROM items", &[]).await.unwrap();
    assert_eq!(proxy.get("/readyz").await.unwrap().0, 503);
    // Nor only of what the proxy has asked the primary for before.
    let another = proxy.connect("postgres").await;
    another.query("SELECT relname FROM pg_class", &[]).await.unwrap();
    // Nor without what clients say first.
    another.batch_execute("SET TimeZone = 'Asia/Tokyo'").await.unwrap();
    another.batch_execute("RESET TimeZone").await.unwrap();
    another.query("SELECT relname FROM pg_class", &[]).await.unwrap();
    // Nor only for as long as what it has asked is new.
    tokio::time::sleep(Duration::from_secs(3)).await;
    client.query("SELECT n FROM items", &[]).await.unwrap();

    heir.promote().await.unwrap();
    let conninfo =
        format!("host=127.0.0.1 port={} user=replicator password=replicator", heir.port());
    other.execute(&format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'")).await.unwrap();
    other.execute("SELECT pg_reload_conf()").await.unwrap();

    // The same client connection, no restart.
    await_until("writes go on", async || {
        client.execute("INSERT INTO items VALUES (3)", &[]).await.is_ok()
    })
    .await;
    let direct = heir.connect(&database).await.unwrap();
    let row = direct.query_one("SELECT count(*) FROM items WHERE n = 3", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);

    // The other replica follows the new primary and serves reads again.
    proxy.await_state(other, "up").await;
    await_until("a read reaches the other replica", async || {
        client.query("SELECT n FROM items", &[]).await.unwrap();
        last_statement(other, &database).await.is_some_and(|ago| ago < 0.5)
    })
    .await;
}

/// The old primary comes back as it was, a primary on the older timeline: it must get nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_former_primary_that_returns_gets_no_statement() {
    let (cluster, database, proxy) = broken_ground(&ProxyOptions::default()).await;
    let client = proxy.connect(&database).await;
    cluster.primary().stop(Stop::Kill).unwrap();
    proxy.await_state(cluster.primary(), "down").await;
    cluster.replicas()[0].promote().await.unwrap();
    await_until("writes go on", async || {
        client.execute("INSERT INTO items VALUES (1)", &[]).await.is_ok()
    })
    .await;

    cluster.primary().restart().unwrap();
    proxy.await_state(cluster.primary(), "banned").await;
    for _ in 0..50 {
        client.execute("INSERT INTO items VALUES (2)", &[]).await.unwrap();
        client.query("SELECT n FROM items", &[]).await.unwrap();
    }
    assert_eq!(last_statement(cluster.primary(), &database).await, None);
    assert_eq!(served(cluster.primary(), &database, "items").await.written, 0);
}
