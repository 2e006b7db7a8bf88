//! How many clients there are: in all, by user, by database, by address, and how many are on their way
//! in. Whoever would be one too many is told so, and nobody else notices.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::auth::throttle::source;
use crate::config::settings::Limits;
use crate::net::PeerAddr;
use crate::protocol::ErrorReport;
use crate::telemetry::Registry;
use crate::telemetry::metrics::{Counter, Gauge};

/// The bounds that can be run into, as the metric names them.
const LIMITS: [&str; 6] = [
    "clients",
    "clients_per_user",
    "clients_per_database",
    "clients_per_address",
    "logins",
    "memory",
];

/// All clients.
#[derive(Debug)]
pub struct Census {
    state: Mutex<State>,
    /// The process has more memory than `limits.memory`.
    short_of_memory: AtomicBool,
    clients: Gauge,
    logins: Gauge,
    refused: Box<[Counter]>,
}

#[derive(Debug, Default)]
struct State {
    sessions: usize,
    logins: usize,
    by_user: HashMap<Box<str>, usize>,
    by_database: HashMap<Box<str>, usize>,
    by_address: HashMap<IpAddr, usize>,
}

/// A connection that is counted; dropped, it is no more.
#[derive(Debug)]
pub struct Counted {
    census: Arc<Census>,
    address: Option<IpAddr>,
    session: Option<(Box<str>, Box<str>)>,
}

impl Census {
    /// Nobody yet.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self {
            state: Mutex::default(),
            short_of_memory: AtomicBool::new(false),
            clients: registry.gauge("causeway_clients", "Clients that are logged in"),
            logins: registry
                .gauge("causeway_logins_under_way", "Connections that have not logged in yet"),
            refused: registry
                .counters(
                    "causeway_refused_clients",
                    "Clients that were refused because of a limit",
                    &["limit"],
                )
                .indexed(&LIMITS),
        }
    }

    /// A connection has come. What it is told instead of being let in, if it is one too many.
    pub fn arrive(
        self: &Arc<Self>,
        peer: PeerAddr,
        limits: &Limits,
    ) -> (Counted, Option<ErrorReport>) {
        let address = match peer {
            PeerAddr::Tcp(address) => Some(source(address.ip())),
            PeerAddr::Local => None,
        };
        let mut state = self.state.lock();
        state.logins += 1;
        let from_there = address.map_or(0, |address| {
            let count = state.by_address.entry(address).or_default();
            *count += 1;
            *count
        });
        let full = if state.sessions >= limits.clients {
            Some("clients")
        } else if limits.clients_per_address.is_some_and(|most| from_there > most) {
            Some("clients_per_address")
        } else if state.logins > limits.logins {
            Some("logins")
        } else if self.short_of_memory.load(Ordering::Relaxed) {
            Some("memory")
        } else {
            None
        };
        drop(state);
        self.logins.inc();
        let counted = Counted { census: self.clone(), address, session: None };
        (counted, full.map(|limit| self.refuse(limit, limits)))
    }

    fn refuse(&self, limit: &'static str, limits: &Limits) -> ErrorReport {
        if let Some(at) = LIMITS.iter().position(|known| *known == limit) {
            self.refused[at].inc();
        }
        let (message, most) = match limit {
            "memory" => {
                return ErrorReport::fatal("53200", "out of memory").with_detail(
                    "The proxy has more memory than limits.memory allows, and lets nobody in until \
                     it has less.",
                );
            }
            "clients_per_address" => {
                ("too many connections from this address", limits.clients_per_address.unwrap_or(0))
            }
            "logins" => ("too many connections are logging in", limits.logins),
            _ => ("sorry, too many clients already", limits.clients),
        };
        ErrorReport::fatal("53300", message)
            .with_detail(format!("The proxy has as many as limits.{limit} allows: {most}."))
    }

    /// Takes note of the memory that the process has, in bytes.
    pub fn note_memory(&self, resident: u64, limits: &Limits) {
        let short = limits.memory.is_some_and(|most| resident > most);
        if self.short_of_memory.swap(short, Ordering::Relaxed) != short {
            if short {
                tracing::warn!(resident, "more memory than limits.memory: nobody is let in");
            } else {
                tracing::info!(resident, "less memory than limits.memory again");
            }
        }
    }
}

