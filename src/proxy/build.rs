//! Building the process out of its settings, and taking it down.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::census::Census;
use super::crew::Crew;
use super::door::{self, Door, Gate};
use super::notify::Notify;
use super::reload::{self, reload};
use super::resources;
use super::silence;
use super::worker;
use crate::auth::Throttle;
use crate::catalog::{Catalogs, Source};
use crate::cluster::Cluster;
use crate::config::Settings;
use crate::http;
use crate::net::{Bound, BoundAddr};
use crate::pool::Pools;
use crate::session::deadlines::Clocks;
use crate::session::keys::Keys;
use crate::session::metrics::Metrics;
use crate::session::registry::Registry;
use crate::session::{Shared, Vain, statements};
use crate::sql::ScriptCache;
use crate::telemetry;
use crate::tls::{Connector, ConnectorCell, TlsError};

/// Facts of so many shapes are kept.
const SCRIPTS: usize = 32_768;
/// How often idle servers are looked through.
const REAP_EVERY: Duration = Duration::from_secs(1);

/// Why the process could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address.
    #[error("cannot listen on {address}")]
    Listen {
        /// As the file gives it.
        address: String,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// A thread or a reactor.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// What is made of the file.
    #[error(transparent)]
    Rules(#[from] reload::ReloadError),
    /// A certificate, a key or a root.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A running proxy. Dropping it halts it at once.
#[derive(Debug)]
pub struct Proxy {
    addresses: Vec<BoundAddr>,
    http: Option<SocketAddr>,
    shared: Arc<Shared>,
    drain: CancellationToken,
    halt: CancellationToken,
    control: Option<thread::JoinHandle<()>>,
    control_runtime: tokio::runtime::Handle,
    /// Workers and doors.
    serving: Vec<thread::JoinHandle<()>>,
}

impl Proxy {
    /// Listens, starts the threads, and returns; nodes are looked at from now on.
    ///
    /// # Errors
    /// If an address is taken, or the system gives no thread.
    pub fn start(settings: Settings) -> Result<Self, StartError> {
        let files = resources::raise_files(&settings);
        if files.are_short() {
            tracing::warn!(
                allowed = files.allowed,
                needed = files.needed,
                "fewer files may be open (RLIMIT_NOFILE) than limits.clients and the pools may need: \
                 clients beyond that will wait"
            );
        }
        let bound = bind_all(&settings)?;
        let addresses = bound
            .iter()
            .map(Bound::local_addr)
            .collect::<Result<_, _>>()
            .map_err(StartError::Thread)?;
        let http = bind_http(&settings)?;
        let http_address = http.as_ref().and_then(|listener| listener.local_addr().ok());
        let (drain, halt) = (CancellationToken::new(), CancellationToken::new());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        let registry = telemetry::Registry::new(settings.proxy.workers + 1);
        let workers = worker::runtimes(settings.proxy.workers).map_err(StartError::Thread)?;
        let shared = {
            let _within = runtime.enter();
            // With the sessions that wait for them: no other thread is woken for a question or an answer.
            let clocks = workers.first().unwrap_or(&runtime).handle().clone();
            build(settings, &registry, runtime.handle(), clocks, &halt)?
        };
        let census = Arc::new(Census::new(&registry));
        let gate = Arc::new(Gate { census: census.clone(), throttle: Throttle::new(&registry) });
        let count = workers.len();
        let (crew, handed) = Crew::new(count);
        let mut serving = Vec::with_capacity(count + door::count(count));
        for (number, (runtime, handed)) in workers.into_iter().zip(handed).enumerate() {
            let (crew, shared) = (crew.clone(), shared.clone());
            let (drain, halt) = (drain.clone(), halt.clone());
            let thread = worker::start(number, runtime, crew, handed, shared, drain, halt)
                .map_err(StartError::Thread)?;
            serving.push(thread);
        }
        let door = Door {
            crew: crew.clone(),
            shared: shared.clone(),
            gate,
            drain: drain.clone(),
            halt: halt.clone(),
        };
        serving.extend(open_doors(&door, bound, door::count(count)).map_err(StartError::Thread)?);
        let control_runtime = runtime.handle().clone();
        let control = Control {
            shared: shared.clone(),
            registry,
            crew,
            census,
            drain: drain.clone(),
            halt: halt.clone(),
        };
        let control = thread::Builder::new()
            .name("causeway-control".into())
            .spawn(move || runtime.block_on(control.run(http)))
            .map_err(StartError::Thread)?;
        Ok(Self {
            addresses,
            http: http_address,
            shared,
            drain,
            halt,
            control: Some(control),
            control_runtime,
            serving,
        })
    }

    /// Where clients connect, ports chosen by the system filled in.
    #[must_use]
    pub fn addresses(&self) -> &[BoundAddr] {
        &self.addresses
    }

    /// Where HTTP is served.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http
    }

    /// The nodes.
    #[must_use]
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.shared.cluster
    }

    /// Reads the file again; all or nothing.
    ///
    /// # Errors
    /// If anything in the file is wrong; nothing has changed then.
    pub fn reload(&self, path: &Path) -> Result<(), reload::ReloadError> {
        // The cluster starts its tasks on the control thread, whose runtime outlives them.
        let _within = self.control_runtime.enter();
        reload(&self.shared, path)
    }

    /// What the sessions share.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Stops accepting, lets transactions end, and returns when the last client is gone or `within`
    /// is over. Blocks the thread.
    pub fn drain(mut self, within: Duration) {
        self.drain.cancel();
        let deadline = Instant::now() + within;
        let (done, all_done) = mpsc::channel::<()>();
        for thread in std::mem::take(&mut self.serving) {
            let done = done.clone();
            thread::spawn(move || {
                // One that panicked is done as well; its panic was printed.
                let _ = thread.join();
                drop(done);
            });
        }
        drop(done);
        // Nothing is ever sent: the channel closes when the last is done.
        let _ = all_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        self.stop();
    }

    /// Ends at once. Blocks until the threads are gone.
    pub fn halt(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.drain.cancel();
        self.halt.cancel();
        for thread in self.serving.drain(..).chain(self.control.take()) {
            let _ = thread.join();
        }
        self.shared.pools.close();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

fn bind_all(settings: &Settings) -> Result<Vec<Bound>, StartError> {
    let bind = |address| {
        Bound::bind(address, false)
            .map_err(|source| StartError::Listen { address: format!("{address:?}"), source })
    };
    settings.proxy.listen.iter().map(bind).collect()
}

/// So many doors, each of which accepts from all sockets.
fn open_doors(
    door: &Door,
    bound: Vec<Bound>,
    count: usize,
) -> io::Result<Vec<thread::JoinHandle<()>>> {
    let mut doors = Vec::with_capacity(count);
    for number in 1..count {
        let again = bound.iter().map(Bound::try_clone).collect::<io::Result<_>>()?;
        doors.push(door::start(number, door.clone(), again)?);
    }
    doors.push(door::start(0, door.clone(), bound)?);
    Ok(doors)
}

fn bind_http(settings: &Settings) -> Result<Option<std::net::TcpListener>, StartError> {
    let Some(address) = settings.proxy.http else { return Ok(None) };
    let listener = std::net::TcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|source| StartError::Listen { address: format!("http {address}"), source })?;
    Ok(Some(listener))
}

fn build(
    settings: Settings,
    registry: &telemetry::Registry,
    control: &tokio::runtime::Handle,
    clocks: tokio::runtime::Handle,
    halt: &CancellationToken,
) -> Result<Arc<Shared>, StartError> {
    let connector = Connector::load(&settings.node_tls)?;
    let cluster = Arc::new(Cluster::start(&settings, &connector, registry, clocks));
    let connector = ConnectorCell::new(connector);
    let monitor = &settings.monitor;
    let node = reload::some_node(&cluster);
    let source = Source::new(&monitor.user, monitor.password.as_ref(), connector.clone(), node);
    let catalogs = Catalogs::new(source, control.clone(), halt.clone());
    // The one database that is known to be asked for: its reads need not wait for the first client.
    let _loading = catalogs.get(&settings.monitor.database);
    let pools = Arc::new(Pools::new(settings.proxy.workers, connector.clone()));
    observe_pools(registry, &pools, &cluster);
    let metrics = Metrics::new(registry);
    let clocks = Clocks::new(settings.proxy.workers);
    metrics.announce(settings.nodes.iter().map(|node| &*node.name));
    let session_keys = settings.limits.session_keys;
    let rules = reload::rules(settings, None, &reload::some_node(&cluster), &connector)?;
    Ok(Arc::new(Shared {
        rules: Arc::new(ArcSwap::from_pointee(rules)),
        cluster,
        catalogs: Arc::new(catalogs),
        connector,
        pools,
        scripts: Arc::new(ScriptCache::new(SCRIPTS)),
        statements: Arc::new(statements::Shared::default()),
        keys: Keys::new(session_keys),
        vain: Vain::default(),
        registry: Arc::new(Registry::default()),
        metrics,
        clocks,
    }))
}

/// Servers in use, idle and waited for, by node.
fn observe_pools(registry: &telemetry::Registry, pools: &Arc<Pools>, cluster: &Arc<Cluster>) {
    let (pools, cluster) = (pools.clone(), cluster.clone());
    registry.observe(
        "causeway_pool_servers",
        "Servers by node and state; waiting counts requests that wait for one",
        telemetry::metrics::Kind::Gauge,
        &["node", "state"],
        move |out| {
            let topology = cluster.load();
            let counts = pools.counts();
            for node in topology.nodes.iter() {
                let of_node = counts.get(&node.id).copied().unwrap_or_default();
                for (state, number) in [
                    ("in_use", of_node.in_use),
                    ("idle", of_node.idle),
                    ("waiting", of_node.waiting),
                ] {
                    #[allow(clippy::cast_precision_loss, reason = "a count of connections")]
                    out.push(&[&node.name, state], number as f64);
                }
            }
        },
    );
}

/// What runs on the control thread.
struct Control {
    shared: Arc<Shared>,
    registry: telemetry::Registry,
    crew: Arc<Crew>,
    census: Arc<Census>,
    drain: CancellationToken,
    halt: CancellationToken,
}

impl Control {
    async fn run(self, http: Option<std::net::TcpListener>) {
        tokio::spawn(self.crew.keep_even(self.drain.clone()));
        tokio::spawn(silence::watch(self.shared.clone()));
        if let Some(listener) = http {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    let state = http::State {
                        cluster: (*self.shared.cluster).clone(),
                        registry: self.registry.clone(),
                        draining: self.drain.clone(),
                        connections: self.shared.rules.load().settings.limits.http_connections,
                    };
                    let halt = self.halt.clone();
                    tokio::spawn(async move {
                        if let Err(error) = http::serve(listener, state, halt).await {
                            tracing::error!(%error, "HTTP ended");
                        }
                    });
                }
                Err(error) => tracing::error!(%error, "cannot serve HTTP"),
            }
        }
        let mut every = tokio::time::interval(REAP_EVERY);
        loop {
            tokio::select! {
                () = self.halt.cancelled() => return,
                _ = every.tick() => {
                    let topology = self.shared.cluster.topology();
                    self.shared.pools.reap(Instant::now(), &topology);
                    let limits = &self.shared.rules.load().settings.limits;
                    if limits.memory.is_some() {
                        self.census.note_memory(resources::resident_bytes(), limits);
                    }
                }
            }
        }
    }
}

