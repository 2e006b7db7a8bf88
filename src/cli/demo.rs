//! `causeway demo`: a throw-away cluster, the proxy before it, a mixed workload through it, and a
//! table that shows where everything went.
//!
//! The counts in the table come from the nodes themselves ([`witness`]), not from the proxy; role,
//! lag and state are what the proxy says of the nodes. Now and then a replica is made to lag, so that
//! one sees it ejected and readmitted. Nothing outlives the demo (see [`cluster`]).

pub mod cluster;
pub mod ground;
pub mod scrape;
pub mod screen;
pub mod summary;
pub mod witness;
pub mod workload;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio_postgres::NoTls;

use ground::Ground;
use scrape::Scrape;
use screen::{Row, Screen, Totals};
use summary::{LagShown, Summary};
use witness::Witness;
use workload::Workload;

/// Arguments of `causeway demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// Use the cluster of this file instead of a throw-away one (makes and drops the schema
    /// `causeway_demo` in the monitor's database)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// End after this time with a summary; the exit code says whether all was well
    #[arg(long, env = "DURATION", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
}

/// How often the table is drawn.
const TICK: Duration = Duration::from_millis(500);
/// Of a demo without an end: from one lag to the next.
const PERIOD: Duration = Duration::from_secs(40);
/// A shorter demo has no time for a lag.
const SHORTEST_WITH_LAG: Duration = Duration::from_secs(10);

/// Runs the demo; blocks until it is over.
///
/// # Errors
/// When the cluster, the proxy or the workload cannot be started. A demo that ran and showed a fault
/// is no error but a failing exit code.
pub fn run(args: &DemoArgs) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start a runtime")?;
    runtime.block_on(async {
        // From here on Ctrl-C is ours, also while things are being set up.
        let interrupted = interrupted()?;
        tokio::pin!(interrupted);
        let stage = tokio::select! {
            stage = Stage::set_up(args) => stage?,
            () = &mut interrupted => return Ok(ExitCode::SUCCESS),
        };
        stage.perform(interrupted).await
    })
}

/// Completes at SIGINT or SIGTERM, which from this call on no longer end the process.
fn interrupted() -> Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut int = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let mut term = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    Ok(async move {
        tokio::select! { _ = int.recv() => {} , _ = term.recv() => {} }
    })
}

/// Everything in its place, the curtain still down.
struct Stage {
    ground: Ground,
    client: ground::Client,
    witnesses: Vec<Witness>,
    duration: Option<Duration>,
}

impl Stage {
    async fn set_up(args: &DemoArgs) -> Result<Self> {
        if args.config.is_none() {
            println!("Starting a primary and two replicas ...");
        }
        let ground = Ground::prepare(args.config.as_deref()).await?;
        let client = ground.client()?;
        let (setup, connection) =
            client.config().connect(NoTls).await.context("cannot connect through the proxy")?;
        tokio::spawn(connection);
        setup.batch_execute(workload::SETUP).await.context("cannot make the demo's tables")?;

        let mut witnesses = Vec::new();
        for node in &ground.settings.nodes {
            let mut witness = Witness::new(&node.address, &ground.settings.monitor);
            let name = &node.name;
            witness.await_items().await.with_context(|| format!("{name} lacks the tables"))?;
            witness.begin().await;
            witnesses.push(witness);
        }
        Ok(Self { ground, client, witnesses, duration: args.duration })
    }

