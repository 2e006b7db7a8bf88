//! What a failover has lost is said: to the sessions that had it, in the log, and in the metrics.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use causeway::cli::demo::cluster::{Cluster, Stop};
use futures_util::StreamExt;
use futures_util::stream::poll_fn;
use tokio::task::JoinSet;
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

/// From here on nothing reaches a replica.
async fn cut_off_replicas(cluster: &Cluster) {
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

    cut_off_replicas(&cluster).await;
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

/// Under `synchronous_commit = off` a commit is acknowledged before it is flushed, and a crash takes it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_of_the_primary_has_lost_is_told_to_whom_it_concerns() {
    let cluster = own_cluster();
    let primary = cluster.primary();
    primary.execute("ALTER SYSTEM SET wal_writer_delay = '10s'").await.unwrap();
    primary.execute("SELECT pg_reload_conf()").await.unwrap();
    let database = fresh_database(&cluster).await;
    let proxy = Proxy::start(&cluster, &ProxyOptions::default()).await;
    proxy.await_catalog(&cluster, &database).await;
    let (loser, told) = client_with_notices(&proxy, &database).await;
    let (keeper, untold) = client_with_notices(&proxy, &database).await;
    keeper.batch_execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)").await.unwrap();
    let position = |client| async move {
        let rows = Client::simple_query(client, "SHOW causeway.lsn").await.unwrap();
        let shown = rows.iter().find_map(|row| match row {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        shown.expect("a position")
    };
    position(&keeper).await;
    loser.batch_execute("SET synchronous_commit = off").await.unwrap();
    let direct = primary.connect(&database).await.unwrap();
    // The WAL writer may come in between.
    let mut lost = false;
    while !lost {
        loser.batch_execute("INSERT INTO kept VALUES (3)").await.unwrap();
        let at = position(&loser).await;
        let flushed = format!("SELECT pg_current_wal_flush_lsn() < '{at}'");
        lost = direct.query_one(&flushed, &[]).await.unwrap().get(0);
    }
    tokio::task::block_in_place(|| primary.stop(Stop::Kill)).unwrap();
    proxy.await_state(primary, "down").await;
    tokio::task::block_in_place(|| primary.restart()).unwrap();
    await_until("there is a primary", async || {
        proxy.get("/readyz").await.is_some_and(|(status, _)| status == 200)
    })
    .await;

    // Past what was lost, so that positions alone would say that all is there.
    let direct = primary.connect(&database).await.unwrap();
    direct.batch_execute("INSERT INTO kept SELECT 1 FROM generate_series(1, 1000)").await.unwrap();
    cluster.await_replay().await.unwrap();
    for client in [&loser, &keeper] {
        client.query_one("SELECT count(*) FROM kept", &[]).await.unwrap();
    }
    let told = told.lock().unwrap().clone();
    assert_eq!(told.len(), 1, "told once: {told:?}");
    assert_eq!(told[0].0, "01000");
    assert!(told[0].1.contains("a crash of the primary may have lost"), "{told:?}");
    assert_eq!(*untold.lock().unwrap(), [], "all that this one wrote is there");
    // A clean restart loses nothing.
    tokio::task::block_in_place(|| primary.stop(Stop::Fast)).unwrap();
    tokio::task::block_in_place(|| primary.restart()).unwrap();
    await_until("there is a primary again", async || {
        keeper.batch_execute("INSERT INTO kept VALUES (4)").await.is_ok()
    })
    .await;
    assert_eq!(*untold.lock().unwrap(), []);
}

/// The other replica follows the new primary, and comes to be further than what was lost had been.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_follows_the_new_timeline_hides_no_loss() {
    let cluster = own_cluster();
    // Without it nobody sees what timeline a replica follows before the monitor has seen the promotion.
    cluster.primary().execute("GRANT pg_monitor TO app").await.unwrap();
    let database = fresh_database(&cluster).await;
    let proxy = Proxy::start(&cluster, &ProxyOptions::default()).await;
    proxy.await_catalog(&cluster, &database).await;
    let key = "SET causeway.session_key = 'user:42'";
    let (loser, told) = client_with_notices(&proxy, &database).await;
    let (twin, told_as_well) = client_with_notices(&proxy, &database).await;
    for client in [&loser, &twin] {
        client.batch_execute(key).await.unwrap();
    }
    loser.batch_execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (1)").await.unwrap();
    cluster.await_replay().await.unwrap();
    let [heir, follower] = cluster.replicas() else { panic!("two replicas") };
    let direct = follower.connect(&database).await.unwrap();
    let row = direct.query_one("SHOW primary_conninfo", &[]).await.unwrap();
    let from = |node: &causeway::cli::demo::cluster::Node| {
        let address = node.address();
        address.rsplit_once(':').map(|(_, port)| format!("port={port}")).expect("a port")
    };
    let conninfo = row.get::<_, String>(0).replace('\'', "");
    cut_off_replicas(&cluster).await;
    loser.batch_execute("INSERT INTO kept VALUES (2)").await.unwrap();
    loser.batch_execute("SHOW causeway.lsn").await.unwrap();
    tokio::task::block_in_place(|| cluster.primary().stop(Stop::Kill)).unwrap();
    heir.promote().await.unwrap();
    let conninfo = conninfo.replace(&from(cluster.primary()), &from(heir));
    let follow = format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'");
    follower.execute(&follow).await.unwrap();
    follower.execute("SELECT pg_reload_conf()").await.unwrap();
    let of_heir = heir.connect(&database).await.unwrap();
    let much = "INSERT INTO kept SELECT 1 FROM generate_series(1, 1000)";
    of_heir.batch_execute(much).await.unwrap();
    let count = "SELECT count(*) FROM kept";
    await_until("the other replica follows", async || {
        direct.query_one(count, &[]).await.unwrap().get::<_, i64>(0) == 1001
    })
    .await;
    for client in [&loser, &twin] {
        let rows: i64 = client.query_one(count, &[]).await.unwrap().get(0);
        assert_eq!(rows, 1001);
    }
    for told in [told, told_as_well] {
        let told = told.lock().unwrap().clone();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].1.contains("has lost"), "{told:?}");
    }
    proxy.await_state(follower, "up").await;
    await_until("it serves again", async || {
        loser.query_one(count, &[]).await.unwrap();
        proxy.metric("causeway_node_reads_total", Some(follower)).await > 0.0
    })
    .await;
}

