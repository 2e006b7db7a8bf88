//! What the demo stands on: a cluster (its own, or that of a given file) and a proxy before it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

use super::cluster::{APP, Cluster, ClusterOptions, free_ports, signal};
use super::scrape;
use crate::config::settings::{Address, Listen, Settings, UserPassword};

/// How long the proxy may take to be ready, and to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// The cluster and the proxy. Dropped, the demo's own cluster is removed and the proxy is killed.
#[derive(Debug)]
pub struct Ground {
    /// The proxy's file.
    pub config: PathBuf,
    /// What it says.
    pub settings: Settings,
    /// Where the proxy answers HTTP.
    pub http: SocketAddr,
    // Killed before the cluster goes.
    proxy: Child,
    /// The demo's own; none where a file was given.
    pub cluster: Option<Cluster>,
}

impl Ground {
    /// Starts a cluster (where no file is given) and the proxy; returns when the proxy is ready.
    ///
    /// # Errors
    /// When PostgreSQL's programs are missing, the file is not fit for the demo, or the proxy is not
    /// ready in time.
    pub async fn prepare(config: Option<&Path>) -> Result<Self> {
        let (config, cluster) = if let Some(config) = config {
            (config.to_owned(), None)
        } else {
            let cluster = Cluster::start(&ClusterOptions::default())?;
            let config = cluster.directory().join("causeway.toml");
            std::fs::write(&config, own_file(&cluster)?).context("cannot write the file")?;
            (config, Some(cluster))
        };
        let settings = crate::config::load(&config)?;
        let http = settings.proxy.http.context("the demo needs `proxy.http` in the file")?;
        let log = match &cluster {
            Some(cluster) => {
                let log = std::fs::File::create(cluster.directory().join("causeway.log"));
                Stdio::from(log.context("cannot write the log")?)
            }
            None => Stdio::null(),
        };
        let proxy = Command::new(std::env::current_exe().context("cannot find this program")?)
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // Ctrl-C is for the demo, which ends the proxy in its turn.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the proxy")?;
        if let (Some(cluster), Some(pid)) = (&cluster, proxy.id()) {
            cluster.guard(pid);
        }
        let mut ground = Self { config, settings, http, proxy, cluster };
        ground.await_ready().await?;
        Ok(ground)
    }

    async fn await_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.proxy.try_wait()? {
                bail!("the proxy ended with {status}; {}", self.where_to_look());
            }
            if scrape::get(self.http, "/readyz").await.is_ok_and(|(status, _)| status == 200) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the proxy does not find a primary; {}", self.where_to_look());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The end of the proxy's log, or the command that shows it.
    fn where_to_look(&self) -> String {
        let run = format!("see: causeway run --config {}", self.config.display());
        let Some(cluster) = &self.cluster else { return run };
        let log = std::fs::read_to_string(cluster.directory().join("causeway.log"));
        let log = log.unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        format!("its log ends:\n{}", lines[lines.len().saturating_sub(10)..].join("\n"))
    }

    /// How applications connect to the proxy: as the first user that the file has a password for.
    ///
    /// # Errors
    /// When the file has no such user or no TCP address.
    pub fn client(&self) -> Result<Client> {
        let address = self.settings.proxy.listen.iter().find_map(|listen| match listen {
            Listen::Tcp(address) => Some(*address),
            Listen::Unix { .. } => None,
        });
        let user = self.settings.users.iter().find_map(|user| match &user.password {
            Some(UserPassword::Plain(password)) => Some((&user.name, password.expose())),
            _ => None,
        });
        let (user, password) =
            user.context("the demo needs a [[user]] with a plain password in the file")?;
        Ok(Client {
            address: address.context("the demo needs a TCP address in `proxy.listen`")?,
            user: user.clone(),
            password: password.to_owned(),
            database: self.settings.monitor.database.clone(),
        })
    }

    /// A name for people: the node's role as made, or its name in the file.
    #[must_use]
    pub fn name_of(&self, number: usize) -> String {
        let made = self.cluster.as_ref().and_then(|cluster| cluster.nodes().get(number));
        made.map_or_else(|| self.settings.nodes[number].name.to_string(), |node| node.name().into())
    }

    /// Ends the proxy, so that its servers end and publish what they counted.
    pub async fn stop_proxy(&mut self) {
        if let Some(pid) = self.proxy.id() {
            let _ = signal("INT", &[pid]);
            if tokio::time::timeout(PATIENCE, self.proxy.wait()).await.is_err() {
                let _ = self.proxy.kill().await;
            }
            if let Some(cluster) = &self.cluster {
                cluster.release(pid);
            }
        }
    }
}

/// Everything an application must know.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddr,
    user: String,
    password: String,
    database: String,
}

impl Client {
    /// For tokio-postgres.
    #[must_use]
    pub fn config(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host(self.host())
            .port(self.address.port())
            .user(&self.user)
            .password(&self.password)
            .dbname(&self.database)
            .application_name("causeway demo")
            .connect_timeout(Duration::from_secs(10));
        config
    }

    /// The same past the proxy, straight to a node.
    #[must_use]
    pub fn direct(&self, node: &Address) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host(&node.host)
            .port(node.port)
            .user(&self.user)
            .password(&self.password)
            .dbname(&self.database)
            .connect_timeout(Duration::from_secs(10));
        config
    }

    /// The psql line.
    #[must_use]
    pub fn psql(&self) -> String {
        format!(
            "psql 'host={} port={} user={} password={} dbname={}'",
            self.host(),
            self.address.port(),
            self.user,
            self.password,
            self.database
        )
    }

    /// An address to connect to, also where the proxy listens on all.
    fn host(&self) -> String {
        match self.address {
            SocketAddr::V4(address) if address.ip().is_unspecified() => "127.0.0.1".into(),
            SocketAddr::V6(address) if address.ip().is_unspecified() => "::1".into(),
            address => address.ip().to_string(),
        }
    }
}

/// The file for the demo's own cluster. The limits are tight, so that a minute shows the point.
fn own_file(cluster: &Cluster) -> Result<String> {
    let ports = free_ports(2)?;
    let nodes: Vec<String> =
        cluster.nodes().iter().map(|node| format!("{:?}", node.address())).collect();
    Ok(format!(
        "[proxy]\nlisten = \"127.0.0.1:{}\"\nhttp = \"127.0.0.1:{}\"\nworkers = 2\n\n\
         [cluster]\nnodes = [{}]\n\n\
         [monitor]\nuser = \"{APP}\"\npassword = \"{APP}\"\ndatabase = \"{APP}\"\n\
         interval = \"250ms\"\nmax_lag = \"1s\"\nreadmit_lag = \"500ms\"\nreadmit_after = 3\n\n\
         [pool]\nmode = \"transaction\"\nsize = 10\n\n\
         [routing]\nbalance = \"round-robin\"\n\n\
         [[user]]\nname = \"{APP}\"\npassword = \"{APP}\"\n",
        ports[0],
        ports[1],
        nodes.join(", ")
    ))
}
