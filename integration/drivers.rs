//! Drivers of other languages with their own pools. `make test` installs them under the target
//! directory (scripts/setup.sh); a script per driver in `integration/drivers/` does the asserting.

use std::path::Path;
use std::process::Command;

use crate::harness::{Proxy, ProxyOptions, fresh_database, run, shared_cluster};

/// Where `make test` puts the drivers.
fn drivers() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory")
}

async fn drive(mut command: Command) {
    let database = fresh_database(shared_cluster()).await;
    let options = ProxyOptions { pool: "size = 3", ..Default::default() };
    let proxy = Proxy::start(shared_cluster(), &options).await;
    let program = command.get_program().to_owned();
    command
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", proxy.address.port().to_string())
        .env("PGUSER", "app")
        .env("PGPASSWORD", "app")
        .env("PGDATABASE", &database)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let installed = !program.to_string_lossy().contains('/') || Path::new(&program).exists();
    let missing = program.display();
    assert!(installed, "{missing} is missing: sh scripts/setup.sh test installs it");
    let report = run(command).await;
    assert!(report.trim_end().ends_with("all passed"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg() {
    let mut command = Command::new(drivers().join("drivers/python/bin/python"));
    command.arg("integration/drivers/psycopg/run.py");
    drive(command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_postgres() {
    let mut command = Command::new("node");
    command.arg("integration/drivers/node-postgres/run.js");
    command.env("NODE_PATH", drivers().join("drivers/node/node_modules"));
    drive(command).await;
}