const COUNTERS: usize = 8;

/// Counts its own counter up and reads it and its neighbour's, until it is told to stop.
struct Counting {
    own: usize,
    client: Client,
    notices: Arc<Mutex<Vec<(String, String)>>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Progress>,
}

/// How many writes of each were acknowledged.
type Progress = [AtomicUsize; COUNTERS];

/// Waits until every one of them has written once more.
async fn all_write(progress: &Progress) {
    for one in progress {
        let before = one.load(Ordering::Relaxed);
        await_until("every session writes", async || one.load(Ordering::Relaxed) > before).await;
    }
}

/// What it did and was told.
struct Counted {
    own: usize,
    /// The last value whose write was acknowledged.
    acknowledged: i64,
    /// What it was told of lost history.
    told: Vec<String>,
    /// Reads that were older than what was written or seen before, and nothing was said.
    broken: Vec<String>,
    reads: usize,
    writes: usize,
}

impl Counting {
    async fn work(self) -> Counted {
        let mut floors = [0_i64; COUNTERS];
        let (mut value, mut told) = (0_i64, 0);
        let mut done = Counted {
            own: self.own,
            acknowledged: 0,
            told: Vec::new(),
            broken: Vec::new(),
            reads: 0,
            writes: 0,
        };
        loop {
            // The last round is after the stop: by then everything has been said.
            let last = self.stop.load(Ordering::Relaxed);
            value += 1;
            let write = format!("UPDATE counters SET value = {value} WHERE key = {}", self.own);
            if !last && self.client.batch_execute(&write).await.is_ok() {
                (done.acknowledged, floors[self.own]) = (value, value);
                done.writes += 1;
                self.acknowledged[self.own].fetch_add(1, Ordering::Relaxed);
            }
            for key in [self.own, (self.own + 1) % COUNTERS] {
                let read = format!("SELECT value FROM counters WHERE key = {key}");
                let Ok(row) = self.client.query_one(&read, &[]).await else { continue };
                let seen: i64 = row.get(0);
                let notices = self.notices.lock().unwrap().len();
                if notices > told {
                    (floors, told) = ([0; COUNTERS], notices);
                }
                if seen < floors[key] {
                    let floor = floors[key];
                    done.broken.push(format!("{}: {key} was {floor}, is {seen}", self.own));
                }
                floors[key] = seen;
                done.reads += 1;
            }
            if last {
                break;
            }
        }
        let notices = self.notices.lock().unwrap();
        done.told = notices.iter().map(|(sqlstate, text)| format!("{sqlstate} {text}")).collect();
        done
    }
}

