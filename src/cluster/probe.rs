//! One look at one node: what it says of itself, in one round trip.
//!
//! Owns the connection (one per node, kept open, through deadpool-postgres) and the query. Needs no
//! right but to log in: the functions asked are executable by PUBLIC in PostgreSQL 14 to 18. The one
//! thing that a plain role does not see is `pg_stat_wal_receiver.received_tli`; without it a replica's
//! timeline is the highest of those that its control file has reached, which may be one behind.

use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod};
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::clock::not_yet_written;
use super::sample::Sample;
use super::{Lsn, Role};
use crate::config::settings::{Address, Monitor};
use crate::net::postgres::Opener;
use crate::tls::Connector;

/// `recovering` is asked for once, so that a promotion in the middle does not mix two roles.
const QUERY: &str = "\
select recovering::text, \
 (select system_identifier from pg_control_system())::text, \
 case when recovering then null else substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) end, \
 case when recovering then \
  greatest((select timeline_id from pg_control_checkpoint()), \
   (select min_recovery_end_timeline from pg_control_recovery()))::text end, \
 (select received_tli from pg_stat_wal_receiver where status = 'streaming')::text, \
 case when recovering then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end::text, \
 case when recovering then null else pg_current_wal_insert_lsn() end::text, \
 (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint::text, \
 current_setting('server_version_num'), \
 current_setting('wal_block_size'), \
 pg_size_bytes(current_setting('wal_segment_size'))::text, \
 case when recovering then pg_last_wal_receive_lsn() end::text, \
 case when recovering then pg_is_wal_replay_paused() end::text, \
 case when recovering then null else pg_last_wal_replay_lsn() end::text \
from (select pg_is_in_recovery() as recovering offset 0) as node";

/// A probe that brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No connection.
    #[error("{}", innermost(.0))]
    Connect(#[source] PoolError),
    /// The connection broke, or the query failed.
    #[error("{}", innermost(.0))]
    Query(#[source] tokio_postgres::Error),
    /// No answer in time.
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// An answer, but not the one asked for.
    #[error("an answer that makes no sense: column {column} is {}", text.as_deref().unwrap_or("null"))]
    Answer {
        /// Which column, from 0.
        column: usize,
        /// What was in it.
        text: Option<String>,
    },
}

/// What the operator needs to read: the last cause ("Connection refused"), not its wrappings.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// How to log in to a node with the monitor's role.
#[must_use]
pub fn login(
    monitor: &Monitor,
    connector: &Connector,
    address: &Address,
    database: &str,
    application_name: &str,
) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&address.host)
        .port(address.port)
        .user(&monitor.user)
        .dbname(database)
        .application_name(application_name)
        .ssl_mode(connector.ssl_mode(address))
        .connect_timeout(monitor.timeout)
        .tcp_user_timeout(monitor.timeout.max(Duration::from_secs(1)));
    if let Some(password) = &monitor.password {
        config.password(password.expose());
    }
    config
}

/// The probe of one node.
#[derive(Debug)]
pub struct Probe {
    pool: Pool,
    timeout: Duration,
}

impl Probe {
    /// Prepares to look at the node at `address`; connects at the first look.
    #[must_use]
    #[allow(clippy::missing_panics_doc, reason = "it does not")]
    pub fn new(monitor: &Monitor, connector: &Connector, address: &Address) -> Self {
        let config = login(monitor, connector, address, &monitor.database, "causeway monitor");
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_connect(
            config,
            Opener(connector.clone()),
            ManagerConfig { recycling_method },
        );
        let pool = Pool::builder(manager).max_size(1).build();
        let pool = pool.expect("building fails only for time limits without a runtime");
        Self { pool, timeout: monitor.timeout }
    }

    /// Looks once.
    ///
    /// # Errors
    /// When the node is not reached, does not let the monitor in, or does not answer in time. The
    /// connection is then given up, and the next look opens another.
    ///
    /// # Cancel safety
    /// Safe: a connection with an unread answer is closed.
    pub async fn look(&self) -> Result<Sample, ProbeError> {
        let look = async {
            let client = Held(Some(self.pool.get().await.map_err(ProbeError::Connect)?));
            // A new connection may have taken its time: the sample counts from here.
            let sent = Instant::now();
            let answer = client.simple_query().await.map_err(ProbeError::Query)?;
            let row = answer.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            });
            let row = row.ok_or(ProbeError::Answer { column: 0, text: None })?;
            let sample = read(row, sent)?;
            client.keep();
            Ok(sample)
        };
        match tokio::time::timeout(self.timeout, look).await {
            Ok(result) => result,
            Err(_) => Err(ProbeError::Timeout(self.timeout)),
        }
    }
}

/// A connection that is closed unless it is kept.
struct Held(Option<Object>);

impl Held {
    async fn simple_query(&self) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> {
        match &self.0 {
            Some(client) => client.simple_query(QUERY).await,
            None => Ok(Vec::new()),
        }
    }

    fn keep(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

fn read(row: &SimpleQueryRow, sent: Instant) -> Result<Sample, ProbeError> {
    let received = Instant::now();
    let wrong = |column| ProbeError::Answer { column, text: row.get(column).map(str::to_owned) };
    let number = |column: usize| {
        row.get(column).and_then(|text| text.parse::<u64>().ok()).ok_or_else(|| wrong(column))
    };
    let lsn = |column: usize| {
        row.get(column).and_then(|text| text.parse::<Lsn>().ok()).ok_or_else(|| wrong(column))
    };
    let optional = |column: usize| row.get(column).and_then(|text| text.parse::<u32>().ok());
    let role = match row.get(0) {
        Some("true") => Role::Replica,
        Some("false") => Role::Primary,
        _ => return Err(wrong(0)),
    };
    let position = lsn(5)?;
    let (timeline, timeline_exact, inserted) = if role == Role::Primary {
        let written = row.get(2).and_then(|text| u32::from_str_radix(text, 16).ok());
        let timeline = written.ok_or_else(|| wrong(2))?;
        (timeline, true, not_yet_written(lsn(6)?, number(9)?, number(10)?))
    } else {
        let reached = optional(3).ok_or_else(|| wrong(3))?;
        let streamed = optional(4);
        (streamed.map_or(reached, |tli| tli.max(reached)), streamed.is_some(), position)
    };
    let torn = role == Role::Primary && position.0 % number(9)?.max(1) == 0 && inserted > position;
    let streamed = row.get(11).and_then(|text| text.parse().ok()).unwrap_or_default();
    Ok(Sample {
        role,
        // The catalog shows the identifier as a signed number.
        system_identifier: row
            .get(1)
            .and_then(|text| text.parse::<i64>().ok())
            .ok_or_else(|| wrong(1))?
            .cast_unsigned(),
        timeline,
        timeline_exact,
        position,
        inserted: inserted.max(position),
        torn,
        streamed: if role == Role::Primary { position } else { streamed },
        // What was replayed last does not change after a promotion: the timeline switched there.
        recovered_to: row.get(13).and_then(|text| text.parse().ok()),
        paused: row.get(12) == Some("true"),
        life: row.get(7).and_then(|text| text.parse().ok()).ok_or_else(|| wrong(7))?,
        server_version_num: optional(8).ok_or_else(|| wrong(8))?,
        sent,
        received,
    })
}
