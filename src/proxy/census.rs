//! How many clients there are: in all, by user, by database, by address, how many are on their way
//! in, and how many are being told that they may not. Whoever would be one too many is told so, and nobody else
//! notices.
//!
//! What is here before its login is bounded: `limits.logins` that may prove themselves, of which the last
//! quarter is for addresses that have few, and `limits.refusals` that are being told why not. Whoever comes beyond
//! these is closed without a word.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::auth::throttle::source;
use crate::config::settings::Limits;
use crate::net::PeerAddr;
use crate::protocol::ErrorReport;
use crate::telemetry::Registry;
use crate::telemetry::metrics::{Counter, Gauge};

/// The bounds that can be run into, as the metric names them.
const LIMITS: [&str; 7] = [
    "clients",
    "clients_per_user",
    "clients_per_database",
    "clients_per_address",
    "logins",
    "memory",
    "refusals",
];

/// The log tells of refusals by one limit once in so long at most: how many there are is their choice who come.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// All clients.
#[derive(Debug)]
pub struct Census {
    state: Mutex<State>,
    /// The process has more memory than `limits.memory`.
    short_of_memory: AtomicBool,
    clients: Gauge,
    logins: Gauge,
    refusals: Gauge,
    refused: Box<[Counter]>,
}

#[derive(Debug, Default)]
struct State {
    sessions: usize,
    logins: usize,
    refusals: usize,
    by_user: HashMap<Box<str>, usize>,
    by_database: HashMap<Box<str>, usize>,
    /// Sessions and logins.
    by_address: HashMap<IpAddr, usize>,
    /// Logins alone.
    logins_by_address: HashMap<IpAddr, usize>,
    /// What the log has been told, for each of the limits.
    told: [Told; LIMITS.len()],
}

/// When the log was last told, and how many it has not been told of.
#[derive(Debug, Default, Clone, Copy)]
struct Told {
    last: Option<Instant>,
    since: u64,
}

