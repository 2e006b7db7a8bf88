//! `causeway demo`, as `make demo` runs it: what it says at the end, and that it leaves nothing behind,
//! however it goes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use causeway::cli::demo::cluster::signal;

use crate::harness::{Proxy, ProxyOptions, await_until, run, shared_cluster};

/// A directory for temporary files that the servers' user may enter.
fn scratch() -> tempfile::TempDir {
    let all = std::fs::Permissions::from_mode(0o755);
    tempfile::Builder::new().permissions(all).tempdir().unwrap()
}

fn demo(scratch: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway"));
    command.arg("demo").args(arguments).env("TMPDIR", scratch).env_remove("DURATION");
    command
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_with_an_end_ends_well_and_leaves_nothing() {
    let scratch = scratch();
    let mut command = demo(scratch.path(), &[]);
    command.env("DURATION", "15s");
    let report = run(command).await;
    for said in ["psql 'host=127.0.0.1", "replay paused", "up -> ejected", "0 statements failed"] {
        assert!(report.contains(said), "{said:?} is missing in\n{report}");
    }
    assert!(!report.contains("WRONG"), "{report}");
    assert!(is_empty(scratch.path()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_or_killed_demo_leaves_nothing() {
    for how in ["INT", "TERM", "KILL"] {
        let scratch = scratch();
        let out = scratch.path().with_extension("out");
        let mut demo = demo(scratch.path(), &[])
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&out).unwrap())
            .spawn()
            .unwrap();
        await_until("the demo is at work", async || {
            std::fs::read_to_string(&out).unwrap().contains("reads")
        })
        .await;
        signal(how, &[demo.id()]).unwrap();
        demo.wait().unwrap();
        await_until("everything is removed", async || is_empty(scratch.path())).await;
        std::fs::remove_file(out).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_ones_own_is_left_as_it_was() {
    // Only its file is used: the demo starts its own proxy, so this one must be gone first.
    let proxy = Proxy::start(shared_cluster(), &ProxyOptions::default()).await;
    let direct = shared_cluster().primary().connect("app").await.unwrap();
    let config = proxy.config.clone();
    drop(proxy);
    let scratch = scratch();
    let arguments = ["--duration", "5s", "--config", config.to_str().unwrap()];
    let report = run(demo(scratch.path(), &arguments)).await;
    assert!(report.contains("0 statements failed") && !report.contains("WRONG"), "{report}");
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'causeway_demo'";
    let row = direct.query_one(schemas, &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 0);
    assert!(is_empty(scratch.path()));
}
