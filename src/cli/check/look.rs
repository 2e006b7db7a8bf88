//! The nodes as they are now, and what of that does not fit the file.

use std::fmt::Write as _;
use std::time::Duration;

use tokio_postgres::{Client, Config};

use super::advice::{Finding, login_failed};
use crate::cluster::sample::Sample;
use crate::cluster::{Role, monitor, probe};
use crate::config::settings::{Node, Settings, User, UserPassword};
use crate::net::postgres::open;
use crate::tls::Connector;

/// The oldest release that is looked after.
const OLDEST: u32 = 140_000;
/// A look may take longer than the monitor allows: it says why, instead of that it failed.
const PATIENCE: Duration = Duration::from_secs(5);

const DETAILS: &str = "\
select current_setting('max_connections')::int4, \
 current_setting('superuser_reserved_connections')::int4 \
  + coalesce(current_setting('reserved_connections', true), '0')::int4, \
 (select count(*) from pg_stat_wal_receiver)::int4, \
 (select setting::int8 from pg_settings where name = 'max_standby_streaming_delay'), \
 current_setting('hot_standby_feedback')::bool, \
 pg_has_role(current_user, 'pg_read_all_stats', 'usage'), \
 current_setting('default_transaction_read_only')::bool";

/// What was seen.
#[derive(Debug, Default)]
pub struct Looked {
    /// One line a node.
    pub table: String,
    /// What is wrong with them.
    pub findings: Vec<Finding>,
}

/// One node's answers.
struct Seen {
    sample: Sample,
    details: Details,
}

struct Details {
    max_connections: i32,
    reserved: i32,
    receivers: i32,
    /// `max_standby_streaming_delay` in milliseconds; -1 for ever.
    replay_waits: i64,
    feedback: bool,
    reads_stats: bool,
    read_only: bool,
}

/// Looks at every node, one after the other, and holds them against each other.
pub async fn at_all(settings: &Settings, connector: &Connector) -> Looked {
    let mut looked = Looked::default();
    let mut all = Vec::new();
    for node in &settings.nodes {
        match at(settings, connector, node).await {
            Ok(seen) => all.push((node, seen)),
            Err(text) => {
                let _ = writeln!(looked.table, "{:<20} not reached", node.name);
                looked.findings.push(Finding::wrong(format!("{}: {text}", node.name)));
            }
        }
    }
    together(settings, &all, &mut looked.findings);
    let newest = followed(&all).map(|(_, sample)| sample.position);
    for (node, seen) in &all {
        alone(settings, node, seen, &mut looked.findings);
        users(settings, connector, node, &mut looked.findings).await;
        let sample = &seen.sample;
        let version = sample.server_version_num;
        let lag = newest.filter(|_| sample.role == Role::Replica).map_or(String::new(), |newest| {
            format!("  {} behind", bytesize::ByteSize(newest.bytes_past(sample.position)))
        });
        // Writing to a string does not fail.
        let _ = writeln!(
            looked.table,
            "{:<20} {:<8} PostgreSQL {}.{}  timeline {}{lag}",
            node.name,
            sample.role.word(),
            version / 10_000,
            version % 10_000,
            sample.timeline,
        );
    }
    looked.table.push('\n');
    looked
}

async fn at(settings: &Settings, connector: &Connector, node: &Node) -> Result<Seen, String> {
    let monitor = &settings.monitor;
    let config =
        probe::login(monitor, connector, &node.address, &monitor.database, "causeway check");
    let client = connect(config, connector)
        .await
        .map_err(|error| error.told(&monitor.user, &monitor.database, "monitor.password"))?;
    let row = client
        .query_one(DETAILS, &[])
        .await
        .map_err(|error| format!("cannot look at its settings: {error}"))?;
    let details = Details {
        max_connections: row.get(0),
        reserved: row.get(1),
        receivers: row.get(2),
        replay_waits: row.get(3),
        feedback: row.get(4),
        reads_stats: row.get(5),
        read_only: row.get(6),
    };
    let sample = monitor::look_once(monitor, connector, node)
        .await
        .map_err(|error| format!("the monitor's look fails: {error}"))?;
    Ok(Seen { sample, details })
}

enum Refusal {
    Late,
    Error(tokio_postgres::Error),
}

impl Refusal {
    fn told(&self, user: &str, database: &str, key: &str) -> String {
        match self {
            Self::Late => format!(
                "no answer within {}; see whether a firewall is in between, or the node is overloaded",
                humantime::format_duration(PATIENCE)
            ),
            Self::Error(error) => login_failed(error, user, database, key),
        }
    }
}

async fn connect(mut config: Config, connector: &Connector) -> Result<Client, Refusal> {
    config.connect_timeout(PATIENCE);
    let connecting = tokio::time::timeout(PATIENCE, open(&config, connector)).await;
    let (client, connection) = connecting.map_err(|_| Refusal::Late)?.map_err(Refusal::Error)?;
    tokio::spawn(connection);
    Ok(client)
}

