//! What the tests share: the proxy as a child process, one cluster for those that break nothing, a
//! database for each, and what the nodes themselves say they served.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use causeway::cli::demo::cluster::{APP, Cluster, ClusterOptions, Node, free_ports, signal};
use causeway::cli::demo::scrape::{self, Scrape};
use tokio_postgres::{Client, Config, NoTls};

/// How long anything may take that should happen soon: generous, the machine may be busy.
pub const SOON: Duration = Duration::from_secs(30);

/// The cluster of all tests that leave its nodes alone. Never dropped: its watcher removes it when
/// this process ends.
pub fn shared_cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(own_cluster)
}

/// A cluster to break.
pub fn own_cluster() -> Cluster {
    Cluster::start(&ClusterOptions::default()).expect("a throw-away cluster starts")
}

/// Makes an empty database that `app` owns, present on all nodes, and returns its name.
pub async fn fresh_database(cluster: &Cluster) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let statement = format!("CREATE DATABASE {name} OWNER {APP}");
    cluster.primary().execute(&statement).await.unwrap();
    cluster.await_replay().await.unwrap();
    name
}

/// Causeway as a user runs it: a process with a file.
pub struct Proxy {
    process: Child,
    pub address: SocketAddr,
    pub http: SocketAddr,
    /// Its file, which a test may rewrite and reload.
    pub config: PathBuf,
    log: PathBuf,
}

/// What a test changes in the file: text put into a section, or sections added.
#[derive(Default, Clone)]
pub struct ProxyOptions {
    pub proxy: &'static str,
    /// A directory for a Unix socket beside the TCP address.
    pub socket: Option<PathBuf>,
    pub monitor: &'static str,
    pub pool: &'static str,
    pub routing: &'static str,
    pub more: &'static str,
    /// Beside this process's own.
    pub environment: Vec<(&'static str, String)>,
}

impl ProxyOptions {
    /// The whole file for a proxy before this cluster.
    pub fn file(&self, cluster: &Cluster, address: SocketAddr, http: SocketAddr) -> String {
        let nodes: Vec<String> =
            cluster.nodes().iter().map(|node| format!("{:?}", node.address())).collect();
        let pool = if self.pool.is_empty() { "size = 10" } else { self.pool };
        let proxy = if self.proxy.is_empty() { "workers = 2" } else { self.proxy };
        let socket =
            self.socket.as_ref().map_or(String::new(), |path| format!(", \"{}\"", path.display()));
        format!(
            "[proxy]\nlisten = [\"{address}\"{socket}]\nhttp = \"{http}\"\n{proxy}\n\n\
             [cluster]\nnodes = [{nodes}]\n\n\
             [monitor]\nuser = \"{APP}\"\npassword = \"{APP}\"\ndatabase = \"{APP}\"\n{monitor}\n\n\
             [pool]\n{pool}\n\n\
             [routing]\n{routing}\n\n\
             [[user]]\nname = \"{APP}\"\npassword = \"{APP}\"\n\n{more}\n",
            nodes = nodes.join(", "),
            monitor = self.monitor,
            routing = self.routing,
            more = self.more,
        )
    }
}

impl Proxy {
    /// Starts it and waits until it is ready and knows every node that runs.
    pub async fn start(cluster: &Cluster, options: &ProxyOptions) -> Self {
        let mut proxy = Self::spawn(cluster, options);
        proxy.await_ready().await;
        for node in cluster.nodes().iter().filter(|node| node.is_running()) {
            proxy.await_state(node, "up").await;
        }
        proxy
    }

