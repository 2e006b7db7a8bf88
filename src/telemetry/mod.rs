//! Counters and logs.
//!
//! Owns how events are counted without a lock and how they are shown. Owns no metric of its own: each
//! room registers what it counts in the [`Registry`] that it is given, and keeps the returned handles.
//! There is no global registry.

pub mod logging;
pub mod metrics;

pub use metrics::{
    Counter, CounterFamily, Family, Gauge, GaugeFamily, Histogram, HistogramFamily, Kind,
    Observations, Registry, set_worker,
};