    async fn perform(self, interrupted: impl Future<Output = ()>) -> Result<ExitCode> {
        let Self { ground, client, witnesses, duration } = self;
        println!("\n  {}", client.psql());
        println!("  http://{}/metrics   /livez   /readyz", ground.http);
        println!("  causeway explain --config {}", ground.config.display());
        let workload = Workload::start(&client.config()).await.context("cannot connect clients")?;
        let mut show = Show::new(ground, witnesses, duration);
        tokio::select! {
            () = show.go_on(&workload) => {}
            () = interrupted => {
                println!();
                // There may have been no time for it.
                show.lag_shown = None;
            }
        }
        let summary = show.finish(workload, &client).await;
        print!("{summary}");
        Ok(if summary.faults().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The demo at work.
struct Show {
    ground: Ground,
    witnesses: Vec<Witness>,
    screen: Screen,
    duration: Option<Duration>,
    rows: Vec<Row>,
    drawn_at: Instant,
    lag_shown: Option<LagShown>,
    /// The replica that is made to lag, while it is.
    lagging: Option<usize>,
    ejections: u64,
}

impl Show {
    fn new(ground: Ground, witnesses: Vec<Witness>, duration: Option<Duration>) -> Self {
        let rows = ground.settings.nodes.iter().enumerate().map(|(number, node)| Row {
            name: ground.name_of(number),
            address: node.address.to_string(),
            ..Row::default()
        });
        Self {
            rows: rows.collect(),
            ground,
            witnesses,
            screen: Screen::new(),
            duration,
            drawn_at: Instant::now(),
            lag_shown: None,
            lagging: None,
            ejections: 0,
        }
    }

    /// Draws, and makes a replica lag now and then, until the time is up.
    async fn go_on(&mut self, workload: &Workload) {
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        while self.duration.is_none_or(|duration| begun.elapsed() < duration) {
            ticks.tick().await;
            self.lag(begun.elapsed()).await;
            self.look().await;
            self.screen.show(&self.rows, totals(workload));
        }
    }

    /// Pauses or resumes replay on a replica of the demo's own cluster, as the time demands. A demo
    /// with an end does so once, one without in every period, on each replica in turn.
    async fn lag(&mut self, elapsed: Duration) {
        let Some(cluster) = &self.ground.cluster else { return };
        let replicas = cluster.replicas().len();
        let (round, from, to) = match self.duration {
            Some(duration) if duration < SHORTEST_WITH_LAG => return,
            Some(duration) => (0, duration.mul_f64(0.15), duration.mul_f64(0.5)),
            None => {
                let round = usize::try_from(elapsed.as_secs() / PERIOD.as_secs()).unwrap_or(0);
                let begun = PERIOD * u32::try_from(round).unwrap_or(0);
                (round, begun + PERIOD.mul_f64(0.2), begun + PERIOD.mul_f64(0.5))
            }
        };
        let number = replicas - round % replicas;
        let node = &cluster.nodes()[number];
        let due = (from..to).contains(&elapsed);
        let (done, what) = match self.lagging {
            None if due => (node.pause_replay().await, "replay paused, it falls behind"),
            Some(lagging) if !due => {
                (cluster.nodes()[lagging].resume_replay().await, "replay resumed, it catches up")
            }
            _ => return,
        };
        let number = self.lagging.unwrap_or(number);
        self.lagging = if due { Some(number) } else { None };
        if due {
            self.lag_shown = Some(LagShown::default());
        }
        let name = self.rows[number].name.clone();
        match done {
            Ok(()) => self.screen.event(&format!("{name}: {what}")),
            Err(error) => self.screen.event(&format!("{name}: {error}")),
        }
    }

    /// Asks the proxy and every node.
    async fn look(&mut self) {
        let scrape = Scrape::fetch(self.ground.http).await.unwrap_or_default();
        let passed = self.drawn_at.elapsed().as_secs_f64().max(0.001);
        self.drawn_at = Instant::now();
        for (number, node) in self.ground.settings.nodes.iter().enumerate() {
            let label = [("node", &*node.name)];
            let row = &mut self.rows[number];
            if let Some(role) = scrape.which("causeway_node_role", &label, "role") {
                role.clone_into(&mut row.role);
            }
            row.lag = scrape.sum("causeway_lag_seconds", &label);
            row.lag_bytes = scrape.sum("causeway_lag_bytes", &label);
            let account = self.witnesses[number].ask().await;
            #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
            let more = (account.reads - row.account.reads) as f64;
            row.rate =
                if row.rate > 0.0 { row.rate * 0.7 + more / passed * 0.3 } else { more / passed };
            row.account = account;
            let state = scrape.which("causeway_node_state", &label, "state").unwrap_or("?");
            if row.state != state {
                if !row.state.is_empty() {
                    let lag = row.lag.map_or(String::new(), |lag| format!(" (lag {lag:.1} s)"));
                    let event = format!("{}: {} -> {state}{lag}", row.name, row.state);
                    self.screen.event(&event);
                }
                state.clone_into(&mut row.state);
            }
            if let Some(shown) = &mut self.lag_shown {
                shown.ejected |= row.state == "ejected";
                shown.readmitted |= shown.ejected && self.lagging.is_none() && row.state == "up";
            }
        }
        let ejections = scrape.sum("causeway_ejections_total", &[]).unwrap_or_default();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let ejections = ejections as u64;
        self.ejections = self.ejections.max(ejections);
    }

    /// Ends the clients and the proxy, then hears the nodes once more: by then they have counted all.
    async fn finish(mut self, workload: Workload, client: &ground::Client) -> Summary {
        let counts = workload.finish().await;
        self.ground.stop_proxy().await;
        let totals = Totals {
            reads: counts.reads.load(Relaxed),
            writes: counts.writes.load(Relaxed),
            failed: counts.failed.load(Relaxed),
        };
        let mut summary = Summary {
            totals,
            failures: counts.failures.lock().clone(),
            ejections: self.ejections,
            lag_shown: self.lag_shown,
            rows: Vec::new(),
        };
        for _ in 0..30 {
            for (row, witness) in self.rows.iter_mut().zip(&mut self.witnesses) {
                row.account = witness.ask().await;
            }
            summary.rows.clone_from(&self.rows);
            let counted = |fault: &_| !matches!(fault, summary::Fault::Unaccounted { .. });
            if summary.faults().iter().all(counted) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.clean_up(client).await;
        summary
    }

    /// Drops what the demo made in somebody else's cluster; its own goes as a whole.
    async fn clean_up(&self, client: &ground::Client) {
        if self.ground.cluster.is_some() {
            return;
        }
        let primary = self.rows.iter().position(|row| row.role == "primary").unwrap_or(0);
        let config = client.direct(&self.ground.settings.nodes[primary].address);
        let cleaned = match config.connect(NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                client.batch_execute(workload::CLEANUP).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = cleaned {
            eprintln!("the schema causeway_demo is still there: {error}");
        }
    }
}

fn totals(workload: &Workload) -> Totals {
    let counts = &workload.counts;
    Totals {
        reads: counts.reads.load(Relaxed),
        writes: counts.writes.load(Relaxed),
        failed: counts.failed.load(Relaxed),
    }
}
