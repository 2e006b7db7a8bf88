//! Drivers of other languages in their modes of TLS, at PostgreSQL itself and through Causeway, which has
//! the same certificate: what comes of each must be the same.

use std::path::Path;
use std::process::Command;

use causeway::cli::demo::cluster::APP;
use serde_json::json;

use super::nodes::offering;
use super::section;
use crate::drivers::{java, node, python};
use crate::harness::{Proxy, ProxyOptions, run};

/// Name, mode, host, whether the root is the right one, and what must come of it.
type Case = (&'static str, &'static str, &'static str, Option<bool>, &'static str);

/// The certificate is for 127.0.0.1 and not for localhost.
const CASES: &[Case] = &[
    ("disable", "disable", "127.0.0.1", None, "in plain"),
    ("require", "require", "127.0.0.1", None, "in tls"),
    ("ca-right", "verify-ca", "localhost", Some(true), "in tls"),
    ("ca-wrong", "verify-ca", "localhost", Some(false), "refused"),
    ("full-right", "verify-full", "127.0.0.1", Some(true), "in tls"),
    ("full-other-name", "verify-full", "localhost", Some(true), "refused"),
    ("full-wrong", "verify-full", "127.0.0.1", Some(false), "refused"),
];

/// Runs a driver's script at both and holds what it says against what must come of it. `more` are cases
/// of this driver's own.
async fn drive(script: &str, more: &[Case], command: impl Fn() -> Command, by_argument: bool) {
    let offering = offering().await;
    let root = offering.authority.root.display();
    let nodes = format!("[node_tls]\nmode = \"verify-full\"\nroot = \"{root}\"\n");
    let options = ProxyOptions {
        more: section("allow", &offering.identity, &nodes),
        ..ProxyOptions::default()
    };
    let proxy = Proxy::start(&offering.cluster, &options).await;
    let stranger = offering.stranger.root.display();
    for port in [offering.cluster.primary().port(), proxy.address.port()] {
        let mut command = command();
        command
            .arg(Path::new("integration/drivers").join(script))
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        let mut cases = Vec::new();
        let mut expected = Vec::new();
        for (name, mode, host, right, outcome) in CASES.iter().chain(more) {
            let root = match right {
                None => String::new(),
                Some(true) => root.to_string(),
                Some(false) => stranger.to_string(),
            };
            if by_argument {
                command.arg(format!("{name}|{mode}|{host}|{port}|{root}"));
            }
            let binding = name.strip_prefix("binding-").unwrap_or_default();
            cases.push(json!({
                "name": name, "mode": mode, "host": host, "port": port, "root": root,
                "binding": binding,
            }));
            let words = if by_argument { 1 } else { 2 };
            let outcome: Vec<&str> = outcome.split(' ').take(words).collect();
            expected.push(format!("{name} {}", outcome.join(" ")));
        }
        command.env("CASES", serde_json::Value::from(cases).to_string());
        let said = run(command).await;
        assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{script} at port {port}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn psycopg() {
    let more = [
        ("allow", "allow", "127.0.0.1", None, "in plain"),
        ("prefer", "prefer", "127.0.0.1", None, "in tls"),
        ("binding-require", "require", "127.0.0.1", None, "in tls"),
        ("binding-disable", "require", "127.0.0.1", None, "in tls"),
    ];
    drive("psycopg/tls.py", &more, python, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asyncpg() {
    let more = [
        ("allow", "allow", "127.0.0.1", None, "in plain"),
        ("prefer", "prefer", "127.0.0.1", None, "in tls"),
    ];
    drive("asyncpg/tls.py", &more, python, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_postgres() {
    let more = [("binding-require", "require", "127.0.0.1", None, "in tls")];
    drive("node-postgres/tls.js", &more, node, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pgjdbc() {
    let more = [
        ("allow", "allow", "127.0.0.1", None, "in plain"),
        ("prefer", "prefer", "127.0.0.1", None, "in tls"),
    ];
    drive("pgjdbc/Tls.java", &more, java, true).await;
}

/// libpq 17 begins TLS at once if it is told to; PostgreSQL takes that since 17, Causeway always.
#[tokio::test(flavor = "multi_thread")]
async fn libpq_begins_tls_at_once() {
    let offering = offering().await;
    let options = ProxyOptions {
        more: section("require", &offering.identity, ""),
        ..ProxyOptions::default()
    };
    let proxy = Proxy::start(&offering.cluster, &options).await;
    let case = json!([{
        "name": "direct", "mode": "verify-full", "host": "127.0.0.1", "port": proxy.address.port(),
        "root": offering.authority.root, "binding": "require", "negotiation": "direct",
    }]);
    let mut command = python();
    command.arg("integration/drivers/psycopg/tls.py").env("CASES", case.to_string());
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(run(command).await, "direct in tls\n");
}

/// By hand: what OpenSSL makes of the offer.
#[tokio::test(flavor = "multi_thread")]
async fn openssl_s_client_speaks_with_it() {
    let offering = offering().await;
    let options = ProxyOptions {
        more: section("require", &offering.identity, ""),
        ..ProxyOptions::default()
    };
    let proxy = Proxy::start(&offering.cluster, &options).await;
    for version in ["-tls1_2", "-tls1_3"] {
        let mut command = Command::new("openssl");
        command
            .args(["s_client", "-starttls", "postgres", "-verify_return_error", "-brief", version])
            .args(["-verify_ip", "127.0.0.1", "-connect", &proxy.address.to_string(), "-CAfile"])
            .arg(&offering.authority.root);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("CONNECTION ESTABLISHED"), "{version}: {said}");
        assert!(said.contains("Verification: OK"), "{version}: {said}");
    }
    assert_eq!(APP, "app", "the scripts log in as app");
}