/// `causeway run`: starts, follows signals, and returns when told to end. SIGTERM drains, SIGINT
/// ends at once, SIGHUP reloads `path`.
///
/// # Errors
/// If the process could not start.
pub fn run(settings: Settings, path: &Path) -> Result<(), StartError> {
    let path: PathBuf = path.to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::Thread)?;
    let proxy = Proxy::start(settings)?;
    for address in proxy.addresses() {
        tracing::info!(%address, "listening");
    }
    if let Some(address) = proxy.http_address() {
        tracing::info!(%address, "serving /livez, /readyz and /metrics");
    }
    let notify = Notify::from_environment();
    let drains =
        runtime.block_on(follow_signals(&proxy, &path, &notify)).map_err(StartError::Thread)?;
    notify.stopping();
    if drains {
        let within = proxy.shared().rules.load().settings.proxy.drain_timeout;
        tracing::info!(?within, "draining");
        let (drain, halt) = (proxy.drain.clone(), proxy.halt.clone());
        let ended = thread::spawn(move || proxy.drain(within));
        runtime.block_on(async {
            let mut interrupt = signal(SignalKind::interrupt()).ok();
            let interrupted = async {
                match interrupt.as_mut() {
                    Some(interrupt) => drop(interrupt.recv().await),
                    None => std::future::pending().await,
                }
            };
            let done = async {
                while !ended.is_finished() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::select! { () = interrupted => halt.cancel(), () = done => {} }
        });
        debug_assert!(drain.is_cancelled());
        let _ = ended.join();
    } else {
        proxy.halt();
    }
    tracing::info!("ended");
    Ok(())
}

/// One record for each thing that is wrong: a list would come in one line, and be hard to read.
fn complain_of_reload(path: &Path, error: &reload::ReloadError) {
    let file = path.display();
    let problems = match error {
        reload::ReloadError::Config(error) => error.problems(),
        _ => &[],
    };
    for problem in problems {
        tracing::error!(%file, "{problem}");
    }
    match problems.len() {
        0 => tracing::error!(%file, "reload changed nothing: {error}"),
        count => tracing::error!(%file, "reload changed nothing: {count} problems"),
    }
}

/// Whether to drain (SIGTERM) or to end at once (SIGINT).
async fn follow_signals(proxy: &Proxy, path: &Path, notify: &Notify) -> io::Result<bool> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    notify.ready();
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(true),
            _ = interrupt.recv() => return Ok(false),
            _ = hangup.recv() => {
                notify.reloading();
                match proxy.reload(path) {
                    Ok(()) => tracing::info!(file = %path.display(), "reloaded"),
                    Err(error) => complain_of_reload(path, &error),
                }
                notify.ready();
            }
        }
    }
}
