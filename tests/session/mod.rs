//! Whole sessions against scripted nodes, on a paused clock: what is waited for in vain is over at
//! once, and nothing sleeps. The test plays both ends, step by step.

mod cut;
mod deadlines;
mod failures;
mod fresh;
mod hostile;
mod machine;
mod moves;
mod state;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{BufMut, BytesMut};
use causeway::catalog::rows::{Relation, Rows};
use causeway::catalog::{Catalog, Catalogs, Source};
use causeway::client::Welcome;
use causeway::cluster::{Cluster, Lsn, NodeId, NodeState, NodeView, Role, Topology};
use causeway::net::Stream;
use causeway::pool::Pools;
use causeway::protocol::{ErrorReport, write};
use causeway::session::deadlines::Clocks;
use causeway::session::driver::Left;
use causeway::session::failure::SessionEnd;
use causeway::session::keys::Keys;
use causeway::session::metrics::Metrics;
use causeway::session::post::Post;
use causeway::session::registry::Registry;
use causeway::session::{Session, Shared, Vain, statements};
use causeway::sql::ScriptCache;
use causeway::tls::ConnectorCell;
use causeway::{config, proxy, telemetry};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fake::{FakeServer, Login, Peer};

/// Virtual: only a hang reaches it.
const HANG: Duration = Duration::from_secs(3600);

/// A read that goes to a replica also where no catalog is loaded.
const READ: &str = "/* causeway: replica */ select 1";

/// A primary, which is node 0, and replicas; what opens a connection to them is the test's to play.
struct Bed {
    shared: Arc<Shared>,
    nodes: Vec<FakeServer>,
    opened: mpsc::UnboundedReceiver<(usize, Peer)>,
    /// What the worker of all clients tells them, and how often one has left for another.
    post: Arc<Post>,
    moves: Arc<AtomicUsize>,
}

impl Bed {
    async fn start(replicas: usize) -> Self {
        Self::with_pool(replicas, "size = 10").await
    }

    /// With these lines in `[pool]`.
    async fn with_pool(replicas: usize, pool: &str) -> Self {
        Self::with(replicas, "consistency = \"eventual\"", pool).await
    }

    /// With these lines in `[routing]` and `[pool]`.
    async fn with(replicas: usize, routing: &str, pool: &str) -> Self {
        let (open, opened) = mpsc::unbounded_channel();
        let mut nodes = Vec::new();
        for number in 0..=replicas {
            let open = open.clone();
            let script = move |mut peer: Peer| {
                let open = open.clone();
                async move {
                    peer.log_in(&Login::Trust).await?;
                    peer.ready().await?;
                    // Nobody listens any more once the test is over.
                    let _ = open.send((number, peer));
                    Ok(())
                }
            };
            nodes.push(FakeServer::start(script).await);
        }
        let shared = shared(&nodes, routing, pool);
        Self { shared, nodes, opened, post: Arc::default(), moves: Arc::default() }
    }

    /// The next connection that is opened, and to which node.
    async fn next(&mut self) -> (usize, Peer) {
        tokio::time::timeout(HANG, self.opened.recv()).await.expect("a connection").unwrap()
    }

    /// The next connection, which must be to the primary.
    async fn primary(&mut self) -> Peer {
        let (node, peer) = self.next().await;
        assert_eq!(node, 0, "not the primary");
        peer
    }

    /// The next connection, which must be to a replica.
    async fn replica(&mut self) -> Peer {
        let (node, peer) = self.next().await;
        assert_ne!(node, 0, "not a replica");
        peer
    }

    /// A client that has logged in. The first one has the primary asked how it greets.
    async fn client(&self) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (near, _) = listener.accept().await.unwrap();
        // A delay in the kernel would look like silence to the paused clock.
        near.set_nodelay(true).unwrap();
        let welcome = Welcome {
            stream: Stream::Tcp(near),
            buffer: BytesMut::new(),
            user: "app".to_owned(),
            database: "app".to_owned(),
            parameters: Vec::new(),
            protocol_minor: 0,
            secret: None,
            unsent: BytesMut::new(),
        };
        let shared = self.shared.clone();
        let (post, moves) = (self.post.clone(), self.moves.clone());
        let task = tokio::spawn(async move {
            let mut session = Session::greet(shared, 0, welcome).await.expect("a greeting");
            while session.run(&post).await? == Left::ForAnotherWorker {
                moves.fetch_add(1, Ordering::Relaxed);
                session.move_to(0).expect("a reactor");
            }
            Ok(())
        });
        let mut client = Client { peer: Peer::over(far), key: (0, Vec::new()), task };
        client.answer().await;
        client
    }

    /// The first client, and the server that is idle since its greeting.
    async fn first(&mut self) -> (Client, Peer) {
        let client = self.client().await;
        (client, self.primary().await)
    }
}

fn shared(nodes: &[FakeServer], routing: &str, pool: &str) -> Arc<Shared> {
    let addresses: Vec<String> =
        nodes.iter().map(|node| format!("\"127.0.0.1:{}\"", node.address.port)).collect();
    let text = format!(
        "[cluster]\nnodes = [{}]\n[monitor]\nuser = \"app\"\npassword = \"app\"\n\
         database = \"app\"\n[routing]\n{routing}\n[pool]\n{pool}\n[[user]]\nname = \"app\"\npassword = \"app\"\n",
        addresses.join(", ")
    );
    let settings = config::parse(&text, Path::new(".")).unwrap();
    let cluster = Arc::new(Cluster::fixed(topology(nodes)));
    let stopped = CancellationToken::new();
    stopped.cancel();
    let nowhere = Arc::new(|| None);
    let source = Source::new("app", None, ConnectorCell::default(), nowhere.clone());
    let runtime = tokio::runtime::Handle::current();
    let registry = telemetry::Registry::new(1);
    let catalogs = Catalogs::new(source, runtime, stopped);
    catalogs.fix("app", Catalog::build(tables(), 1));
    Arc::new(Shared {
        vain: Vain::default(),
        rules: std::sync::Arc::new(ArcSwap::from_pointee(
            proxy::reload::rules(settings, None, &(nowhere as _), &ConnectorCell::default())
                .unwrap(),
        )),
        cluster,
        catalogs: Arc::new(catalogs),
        connector: ConnectorCell::default(),
        pools: Arc::new(Pools::new(1, ConnectorCell::default())),
        scripts: Arc::new(ScriptCache::new(100)),
        statements: Arc::new(statements::Shared::default()),
        keys: Keys::new(100),
        registry: Arc::new(Registry::default()),
        metrics: Metrics::new(&registry),
        clocks: Clocks::new(1),
    })
}