/// Sessions count while the primary is killed and a replica promoted; tells what each did, and what the
/// new primary has.
async fn count_over_a_promotion(synchronous: bool) -> Vec<(Counted, i64)> {
    let cluster = own_cluster();
    let database = fresh_database(&cluster).await;
    let proxy = Proxy::start(&cluster, &ProxyOptions::default()).await;
    proxy.await_catalog(&cluster, &database).await;
    let client = proxy.connect(&database).await;
    let table = "CREATE TABLE counters (key int PRIMARY KEY, value bigint NOT NULL DEFAULT 0)";
    client.batch_execute(table).await.unwrap();
    let rows = format!("INSERT INTO counters SELECT generate_series(0, {COUNTERS} - 1)");
    client.batch_execute(&rows).await.unwrap();
    if synchronous {
        for setting in [
            "synchronous_standby_names = 'FIRST 2 (replica1, replica2)'",
            "synchronous_commit = 'remote_apply'",
        ] {
            let set = format!("ALTER SYSTEM SET {setting}");
            cluster.primary().execute(&set).await.unwrap();
        }
        cluster.primary().execute("SELECT pg_reload_conf()").await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let progress = Arc::<Progress>::default();
    let mut sessions = JoinSet::new();
    for own in 0..COUNTERS {
        let (client, notices) = client_with_notices(&proxy, &database).await;
        let (stop, acknowledged) = (stop.clone(), progress.clone());
        sessions.spawn(Counting { own, client, notices, stop, acknowledged }.work());
    }
    all_write(&progress).await;
    if !synchronous {
        cut_off_replicas(&cluster).await;
        all_write(&progress).await;
    }
    tokio::task::block_in_place(|| cluster.primary().stop(Stop::Kill)).unwrap();
    proxy.await_state(cluster.primary(), "down").await;
    let heir = &cluster.replicas()[0];
    heir.promote().await.unwrap();
    await_until("there is a primary", async || {
        proxy.get("/readyz").await.is_some_and(|(status, _)| status == 200)
    })
    .await;
    all_write(&progress).await;
    stop.store(true, Ordering::Relaxed);
    let counted = sessions.join_all().await;
    let direct = heir.connect(&database).await.unwrap();
    let mut left = Vec::new();
    for counted in counted {
        let key = i32::try_from(counted.own).unwrap();
        let row = direct.query_one("SELECT value FROM counters WHERE key = $1", &[&key]).await;
        left.push((counted, row.unwrap().get(0)));
    }
    let sum = |what: fn(&Counted) -> usize| left.iter().map(|(one, _)| what(one)).sum::<usize>();
    println!(
        "{} reads, {} writes, {} sessions told",
        sum(|one| one.reads),
        sum(|one| one.writes),
        sum(|one| usize::from(!one.told.is_empty())),
    );
    left
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_under_load_takes_nothing_back_unsaid() {
    for (counted, _) in count_over_a_promotion(false).await {
        assert_eq!(counted.broken, Vec::<String>::new(), "told: {:?}", counted.told);
        // Written when nothing reached the replicas any more, and acknowledged.
        assert!(!counted.told.is_empty(), "session {} was told nothing", counted.own);
        assert!(counted.told.iter().all(|told| told.starts_with("01000")), "{:?}", counted.told);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_synchronous_standbys_have_confirmed_survives_a_promotion() {
    for (counted, left) in count_over_a_promotion(true).await {
        assert_eq!(counted.broken, Vec::<String>::new(), "told: {:?}", counted.told);
        assert!(
            counted.acknowledged > 0 && left >= counted.acknowledged,
            "session {}",
            counted.own
        );
        let lost = counted.told.iter().find(|told| told.contains("has lost"));
        assert_eq!(lost, None, "session {}", counted.own);
    }
}
