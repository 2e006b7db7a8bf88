//! One PostgreSQL server of the cluster: its process, its log, and what may be done to it.
//!
//! Owns the server's life after its directory was chosen: start, stop, hang, promote. Removes nothing and
//! knows no other node; that nothing outlives the cluster is the cluster's to see to.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::processes::{children_of, signal};
use super::{ClusterError, PATIENCE};

/// What the cluster needs that is lost with it anyway: no fsync, little memory, shared memory in
/// files of the data directory so that a killed server leaves none behind.
const SERVER_OPTIONS: &str = "-c fsync=off -c shared_buffers=32MB -c full_page_writes=off \
     -c dynamic_shared_memory_type=mmap -c log_min_messages=warning -c log_checkpoints=off \
     -c max_wal_size=256MB -c lc_messages=C -c wal_receiver_status_interval=1s \
     -c wal_retrieve_retry_interval=200ms";

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

impl Node {
    pub(super) fn new(
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

    /// Waits for a server that somebody else stops.
    pub(super) fn wait(&self) {
        if let Some(mut process) = self.process.lock().take() {
            let _ = process.wait();
        }
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
    pub(super) fn launch(&self) -> Result<(), ClusterError> {
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
    pub(super) fn await_ready(&self) -> Result<(), ClusterError> {
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

    pub(super) fn timed_out(&self, action: &'static str) -> ClusterError {
        ClusterError::TimedOut { node: self.name.clone(), action, log: self.log_tail() }
    }

    pub(super) fn sql_error(&self, source: tokio_postgres::Error) -> ClusterError {
        ClusterError::Sql { node: self.name.clone(), source }
    }
}
