//! `/livez`, `/readyz`, `/metrics`, and the checks that load balancers know from Patroni.
//!
//! Owns the routes and their answers; knows the cluster only by its snapshot. Runs on the control
//! thread, so that a slow scraper holds up no worker.

mod bounded;

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use axum::Router;
use axum::extract::State as Extract;
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::bounded::BoundedListener;
use crate::cluster::{Cluster, NodeState, Topology};
use crate::telemetry::{Registry, metrics};

/// Answers under way when the server is told to stop get this long.
const GRACE: Duration = Duration::from_secs(1);

const INDEX: &str = "\
Causeway

/livez     200 while the process lives
/readyz    200 while clients are let in and there is a primary
/metrics   metrics for Prometheus
/primary   200 while writes can be served
/replica   200 while a replica serves reads; ?lag=10MB asks for one within that
";

/// What the answers are made of. Clones are one.
#[derive(Debug, Clone)]
pub struct State {
    /// The nodes.
    pub cluster: Cluster,
    /// The metrics.
    pub registry: Registry,
    /// Cancelled once no new clients are let in.
    pub draining: CancellationToken,
    /// `limits.http_connections`
    pub connections: usize,
}

/// Answers requests on `listener` until `shutdown`.
///
/// # Errors
/// When the listener fails for good.
///
/// # Cancel safety
/// Safe: requests under way are given up.
pub async fn serve(
    listener: TcpListener,
    state: State,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let open = state.registry.gauge("causeway_http_connections", "Connections to proxy.http");
    let listener = BoundedListener::new(listener, state.connections, open);
    let server = axum::serve(listener, router(state))
        .with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        result = server => result,
        () = async { shutdown.cancelled().await; tokio::time::sleep(GRACE).await } => Ok(()),
    }
}

fn router(state: State) -> Router {
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(scrape))
        .route("/primary", get(primary))
        .route("/replica", get(replica))
        .with_state(state)
}

type Answer = (StatusCode, String);

fn yes(text: impl Into<String>) -> Answer {
    (StatusCode::OK, text.into() + "\n")
}

fn no(text: impl Into<String>) -> Answer {
    (StatusCode::SERVICE_UNAVAILABLE, text.into() + "\n")
}

async fn ready(Extract(state): Extract<State>) -> Answer {
    if state.draining.is_cancelled() {
        return no("draining: no new clients are let in");
    }
    let topology = state.cluster.load();
    match topology.primary {
        Some(_) => yes("ready"),
        None => no(format!("no primary: {}", nodes(&topology))),
    }
}

async fn primary(Extract(state): Extract<State>) -> Answer {
    let topology = state.cluster.load();
    match topology.primary {
        Some(id) => yes(format!("primary: {}", topology.node(id).name)),
        None => no(format!("no primary: {}", nodes(&topology))),
    }
}

async fn replica(Extract(state): Extract<State>, uri: Uri) -> Answer {
    let limit = uri.query().unwrap_or_default().split('&').find_map(|pair| {
        let text = pair.strip_prefix("lag=")?;
        Some((text, text.parse::<bytesize::ByteSize>().ok()))
    });
    let limit = match limit {
        None => u64::MAX,
        Some((_, Some(size))) => size.as_u64(),
        Some((text, None)) => {
            let text = format!("lag={text} is not a size; write for example lag=10MB\n");
            return (StatusCode::BAD_REQUEST, text);
        }
    };
    let topology = state.cluster.load();
    let names: Vec<&str> = topology
        .eligible_replicas()
        .filter(|node| node.lag_bytes <= limit)
        .map(|node| &*node.name)
        .collect();
    if names.is_empty() {
        return no(format!("no replica: {}", nodes(&topology)));
    }
    yes(format!("replicas: {}", names.join(", ")))
}

async fn scrape(Extract(state): Extract<State>) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], state.registry.encode()).into_response()
}

