//! One cell of the table: a fault, a `synchronous_commit`, many sessions; then the verdict.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use causeway::cli::demo::cluster::{Cluster, Node};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::appending::{Appending, list};
use super::client::{Client, Protocol};
use super::counters::{self, Act, Op, Terms};
use super::counting::Counting;
use super::faults::{self, Commit, Fault};
use super::ground::{Complaint, Ground, Mix};
use super::history::Key;
use super::lists;
use super::session::{CUT_OFF, Session};
use super::world::{Place, VOUCHED, schema};
use crate::harness::{Proxy, ProxyOptions, fresh_database};

/// What is run.
#[derive(Debug, Clone, Copy)]
pub struct Cell {
    /// Before its name, if fault and commit do not tell it from others.
    pub label: &'static str,
    pub fault: Fault,
    pub commit: Commit,
    pub sessions: usize,
    pub mix: Mix,
    pub goal: Goal,
}

/// When it is enough: after this time and so many reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct Goal {
    pub time: Duration,
    pub reads: usize,
    pub writes: usize,
}

/// What came out.
pub struct Report {
    pub cell: Cell,
    counters: counters::History,
    lists: lists::History,
    complaints: Vec<Complaint>,
    /// Requests that each node served, by the proxy's own count.
    served: Vec<(String, f64)>,
    waits: Waits,
    took: Duration,
    broken: Vec<counters::Violation>,
    anomalies: Vec<lists::Violation>,
}

const KEYS_EACH: usize = 2;

impl Cell {
    pub fn name(&self) -> String {
        format!("{}{}/{}", self.label, self.fault.name(), self.commit.name())
    }

    /// Runs it on a cluster of its own or on one that is left as it was.
    pub async fn run(self, cluster: &Cluster, proxy: &ProxyOptions) -> Report {
        let database = fresh_database(cluster).await;
        let direct = cluster.primary().connect(&database).await.unwrap();
        let keys = self.sessions * KEYS_EACH;
        direct.batch_execute(&schema(keys)).await.unwrap();
        cluster.await_replay().await.unwrap();
        faults::prepare(cluster, self.fault, self.commit).await.unwrap();
        let proxy = Proxy::start(cluster, proxy).await;
        proxy.await_catalog(cluster, &database).await;

        let ground = Arc::new(Ground::new(self.mix, keys));
        let began = Instant::now();
        let before = served(cluster, &proxy).await;
        let work = self.work(&proxy, &database, &ground);
        let inflict = faults::inflict(cluster, self.fault, &ground);
        let (histories, inflicted) = tokio::join!(work, inflict);
        inflicted.unwrap();
        let (mut counters, mut lists) = histories;
        let after = served(cluster, &proxy).await;
        let waits = Waits::of(&proxy).await;
        let took = began.elapsed();
        look_again(&direct, &ground, &mut counters, &mut lists).await;
        drop(proxy);
        faults::tidy(cluster).await.unwrap();
        cluster.await_replay().await.unwrap();

        let served = before
            .into_iter()
            .zip(after)
            .map(|((node, before), (_, after))| (node, after - before));
        let broken = counters::check(&counters);
        let anomalies = lists::check(&lists);
        Report {
            cell: self,
            served: served.collect(),
            waits,
            complaints: ground.complaints(),
            counters,
            lists,
            took,
            broken,
            anomalies,
        }
    }

