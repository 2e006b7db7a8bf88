//! Drivers of other languages with their own pools. `make test` installs them under the target
//! directory (scripts/setup.sh); a script per driver in `integration/drivers/` does the asserting, and
//! is run at the primary directly as well: what it expects is what PostgreSQL does.

use std::path::{Path, PathBuf};
use std::process::Command;

use causeway::cli::demo::cluster::{APP, Cluster};
use tokio::sync::OnceCell;

#[path = "drivers/tokio-postgres/run.rs"]
mod tokio_postgres_driver;

use crate::harness::{Proxy, ProxyOptions, await_until, fresh_database, own_cluster, run};

/// Where `make test` puts the drivers.
fn drivers() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory")
}

/// A cluster whose commits return when every replica shows them: the scripts read what they wrote,
/// and consistency is "eventual" here.
async fn cluster() -> &'static Cluster {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    CLUSTER
        .get_or_init(async || {
            let cluster = own_cluster();
            let client = cluster.primary().connect("postgres").await.unwrap();
            for setting in
                ["synchronous_commit = remote_apply", "synchronous_standby_names = '2 (*)'"]
            {
                client.execute(&format!("ALTER SYSTEM SET {setting}"), &[]).await.unwrap();
            }
            client.execute("SELECT pg_reload_conf()", &[]).await.unwrap();
            await_until("both replicas are waited for", async || {
                let waited_for =
                    "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
                client.query_one(waited_for, &[]).await.unwrap().get::<_, i64>(0) == 2
            })
            .await;
            cluster
        })
        .await
}

async fn drive(script: &str, command: impl Fn() -> Command) {
    let cluster = cluster().await;
    let proxy =
        Proxy::start(cluster, &ProxyOptions { pool: "size = 3", ..Default::default() }).await;
    for port in [cluster.primary().port(), proxy.address.port()] {
        let database = fresh_database(cluster).await;
        let mut command = command();
        command
            .arg(Path::new("integration/drivers").join(script))
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", port.to_string())
            .env("PGUSER", APP)
            .env("PGPASSWORD", APP)
            .env("PGDATABASE", &database)
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        let report = run(command).await;
        assert!(report.trim_end().ends_with("all passed"), "{report}");
    }
}

fn installed(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is missing: sh scripts/setup.sh test installs it", path.display());
    path
}

/// Python with the drivers installed.
pub fn python() -> Command {
    Command::new(installed(drivers().join("drivers/python/bin/python")))
}

/// Node with the drivers installed.
pub fn node() -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", installed(drivers().join("drivers/node/node_modules")));
    command
}

/// Java with the driver installed; it runs a source file.
pub fn java() -> Command {
    let mut command = Command::new("java");
    // The Debian package of libpostgresql-jdbc-java has no other place.
    command.arg("-cp").arg(installed("/usr/share/java/postgresql.jar".into()));
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg() {
    drive("psycopg/run.py", python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokio_postgres() {
    let cluster = cluster().await;
    let proxy =
        Proxy::start(cluster, &ProxyOptions { pool: "size = 3", ..Default::default() }).await;
    for port in [cluster.primary().port(), proxy.address.port()] {
        let database = fresh_database(cluster).await;
        tokio_postgres_driver::run(port, &database).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asyncpg() {
    drive("asyncpg/run.py", python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlalchemy() {
    drive("sqlalchemy/run.py", python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn django() {
    drive("django/run.py", python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_postgres() {
    drive("node-postgres/run.js", node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pgjdbc() {
    drive("pgjdbc/Run.java", java).await;
}