    /// Starts it and waits for nothing.
    pub fn spawn(cluster: &Cluster, options: &ProxyOptions) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let ports = free_ports(2).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], ports[0]));
        let http = SocketAddr::from(([127, 0, 0, 1], ports[1]));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let config = cluster.directory().join(format!("causeway-{number}.toml"));
        let log = config.with_extension("log");
        std::fs::write(&config, options.file(cluster, address, http)).unwrap();
        let file = std::fs::File::create(&log).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_causeway"))
            .args(["run", "--config"])
            .arg(&config)
            .envs(options.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        cluster.guard(process.id());
        Self { process, address, http, config, log }
    }

    async fn await_ready(&mut self) {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                panic!("the proxy ended with {status}");
            }
            if self.get("/readyz").await.is_some_and(|(status, _)| status == 200) {
                return;
            }
            assert!(Instant::now() < deadline, "the proxy is not ready");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How to connect to this database through it as `app`.
    pub fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.address.port())
            .user(APP)
            .password(APP)
            .dbname(database)
            .connect_timeout(SOON);
        config
    }

    pub async fn connect(&self, database: &str) -> Client {
        let (client, connection) = self.config(database).connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Status and body of a GET, or nothing where nobody listens.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        scrape::get(self.http, path).await.ok()
    }

    /// What `/metrics` says.
    pub async fn metrics(&self) -> Scrape {
        Scrape::fetch(self.http).await.unwrap_or_default()
    }

    /// The sum of the samples with this name and, if given, of this node.
    pub async fn metric(&self, name: &str, node: Option<&Node>) -> f64 {
        let address = node.map(Node::address).unwrap_or_default();
        let labels = [("node", address.as_str())];
        let labels = if node.is_some() { &labels[..] } else { &[] };
        self.metrics().await.sum(name, labels).unwrap_or_default()
    }

    /// Waits until the proxy knows this database: before, everything goes to the primary.
    pub async fn await_catalog(&self, cluster: &Cluster, database: &str) {
        let client = self.connect(database).await;
        client.batch_execute("SET causeway.consistency = 'eventual'").await.unwrap();
        let before = self.reads_of_replicas(cluster).await;
        // Its own count: the nodes' is of all who are there.
        await_until("a read reaches a replica", async || {
            client.query("SELECT relname FROM pg_class LIMIT 1", &[]).await.unwrap();
            self.reads_of_replicas(cluster).await > before
        })
        .await;
    }

    /// How many requests replicas have served.
    pub async fn reads_of_replicas(&self, cluster: &Cluster) -> f64 {
        let mut sum = 0.0;
        for replica in cluster.replicas() {
            sum += self.metric("causeway_node_reads_total", Some(replica)).await;
        }
        sum
    }

    pub fn signal(&self, name: &str) {
        signal(name, &[self.pid()]).unwrap();
    }

    /// Waits for its end.
    pub async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the proxy still runs");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The most memory it ever had resident, in KiB.
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// How the proxy sees this node: `up`, `ejected`, `down`, `banned`.
    pub async fn state(&self, node: &Node) -> Option<String> {
        let (metrics, address) = (self.metrics().await, node.address());
        metrics.which("causeway_node_state", &[("node", &address)], "state").map(str::to_owned)
    }

    /// Waits until the proxy says this of the node.
    pub async fn await_state(&self, node: &Node, state: &str) {
        await_until(&format!("{} is {state}", node.name()), async || {
            self.state(node).await.as_deref() == Some(state)
        })
        .await;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- the proxy's log\n{}---", self.log());
        } else {
            assert!(!self.log().contains("panicked"), "the proxy panicked:\n{}", self.log());
        }
    }
}

/// Waits until the condition holds; fails after [`SOON`].
pub async fn await_until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a node has done in one database, by its own statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// Rows inserted, updated or deleted.
    pub written: i64,
    /// Transactions rolled back: a refused write is one.
    pub rolled_back: i64,
    /// Scans of the table asked for, by sequence or index.
    pub scans: i64,
}

/// Asks a node itself. Its servers publish their counts when they go idle, at most once a second, and
/// when they end: stop the proxy first, then poll.
pub async fn served(node: &Node, database: &str, table: &str) -> Served {
    let client = node.connect(database).await.unwrap();
    let row = client
        .query_one(
            // Of the user's own tables: ANALYZE by autovacuum writes as well.
            "SELECT (SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint \
                     FROM pg_stat_user_tables), d.xact_rollback, \
                    coalesce((SELECT seq_scan + coalesce(idx_scan, 0) FROM pg_stat_user_tables \
                              WHERE relname = $1), 0) \
             FROM pg_stat_database d WHERE d.datname = current_database()",
            &[&table],
        )
        .await
        .unwrap();
    Served { written: row.get(0), rolled_back: row.get(1), scans: row.get(2) }
}

/// When a client of this database last began a statement on the node, by the node's clock: seconds
/// ago.
pub async fn last_statement(node: &Node, database: &str) -> Option<f64> {
    let client = node.connect("postgres").await.unwrap();
    let row = client
        .query_one(
            "SELECT extract(epoch FROM clock_timestamp() - max(query_start))::float8 \
             FROM pg_stat_activity \
             WHERE datname = $1 AND usename = 'app' AND application_name NOT LIKE 'causeway%'",
            &[&database],
        )
        .await
        .unwrap();
    row.get(0)
}

/// A program of PostgreSQL's server package: on the path, or where the newest version has it.
pub fn postgres_program(name: &str) -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin").join(name))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| name.into())
}

/// Runs a program to its end away from the runtime and returns what it printed; its failure is the
/// test's.
pub async fn run(mut command: Command) -> String {
    let output = tokio::task::spawn_blocking(move || {
        let output = command.stdin(Stdio::null()).output().unwrap();
        (format!("{command:?}"), output)
    });
    let (command, output) = output.await.unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}
