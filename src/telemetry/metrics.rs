//! Counters, gauges and histograms that a worker raises without a lock and without a look-up.
//!
//! Each metric has one shard per worker, on cache lines of its own; a shard is picked by the number
//! that the worker's thread was given ([`set_worker`]), and the shards are summed when somebody asks.
//! Labels are resolved when a handle is made ([`Family::with`]), never per event. What is a state
//! rather than an event (a node's lag, a pool's waiters) is read when somebody asks
//! ([`Registry::observe`]).
//!
//! Written as `OpenMetrics` text by prometheus-client, which adds `_total` to a counter's name.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// The content type of what [`Registry::encode`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

thread_local! {
    static WORKER: Cell<usize> = const { Cell::new(0) };
}

/// Gives the calling thread its shard. Workers count from 1; threads that never call this share
/// shard 0.
pub fn set_worker(number: usize) {
    WORKER.set(number);
}

/// Two cache lines: the adjacent one is fetched along on x86.
#[derive(Debug)]
#[repr(align(128))]
struct Line([AtomicU64; LINE]);

const LINE: usize = 16;

/// `width` numbers for each worker.
#[derive(Debug)]
struct Shards {
    lines_each: usize,
    workers: usize,
    lines: Box<[Line]>,
}

impl Shards {
    fn new(shards: usize, width: usize) -> Self {
        let lines_each = width.div_ceil(LINE);
        let line = |_| Line(std::array::from_fn(|_| AtomicU64::new(0)));
        Self { lines_each, workers: shards, lines: (0..lines_each * shards).map(line).collect() }
    }

    fn add(&self, index: usize, n: u64) {
        let worker = WORKER.get();
        let shard = if worker < self.workers { worker } else { 0 };
        let line = &self.lines[shard * self.lines_each + index / LINE];
        line.0[index % LINE].fetch_add(n, Relaxed);
    }

    /// The sum over the workers. Wraps, so that a gauge lowered elsewhere than raised comes out right.
    fn sum(&self, index: usize) -> u64 {
        self.lines[index / LINE..]
            .iter()
            .step_by(self.lines_each)
            .fold(0, |sum, line| sum.wrapping_add(line.0[index % LINE].load(Relaxed)))
    }
}

/// A number that only rises. Clones count together.
#[derive(Debug, Clone)]
pub struct Counter(Arc<Shards>);

impl Counter {
    /// Raises it by one.
    pub fn inc(&self) {
        self.0.add(0, 1);
    }

    /// Raises it by `n`.
    pub fn add(&self, n: u64) {
        self.0.add(0, n);
    }

    /// The sum over all workers.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.sum(0)
    }
}

/// A number that rises and falls, counted in events (somebody came, somebody left). Clones count
/// together.
#[derive(Debug, Clone)]
pub struct Gauge(Arc<Shards>);

impl Gauge {
    /// Raises it by one.
    pub fn inc(&self) {
        self.0.add(0, 1);
    }

    /// Lowers it by one.
    pub fn dec(&self) {
        self.add(-1);
    }

    /// Raises it by `n`, or lowers it.
    pub fn add(&self, n: i64) {
        self.0.add(0, n.cast_unsigned());
    }

    /// The sum over all workers.
    #[must_use]
    pub fn value(&self) -> i64 {
        self.0.sum(0).cast_signed()
    }
}

/// Upper bounds of the buckets in nanoseconds: 50 µs to 10 s, then the rest.
const BOUNDS: [u64; 17] = [
    50_000,
    100_000,
    200_000,
    300_000,
    500_000,
    750_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];
const REST: usize = BOUNDS.len();
const SUM: usize = REST + 1;

/// How long things took, in buckets from 50 µs to 10 s. Clones count together.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Shards>);

impl Histogram {
    /// Counts one thing that took `time`.
    pub fn observe(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.add(BOUNDS.partition_point(|bound| *bound < nanos), 1);
        self.0.add(SUM, nanos);
    }

    /// How many things were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        (0..=REST).map(|bucket| self.0.sum(bucket)).sum()
    }
}

mod sealed {
    /// What a [`super::Family`] has one of per combination of label values.
    pub trait Series: Clone + std::fmt::Debug + Send + Sync + 'static {
        const TYPE: super::MetricType;
        fn new(shards: usize) -> Self;
        fn encode(&self, encoder: super::MetricEncoder<'_>) -> std::fmt::Result;
    }
}
use sealed::Series;

impl Series for Counter {
    const TYPE: MetricType = MetricType::Counter;

    fn new(shards: usize) -> Self {
        Self(Arc::new(Shards::new(shards, 1)))
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter::<NoLabelSet, _, f64>(&self.value(), None)
    }
}

impl Series for Gauge {
    const TYPE: MetricType = MetricType::Gauge;