/// Every node in a few words: why the answer is no.
fn nodes(topology: &Topology) -> String {
    let mut text = String::new();
    for node in topology.served() {
        let comma = if text.is_empty() { "" } else { ", " };
        let (name, role) = (&node.name, node.role.word());
        // Writing to a string does not fail.
        let _ = match node.state {
            NodeState::Up => write!(text, "{comma}{name} is a {role}"),
            state => write!(text, "{comma}{name} is {}", state.word()),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Lsn, NodeId, NodeView, Role};
    use crate::config::settings::Address;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    fn topology(primary: NodeState, replica: NodeState) -> Topology {
        let node = |id, role, state, lag_bytes| NodeView {
            id: NodeId(id),
            name: format!("pg{id}").into(),
            address: Address { host: "127.0.0.1".into(), port: 1 },
            weight: 1,
            zone: None,
            role,
            state,
            removed: false,
            epoch: 1,
            position: Lsn(1),
            lag_bytes,
            lag: None,
            sampled_at: None,
            server_version_num: None,
            clock: std::sync::Arc::default(),
        };
        Topology {
            version: 1,
            primary: (primary == NodeState::Up).then_some(NodeId(0)),
            system_identifier: Some(1),
            timeline: Some(1),
            switches: std::sync::Arc::new([]),
            nodes: [node(0, Role::Primary, primary, 0), node(1, Role::Replica, replica, 2000)]
                .into(),
        }
    }

    async fn ask(address: std::net::SocketAddr, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    #[tokio::test]
    async fn each_question_has_its_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Registry::new(1);
        registry.counter("causeway_tests", "Tests").inc();
        let cluster = Cluster::fixed(topology(NodeState::Up, NodeState::Up));
        let draining = CancellationToken::new();
        let state = State { cluster: cluster.clone(), registry, draining, connections: 2 };
        let (draining, stop) = (state.draining.clone(), CancellationToken::new());
        let server = tokio::spawn(serve(listener, state, stop.clone()));

        let expect = async |cases: &[(&str, u16, &str)]| {
            for (path, status, part) in cases {
                let (got, text) = ask(address, path).await;
                assert!(got == *status && text.contains(part), "{path}: {got} {text}");
            }
        };
        expect(&[
            ("/", 200, "/readyz"),
            ("/livez", 200, "ok"),
            ("/readyz", 200, "ready"),
            ("/metrics", 200, "causeway_tests_total 1"),
            ("/primary", 200, "primary: pg0"),
            ("/replica", 200, "replicas: pg1"),
            ("/replica?lag=10MB", 200, "replicas: pg1"),
            ("/replica?lag=1kB", 503, "no replica: pg0 is a primary, pg1 is a replica"),
            ("/replica?lag=far", 400, "lag=far is not a size"),
            ("/none", 404, ""),
        ])
        .await;
        cluster.set(topology(NodeState::Down, NodeState::Ejected));
        expect(&[
            ("/livez", 200, "ok"),
            ("/readyz", 503, "no primary: pg0 is down, pg1 is ejected"),
            ("/primary", 503, "no primary"),
            ("/replica", 503, "no replica"),
        ])
        .await;
        cluster.set(topology(NodeState::Up, NodeState::Down));
        draining.cancel();
        expect(&[("/readyz", 503, "draining"), ("/livez", 200, "ok")]).await;
        stop.cancel();
        server.await.unwrap().unwrap();
    }

    /// Whoever comes beyond the bound is served when another has gone.
    #[tokio::test]
    async fn no_more_are_served_at_once_than_may_be() {
        const QUESTION: &[u8] = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cluster = Cluster::fixed(topology(NodeState::Up, NodeState::Up));
        let (registry, draining) = (Registry::new(1), CancellationToken::new());
        let state = State { cluster, registry: registry.clone(), draining, connections: 2 };
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, state, stop.clone()));
        let mut some = [0; 512];
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(QUESTION).await.unwrap();
            assert!(stream.read(&mut some).await.unwrap() > 0);
            held.push(stream);
        }
        let open = || registry.encode().contains("causeway_http_connections 2");
        assert!(open(), "{}", registry.encode());
        let mut beyond = TcpStream::connect(address).await.unwrap();
        beyond.write_all(QUESTION).await.unwrap();
        // Those who are held have been answered, and are let be for longer.
        let told = tokio::time::timeout(Duration::from_secs(1), beyond.read(&mut some)).await;
        assert!(told.is_err() && open(), "{told:?} {}", registry.encode());
        drop(held);
        assert!(beyond.read(&mut some).await.unwrap() > 0);
        drop(beyond);
        stop.cancel();
        server.await.unwrap().unwrap();
    }

    /// Whoever says nothing, or goes on saying little, leaves its place to those who ask.
    #[tokio::test]
    async fn those_who_do_not_ask_are_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cluster = Cluster::fixed(topology(NodeState::Up, NodeState::Up));
        let (registry, draining) = (Registry::new(1), CancellationToken::new());
        let state = State { cluster, registry, draining, connections: 2 };
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, state, stop.clone()));
        let mut silent = TcpStream::connect(address).await.unwrap();
        let mut drips = TcpStream::connect(address).await.unwrap();
        let drip = tokio::spawn(async move {
            while drips.write_all(b"G").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        // Longer than it may take, and shorter than whoever is patient with everybody would wait.
        let some_time = Duration::from_secs(20);
        let told = tokio::time::timeout(some_time, silent.read(&mut [0; 16])).await;
        assert!(matches!(told, Ok(Ok(0) | Err(_))), "{told:?}");
        tokio::time::timeout(some_time, drip).await.expect("it is closed as well").unwrap();
        assert_eq!(ask(address, "/livez").await.0, 200);
        // An answer's end begins the time of the next request.
        let mut kept = TcpStream::connect(address).await.unwrap();
        for _ in 0..3 {
            kept.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            let mut some = [0; 512];
            let count = kept.read(&mut some).await.unwrap();
            assert!(some[..count].starts_with(b"HTTP/1.1 200"));
        }
        drop(kept);
        stop.cancel();
        server.await.unwrap().unwrap();
    }
}
