//! A throw-away cluster on loopback: a primary and streaming replicas in a temporary directory.
//!
//! The demo shows Causeway on one and the integration tests run on them. The servers are made by
//! `scripts/postgres/*.sh`, the same files that docker-compose uses; they are part of the program,
//! so that an installed one needs no checkout.
//!
//! Invariant: nothing outlives the [`Cluster`]. A watching shell (`watch.sh`) holds the other end of
//! a pipe; when that closes, by drop, panic or SIGKILL of this process, it stops every server and
//! removes the directory. The servers and the watcher are in process groups of their own, so a
//! Ctrl-C at the terminal reaches neither before this process has ended.
//!
//! What is here blocks (it starts and awaits processes); only what speaks SQL is async.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Every file that a server's start needs, by name.
const SCRIPTS: [(&str, &str); 4] = [
    ("server.sh", include_str!("../../../scripts/postgres/server.sh")),
    ("primary.sh", include_str!("../../../scripts/postgres/primary.sh")),
    ("replica.sh", include_str!("../../../scripts/postgres/replica.sh")),
    ("watch.sh", include_str!("../../../scripts/postgres/watch.sh")),
];

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the cluster needs that is lost with it anyway: no fsync, little memory, shared memory in
/// files of the data directory so that a killed server leaves none behind.
const SERVER_OPTIONS: &str = "-c fsync=off -c shared_buffers=32MB -c full_page_writes=off \
     -c dynamic_shared_memory_type=mmap -c log_min_messages=warning -c log_checkpoints=off \
     -c max_wal_size=256MB -c lc_messages=C -c wal_receiver_status_interval=1s \
     -c wal_retrieve_retry_interval=200ms";

/// Why a cluster could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A file or process could not be made.
    #[error("cannot {action}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A server ended instead of starting.
    #[error("{node} did not start ({status}); its log ends:\n{log}")]
    Exited {
        /// The node's name.
        node: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of its log.
        log: String,
    },
    /// A server neither started nor stopped in time.
    #[error("{node} took too long to {action}; its log ends:\n{log}")]
    TimedOut {
        /// The node's name.
        node: String,
        /// What it was asked to do.
        action: &'static str,
        /// The end of its log.
        log: String,
    },
    /// A statement sent straight to a node failed.
    #[error("{node} refused a statement")]
    Sql {
        /// The node's name.
        node: String,
        /// What it said.
        #[source]
        source: tokio_postgres::Error,
    },
}

/// How to make a cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Streaming replicas beside the primary.
    pub replicas: usize,
    /// More words for every server's command line, as `-c work_mem=1MB`.
    pub server_options: String,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { replicas: 2, server_options: String::new() }
    }
}

/// Role, password and database of applications in a throw-away cluster.
pub const APP: &str = "app";

/// A primary and its replicas. Dropping it stops and removes everything.
#[derive(Debug)]
pub struct Cluster {
    /// The first was made as the primary.
    nodes: Vec<Node>,
    directory: PathBuf,
    watch: Mutex<Watch>,
}

/// The shell that cleans up, and the pipe that tells it when.
#[derive(Debug)]
struct Watch {
    process: Child,
    pipe: Option<ChildStdin>,
}

/// One PostgreSQL server of the cluster.
#[derive(Debug)]
pub struct Node {
    name: String,
    port: u16,
    /// Holds `data` and the log.
    directory: PathBuf,
    /// The program and environment that start it, at first and again.
    script: PathBuf,
    environment: Vec<(&'static str, String)>,
    process: Mutex<Option<Child>>,
}

/// How a server is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGINT: transactions are aborted, then a clean shutdown.
    Fast,
    /// SIGQUIT: at once, recovery at the next start.
    Immediate,
    /// SIGKILL to the server and all its processes, as when the machine dies.
    Kill,
}

/// A server all of whose processes are stopped (SIGSTOP): it hangs, as seen from outside, with its
/// connections open. Dropped, it goes on.
#[derive(Debug)]
pub struct Hanging(Vec<u32>);

impl Drop for Hanging {
    fn drop(&mut self) {
        // Without a shell there would be no cluster either.
        let _ = signal("CONT", &self.0);
    }
}