/// What the database has: a table, to which nothing is attached.
fn tables() -> Rows {
    let table = Relation {
        oid: 50_000,
        name: "t".into(),
        schema: 2200,
        kind: b'r',
        persistence: b'p',
        row_type: 0,
    };
    Rows {
        schemas: vec![(11, "pg_catalog".into()), (2200, "public".into())],
        relations: vec![table],
        ..Rows::default()
    }
}

fn topology(nodes: &[FakeServer]) -> Topology {
    let view = |(number, node): (usize, &FakeServer)| NodeView {
        id: NodeId(u16::try_from(number).unwrap()),
        name: format!("node-{number}").into(),
        address: node.address.clone(),
        weight: 1,
        zone: None,
        role: if number == 0 { Role::Primary } else { Role::Replica },
        state: NodeState::Up,
        removed: false,
        epoch: 1,
        position: Lsn(1),
        lag_bytes: 0,
        lag: Some(Duration::ZERO),
        sampled_at: None,
        server_version_num: Some(150_000),
        clock: Arc::default(),
    };
    Topology {
        version: 1,
        primary: Some(NodeId(0)),
        system_identifier: Some(1),
        timeline: Some(1),
        switches: Arc::new([]),
        nodes: nodes.iter().enumerate().map(view).collect(),
    }
}

/// Lets everybody go on until all wait.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// The application's end of a session.
struct Client {
    peer: Peer,
    key: (i32, Vec<u8>),
    task: JoinHandle<Result<(), SessionEnd>>,
}

impl Client {
    /// Sends a simple query.
    async fn ask(&mut self, text: &str) {
        write::query(&mut self.peer.out, text.as_bytes());
        self.peer.flush().await.unwrap();
    }

    /// What comes up to ReadyForQuery, or up to the end of the connection, in short.
    async fn answer(&mut self) -> String {
        let mut words = Vec::new();
        loop {
            let next = tokio::time::timeout(HANG, self.peer.message()).await;
            let Ok((kind, body)) = next.unwrap_or_else(|_| panic!("a hang after {words:?}")) else {
                words.push("end".to_owned());
                return words.join(" ");
            };
            match kind {
                b'S' | b'R' => {}
                b'K' => {
                    self.key.0 = i32::from_be_bytes(body[..4].try_into().unwrap());
                    self.key.1 = body[4..].to_vec();
                }
                b'E' => words.push(format!("E:{}", ErrorReport::parse(&body).sqlstate)),
                b'C' => {
                    let tag = String::from_utf8_lossy(&body);
                    words.push(tag.trim_end_matches('\0').to_owned());
                }
                b'Z' => {
                    words.push(format!("Z:{}", char::from(*body.first().unwrap_or(&b'?'))));
                    return words.join(" ");
                }
                kind => words.push(char::from(kind).to_string()),
            }
        }
    }

    async fn asks(&mut self, text: &str) -> String {
        self.ask(text).await;
        self.answer().await
    }
}

/// What a server does, in small steps.
impl Peer {
    /// The next message must be this query.
    async fn hears(&mut self, text: &str) {
        let heard = tokio::time::timeout(HANG, self.message()).await.expect("a query").unwrap();
        let body = String::from_utf8_lossy(&heard.1);
        assert_eq!((char::from(heard.0), body.trim_end_matches('\0')), ('Q', text));
    }

    /// The next messages are of these types; their bodies.
    async fn hears_kinds(&mut self, kinds: &str) -> Vec<Vec<u8>> {
        let mut bodies = Vec::new();
        for kind in kinds.chars() {
            let next = tokio::time::timeout(HANG, self.message()).await;
            let (heard, body) = next.unwrap_or_else(|_| panic!("no {kind}")).unwrap();
            assert_eq!(char::from(heard), kind, "{}", String::from_utf8_lossy(&body));
            bodies.push(body);
        }
        bodies
    }

    /// Nothing more has been sent to it.
    async fn hears_nothing(&mut self) {
        let next = tokio::time::timeout(Duration::from_millis(1), self.message()).await;
        assert!(next.is_err(), "{next:?}");
    }

    /// One empty row, as a simple query has it.
    async fn row(&mut self, status: u8) {
        write::message(&mut self.out, b'T', |body| body.put_u16(0));
        write::message(&mut self.out, b'D', |body| body.put_u16(0));
        self.done("SELECT 1", status).await;
    }

    async fn done(&mut self, tag: &str, status: u8) {
        write::command_complete(&mut self.out, tag);
        write::ready_for_query(&mut self.out, status);
        self.flush().await.unwrap();
    }

    async fn refuses(&mut self, sqlstate: &'static str, status: u8) {
        ErrorReport::error(sqlstate, "no").encode(&mut self.out);
        write::ready_for_query(&mut self.out, status);
        self.flush().await.unwrap();
    }
}