    /// All sessions, until the goal is reached.
    async fn work(
        &self,
        proxy: &Proxy,
        database: &str,
        ground: &Arc<Ground>,
    ) -> (counters::History, lists::History) {
        let (mut counting, mut appending) = (JoinSet::new(), JoinSet::new());
        let mut sessions = Vec::new();
        for number in 0..self.sessions {
            let role = Role::of(number);
            sessions.push(role.terms());
            let (mut client, protocol) = role.connect(proxy, database, number).await;
            for setting in role.settings() {
                let refusal = client.run(&setting).await.unwrap().refusal;
                assert_eq!(refusal, None, "{setting}");
            }
            let ground = Arc::clone(ground);
            if role == Role::Appends {
                appending.spawn(Appending::new(number, client, protocol, ground).work());
            } else {
                let first = Key::try_from(number * KEYS_EACH).unwrap();
                let own: Vec<Key> = (first..).take(KEYS_EACH).collect();
                let session = Session::new(number, client, protocol, &own, ground);
                counting.spawn(Counting::new(session, role == Role::Reads).work());
            }
        }
        let began = Instant::now();
        loop {
            sleep(Duration::from_millis(100)).await;
            let (reads, writes) = ground.counted();
            let enough = reads >= self.goal.reads && writes >= self.goal.writes;
            if began.elapsed() >= self.goal.time && enough {
                break;
            }
            if counting.is_empty() || began.elapsed() > self.goal.time + PATIENCE {
                break;
            }
        }
        ground.end();
        let ops: Vec<Op> = counting.join_all().await.into_iter().flatten().collect();
        let transactions = appending.join_all().await.into_iter().flatten().collect();
        let counters = counters::History { sessions, keys: ground.keys, ops };
        let lists = lists::History { sessions: self.sessions, transactions, last: HashMap::new() };
        (counters, lists)
    }
}

/// Beyond this a cell ends without its goal, and says so.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Counts,
    /// Only reads what the others count.
    Reads,
    /// At level `global`.
    CountsGlobally,
    /// Under a key with other connections.
    CountsTogether(usize),
    Appends,
}

impl Role {
    fn of(number: usize) -> Self {
        match number % 8 {
            3 => Self::Reads,
            5 => Self::CountsGlobally,
            6 => Self::CountsTogether(number / 16),
            7 => Self::Appends,
            _ => Self::Counts,
        }
    }

    fn terms(self) -> Terms {
        match self {
            Self::CountsGlobally => Terms { global: true, group: None },
            Self::CountsTogether(group) => Terms { global: false, group: Some(group) },
            Self::Counts | Self::Reads | Self::Appends => Terms::default(),
        }
    }

    fn settings(self) -> Vec<String> {
        match self {
            Self::CountsGlobally => vec!["SET causeway.consistency = 'global'".into()],
            _ => vec![],
        }
    }

    /// Keys are given at start-up by some, by SET by others: one floor either way.
    async fn connect(self, proxy: &Proxy, database: &str, number: usize) -> (Client, Protocol) {
        let protocols =
            [Protocol::Simple, Protocol::Extended, Protocol::Prepared, Protocol::Pipelined];
        let protocol = protocols[(number + number / 8) % 4];
        let Self::CountsTogether(group) = self else {
            return (Client::connect(proxy.address, database, &[]).await, protocol);
        };
        let name = "causeway.session_key".to_owned();
        if number.is_multiple_of(16) {
            let parameters = [(name, format!("user:{group}"))];
            return (Client::connect(proxy.address, database, &parameters).await, protocol);
        }
        let mut client = Client::connect(proxy.address, database, &[]).await;
        let answer = client.run(&format!("SET {name} = 'user:{group}'")).await.unwrap();
        assert_eq!(answer.refusal, None, "{name}");
        (client, protocol)
    }
}

/// Reads everything on the primary, by itself: whatever was acknowledged is there.
async fn look_again(
    direct: &tokio_postgres::Client,
    ground: &Ground,
    counters: &mut counters::History,
    lists: &mut lists::History,
) {
    let sent = ground.clock.now();
    let rows = direct.query("SELECT key, value, cause_key, cause_value FROM counters", &[]).await;
    let rows = rows.unwrap().into_iter().map(|row| {
        let number = |at: usize| u64::try_from(row.get::<_, i64>(at)).unwrap();
        let key = |at: usize| Key::try_from(row.get::<_, i32>(at)).unwrap();
        counters::Row { key: key(0), value: number(1), cause: Some((key(2), number(3))) }
    });
    let act = Act::Read(rows.collect());
    let session = counters.sessions.len();
    counters.sessions.push(Terms { global: true, group: None });
    let answered = ground.clock.now();
    let (how, witness) = (["the last look", "extended"], "primary".into());
    let done = super::history::Done { session, sent, answered, how, witness };
    counters.ops.push(Op { done, act });

    let rows = direct.simple_query("SELECT key, items FROM lists").await.unwrap();
    lists.last = rows
        .into_iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some(list(&[row.get(0).map(str::to_owned), row.get(1).map(str::to_owned)]))
            }
            _ => None,
        })
        .collect();
}