impl Cluster {
    /// Makes the data directories and starts every server; returns when all accept connections and
    /// every replica streams.
    ///
    /// # Errors
    /// When PostgreSQL's server programs are missing or a server does not start.
    pub fn start(options: &ClusterOptions) -> Result<Self, ClusterError> {
        let directory = make_directory()?;
        let watch = Watch::start(&directory)?;
        let mut cluster =
            Self { nodes: Vec::new(), directory: directory.clone(), watch: Mutex::new(watch) };
        let ports = free_ports(options.replicas + 1)?;
        for (number, &port) in ports.iter().enumerate() {
            let node = Node::new(&directory, number, port, ports[0], &options.server_options)?;
            cluster.nodes.push(node);
        }
        // The primary first: the replicas copy it, side by side.
        cluster.nodes[0].launch()?;
        cluster.nodes[0].await_ready()?;
        for node in &cluster.nodes[1..] {
            node.launch()?;
        }
        for node in &cluster.nodes[1..] {
            node.await_ready()?;
        }
        Ok(cluster)
    }

    /// All nodes; the first was made as the primary.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node that was made as the primary (it may have been stopped since).
    #[must_use]
    pub fn primary(&self) -> &Node {
        &self.nodes[0]
    }

    /// The nodes that were made as replicas.
    #[must_use]
    pub fn replicas(&self) -> &[Node] {
        &self.nodes[1..]
    }

    /// Waits until every running replica has replayed all that the primary has written.
    ///
    /// # Errors
    /// When a node is not reached, or a replica does not catch up within a minute.
    pub async fn await_replay(&self) -> Result<(), ClusterError> {
        let primary = self.primary().connect("postgres").await?;
        let row = primary.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await;
        let target: String = row.map_err(|source| self.primary().sql_error(source))?.get(0);
        for node in self.replicas().iter().filter(|node| node.is_running()) {
            let client = node.connect("postgres").await?;
            let question = format!("SELECT coalesce(pg_last_wal_replay_lsn() >= '{target}', true)");
            let deadline = Instant::now() + PATIENCE;
            loop {
                let row = client.query_one(&question, &[]).await;
                if row.map_err(|source| node.sql_error(source))?.get(0) {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(node.timed_out("catch up"));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }

    /// The cluster's directory, for files that are to go with it.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes sure that this process does not outlive the cluster, also if ours is killed.
    pub fn guard(&self, pid: u32) {
        self.watch.lock().tell(&format!("+{pid}\n"));
    }

    /// Takes [`Cluster::guard`] back: the process has ended.
    pub fn release(&self, pid: u32) {
        self.watch.lock().tell(&format!("-{pid}\n"));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let watch = self.watch.get_mut();
        drop(watch.pipe.take());
        // Our own children must be waited for, or the watcher sees them as alive.
        for node in &self.nodes {
            if let Some(mut process) = node.process.lock().take() {
                let _ = process.wait();
            }
        }
        let _ = watch.process.wait();
    }
}

impl Watch {
    fn start(directory: &Path) -> Result<Self, ClusterError> {
        let mut process = Command::new("sh")
            .arg(directory.join("scripts/watch.sh"))
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|source| ClusterError::Io { action: "start a shell", source })?;
        let pipe = process.stdin.take();
        Ok(Self { process, pipe })
    }

    /// A watcher that is gone cannot be told; nothing is lost but its help.
    fn tell(&mut self, line: &str) {
        if let Some(pipe) = &mut self.pipe {
            let _ = pipe.write_all(line.as_bytes());
        }
    }
}

impl Node {
    fn new(
        cluster: &Path,
        number: usize,
        port: u16,
        primary_port: u16,
        options: &str,
    ) -> Result<Self, ClusterError> {
        let name = if number == 0 { "primary".into() } else { format!("replica{number}") };
        let directory = cluster.join(&name);
        fs::create_dir(&directory)
            .map_err(|source| ClusterError::Io { action: "make a directory", source })?;
        let script = if number == 0 { "primary.sh" } else { "replica.sh" };
        let environment = vec![
            ("PGDATA", directory.join("data").display().to_string()),
            ("PGPORT", port.to_string()),
            ("PGLISTEN", "127.0.0.1".into()),
            ("PGSOCKETS", String::new()),
            ("NODE_NAME", name.clone()),
            ("SERVER_OPTIONS", format!("{SERVER_OPTIONS} {options}")),
            ("INITDB_OPTIONS", "--no-sync".into()),
            ("BASEBACKUP_OPTIONS", "--no-sync".into()),
            ("PRIMARY_HOST", "127.0.0.1".into()),
            ("PRIMARY_PORT", primary_port.to_string()),
        ];
        let script = cluster.join("scripts").join(script);
        Ok(Self { name, port, directory, script, environment, process: Mutex::new(None) })
    }

    /// `primary`, `replica1`, `replica2` ...: as made, whatever became of it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:port`, as the file's `cluster.nodes` wants it.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Whether it was started and not stopped since.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.lock().is_some()
    }

    /// The server's log: warnings and errors, since the cluster was made.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn log(&self) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.directory.join("log"))?).into_owned())
    }

