//! Asks the nodes for their clocks: one connection and one task per node.
//!
//! A node is asked at once when somebody waits who has not been asked for (a moment later where others
//! come all the time who can share the question), again and again while somebody waits for it to move
//! on (or, from PostgreSQL 19 on, to say when it has), soon when somebody will, and else each
//! `monitor.interval`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Row, Statement};

use super::clock::{Clock, Demand, Question, Tick, not_yet_written};
use super::mutant::{self, Mutant};
use super::probe;
use super::snapshot::{Snapshot, full_xid};
use super::{Lsn, Role};
use crate::config::settings::{Address, Monitor};
use crate::net;
use crate::tls::Connector;

/// Time between two questions while somebody waits for a node to move on. Tokio's timers have no
/// finer grain.
const PACE_WAITED: Duration = Duration::from_millis(1);
/// Time between two questions while there are several who wait: as many as come meanwhile share the next.
/// A question costs this proxy and the node a good deal more than a read does.
const PACE_SHARED: Duration = Duration::from_millis(2);
/// Time between two questions while somebody will want to know.
const PACE_WANTED: Duration = Duration::from_millis(20);

/// The first PostgreSQL with WAIT FOR LSN.
const WAIT_FOR_LSN_SINCE: u64 = 190_000;

/// `recovering` is asked for once, so that a promotion in the middle does not mix two roles. `age('3')`
/// is the distance of the next transaction id from the first. The timeline comes last: what was replayed
/// before it was read is not of a later one.
const QUESTION: &str = "\
select recovering, \
 case when recovering then pg_catalog.pg_last_wal_replay_lsn() \
  else pg_catalog.pg_current_wal_insert_lsn() end, \
 case when recovering then pg_catalog.pg_last_wal_receive_lsn() end, \
 pg_catalog.pg_current_snapshot()::text, \
 case when recovering then 0 else pg_catalog.age('3'::xid) end, \
 case when recovering then \
  (select received_tli from pg_catalog.pg_stat_wal_receiver where status = 'streaming') end \
from (select pg_catalog.pg_is_in_recovery() as recovering offset 0) as node";

/// Of a transaction that a node has not heard of yet PostgreSQL says that it is in the future, as an error:
/// it has not committed there.
const FATES: &str = "\
select xid from unnest($1::text[]) as asked(xid), \
 pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot()) as newest \
where case when xid::xid8 < newest \
 then pg_catalog.pg_xact_status(xid::xid8) = 'committed' else false end";

/// What keeps a node from being asked.
#[derive(Debug, thiserror::Error)]
enum TickError {
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    #[error("no answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    #[error("an answer that makes no sense")]
    Answer,
}

/// Asks one node until nobody is left who reads its clock.
pub(super) async fn run(
    clock: Arc<Clock>,
    monitor: Monitor,
    connector: Connector,
    address: Address,
) {
    loop {
        let connecting = Asker::connect(&monitor, &connector, &address);
        let error = match timeout(monitor.timeout, connecting).await {
            Ok(Ok(asker)) => {
                let (error, answered) = asker.live(&clock, &monitor).await;
                tracing::debug!(node = %address, %error, "the connection to the node's clock was lost");
                if answered {
                    // It may be only the connection. Who waits need not know.
                    continue;
                }
                error
            }
            Ok(Err(error)) => error,
            Err(_) => TickError::Timeout(monitor.timeout),
        };
        if !clock.is_away() {
            tracing::info!(node = %address, %error, "the node's clock is not read");
        }
        clock.stopped();
        sleep(monitor.interval).await;
    }
}

/// A connection that asks.
struct Asker {
    client: Client,
    question: Statement,
    fates: Statement,
    block_size: u64,
    segment_size: u64,
    connected: Instant,
    /// The node has WAIT FOR LSN (PostgreSQL 19), and has taken it so far.
    waits: bool,
}