    fn new(shards: usize) -> Self {
        Self(Arc::new(Shards::new(shards, 1)))
    }

    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self.value())
    }
}

impl Series for Histogram {
    const TYPE: MetricType = MetricType::Histogram;

    fn new(shards: usize) -> Self {
        Self(Arc::new(Shards::new(shards, SUM + 1)))
    }

    #[allow(clippy::cast_precision_loss, reason = "seconds with 52 bits are exact enough")]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bound = |bucket| BOUNDS.get(bucket).map_or(f64::INFINITY, |nanos| *nanos as f64 / 1e9);
        let buckets: Vec<(f64, u64)> =
            (0..=REST).map(|bucket| (bound(bucket), self.0.sum(bucket))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.0.sum(SUM) as f64 / 1e9;
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// One metric with labels: a series per combination of their values.
#[derive(Debug)]
pub struct Family<S>(Arc<FamilyInner<S>>);

/// Counters that differ in their labels.
pub type CounterFamily = Family<Counter>;
/// Gauges that differ in their labels.
pub type GaugeFamily = Family<Gauge>;
/// Histograms that differ in their labels.
pub type HistogramFamily = Family<Histogram>;

type LabelValues = Box<[Box<str>]>;

#[derive(Debug)]
struct FamilyInner<S> {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    shards: usize,
    series: RwLock<Vec<(LabelValues, S)>>,
}

impl<S> Clone for Family<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[allow(private_bounds, reason = "sealed: Counter, Gauge and Histogram")]
impl<S: Series> Family<S> {
    /// The series of these label values, in the order in which the labels were registered; made if
    /// there is none. Takes a lock: to be called when something is set up, not per event.
    #[must_use]
    pub fn with(&self, values: &[&str]) -> S {
        debug_assert_eq!(values.len(), self.0.labels.len());
        let mut series = self.0.series.write();
        let found = series.iter().find(|(have, _)| same(have, values));
        if let Some((_, found)) = found {
            return found.clone();
        }
        let new = S::new(self.0.shards);
        series.push((values.iter().map(|value| Box::from(*value)).collect(), new.clone()));
        new
    }

    /// One series per value of a single label, to be indexed by an enum's number.
    #[must_use]
    pub fn indexed(&self, values: &[&str]) -> Box<[S]> {
        values.iter().map(|value| self.with(&[value])).collect()
    }

    /// Stops showing a series; handles that are still about count into nothing.
    pub fn remove(&self, values: &[&str]) {
        self.0.series.write().retain(|(have, _)| !same(have, values));
    }
}

fn same(have: &[Box<str>], values: &[&str]) -> bool {
    have.iter().map(|value| &**value).eq(values.iter().copied())
}

impl<S: Series> Collector for Family<S> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let family = &*self.0;
        let mut metric = encoder.encode_descriptor(family.name, family.help, None, S::TYPE)?;
        for (values, series) in family.series.read().iter() {
            let labels: Vec<_> =
                family.labels.iter().copied().zip(values.iter().map(|value| &**value)).collect();
            if labels.is_empty() {
                series.encode(metric)?;
                break;
            }
            series.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Whether an observed number only rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It does.
    Counter,
    /// It may fall as well.
    Gauge,
}

/// What an observer says when it is asked.
#[derive(Debug, Default)]
pub struct Observations(Vec<(Vec<String>, f64)>);

impl Observations {
    /// The number for these label values, in the order in which the labels were registered.
    pub fn push(&mut self, values: &[&str], number: f64) {
        self.0.push((values.iter().map(|value| (*value).to_owned()).collect(), number));
    }
}

struct Observer {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    read: Box<dyn Fn(&mut Observations) + Send + Sync>,
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Collector for Observer {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut observations = Observations::default();
        (self.read)(&mut observations);
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        };
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        for (values, number) in &observations.0 {
            let labels: Vec<_> =
                self.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
            let mut series = if labels.is_empty() {
                self.write(&mut metric, *number)?;
                continue;
            } else {
                metric.encode_family(&labels)?
            };
            self.write(&mut series, *number)?;
        }
        Ok(())
    }
}

impl Observer {
    fn write(&self, encoder: &mut MetricEncoder<'_>, number: f64) -> fmt::Result {
        match self.kind {
            Kind::Counter => encoder.encode_counter::<NoLabelSet, _, f64>(&number, None),
            Kind::Gauge => encoder.encode_gauge(&number),
        }
    }
}

/// Where rooms register what they count. Clones are one registry. Names are given whole, with
/// `causeway_` in front and the unit at the end, and must be registered once.
#[derive(Debug, Clone)]
pub struct Registry {
    shards: usize,
    collectors: Arc<Mutex<prometheus_client::registry::Registry>>,
}

impl Registry {
    /// A registry for `workers` workers and the threads beside them.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        Self { shards: workers + 1, collectors: Arc::default() }
    }