    /// Starts the server again and waits until it accepts connections.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&self) -> Result<(), ClusterError> {
        self.launch()?;
        self.await_ready()
    }

    /// Stops the server and waits until its process is gone.
    ///
    /// # Errors
    /// When it does not stop in time.
    pub fn stop(&self, how: Stop) -> Result<(), ClusterError> {
        let mut process = self.process.lock();
        let Some(child) = process.as_mut() else { return Ok(()) };
        let pid = child.id();
        match how {
            Stop::Fast => signal("INT", &[pid]),
            Stop::Immediate => signal("QUIT", &[pid]),
            Stop::Kill => {
                // The postmaster first, so that it does not see its children die and tell them.
                let all: Vec<u32> = std::iter::once(pid).chain(children_of(pid)).collect();
                signal("KILL", &all)
            }
        }
        .map_err(|source| ClusterError::Io { action: "send a signal", source })?;
        let deadline = Instant::now() + PATIENCE;
        while !matches!(child.try_wait(), Ok(Some(_))) {
            if Instant::now() > deadline {
                return Err(self.timed_out("stop"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        *process = None;
        Ok(())
    }

    /// Makes the server hang until what is returned is dropped.
    ///
    /// # Errors
    /// When no signal can be sent.
    pub fn hang(&self) -> Result<Hanging, ClusterError> {
        let pid = self.process.lock().as_ref().map(Child::id);
        // The postmaster first, so that it starts no more children.
        let mut all: Vec<u32> = pid.into_iter().collect();
        let stop = |pids: &[u32]| {
            signal("STOP", pids)
                .map_err(|source| ClusterError::Io { action: "send a signal", source })
        };
        stop(&all)?;
        let children: Vec<u32> = pid.into_iter().flat_map(children_of).collect();
        all.extend(&children);
        let hanging = Hanging(all);
        stop(&children)?;
        Ok(hanging)
    }

    /// Connects straight to this node as the superuser.
    ///
    /// # Errors
    /// When the node does not let us in.
    pub async fn connect(&self, database: &str) -> Result<tokio_postgres::Client, ClusterError> {
        let (client, connection) = tokio_postgres::Config::new()
            .host("127.0.0.1")
            .port(self.port)
            .user("postgres")
            .password("postgres")
            .dbname(database)
            .connect_timeout(Duration::from_secs(5))
            .connect(tokio_postgres::NoTls)
            .await
            .map_err(|source| self.sql_error(source))?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs statements on this node as the superuser, in the database postgres.
    ///
    /// # Errors
    /// When one of them fails.
    pub async fn execute(&self, statements: &str) -> Result<(), ClusterError> {
        let client = self.connect("postgres").await?;
        client.batch_execute(statements).await.map_err(|source| self.sql_error(source))
    }

    /// Stops replaying WAL on this replica: it falls behind as the primary writes.
    ///
    /// # Errors
    /// When the node is not a replica or is not reached.
    pub async fn pause_replay(&self) -> Result<(), ClusterError> {
        self.execute("SELECT pg_wal_replay_pause()").await
    }

    /// Takes [`Node::pause_replay`] back.
    ///
    /// # Errors
    /// When the node is not a replica or is not reached.
    pub async fn resume_replay(&self) -> Result<(), ClusterError> {
        self.execute("SELECT pg_wal_replay_resume()").await
    }

    /// Makes this replica a primary and waits until it is one.
    ///
    /// # Errors
    /// When the node is not a replica or is not reached.
    pub async fn promote(&self) -> Result<(), ClusterError> {
        self.execute("SELECT pg_promote(true, 60)").await
    }

    /// Starts the script without waiting for the server.
    fn launch(&self) -> Result<(), ClusterError> {
        let failed = |source| ClusterError::Io { action: "start a server", source };
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .map_err(failed)?;
        let process = Command::new("sh")
            .arg(&self.script)
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        *self.process.lock() = Some(process);
        Ok(())
    }

    /// Waits until the server says in its `postmaster.pid` that it accepts connections.
    fn await_ready(&self) -> Result<(), ClusterError> {
        let deadline = Instant::now() + PATIENCE;
        let mut process = self.process.lock();
        let Some(child) = process.as_mut() else { return Err(self.timed_out("start")) };
        loop {
            if let Ok(Some(status)) = child.try_wait() {
                *process = None;
                return Err(ClusterError::Exited {
                    node: self.name.clone(),
                    status,
                    log: self.log_tail(),
                });
            }
            if self.is_ready(child.id()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.timed_out("start"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The eighth line of `postmaster.pid` is the server's state; the first is whose file it is.
    fn is_ready(&self, pid: u32) -> bool {
        let Ok(file) = fs::read_to_string(self.directory.join("data/postmaster.pid")) else {
            return false;
        };
        let mut lines = file.lines();
        lines.next().is_some_and(|line| line.trim() == pid.to_string())
            && lines.nth(6).is_some_and(|line| line.trim() == "ready")
    }

    fn log_tail(&self) -> String {
        let log = self.log().unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn timed_out(&self, action: &'static str) -> ClusterError {
        ClusterError::TimedOut { node: self.name.clone(), action, log: self.log_tail() }
    }

    fn sql_error(&self, source: tokio_postgres::Error) -> ClusterError {
        ClusterError::Sql { node: self.name.clone(), source }
    }
}

/// Makes the cluster's directory, readable by the user that the servers run as, with the scripts.
fn make_directory() -> Result<PathBuf, ClusterError> {
    let failed = |source| ClusterError::Io { action: "make a temporary directory", source };
    let open_to_all = fs::Permissions::from_mode(0o755);
    // Not removed by this handle: the watcher does it, which also lives when we die.
    let directory = tempfile::Builder::new()
        .prefix("causeway-")
        .permissions(open_to_all.clone())
        .tempdir()
        .map_err(failed)?
        .keep();
    let scripts = directory.join("scripts");
    fs::create_dir(&scripts).map_err(failed)?;
    fs::set_permissions(&scripts, open_to_all.clone()).map_err(failed)?;
    for (name, text) in SCRIPTS {
        let path = scripts.join(name);
        fs::write(&path, text).map_err(failed)?;
        fs::set_permissions(&path, open_to_all.clone()).map_err(failed)?;
    }
    Ok(directory)
}

/// Ports of 127.0.0.1 that nobody listens on, below the range that outgoing connections take theirs
/// from: a server that is killed must find its port free when it comes back.
///
/// # Errors
/// When there are not so many.
pub fn free_ports(count: usize) -> Result<Vec<u16>, ClusterError> {
    /// Where this process goes on looking: its own clusters never get the same port.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const RANGE: std::ops::Range<u16> = 20_000..32_000;
    let start = rand::random_range(RANGE);
    let _ = NEXT.compare_exchange(0, start, Ordering::Relaxed, Ordering::Relaxed);
    let mut ports = Vec::with_capacity(count);
    for _ in RANGE {
        if ports.len() == count {
            break;
        }
        let port = RANGE.start + NEXT.fetch_add(1, Ordering::Relaxed) % (RANGE.end - RANGE.start);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            ports.push(port);
        }
    }
    if ports.len() < count {
        let source = io::ErrorKind::AddrNotAvailable.into();
        return Err(ClusterError::Io { action: "find a free port", source });
    }
    Ok(ports)
}

/// Sends a signal through the shell, which is everywhere (and needs no unsafe code).
///
/// # Errors
/// When there is no shell. Processes that are gone are no error.
pub fn signal(name: &str, pids: &[u32]) -> io::Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", r#"signal=$1; shift; for pid; do kill -s "$signal" "$pid"; done"#, "sh"]);
    command.arg(name).args(pids.iter().map(u32::to_string));
    command.stderr(Stdio::null()).status().map(|_| ())
}

/// The processes whose parent is `pid`, from /proc.
fn children_of(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter(|&number: &u32| {
            let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
            // "pid (name) state ppid ...": the name may hold anything but its last parenthesis.
            let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
            parent.is_some_and(|parent| parent == pid.to_string())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_distinct_and_free() {
        let mut ports = free_ports(20).unwrap();
        for &port in &ports {
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        }
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 20);
    }

    #[test]
    fn children_are_found() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(children_of(std::process::id()).contains(&child.id()));
        signal("KILL", &[child.id()]).unwrap();
        child.wait().unwrap();
        assert!(!children_of(std::process::id()).contains(&child.id()));
    }
}
