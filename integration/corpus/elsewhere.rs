//! A corpus from elsewhere, loaded and run: rows through Causeway against rows from the primary.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use causeway::cli::demo::cluster::Cluster;

use super::{address, ask, brief, is_refusal};
use crate::harness::{Proxy, ProxyOptions, own_cluster, run};

/// The share of statements sent to a replica that it may refuse.
const REFUSED: f64 = 0.001;

struct Row {
    sql: String,
    truth: String,
    database: String,
}

fn rows(directory: &Path) -> Vec<Row> {
    let mut rows = Vec::new();
    for file in std::fs::read_dir(directory).expect("a directory").flatten() {
        if file.path().extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        for line in std::fs::read_to_string(file.path()).expect("a text").lines() {
            let row: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            let marked = |key: &str| row[key].as_bool() == Some(true);
            let database = text("db");
            if row["sql"].is_string() && !database.is_empty() && !marked("soft") && !marked("temp")
            {
                rows.push(Row { sql: text("sql"), truth: text("truth"), database });
            }
        }
    }
    rows
}

/// What was seen of the statements.
#[derive(Default, Debug)]
struct Tally {
    compared: usize,
    /// The primary itself answered twice in two ways.
    fickle: usize,
    to_replicas: usize,
    refused: usize,
    wrong: Vec<String>,
}

impl Tally {
    async fn compare(&mut self, cluster: &Cluster, proxy: &Proxy, row: &Row) {
        let primary = address(cluster.primary());
        let Row { sql, database, .. } = row;
        let through = ask(proxy.address, database, sql).await;
        self.count(cluster, &through, sql);
        if row.truth != "replica-ok" {
            let replicas_error = through.outcome.as_ref().is_err_and(|code| code == "25006");
            if replicas_error && ask(primary, database, sql).await.outcome != through.outcome {
                self.wrong.push(format!("a replica's error reached the client: {sql}"));
            }
            return;
        }
        let here = ask(primary, database, sql).await.outcome;
        if through.outcome == here {
            self.compared += 1;
        } else if ask(primary, database, sql).await.outcome != here {
            self.fickle += 1;
        } else {
            let mut line = format!("{database}: {sql}\n    direct:  ");
            let _ = write!(line, "{}\n    through: {}", brief(&here), brief(&through.outcome));
            self.wrong.push(line);
        }
    }

    fn count(&mut self, cluster: &Cluster, through: &super::Answer, sql: &str) {
        let on_replica = |(node, _): &&(String, String)| *node != cluster.primary().address();
        let tried = through.attempts.iter().filter(on_replica).count();
        self.to_replicas += usize::from(tried > 0);
        if through.attempts.iter().any(|(_, reason)| reason == "replica_refused") {
            self.refused += 1;
            println!("refused by a replica, run again: {}", sql.replace('\n', " "));
        } else if tried > 0 && is_refusal(&through.outcome) {
            println!("the same error everywhere: {}", sql.replace('\n', " "));
        }
    }
}

/// Loads the databases and returns their names: a corpus may speak of others.
async fn load(cluster: &Cluster, directory: &Path) -> Vec<String> {
    let mut command = Command::new("bash");
    command.env("PGPASSWORD", "postgres").arg(directory.join("load.sh"));
    command.args(["127.0.0.1", &cluster.primary().port().to_string(), "postgres"]);
    run(command).await;
    // The databases belong to a superuser; the proxy's only user reads them all.
    let rights = "ALTER ROLE app SUPERUSER; ALTER ROLE app SET statement_timeout = '20s'";
    cluster.primary().execute(rights).await.unwrap();
    cluster.await_replay().await.unwrap();
    let client = cluster.primary().connect("postgres").await.unwrap();
    let names = client.query("SELECT datname::text FROM pg_database", &[]).await.unwrap();
    names.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corpus_from_elsewhere_has_the_same_rows() {
    let Ok(directory) = std::env::var("CAUSEWAY_CORPUS") else { return };
    let directory = Path::new(&directory);
    let cluster = own_cluster();
    let loaded = load(&cluster, directory).await;
    let proxy = Proxy::start(&cluster, &ProxyOptions::default()).await;
    let mut rows = rows(directory);
    rows.retain(|row| loaded.contains(&row.database));
    let mut databases: Vec<String> = rows.iter().map(|row| row.database.clone()).collect();
    databases.sort();
    databases.dedup();
    for database in &databases {
        proxy.await_catalog(&cluster, database).await;
    }
    // Reads first: what the others change, a replica would show later.
    rows.retain(|row| matches!(row.truth.as_str(), "replica-ok" | "primary-only"));
    rows.sort_by_key(|row| row.truth != "replica-ok");
    let mut tally = Tally::default();
    for row in &rows {
        tally.compare(&cluster, &proxy, row).await;
    }
    #[allow(clippy::cast_precision_loss, reason = "counts of statements")]
    let rate = tally.refused as f64 / tally.to_replicas.max(1) as f64;
    println!(
        "{} statements; {} reads gave the same rows or the same error, {} answer differently each time; \
         {} went to a replica, which refused {}: {:.3} %",
        rows.len(),
        tally.compared,
        tally.fickle,
        tally.to_replicas,
        tally.refused,
        rate * 100.0
    );
    assert!(tally.wrong.is_empty(), "{} wrong:\n{}", tally.wrong.len(), tally.wrong.join("\n"));
    assert!(rate < REFUSED, "the net caught {:.3} %", rate * 100.0);
}