impl Told {
    /// One more. How many there are to tell of, if it is time.
    fn one_more(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        if self.last.is_some_and(|last| now.duration_since(last) < LOG_EVERY) {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

/// A connection that is counted; dropped, it is no more.
#[derive(Debug)]
pub struct Counted {
    census: Arc<Census>,
    address: Option<IpAddr>,
    place: Place,
}

/// What it counts as.
#[derive(Debug)]
enum Place {
    Login,
    Refusal,
    Session { user: Box<str>, database: Box<str> },
}

/// What becomes of a connection that has come.
#[derive(Debug)]
pub enum Arrived {
    /// It may prove itself.
    Guest(Counted),
    /// No rule of access could let it in: it is told so.
    Stranger(Counted),
    /// It is one too many, and is told so.
    TurnedAway(Counted, Box<ErrorReport>),
    /// It is one too many, and so many are being told why that it is closed without a word.
    Unheard,
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
            refusals: registry.gauge(
                "causeway_refusals_under_way",
                "Connections that are being told why they are not let in",
            ),
            refused: registry
                .counters(
                    "causeway_refused_clients",
                    "Clients that were refused because of a limit; refusals: without a word",
                    &["limit"],
                )
                .indexed(&LIMITS),
        }
    }

    /// A connection has come; from where need not be known yet.
    pub fn arrive(self: &Arc<Self>, limits: &Limits) -> Arrived {
        let mut state = self.state.lock();
        let full = if state.sessions >= limits.clients {
            Some("clients")
        } else if state.logins >= limits.logins {
            Some("logins")
        } else if self.short_of_memory.load(Ordering::Relaxed) {
            Some("memory")
        } else {
            None
        };
        match full {
            None => state.logins += 1,
            Some(_) if state.refusals < limits.refusals => state.refusals += 1,
            Some(limit) => {
                drop(state);
                self.count_refusal(limit);
                self.count_refusal("refusals");
                return Arrived::Unheard;
            }
        }
        drop(state);
        let counted = |place| Counted { census: self.clone(), address: None, place };
        match full {
            None => {
                self.logins.inc();
                Arrived::Guest(counted(Place::Login))
            }
            Some(limit) => {
                self.refusals.inc();
                Arrived::TurnedAway(counted(Place::Refusal), Box::new(self.refuse(limit, limits)))
            }
        }
    }

    fn refuse(&self, limit: &'static str, limits: &Limits) -> ErrorReport {
        self.count_refusal(limit);
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

    fn count_refusal(&self, limit: &'static str) {
        let Some(at) = LIMITS.iter().position(|known| *known == limit) else { return };
        self.refused[at].inc();
        let due = self.state.lock().told[at].one_more(Instant::now());
        if let Some(count) = due {
            tracing::warn!(limit, count, "clients refused because of a limit");
        }
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
    /// The connection is known to come from there; `awaited` says whether any rule of access could let it in.
    #[must_use]
    pub fn comes_from(mut self, peer: PeerAddr, awaited: bool, limits: &Limits) -> Arrived {
        let address = match peer {
            PeerAddr::Tcp(address) => Some(source(address.ip())),
            PeerAddr::Local => None,
        };
        let census = self.census.clone();
        let mut state = census.state.lock();
        let full = awaited.then(|| state.is_full_for(address, limits)).flatten();
        if awaited && full.is_none() {
            if let Some(address) = address {
                *state.by_address.entry(address).or_default() += 1;
                *state.logins_by_address.entry(address).or_default() += 1;
            }
            self.address = address;
            return Arrived::Guest(self);
        }
        if state.refusals >= limits.refusals {
            drop(state);
            full.into_iter().chain(["refusals"]).for_each(|limit| census.count_refusal(limit));
            return Arrived::Unheard;
        }
        state.logins -= 1;
        state.refusals += 1;
        drop(state);
        census.logins.dec();
        census.refusals.inc();
        self.place = Place::Refusal;
        match full {
            Some(limit) => Arrived::TurnedAway(self, Box::new(census.refuse(limit, limits))),
            None => Arrived::Stranger(self),
        }
    }

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
        state.leave(&self.place, self.address);
        state.sessions += 1;
        if let Some(address) = self.address {
            *state.by_address.entry(address).or_default() += 1;
        }
        *state.by_user.entry(user.into()).or_default() += 1;
        *state.by_database.entry(database.into()).or_default() += 1;
        drop(state);
        let session = Place::Session { user: user.into(), database: database.into() };
        census.gauge(&std::mem::replace(&mut self.place, session)).dec();
        census.clients.inc();
        Ok(())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.census.state.lock().leave(&self.place, self.address);
        self.census.gauge(&self.place).dec();
    }
}

impl State {
    /// The limit that has no room for one more login from there.
    fn is_full_for(&self, address: Option<IpAddr>, limits: &Limits) -> Option<&'static str> {
        let address = address?;
        let there = |counts: &HashMap<_, usize>| counts.get(&address).copied().unwrap_or(0);
        let quarter = (limits.logins / 4).max(1);
        let scarce = self.logins > limits.logins - quarter;
        if limits.clients_per_address.is_some_and(|most| there(&self.by_address) >= most) {
            Some("clients_per_address")
        } else if scarce && there(&self.logins_by_address) >= quarter {
            Some("logins")
        } else {
            None
        }
    }

    fn leave(&mut self, place: &Place, address: Option<IpAddr>) {
        match place {
            Place::Refusal => {
                self.refusals -= 1;
                return;
            }
            Place::Login => {
                self.logins -= 1;
                if let Some(address) = &address {
                    lower(&mut self.logins_by_address, address);
                }
            }
            Place::Session { user, database } => {
                self.sessions -= 1;
                lower(&mut self.by_user, user);
                lower(&mut self.by_database, database);
            }
        }
        if let Some(address) = &address {
            lower(&mut self.by_address, address);
        }
    }
}

impl Census {
    fn gauge(&self, place: &Place) -> &Gauge {
        match place {
            Place::Login => &self.logins,
            Place::Refusal => &self.refusals,
            Place::Session { .. } => &self.clients,
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

    fn come(census: &Arc<Census>, peer: PeerAddr, awaited: bool, limits: &Limits) -> Arrived {
        match census.arrive(limits) {
            Arrived::Guest(counted) => counted.comes_from(peer, awaited, limits),
            other => other,
        }
    }

    fn told(arrived: &Arrived) -> String {
        match arrived {
            Arrived::Guest(_) => "let in".to_owned(),
            Arrived::Stranger(_) => "a stranger".to_owned(),
            Arrived::TurnedAway(_, report) => format!("{} {}", report.sqlstate, report.message),
            Arrived::Unheard => "unheard".to_owned(),
        }
    }

    fn guest(arrived: Arrived) -> Counted {
        match arrived {
            Arrived::Guest(counted) => counted,
            other => panic!("{}", told(&other)),
        }
    }

    fn is_empty(census: &Census) -> bool {
        let state = census.state.lock();
        (state.sessions, state.logins, state.refusals) == (0, 0, 0)
            && state.by_user.is_empty()
            && state.by_database.is_empty()
            && state.by_address.is_empty()
            && state.logins_by_address.is_empty()
    }

    #[test]
    fn who_is_one_too_many_is_told_and_counts_no_more_when_gone() {
        let limits = limits("clients = 4\nclients_per_user = 2\nclients_per_database = 3");
        let census = census();
        let mut there = Vec::new();
        for (user, database, expected) in [
            ("a", "d", None),
            ("a", "d", None),
            ("a", "d", Some("too many connections for role \"a\"")),
            ("b", "d", None),
            ("b", "d", Some("too many connections for database \"d\"")),
            ("b", "e", None),
        ] {
            let mut counted = guest(come(&census, peer("192.0.2.1"), true, &limits));
            let refusal = counted.logged_in(user, database, &limits).err();
            let said = refusal.as_ref().map(|report| report.message.as_ref());
            assert_eq!(said, expected);
            if refusal.is_none() {
                there.push(counted);
            }
        }
        let late = come(&census, PeerAddr::Local, true, &limits);
        assert_eq!(told(&late), "53300 sorry, too many clients already");
        drop(late);
        there.pop();
        let mut next = guest(come(&census, PeerAddr::Local, true, &limits));
        assert_eq!(next.logged_in("b", "e", &limits), Ok(()));
        drop((next, there));
        assert!(is_empty(&census));
    }

    #[test]
    fn one_address_cannot_take_everything() {
        let limits = limits("clients_per_address = 2\nlogins = 3");
        let census = census();
        let one = guest(come(&census, peer("192.0.2.1"), true, &limits));
        let two = guest(come(&census, peer("192.0.2.1"), true, &limits));
        let three = come(&census, peer("192.0.2.1"), true, &limits);
        assert_eq!(told(&three), "53300 too many connections from this address");
        let other = guest(come(&census, peer("192.0.2.2"), true, &limits));
        let late = come(&census, peer("192.0.2.3"), true, &limits);
        assert_eq!(told(&late), "53300 too many connections are logging in");
        drop((one, two, three, other, late));
        assert!(is_empty(&census));
    }

    #[test]
    fn the_last_logins_are_for_addresses_that_have_few() {
        let limits = limits("logins = 8");
        let census = census();
        let there: Vec<_> =
            (0..8).map(|_| come(&census, peer("192.0.2.1"), true, &limits)).collect();
        let let_in = there.iter().filter(|arrived| told(arrived) == "let in").count();
        assert_eq!(let_in, 6);
        // It counts by what proves itself, not by who is there: whoever is in has left its place.
        let others = [peer("192.0.2.2"), PeerAddr::Local];
        let others = others.map(|from| guest(come(&census, from, true, &limits)));
        let late = come(&census, peer("192.0.2.3"), true, &limits);
        assert_eq!(told(&late), "53300 too many connections are logging in");
        drop((there, others, late));
        assert!(is_empty(&census));
    }

    #[test]
    fn who_is_told_why_not_is_bounded_as_well() {
        let limits = limits("logins = 4\nrefusals = 2");
        let census = census();
        let stranger = come(&census, peer("192.0.2.1"), false, &limits);
        assert_eq!(told(&stranger), "a stranger");
        let there: Vec<_> =
            (0..4).map(|_| guest(come(&census, PeerAddr::Local, true, &limits))).collect();
        let told_so = come(&census, PeerAddr::Local, true, &limits);
        assert_eq!(told(&told_so), "53300 too many connections are logging in");
        for from in [PeerAddr::Local, peer("192.0.2.1")] {
            assert_eq!(told(&come(&census, from, true, &limits)), "unheard");
        }
        drop(there);
        assert_eq!(told(&come(&census, peer("192.0.2.1"), false, &limits)), "unheard");
        assert_eq!(
            census.refused.iter().map(Counter::value).collect::<Vec<_>>(),
            [0, 0, 0, 0, 3, 0, 3]
        );
        drop((stranger, told_so));
        assert_eq!(told(&come(&census, peer("192.0.2.1"), false, &limits)), "a stranger");
        assert!(is_empty(&census));
    }

    #[test]
    fn nobody_is_let_in_while_memory_is_short() {
        let limits = limits("memory = \"1MiB\"");
        let census = census();
        for (resident, expected) in
            [(1, "let in"), (2 << 20, "53200 out of memory"), (1 << 20, "let in")]
        {
            census.note_memory(resident, &limits);
            assert_eq!(told(&come(&census, PeerAddr::Local, true, &limits)), expected);
        }
    }

    #[test]
    fn the_log_is_told_of_a_flood_but_not_of_each_drop() {
        let (mut told, now) = (Told::default(), Instant::now());
        let said: Vec<_> = (0..100).filter_map(|_| told.one_more(now)).collect();
        assert_eq!(said, [1]);
        assert_eq!(told.one_more(now + LOG_EVERY), Some(100));
    }
}