    /// A counter without labels.
    #[must_use]
    pub fn counter(&self, name: &'static str, help: &'static str) -> Counter {
        self.family(name, help, &[]).with(&[])
    }

    /// A gauge without labels.
    #[must_use]
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Gauge {
        self.family(name, help, &[]).with(&[])
    }

    /// A histogram without labels.
    #[must_use]
    pub fn histogram(&self, name: &'static str, help: &'static str) -> Histogram {
        self.family(name, help, &[]).with(&[])
    }

    /// A counter per combination of label values.
    #[must_use]
    pub fn counters(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> CounterFamily {
        self.family(name, help, labels)
    }

    /// A gauge per combination of label values.
    #[must_use]
    pub fn gauges(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> GaugeFamily {
        self.family(name, help, labels)
    }

    /// A histogram per combination of label values.
    #[must_use]
    pub fn histograms(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> HistogramFamily {
        self.family(name, help, labels)
    }

    /// Numbers that `read` is asked for each time somebody looks. It must not block.
    pub fn observe(
        &self,
        name: &'static str,
        help: &'static str,
        kind: Kind,
        labels: &'static [&'static str],
        read: impl Fn(&mut Observations) + Send + Sync + 'static,
    ) {
        let read = Box::new(read);
        let observer = Observer { name, help, kind, labels, read };
        self.collectors.lock().register_collector(Box::new(observer));
    }

    fn family<S: Series>(
        &self,
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family<S> {
        let series = RwLock::default();
        let inner = FamilyInner { name, help, labels, shards: self.shards, series };
        let family = Family(Arc::new(inner));
        self.collectors.lock().register_collector(Box::new(family.clone()));
        family
    }

    /// Everything as text (of [`CONTENT_TYPE`]).
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string fails only if a collector does, and those above do not.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.collectors.lock());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_count_apart_and_are_shown_together() {
        let registry = Registry::new(3);
        let reads = registry.counters("causeway_reads", "Reads", &["node"]);
        let (a, b) = (reads.with(&["a"]), reads.with(&["b"]));
        let clients = registry.gauge("causeway_clients", "Clients");
        std::thread::scope(|scope| {
            for worker in 1..=4 {
                let (reads, clients) = (reads.clone(), clients.clone());
                scope.spawn(move || {
                    set_worker(worker);
                    let a = reads.with(&["a"]);
                    (0..1000).for_each(|_| a.inc());
                    clients.add(if worker == 1 { 5 } else { -1 });
                });
            }
        });
        b.add(7);
        assert_eq!((a.value(), b.value(), clients.value()), (4000, 7, 2));
        let text = registry.encode();
        for line in [
            "# TYPE causeway_reads counter",
            "causeway_reads_total{node=\"a\"} 4000",
            "causeway_reads_total{node=\"b\"} 7",
            "causeway_clients 2",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} not in\n{text}");
        }
        reads.remove(&["a"]);
        assert!(!registry.encode().contains("node=\"a\""));
    }

    #[test]
    fn a_time_falls_into_the_bucket_that_holds_it() {
        let registry = Registry::new(1);
        let latency = registry.histogram("causeway_seconds", "Time");
        for micros in [1, 50, 51, 20_000_000] {
            latency.observe(Duration::from_micros(micros));
        }
        let text = registry.encode();
        for line in [
            "causeway_seconds_bucket{le=\"0.00005\"} 2",
            "causeway_seconds_bucket{le=\"0.0001\"} 3",
            "causeway_seconds_bucket{le=\"10.0\"} 3",
            "causeway_seconds_bucket{le=\"+Inf\"} 4",
            "causeway_seconds_count 4",
            "causeway_seconds_sum 20.000102",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} not in\n{text}");
        }
        assert_eq!(latency.count(), 4);
    }

    #[test]
    fn observers_are_asked_when_somebody_looks() {
        let registry = Registry::new(1);
        let asked = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&asked);
        registry.observe("causeway_lag", "Lag", Kind::Gauge, &["node", "unit"], move |to| {
            to.push(&["a\"b", "s"], 0.5);
            counter.fetch_add(1, Relaxed);
        });
        registry.observe("causeway_up", "Up", Kind::Gauge, &[], |to| to.push(&[], 1.0));
        assert_eq!(asked.load(Relaxed), 0);
        let text = registry.encode();
        assert!(text.contains("causeway_lag{node=\"a\\\"b\",unit=\"s\"} 0.5\n"), "{text}");
        assert!(text.contains("causeway_up 1.0\n"), "{text}");
        assert_eq!(asked.load(Relaxed), 1);
    }
}
