//! Ordinary traffic: pgbench runs clean, and the nodes themselves say that reads were served by
//! replicas, evenly, and writes by the primary.

use std::process::Command;

use causeway::cli::demo::cluster::{APP, Cluster};

use crate::harness::{
    Proxy, ProxyOptions, Served, await_until, fresh_database, postgres_program, run, served,
    shared_cluster,
};

const MODES: [&str; 3] = ["simple", "extended", "prepared"];

fn pgbench(port: u16, database: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(postgres_program("pgbench"));
    command.env("PGPASSWORD", APP).args(["-h", "127.0.0.1", "-U", APP, "-p"]).arg(port.to_string());
    command.args(arguments).arg(database);
    command
}

async fn pgbench_database(cluster: &Cluster) -> String {
    let database = fresh_database(cluster).await;
    run(pgbench(cluster.primary().port(), &database, &["-i", "-q", "--no-vacuum"])).await;
    cluster.await_replay().await.unwrap();
    database
}

/// Runs pgbench in each mode through the proxy and returns how many transactions it made in all.
async fn pgbench_in_every_mode(proxy: &Proxy, database: &str, script: &str) -> i64 {
    let mut transactions = 0;
    for mode in MODES {
        let arguments =
            ["-n", "-b", script, "-M", mode, "-c", "8", "-j", "2", "-t", "150", "--random-seed=7"];
        let report = run(pgbench(proxy.address.port(), database, &arguments)).await;
        assert!(report.contains("number of failed transactions: 0 (0.000%)"), "{report}");
        assert!(report.contains("actually processed: 1200/1200"), "{report}");
        transactions += 1200;
    }
    transactions
}

/// What every node did since `before`, by its own account, once the accounts add up.
async fn since(
    cluster: &Cluster,
    database: &str,
    table: &str,
    before: &[Served],
    complete: impl Fn(&[Served]) -> bool,
) -> Vec<Served> {
    let mut now = Vec::new();
    await_until("the nodes have counted everything", async || {
        now.clear();
        for (node, before) in cluster.nodes().iter().zip(before) {
            let served = served(node, database, table).await;
            now.push(Served {
                written: served.written - before.written,
                rolled_back: served.rolled_back - before.rolled_back,
                scans: served.scans - before.scans,
            });
        }
        complete(&now)
    })
    .await;
    now
}