/// How long reads waited for a position, by the proxy's own clock.
struct Waits {
    /// How many did.
    count: f64,
    /// How many no longer than so many seconds.
    within: Vec<(f64, f64)>,
}

/// How long so large a share of reads may wait for a position, in seconds: `catchup_wait` is 20 ms, and a
/// round trip of the clock's and the scheduler of a machine that does much else come on top. What a client
/// sees beyond that is not waiting but running, which is printed and not judged.
const LONGEST_WAITS: [(f64, f64); 2] = [(0.99, 1.0), (1.0, 5.0)];

impl Waits {
    async fn of(proxy: &Proxy) -> Self {
        let metrics = proxy.metrics().await;
        let count = metrics.sum("causeway_catchup_seconds_count", &[]);
        let within = metrics.by("causeway_catchup_seconds_bucket", "le");
        let within = within.filter_map(|(bound, count)| Some((bound.parse().ok()?, count)));
        let count = count.expect("the proxy tells how long reads waited");
        Self { count, within: within.collect() }
    }

    fn are_short(&self) -> bool {
        LONGEST_WAITS.iter().all(|(share, most)| self.bound(*share) <= *most)
    }

    /// The least of the bounds that so large a share of them kept to, in seconds.
    fn bound(&self, share: f64) -> f64 {
        let enough = |(_, count): &&(f64, f64)| *count >= self.count * share;
        self.within.iter().find(enough).map_or(f64::INFINITY, |(bound, _)| *bound)
    }
}

/// What the proxy says each node has served: reads of replicas, everything of the primary.
async fn served(cluster: &Cluster, proxy: &Proxy) -> Vec<(String, f64)> {
    let metrics = proxy.metrics().await;
    let of = |node: &Node| {
        let address = node.address();
        let labels = [("node", address.as_str())];
        let counts = ["causeway_node_reads_total", "causeway_node_writes_total"];
        counts.iter().filter_map(|name| metrics.sum(name, &labels)).sum()
    };
    cluster.nodes().iter().map(|node| (node.name().to_owned(), of(node))).collect()
}

impl Report {
    /// Reads and writes done, of counters and lists.
    pub fn counts(&self) -> (usize, usize) {
        let reads = self.counters.ops.iter().filter(|op| matches!(op.act, Act::Read(_))).count();
        let writes = self.counters.ops.iter().filter(|op| matches!(op.act, Act::Write(..))).count();
        let steps = self.lists.transactions.iter().flat_map(|transaction| &transaction.steps);
        let (mut list_reads, mut appends) = (0, 0);
        for step in steps {
            match step {
                lists::Step::Read(_) => list_reads += 1,
                lists::Step::Append(..) => appends += 1,
            }
        }
        (reads + list_reads, writes + appends)
    }

    pub fn violations(&self) -> usize {
        self.broken.len() + self.anomalies.len()
    }

    /// Of the reads that might go anywhere, by sessions of level `session`, and of which the node is
    /// known: the share that replicas served.
    pub fn share(&self) -> f64 {
        let free = self.counters.ops.iter().filter(|op| {
            Place::is_free(op.done.how[0]) && !self.counters.sessions[op.done.session].global
        });
        let nodes: Vec<&str> = free.filter_map(|op| op.done.node()).collect();
        let replicas = nodes.iter().filter(|node| node.starts_with("replica")).count();
        #[expect(clippy::cast_precision_loss, reason = "counts of one run")]
        let share = replicas as f64 / nodes.len().max(1) as f64;
        share
    }