/// The primary that the monitor would choose: the one on the highest timeline, if it is one.
fn followed<'a>(all: &'a [(&Node, Seen)]) -> Option<(&'a Node, &'a Sample)> {
    let primaries = all
        .iter()
        .map(|(node, seen)| (*node, &seen.sample))
        .filter(|(_, sample)| sample.role == Role::Primary);
    let highest = primaries.clone().map(|(_, sample)| sample.timeline).max()?;
    let mut top = primaries.filter(|(_, sample)| sample.timeline == highest);
    let first = top.next()?;
    top.next().is_none().then_some(first)
}

/// What only shows when the nodes are held against each other.
fn together(settings: &Settings, all: &[(&Node, Seen)], findings: &mut Vec<Finding>) {
    let names = |wanted: &dyn Fn(&Sample) -> bool| {
        let chosen = all.iter().filter(|(_, seen)| wanted(&seen.sample));
        chosen.map(|(node, _)| node.name.to_string()).collect::<Vec<_>>()
    };
    let primaries = names(&|sample| sample.role == Role::Primary);
    match primaries.as_slice() {
        [_] => {}
        [] if all.is_empty() => {}
        [] => findings.push(Finding::wrong(
            "no node is the primary, so nothing could be written; add the primary to [cluster], or \
             promote a replica: select pg_promote()"
                .to_owned(),
        )),
        several => {
            let (all_of, rebuild) = (several.join(" and "), "(pg_rewind or pg_basebackup)");
            findings.push(Finding::wrong(match followed(all) {
                Some((node, _)) => format!(
                    "{all_of} are out of recovery, and Causeway follows {}, whose timeline is the \
                     highest; rebuild the rest as its replicas {rebuild}",
                    node.name
                ),
                None => format!(
                    "{all_of} are out of recovery on one timeline, so Causeway writes to none of \
                     them; keep one, and rebuild the rest as its replicas {rebuild}"
                ),
            }));
        }
    }
    if let Some((first, seen)) = all.first() {
        let system = seen.sample.system_identifier;
        let foreign = names(&|sample| sample.system_identifier != system);
        if !foreign.is_empty() {
            findings.push(Finding::wrong(format!(
                "{} and {} are not of one cluster (their system identifiers differ); keep in \
                 [cluster] the nodes of one",
                first.name,
                foreign.join(", ")
            )));
        }
    }
    let replicas = names(&|sample| sample.role == Role::Replica);
    if replicas.is_empty() && !primaries.is_empty() {
        findings
            .push(Finding::note("there is no replica: the primary serves all reads".to_owned()));
    }
    let plain = all.iter().any(|(_, seen)| !seen.details.reads_stats);
    if plain {
        findings.push(Finding::note(format!(
            "role {0} cannot see which timeline a replica streams, so after a promotion replicas \
             come back somewhat later; on the primary: grant pg_monitor to {0}",
            settings.monitor.user
        )));
    }
}

/// What shows on the node itself.
fn alone(settings: &Settings, node: &Node, seen: &Seen, findings: &mut Vec<Finding>) {
    let (name, details, sample) = (&node.name, &seen.details, &seen.sample);
    if sample.server_version_num < OLDEST {
        findings
            .push(Finding::wrong(format!("{name}: PostgreSQL 14 or newer is needed; upgrade it")));
    }
    let wanted: usize = 1 + settings
        .users
        .iter()
        .map(|user| user.pool_size.unwrap_or(settings.pool.size))
        .sum::<usize>();
    let room = usize::try_from(details.max_connections - details.reserved).unwrap_or(0);
    if wanted > room {
        findings.push(Finding::wrong(format!(
            "{name}: the pools may open {wanted} servers for each database, and max_connections \
             leaves room for {room}; lower pool.size or user.pool_size, or raise max_connections"
        )));
    }
    if sample.role == Role::Primary {
        if details.read_only {
            findings.push(Finding::wrong(format!(
                "{name}: default_transaction_read_only is on, so the primary takes no writes; switch it off"
            )));
        }
        return;
    }
    if details.receivers == 0 {
        findings.push(Finding::wrong(format!(
            "{name}: does not stream from the primary; see primary_conninfo, and the node's log for why"
        )));
    }
    if sample.paused {
        findings.push(Finding::wrong(format!(
            "{name}: replay is paused, so it falls behind; on it: select pg_wal_replay_resume()"
        )));
    }
    let max_lag = i64::try_from(settings.monitor.max_lag.as_millis()).unwrap_or(i64::MAX);
    if details.replay_waits < 0 || details.replay_waits > max_lag {
        let waits = match details.replay_waits {
            -1 => "for ever".to_owned(),
            ms => format!(
                "up to {}",
                humantime::format_duration(Duration::from_millis(ms.unsigned_abs()))
            ),
        };
        let feedback = if details.feedback { "" } else { ", set hot_standby_feedback = on" };
        findings.push(Finding::note(format!(
            "{name}: replay waits {waits} for queries in its way (max_standby_streaming_delay), and the \
             replica is ejected after {}; lower it{feedback}, or raise monitor.max_lag",
            humantime::format_duration(settings.monitor.max_lag)
        )));
    }
}