async fn served_by_all(cluster: &Cluster, database: &str, table: &str) -> Vec<Served> {
    let mut all = Vec::new();
    for node in cluster.nodes() {
        all.push(served(node, database, table).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_select_only_runs_clean_and_on_replicas_only() {
    let cluster = shared_cluster();
    let database = pgbench_database(cluster).await;
    let before = served_by_all(cluster, &database, "pgbench_accounts").await;
    let proxy = Proxy::start(cluster, &ProxyOptions::default()).await;
    proxy.await_catalog(cluster, &database).await;
    let reads = pgbench_in_every_mode(&proxy, &database, "select-only").await;
    drop(proxy);

    let now = since(cluster, &database, "pgbench_accounts", &before, |now| {
        now.iter().map(|node| node.scans).sum::<i64>() >= reads
    })
    .await;
    // Level session: on a busy machine a read may find no replica that could prove itself in time.
    assert!(now[0].scans * 10 <= reads, "the primary served routed reads: {now:?}");
    assert_eq!(now.iter().map(|node| node.scans).sum::<i64>(), reads, "{now:?}");
    assert!(now.iter().all(|node| node.written == 0 && node.rolled_back == 0), "{now:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbench_tpcb_runs_clean_and_on_the_primary_only() {
    let cluster = shared_cluster();
    let database = pgbench_database(cluster).await;
    let before = served_by_all(cluster, &database, "pgbench_accounts").await;
    let proxy = Proxy::start(cluster, &ProxyOptions::default()).await;
    proxy.await_catalog(cluster, &database).await;
    let transactions = pgbench_in_every_mode(&proxy, &database, "tpcb-like").await;
    drop(proxy);

    // Three updates and one insert each.
    let now = since(cluster, &database, "pgbench_accounts", &before, |now| {
        now[0].written >= 4 * transactions
    })
    .await;
    assert_eq!(now[0].written, 4 * transactions, "{now:?}");
    assert_eq!(now[0].rolled_back, 0, "{now:?}");
    let idle = Served { written: 0, rolled_back: 0, scans: 0 };
    assert_eq!(now[1..], [idle; 2], "a replica was asked for a part of a write transaction");
}

/// What a procedure does nobody knows: who has called it asks the primary until the catalog was looked at again, and
/// nobody else has to.
#[tokio::test(flavor = "multi_thread")]
async fn procedures_keep_only_their_callers_from_the_replicas() {
    let cluster = shared_cluster();
    let database = fresh_database(cluster).await;
    let direct = cluster.primary().connect(&database).await.unwrap();
    let create = "CREATE TABLE counted AS SELECT 1 AS n; GRANT ALL ON counted TO app;
        GRANT CREATE ON SCHEMA public TO app";
    direct.batch_execute(create).await.unwrap();
    cluster.await_replay().await.unwrap();
    let options = ProxyOptions { routing: "consistency = \"eventual\"", ..Default::default() };
    let proxy = Proxy::start(cluster, &options).await;
    proxy.await_catalog(cluster, &database).await;
    let (caller, reader) = (proxy.connect(&database).await, proxy.connect(&database).await);
    // Not in the catalog as long as nobody has looked again.
    let make = "DO $$ BEGIN EXECUTE 'CREATE OR REPLACE FUNCTION one() RETURNS int STABLE AS ''SELECT 1'' LANGUAGE sql'; END $$";
    caller.batch_execute(make).await.unwrap();
    await_until("the caller believes the catalog again", async || {
        let before = proxy.reads_of_replicas(cluster).await;
        caller.simple_query("SELECT one()").await.unwrap();
        proxy.reads_of_replicas(cluster).await > before
    })
    .await;
    let unknown = || async {
        let of = [("reason", "catalog_not_loaded")];
        proxy.metrics().await.sum("causeway_statements_total", &of).unwrap_or_default()
    };
    let (mut by_caller, before) = (0.0, proxy.reads_of_replicas(cluster).await);
    for _ in 0..50 {
        caller.batch_execute("DO $$ BEGIN PERFORM 1; END $$").await.unwrap();
        let before = unknown().await;
        caller.simple_query("SELECT n FROM counted").await.unwrap();
        // A statement is counted when its session is done with it, which is after its answer.
        caller.simple_query("SHOW TimeZone").await.unwrap();
        by_caller += unknown().await - before;
        let (replicas, unknown_before) = (proxy.reads_of_replicas(cluster).await, unknown().await);
        reader.simple_query("SELECT n FROM counted").await.unwrap();
        assert!(proxy.reads_of_replicas(cluster).await > replicas, "a reader was kept away");
        assert!(unknown().await <= unknown_before, "a reader had no catalog");
    }
    assert!(by_caller >= 1.0, "the caller has believed what it may have changed");
    assert!(proxy.reads_of_replicas(cluster).await - before >= 50.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_transaction_is_on_a_replica_unless_it_must_not() {
    let cluster = shared_cluster();
    let database = fresh_database(cluster).await;
    // What has run on the primary must not keep what follows there.
    let options = ProxyOptions { routing: "consistency = \"eventual\"", ..Default::default() };
    let proxy = Proxy::start(cluster, &options).await;
    let client = proxy.connect(&database).await;
    proxy.await_catalog(cluster, &database).await;
    for first in [
        "SELECT 1",
        "SHOW TimeZone",
        "SET LOCAL statement_timeout = '9s'",
        "SET TimeZone = 'UTC'",
        "SAVEPOINT a",
        "PREPARE a AS SELECT 1",
        "SELECT set_config('app.user', 'me', true)",
    ] {
        assert!(on_replica(&client, &["BEGIN READ ONLY", first]).await, "{first}");
        let more = &["BEGIN READ ONLY", first, "SELECT pg_catalog.txid_current()"];
        assert!(!on_replica(&client, more).await, "{first}");
    }
    for first in ["SET transaction_read_only = off", "DECLARE c CURSOR FOR SELECT 1", "LISTEN a"] {
        assert!(!on_replica(&client, &["BEGIN READ ONLY", first]).await, "{first}");
    }
}

/// Whether a transaction that begins so is on a replica then.
async fn on_replica(client: &tokio_postgres::Client, begin: &[&str]) -> bool {
    for text in begin {
        client.batch_execute(text).await.unwrap();
    }
    // Taken alone it would have to ask the primary.
    let asked = "/* causeway: route=replica */ SELECT pg_is_in_recovery()";
    let answer = client.query_one(asked, &[]).await.unwrap().get(0);
    client.batch_execute("ROLLBACK; UNLISTEN *; DEALLOCATE ALL").await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_shared_evenly_over_many_clients() {
    reads_are_shared("consistency = \"eventual\"", 2, 0).await;
}

/// A session that reads without a pause stays where it is, and others make up for it. Where it cannot
/// (the replica's servers are new, and it lags on a busy machine), the primary serves it: seldom.
#[tokio::test(flavor = "multi_thread")]
async fn reads_of_sessions_that_never_go_back_are_shared_evenly() {
    reads_are_shared("consistency = \"session\"", 20, 25).await;
}

/// Whether the shares of two replicas differ by less than so many percent, and the primary's is no more
/// than so many.
async fn reads_are_shared(routing: &'static str, percent: i64, of_primary: i64) {
    const CLIENTS: i64 = 30;
    const READS: i64 = 100;
    let cluster = shared_cluster();
    let database = fresh_database(cluster).await;
    let direct = cluster.primary().connect(&database).await.unwrap();
    let create = "CREATE TABLE counted AS SELECT 1 AS n; GRANT SELECT ON counted TO app";
    direct.batch_execute(create).await.unwrap();
    cluster.await_replay().await.unwrap();
    let before = served_by_all(cluster, &database, "counted").await;

    let options = ProxyOptions { routing, ..Default::default() };
    let proxy = Proxy::start(cluster, &options).await;
    proxy.await_catalog(cluster, &database).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let client = proxy.connect(&database).await;
        clients.spawn(async move {
            for _ in 0..READS {
                // Half of them by the simple protocol.
                if number % 2 == 0 {
                    client.simple_query("SELECT n FROM counted").await.unwrap();
                } else {
                    client.query_one("SELECT n FROM counted", &[]).await.unwrap();
                }
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    drop(proxy);

    let reads = CLIENTS * READS;
    let now = since(cluster, &database, "counted", &before, |now| {
        now.iter().map(|node| node.scans).sum::<i64>() >= reads
    })
    .await;
    assert!(now[0].scans * 100 <= reads * of_primary, "the primary served routed reads: {now:?}");
    assert_eq!(now.iter().map(|node| node.scans).sum::<i64>(), reads, "{now:?}");
    let difference = (now[1].scans - now[2].scans).abs();
    assert!(difference * 100 < reads * percent, "the shares differ by {difference} of {reads}");
}