    /// Of reads wherever the proxy liked: how long the given share of them took at most.
    pub fn latency(&self, share: f64) -> Duration {
        let reads = self.counters.ops.iter().filter(|op| op.done.how[0] == Place::Any.name());
        let mut took: Vec<Duration> = reads.map(|op| op.done.took()).collect();
        took.sort_unstable();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place in a list"
        )]
        let place = (took.len() as f64 * share) as usize;
        took.get(place.min(took.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// Complaints that this cell does not excuse.
    pub fn complaints(&self) -> Vec<&Complaint> {
        // Where its node has died, a transaction of several statements cannot go on, and says so; nor
        // can an answer of which rows have been shown.
        let excused = |one: &Complaint| {
            self.cell.fault.breaks_servers()
                && (one.sqlstate == "40001" || one.what == CUT_OFF && one.sqlstate == "08006")
        };
        self.complaints.iter().filter(|one| !excused(one)).collect()
    }

    /// Counts, shares and latencies, in a few lines.
    pub fn summary(&self) -> String {
        let (reads, writes) = self.counts();
        let mut text = format!(
            "{:<28} {reads} reads, {writes} writes, {} transactions in {:.0} s; {:.1} % of reads on \
             replicas; violations: {}; complaints: {} ({} excused)\n  reads took (ms)",
            self.cell.name(),
            self.lists.transactions.len(),
            self.took.as_secs_f64(),
            100.0 * self.share(),
            self.violations(),
            self.complaints().len(),
            self.complaints.len() - self.complaints().len(),
        );
        for (name, share) in [("half", 0.5), ("99 %", 0.99), ("99.9 %", 0.999), ("all", 1.0)] {
            let took = self.latency(share).as_secs_f64() * 1000.0;
            let _ = write!(text, "  {name} < {took:.1}");
        }
        let _ = write!(text, "\n  {:.0} waited for a position (ms)", self.waits.count);
        for (name, share) in [("half", 0.5), ("99 %", 0.99), ("all", 1.0)] {
            let _ = write!(text, "  {name} <= {:.0}", 1000.0 * self.waits.bound(share));
        }
        text.push_str("; requests by the proxy's count");
        for (node, count) in &self.served {
            let _ = write!(text, "  {node} {count:.0}");
        }
        text
    }

    /// The first violations and complaints, in words.
    pub fn details(&self) -> String {
        let mut text = String::new();
        for violation in self.broken.iter().take(5) {
            let _ = writeln!(text, "{}", violation.trace(&self.counters));
        }
        for violation in self.anomalies.iter().take(5) {
            let _ = writeln!(text, "{}", violation.trace(&self.lists));
        }
        for complaint in self.complaints().iter().take(10) {
            let _ = writeln!(text, "{complaint}");
        }
        let mut kinds: HashMap<String, usize> = HashMap::new();
        for violation in &self.broken {
            *kinds.entry(format!("{:?}", violation.promise)).or_default() += 1;
        }
        for violation in &self.anomalies {
            *kinds.entry(format!("{:?}", violation.anomaly)).or_default() += 1;
        }
        let _ = writeln!(text, "all: {kinds:?}");
        text
    }

    /// Nothing was broken, nobody complained or waited for too long, and enough was done.
    pub fn is_good(&self) -> bool {
        let (reads, writes) = self.counts();
        let enough = reads >= self.cell.goal.reads && writes >= self.cell.goal.writes;
        self.violations() == 0 && self.complaints().is_empty() && self.waits.are_short() && enough
    }

    /// Prints the summary, and fails the test over anything that must not be.
    pub fn judge(&self) {
        println!("{}", self.summary());
        assert!(self.is_good(), "{}\n{}", self.summary(), self.details());
    }

    /// So many of the reads were on replicas.
    pub fn judge_share(&self, least: f64) {
        assert!(self.share() >= least, "too few reads on replicas: {}", self.summary());
    }
}

/// The proxy for the cells: as by default, but that it may send `witness()` anywhere.
pub fn proxy_options() -> ProxyOptions {
    ProxyOptions { pool: "size = 20\nwait = \"60s\"", routing: VOUCHED, ..Default::default() }
}
