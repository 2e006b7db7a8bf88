//! What is done to the nodes while sessions work.

use std::time::Duration;

use causeway::cli::demo::cluster::{Cluster, ClusterError, Node, Stop};
use tokio::time::sleep;

use super::ground::Ground;

/// What befalls the replicas. The primary is left alone but for its clock: what its loss means is told elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// `recovery_min_apply_delay` so long on the second replica; half of it on the first, unless
    /// commits wait for that one.
    Delay(Duration),
    /// Replay is paused and resumed, on one and the other.
    Pause,
    /// Stopped cleanly and started again, in turn.
    Restart,
    /// SIGKILL, and started again, in turn.
    Kill,
    /// The WAL receiver is taken away for a while, in turn.
    Receiver,
    /// Commits wait for both replicas, of which the second is slow: the first shows them long before
    /// the primary does.
    SlowStandby,
    /// The connections by which the proxy reads the nodes' clocks are ended.
    Clock,
}

/// `synchronous_commit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    Off,
    On,
    RemoteWrite,
    RemoteApply,
}

impl Fault {
    pub const ALL: [Self; 9] = [
        Self::None,
        Self::Delay(Duration::from_millis(200)),
        Self::Delay(Duration::from_secs(2)),
        Self::Pause,
        Self::Restart,
        Self::Kill,
        Self::Receiver,
        Self::SlowStandby,
        Self::Clock,
    ];

    pub fn name(self) -> String {
        match self {
            Self::None => "healthy".into(),
            Self::Delay(delay) => format!("delay-{}ms", delay.as_millis()),
            Self::Pause => "pause".into(),
            Self::Restart => "restart".into(),
            Self::Kill => "kill".into(),
            Self::Receiver => "receiver".into(),
            Self::SlowStandby => "slow-standby".into(),
            Self::Clock => "clock".into(),
        }
    }

    /// Whether the replicas lose their connections: what was begun on one cannot be ended there.
    pub fn breaks_servers(self) -> bool {
        matches!(self, Self::Restart | Self::Kill)
    }
}

impl Commit {
    pub const ALL: [Self; 4] = [Self::Off, Self::On, Self::RemoteWrite, Self::RemoteApply];

    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::RemoteWrite => "remote_write",
            Self::RemoteApply => "remote_apply",
        }
    }

    fn waits_for_replicas(self) -> bool {
        matches!(self, Self::RemoteWrite | Self::RemoteApply)
    }
}

/// Sets the cluster up for a cell.
///
/// # Errors
/// When a node refuses.
pub async fn prepare(cluster: &Cluster, fault: Fault, commit: Commit) -> Result<(), ClusterError> {
    let standbys = match fault {
        Fault::SlowStandby => "FIRST 2 (replica1, replica2)",
        _ if commit.waits_for_replicas() => "ANY 1 (replica1, replica2)",
        _ => "",
    };
    let primary = cluster.primary();
    set(primary, "synchronous_standby_names", standbys).await?;
    set(primary, "synchronous_commit", commit.name()).await?;
    let delays = match fault {
        Fault::Delay(delay) if commit.waits_for_replicas() => [Duration::ZERO, delay],
        Fault::Delay(delay) => [delay / 2, delay],
        Fault::SlowStandby => [Duration::ZERO, Duration::from_millis(30)],
        _ => [Duration::ZERO; 2],
    };
    for (replica, delay) in cluster.replicas().iter().zip(delays) {
        delay_replay(replica, delay).await?;
    }
    Ok(())
}

/// Leaves the cluster as it was made.
///
/// # Errors
/// When a node refuses.
pub async fn tidy(cluster: &Cluster) -> Result<(), ClusterError> {
    prepare(cluster, Fault::None, Commit::On).await
}

/// Does it again and again until the run ends; leaves the nodes as they were.
///
/// # Errors
/// When a node does not do as it is told.
pub async fn inflict(cluster: &Cluster, fault: Fault, ground: &Ground) -> Result<(), ClusterError> {
    let mut replicas = cluster.replicas().iter().cycle();
    while !ground.ended() {
        let replica = replicas.next().expect("there are replicas");
        match fault {
            Fault::None | Fault::Delay(_) | Fault::SlowStandby => {}
            Fault::Pause => {
                replica.pause_replay().await?;
                sleep(Duration::from_millis(1200)).await;
                replica.resume_replay().await?;
            }
            Fault::Restart => start_again(replica, Stop::Fast).await?,
            Fault::Kill => start_again(replica, Stop::Kill).await?,
            Fault::Receiver => without_receiver(replica, Duration::from_millis(1200)).await?,
            Fault::Clock => end_clocks(cluster).await?,
        }
        sleep(Duration::from_millis(700)).await;
    }
    Ok(())
}

/// Sets a setting on a node, for all its sessions.
///
/// # Errors
/// When the node refuses.
pub async fn set(node: &Node, name: &str, value: &str) -> Result<(), ClusterError> {
    set_for_next_start(node, name, value).await?;
    node.execute("SELECT pg_reload_conf()").await
}

/// Writes a setting that holds when the node is started again.
///
/// # Errors
/// When the node refuses.
pub async fn set_for_next_start(node: &Node, name: &str, value: &str) -> Result<(), ClusterError> {
    node.execute(&format!("ALTER SYSTEM SET {name} = '{}'", value.replace('\'', "''"))).await
}

/// `recovery_min_apply_delay`.
///
/// # Errors
/// When the node refuses.
pub async fn delay_replay(replica: &Node, delay: Duration) -> Result<(), ClusterError> {
    set(replica, "recovery_min_apply_delay", &format!("{}ms", delay.as_millis())).await
}

/// Stops a node, leaves it down for a moment, and starts it.
///
/// # Errors
/// When it does not stop or start.
pub async fn start_again(node: &Node, how: Stop) -> Result<(), ClusterError> {
    // Both wait for processes: the other tasks of this thread go elsewhere meanwhile.
    tokio::task::block_in_place(|| node.stop(how))?;
    sleep(Duration::from_millis(200)).await;
    tokio::task::block_in_place(|| node.restart())
}

/// Ends the connections by which nodes are asked where they are.
///
/// # Errors
/// When a node refuses.
pub async fn end_clocks(cluster: &Cluster) -> Result<(), ClusterError> {
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name = 'causeway clock'";
    for node in cluster.nodes() {
        node.execute(end).await?;
    }
    Ok(())
}

/// Takes the WAL receiver away for so long.
async fn without_receiver(replica: &Node, how_long: Duration) -> Result<(), ClusterError> {
    let client = replica.connect("postgres").await?;
    let row = client.query_one("SHOW primary_conninfo", &[]).await;
    let connection: String = row.expect("a replica says where it streams from").get(0);
    set(replica, "primary_conninfo", "").await?;
    sleep(how_long).await;
    set(replica, "primary_conninfo", &connection).await
}