impl Asker {
    async fn connect(
        monitor: &Monitor,
        connector: &Connector,
        address: &Address,
    ) -> Result<Self, TickError> {
        let config = probe::login(monitor, connector, address, &monitor.database, "causeway clock");
        let (client, connection) = net::postgres::open(&config, connector).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to a node's clock ended");
            }
        });
        let text = if mutant::is(Mutant::WriteLsn) {
            QUESTION.replace("pg_current_wal_insert_lsn", "pg_current_wal_lsn")
        } else {
            QUESTION.to_owned()
        };
        let question = client.prepare(&text).await?;
        let fates = client.prepare(FATES).await?;
        let sizes = client
            .query_one(
                "select pg_catalog.current_setting('wal_block_size')::int8, \
                 pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')), \
                 pg_catalog.current_setting('server_version_num')::int8",
                &[],
            )
            .await?;
        let number = |column: usize| {
            let number: i64 = sizes.try_get(column)?;
            u64::try_from(number).map_err(|_| TickError::Answer)
        };
        let (block_size, segment_size) = (number(0)?, number(1)?);
        let waits = number(2)? >= WAIT_FOR_LSN_SINCE;
        let connected = Instant::now();
        Ok(Self { client, question, fates, block_size, segment_size, connected, waits })
    }

    /// Asks whenever there is demand, until the connection breaks; and tells whether it was answered once.
    async fn live(mut self, clock: &Clock, monitor: &Monitor) -> (TickError, bool) {
        let (mut last, mut answered) = (None, false);
        loop {
            self.rest(clock, last, monitor).await;
            let questions = clock.asking();
            let sent = Instant::now();
            last = Some(sent);
            let asked = async {
                clock.push(self.ask(sent).await?);
                for question in questions {
                    self.tell_fates(question).await?;
                }
                Ok(())
            };
            match timeout(monitor.timeout, asked).await {
                Ok(Ok(())) => answered = true,
                Ok(Err(error)) => return (error, answered),
                Err(_) => return (TickError::Timeout(monitor.timeout), answered),
            }
        }
    }

    /// Waits until it is time to ask again.
    async fn rest(&mut self, clock: &Clock, last: Option<Instant>, monitor: &Monitor) {
        loop {
            let pace = match clock.demand(last) {
                Demand::Now => return,
                Demand::Shared => {
                    let since = last.map_or(PACE_SHARED, |last| last.elapsed());
                    if let Some(rest) = PACE_SHARED.checked_sub(since) {
                        sleep(rest).await;
                    }
                    return;
                }
                Demand::Waited if self.waits => {
                    if let Some(position) = clock.least_waited_for() {
                        return self.await_position(position, monitor.timeout).await;
                    }
                    PACE_WAITED
                }
                Demand::Waited => PACE_WAITED,
                Demand::Wanted => PACE_WANTED,
                Demand::None => monitor.interval,
            };
            let since = last.map_or(pace, |last| last.elapsed());
            let Some(rest) = pace.checked_sub(since).filter(|rest| !rest.is_zero()) else {
                return;
            };
            // Either outcome means: look again.
            let _ = timeout(rest, clock.turned()).await;
        }
    }

    /// Has the node itself tell when it is there, or that some time has passed. Where it does not take
    /// that, it is asked again and again as others are.
    async fn await_position(&mut self, position: Lsn, limit: Duration) {
        let wait = format!("WAIT FOR LSN '{position}' WITH (TIMEOUT '5ms', NO_THROW)");
        let waited = timeout(limit, self.client.simple_query(&wait)).await;
        self.waits = matches!(waited, Ok(Ok(_)));
        if !self.waits {
            tracing::debug!(wait, "the node does not take WAIT FOR LSN");
        }
    }

    async fn ask(&self, sent: Instant) -> Result<Tick, TickError> {
        let row = self.client.query_one(&self.question, &[]).await?;
        self.read(&row, sent).ok_or(TickError::Answer)
    }

    fn read(&self, row: &Row, sent: Instant) -> Option<Tick> {
        let lsn = |column| {
            let lsn: Option<PgLsn> = row.try_get(column).ok()?;
            lsn.map(|lsn| Lsn(lsn.into()))
        };
        let recovering: bool = row.try_get(0).ok()?;
        let snapshot = Snapshot::parse(row.try_get(3).ok()?)?;
        let (connected, position) = (self.connected, lsn(1)?);
        if recovering {
            // Where it replays what it did not receive, nothing bounds what was visible.
            let bound = lsn(2).filter(|received| *received >= position).unwrap_or(Lsn(u64::MAX));
            let timeline: Option<i32> = row.try_get(5).ok()?;
            return Some(Tick {
                role: Role::Replica,
                position,
                bound,
                snapshot,
                next_xid: 0,
                timeline: timeline.and_then(|timeline| timeline.try_into().ok()),
                connected,
                sent,
            });
        }
        let low = 3_u32.wrapping_add(row.try_get::<_, i32>(4).ok()?.cast_unsigned());
        let next_xid = full_xid(low, snapshot.xmax);
        let position = not_yet_written(position, self.block_size, self.segment_size);
        Some(Tick {
            role: Role::Primary,
            position,
            bound: position,
            snapshot,
            next_xid,
            timeline: None,
            connected,
            sent,
        })
    }

    async fn tell_fates(&self, question: Question) -> Result<(), TickError> {
        let xids: Vec<String> = question.xids.iter().map(u64::to_string).collect();
        let rows = self.client.query(&self.fates, &[&xids]).await?;
        let committed = rows.iter().map(|row| row.try_get::<_, &str>(0).ok()?.parse().ok());
        let committed: Option<Vec<u64>> = committed.collect();
        // Whoever asked may have stopped waiting.
        let _ = question.answer.send((self.connected, committed.ok_or(TickError::Answer)?));
        Ok(())
    }
}
