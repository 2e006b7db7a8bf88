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

mod node;
mod processes;

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use self::node::{Hanging, Node, Stop};
pub use self::processes::signal;

/// Every file that a server's start needs, by name.
const SCRIPTS: [(&str, &str); 4] = [
    ("server.sh", include_str!("../../../scripts/postgres/server.sh")),
    ("primary.sh", include_str!("../../../scripts/postgres/primary.sh")),
    ("replica.sh", include_str!("../../../scripts/postgres/replica.sh")),
    ("watch.sh", include_str!("../../../scripts/postgres/watch.sh")),
];

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

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
            node.wait();
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
}