impl Counted {
    /// The connection has logged in.
    ///
    /// # Errors
    /// With what the client is told, if it is one too many.
    pub fn logged_in(
        &mut self,
        user: &str,
        database: &str,
        limits: &Limits,
    ) -> Result<(), Box<ErrorReport>> {
        let census = self.census.clone();
        let mut state = census.state.lock();
        let count = |of: &HashMap<Box<str>, usize>, name: &str| of.get(name).copied().unwrap_or(0);
        let full = |most: Option<usize>, count: usize| most.is_some_and(|most| count >= most);
        let refusal = if state.sessions >= limits.clients {
            Some("clients")
        } else if full(limits.clients_per_user, count(&state.by_user, user)) {
            Some("clients_per_user")
        } else if full(limits.clients_per_database, count(&state.by_database, database)) {
            Some("clients_per_database")
        } else {
            None
        };
        if let Some(limit) = refusal {
            drop(state);
            let report = census.refuse(limit, limits);
            return Err(Box::new(match limit {
                "clients_per_user" => ErrorReport {
                    message: format!("too many connections for role \"{user}\"").into(),
                    detail: Some("limits.clients_per_user of the proxy allows no more.".into()),
                    ..report
                },
                "clients_per_database" => ErrorReport {
                    message: format!("too many connections for database \"{database}\"").into(),
                    detail: Some("limits.clients_per_database of the proxy allows no more.".into()),
                    ..report
                },
                _ => report,
            }));
        }
        state.sessions += 1;
        state.logins -= 1;
        *state.by_user.entry(user.into()).or_default() += 1;
        *state.by_database.entry(database.into()).or_default() += 1;
        self.session = Some((user.into(), database.into()));
        drop(state);
        census.logins.dec();
        census.clients.inc();
        Ok(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let census = &self.census;
        let mut state = census.state.lock();
        if let Some(address) = &self.address {
            lower(&mut state.by_address, address);
        }
        if let Some((user, database)) = &self.session {
            state.sessions -= 1;
            lower(&mut state.by_user, user);
            lower(&mut state.by_database, database);
            census.clients.dec();
        } else {
            state.logins -= 1;
            census.logins.dec();
        }
    }
}

/// Counts one less, and forgets what is at zero.
fn lower<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::settings::Settings;

    fn limits(lines: &str) -> Limits {
        let text = format!(
            "cluster.nodes = [\"a\"]\nmonitor.user = \"m\"\nuser = [{{ name = \"u\" }}]\n[limits]\n{lines}"
        );
        let settings: Settings = crate::config::parse(&text, std::path::Path::new("/")).unwrap();
        settings.limits
    }

    fn census() -> Arc<Census> {
        Arc::new(Census::new(&Registry::new(1)))
    }

    fn peer(host: &str) -> PeerAddr {
        PeerAddr::Tcp(std::net::SocketAddr::new(host.parse().unwrap(), 1))
    }

    fn told(refusal: Option<ErrorReport>) -> String {
        refusal
            .map_or("let in".to_owned(), |report| format!("{} {}", report.sqlstate, report.message))
    }

    #[test]
    fn who_is_one_too_many_is_told_and_counts_no_more_when_gone() {
        let limits = limits("clients = 4\nclients_per_user = 2\nclients_per_database = 3");
        let census = census();
        let mut there = Vec::new();
        for (user, database, expected) in [
            ("a", "d", "let in"),
            ("a", "d", "let in"),
            ("a", "d", "53300 too many connections for role \"a\""),
            ("b", "d", "let in"),
            ("b", "d", "53300 too many connections for database \"d\""),
            ("b", "e", "let in"),
        ] {
            let (mut counted, refusal) = census.arrive(PeerAddr::Local, &limits);
            assert_eq!(told(refusal), "let in");
            let refusal = counted.logged_in(user, database, &limits).err();
            assert_eq!(told(refusal.clone().map(|report| *report)), expected);
            if refusal.is_none() {
                there.push(counted);
            }
        }
        let (late, refusal) = census.arrive(PeerAddr::Local, &limits);
        assert_eq!(told(refusal), "53300 sorry, too many clients already");
        drop(late);
        there.pop();
        let (mut next, refusal) = census.arrive(PeerAddr::Local, &limits);
        assert_eq!((told(refusal), next.logged_in("b", "e", &limits)), ("let in".into(), Ok(())));
        drop((next, there));
        let state = census.state.lock();
        assert_eq!((state.sessions, state.logins), (0, 0));
        assert!(state.by_user.is_empty() && state.by_database.is_empty());
    }

    #[test]
    fn one_address_cannot_take_everything() {
        let limits = limits("clients_per_address = 2\nlogins = 3");
        let census = census();
        let one = census.arrive(peer("192.0.2.1"), &limits);
        let two = census.arrive(peer("192.0.2.1"), &limits);
        assert_eq!((told(one.1), told(two.1)), ("let in".into(), "let in".into()));
        let (three, refusal) = census.arrive(peer("192.0.2.1"), &limits);
        assert_eq!(told(refusal), "53300 too many connections from this address");
        let (other, refusal) = census.arrive(peer("192.0.2.2"), &limits);
        assert_eq!(told(refusal), "53300 too many connections are logging in");
        drop((one.0, two.0, three, other));
        assert!(census.state.lock().by_address.is_empty());
    }

    #[test]
    fn nobody_is_let_in_while_memory_is_short() {
        let limits = limits("memory = \"1MiB\"");
        let census = census();
        for (resident, expected) in
            [(1, "let in"), (2 << 20, "53200 out of memory"), (1 << 20, "let in")]
        {
            census.note_memory(resident, &limits);
            assert_eq!(told(census.arrive(PeerAddr::Local, &limits).1), expected);
        }
    }
}
