//! Sessions that cannot tell: the same frames to PostgreSQL and to Causeway, the same bytes back.
//!
//! Every scenario (`*.txt` beside this file, in the notation of [`script`]) is played twice, against
//! the primary and through the proxy with two servers a pool and other clients between the steps,
//! each in a database of its own that began the same. What must differ is masked: process ids, keys
//! and the OIDs that the two databases gave to what they made. Nothing else is.

mod cancel;
mod generated;
mod leaks;
mod play;
mod script;

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use causeway::cli::demo::cluster::Cluster;
use tokio::task::JoinSet;

use self::play::{Reply, Stage};
use crate::harness::{Proxy, ProxyOptions, fresh_database, shared_cluster};

/// What both databases begin with.
const WORLD: &str = "
    CREATE TABLE t (n int PRIMARY KEY, s text);
    INSERT INTO t SELECT n, 'row ' || n FROM generate_series(1, 20) n;
    CREATE TABLE w (n int, s text);
    CREATE SEQUENCE q;
    CREATE FUNCTION setter(name text, value text) RETURNS text LANGUAGE plpgsql
        AS 'BEGIN RETURN set_config(name, value, false); END';
    CREATE FUNCTION grumble(what text) RETURNS int LANGUAGE plpgsql
        AS 'BEGIN RAISE NOTICE ''%'', what; RETURN 1; END';
    CREATE SCHEMA other;
    CREATE TABLE other.t AS SELECT 'other' AS s;
    GRANT ALL ON SCHEMA other, public TO PUBLIC;
    GRANT ALL ON ALL TABLES IN SCHEMA other, public TO PUBLIC;
    GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC;
    ALTER TABLE t OWNER TO app;
    ALTER TABLE w OWNER TO app;";

/// Roles that `app` may become.
const ROLES: &str = "
    DO $$ BEGIN
        CREATE ROLE diff_a; CREATE ROLE diff_b; GRANT diff_a, diff_b TO app;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$";

async fn world(cluster: &Cluster) -> String {
    let database = fresh_database(cluster).await;
    cluster.primary().execute(ROLES).await.unwrap();
    let direct = cluster.primary().connect(&database).await.unwrap();
    direct.batch_execute(WORLD).await.unwrap();
    cluster.await_replay().await.unwrap();
    database
}

fn two_servers() -> ProxyOptions {
    ProxyOptions { proxy: "workers = 2", pool: "size = 2\nwait = \"20s\"", ..Default::default() }
}

/// Clients whose sessions differ from every scenario's in all that can be left on a server.
fn bystanders(proxy: &Proxy, database: &str, stop: &Arc<AtomicBool>) -> JoinSet<()> {
    let mut all = JoinSet::new();
    for number in 0..3 {
        let (config, stop) = (proxy.config(database), stop.clone());
        all.spawn(async move {
            let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            client
                .batch_execute(&format!(
                    "SET app.x = 'bystander {number}'; SET TimeZone = 'Asia/Tokyo';
                     SET search_path = other; SET DateStyle = German;
                     SET application_name = 'bystander {number}'; SET role = diff_b"
                ))
                .await
                .unwrap();
            let read = client.prepare("SELECT s, current_setting('app.x') FROM t").await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                let row = client.query_one(&read, &[]).await.unwrap();
                assert_eq!(row.get::<_, &str>(0), "other");
                assert_eq!(row.get::<_, String>(1), format!("bystander {number}"));
                // None moves a sequence: with more sessions that do than servers, some have to share
                // one, and what one of them asks for later is gone (`leaks` has such).
                let script = "BEGIN; SELECT clock_timestamp(); SAVEPOINT a; COMMIT";
                client.batch_execute(script).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        });
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_cannot_tell() {
    let cluster = shared_cluster();
    let (plain, behind) = (world(cluster).await, world(cluster).await);
    let extra = "CREATE SEQUENCE q2; GRANT ALL ON SEQUENCE q2 TO PUBLIC";
    cluster.primary().connect(&behind).await.unwrap().batch_execute(extra).await.unwrap();
    cluster.await_replay().await.unwrap();
    let proxy = Proxy::start(cluster, &two_servers()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut others = bystanders(&proxy, &behind, &stop);

    let direct = Stage::new(([127, 0, 0, 1], cluster.primary().port()).into(), plain);
    let through = Stage::new(proxy.address, behind).before(cluster).await;
    let only = std::env::var("SCENARIO").unwrap_or_default();
    let (mut played, mut differ) = (0, String::new());
    for scenario in script::all() {
        if !scenario.name.contains(&only) {
            continue;
        }
        played += 1;
        let expected = direct.play(&scenario).await;
        let found = through.play(&scenario).await;
        if let Some(difference) = first_difference(&expected, &found) {
            let _ = writeln!(differ, "\n=== {}\n{difference}", scenario.name);
        }
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(other) = others.join_next().await {
        if let Err(error) = other {
            let _ = writeln!(differ, "\n=== a bystander\n{error}");
        }
    }
    assert!(differ.is_empty(), "of {played} scenarios these can tell:{differ}");
}

/// The first step that was answered otherwise, in words.
fn first_difference(expected: &[Reply], found: &[Reply]) -> Option<String> {
    let at = (0..expected.len().max(found.len())).find(|at| expected.get(*at) != found.get(*at))?;
    let show = |replies: &[Reply]| replies.get(at).map_or_else(|| "nothing".into(), Reply::show);
    let step = expected.get(at).or(found.get(at)).map_or("", |reply| &reply.step);
    Some(format!("after {step}\ndirect:\n{}\nthrough:\n{}", show(expected), show(found)))
}