/// Whether the users can log in as the pools would.
async fn users(
    settings: &Settings,
    connector: &Connector,
    node: &Node,
    findings: &mut Vec<Finding>,
) {
    for user in &settings.users {
        let Some(UserPassword::Plain(_)) = &user.password else { continue };
        let database = &settings.monitor.database;
        if let Err(refusal) = connect(as_user(settings, connector, node, user), connector).await {
            let told =
                refusal.told(&user.name, database, &format!("the password of user {}", user.name));
            findings.push(Finding::wrong(format!(
                "{}: user {} cannot log in: {told}",
                node.name, user.name
            )));
        }
    }
}

fn as_user(settings: &Settings, connector: &Connector, node: &Node, user: &User) -> Config {
    let monitor = &settings.monitor;
    let mut config =
        probe::login(monitor, connector, &node.address, &monitor.database, "causeway check");
    config.user(&user.name);
    if let Some(UserPassword::Plain(password)) = &user.password {
        config.password(password.expose());
    }
    config
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use super::*;
    use crate::cluster::Lsn;

    fn settings(nodes: usize) -> Settings {
        let nodes: Vec<_> = (0..nodes).map(|number| format!("\"pg{number}:1\"")).collect();
        let text = format!(
            "cluster.nodes = [{}]\nmonitor.user = \"m\"\nuser = [{{ name = \"u\", password = \"p\" }}]",
            nodes.join(",")
        );
        crate::config::parse(&text, Path::new("/")).unwrap()
    }

    fn seen(role: Role, timeline: u32) -> Seen {
        let now = Instant::now();
        let sample = Sample {
            role,
            system_identifier: 7,
            timeline,
            timeline_exact: true,
            position: Lsn(1),
            inserted: Lsn(1),
            torn: false,
            streamed: Lsn(1),
            paused: false,
            recovered_to: None,
            life: 1,
            server_version_num: 150_000,
            sent: now,
            received: now,
        };
        let details = Details {
            max_connections: 100,
            reserved: 3,
            receivers: 1,
            replay_waits: 1000,
            feedback: false,
            reads_stats: true,
            read_only: false,
        };
        Seen { sample, details }
    }

    fn told(nodes: Vec<Seen>) -> Vec<String> {
        let settings = settings(nodes.len());
        let all: Vec<_> = settings.nodes.iter().zip(nodes).collect();
        let mut findings = Vec::new();
        together(&settings, &all, &mut findings);
        for (node, seen) in &all {
            alone(&settings, node, seen, &mut findings);
        }
        findings.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_wrong_with_nodes_is_told() {
        let (primary, replica) = (|tli| seen(Role::Primary, tli), || seen(Role::Replica, 1));
        assert_eq!(told(vec![primary(1), replica(), replica()]), [] as [String; 0]);
        let changed = |change: fn(&mut Seen)| {
            let mut node = replica();
            change(&mut node);
            vec![primary(1), node]
        };
        for (nodes, wanted) in [
            (vec![replica(), replica()], "wrong: no node is the primary"),
            (
                vec![primary(1), primary(2)],
                "wrong: pg0:1 and pg1:1 are out of recovery, and Causeway follows pg1:1",
            ),
            (vec![primary(2), primary(2)], "writes to none of them"),
            (vec![primary(1)], "note:  there is no replica"),
            (
                changed(|node| node.sample.system_identifier = 8),
                "wrong: pg0:1 and pg1:1 are not of one cluster",
            ),
            (
                changed(|node| node.sample.server_version_num = 130_000),
                "wrong: pg1:1: PostgreSQL 14 or newer",
            ),
            (changed(|node| node.details.receivers = 0), "wrong: pg1:1: does not stream"),
            (changed(|node| node.sample.paused = true), "wrong: pg1:1: replay is paused"),
            (changed(|node| node.details.replay_waits = -1), "note:  pg1:1: replay waits for ever"),
            (
                changed(|node| node.details.max_connections = 23),
                "wrong: pg1:1: the pools may open 21 servers for each database, and max_connections leaves room for 20",
            ),
            (changed(|node| node.details.reads_stats = false), "grant pg_monitor to m"),
        ] {
            let told = told(nodes);
            assert!(told.iter().any(|line| line.contains(wanted)), "{wanted} not in {told:?}");
        }
    }
}
