//! The catalogs of all databases: loaded when first asked for, reloaded when they have changed.
//!
//! What a session says was changed is not believed by anybody until it was looked at; what it only may have
//! changed (a procedure ran) the session itself does not believe ([`Follower::doubt`]).
//! One task per database, on the runtime given to [`Catalogs::new`], waits for DDL that sessions
//! report and polls for DDL from elsewhere. Askers never wait: until a catalog is there, and from
//! reported DDL until it has been looked at again, there is none, and the primary serves. A snapshot
//! that cannot be held against a server is believed for [`BELIEVED`], no longer. Only who would wait for a
//! primary that is not there may wait for the catalog instead ([`Follower::known`]).
//! A database is kept while it is asked for; the number of databases is bounded.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::snapshot::Catalog;
use super::source::{LoadError, Source};

/// How long a database is left alone: longer than PostgreSQL waits for others to leave it.
const LEAVE: Duration = Duration::from_secs(7);

/// Databases whose catalogs are kept; of any beyond, all is served by the primary.
const DATABASES: usize = 256;
/// Time between two cheap looks for DDL from elsewhere.
const POLL: Duration = Duration::from_secs(1);
/// So many times as long as a comparison has taken, the next look waits, also one that somebody wishes for who
/// is in doubt: it costs the primary, too.
const REST_PER_LOOK: u32 = 20;
/// The same of a load, which follows a change and not every look.
const REST_PER_LOAD: u32 = 3;
/// The thorough look follows at the latest after so many cheap ones: servers may count nothing
/// (`track_counts = off`), or late.
const THOROUGH_EVERY: u32 = 5;
/// How long a snapshot is kept while nobody can be asked whether it is still true: nodes change
/// their roles in less, and who could have changed it meanwhile has seldom been able to.
const BELIEVED: Duration = Duration::from_secs(30);
/// Rest after a failed look, so that nobody is hammered: doubled with each in a row, up to the second for a node that
/// cannot be reached, and to the third for one that lets us not in.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_UNREACHABLE: Duration = Duration::from_secs(4);
const RETRY_REFUSED: Duration = Duration::from_secs(60);
/// A database that nobody has asked for in so long is forgotten ...
const FORGET_AFTER: Duration = Duration::from_secs(60 * 60);
/// ... and one that does not exist after so long, if somebody asks or not.
const FORGET_ABSENT: Duration = Duration::from_secs(5);

/// One number for every snapshot of the process, of whichever database.
static VERSIONS: AtomicU64 = AtomicU64::new(1);

/// A version that no snapshot has had.
pub fn next_version() -> u64 {
    VERSIONS.fetch_add(1, Ordering::Relaxed)
}

/// The catalogs of all databases.
#[derive(Debug, Clone)]
pub struct Catalogs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: Source,
    runtime: Handle,
    stop: CancellationToken,
    databases: RwLock<FxHashMap<Box<str>, Arc<Database>>>,
}

/// One database's catalog and what is known of its freshness.
#[derive(Debug, Default)]
struct Database {
    catalog: ArcSwapOption<Catalog>,
    /// How often that was replaced.
    replaced: AtomicU32,
    /// DDL reported so far.
    reported: AtomicU64,
    /// Of which so many were over when the look began that last found, or made, the snapshot true.
    covered: AtomicU64,
    asked: AtomicBool,
    wake: Notify,
    /// Looks that have begun, and the last that has ended and left nothing out. Wrapping.
    begun: AtomicU32,
    ended: AtomicU32,
    /// Somebody does not believe the snapshot.
    doubted: Notify,
    /// The snapshot has been found, or made, true.
    known: Notify,
    /// Nobody keeps it up to date any more.
    forgotten: AtomicBool,
    /// Until then the database is not connected to.
    left_until: Mutex<Option<Instant>>,
}

impl Database {
    fn replace(&self, catalog: Option<Catalog>) {
        self.catalog.store(catalog.map(Arc::new));
        self.replaced.fetch_add(1, Ordering::Release);
    }

    /// Whether DDL was reported since the snapshot was last held against the server.
    fn is_stale(&self) -> bool {
        self.covered.load(Ordering::Acquire) != self.reported.load(Ordering::Acquire)
    }

    /// Whether this look has ended, or one that began after it.
    fn has_ended(&self, look: u32) -> bool {
        self.ended.load(Ordering::Acquire).wrapping_sub(look) < u32::MAX / 2
    }

    /// Somebody wants to know it. Read first: a line that is only read is not taken from other workers'
    /// caches.
    fn ask(&self) {
        if !self.asked.load(Ordering::Relaxed) {
            self.asked.store(true, Ordering::Relaxed);
        }
    }
}

impl Catalogs {
    /// Catalogs read from `source`, by tasks on `runtime`, until `stop`.
    #[must_use]
    pub fn new(source: Source, runtime: Handle, stop: CancellationToken) -> Self {
        let shared = Shared { source, runtime, stop, databases: RwLock::default() };
        Self { shared: Arc::new(shared) }
    }

    /// Gives a database a catalog that nobody keeps up to date, for who has no server to ask.
    pub fn fix(&self, database: &str, catalog: Catalog) {
        let entry = Database::default();
        entry.replace(Some(catalog));
        self.shared.databases.write().insert(database.into(), Arc::new(entry));
    }

    /// The database's catalog as far as it is known to be true. The first call for a database
    /// starts its loading, so it is to be one that exists. Never waits.
    #[must_use]
    pub fn get(&self, database: &str) -> Option<Arc<Catalog>> {
        let entry = self.entry(database)?;
        entry.ask();
        if entry.is_stale() { None } else { entry.catalog.load_full() }
    }

    fn entry(&self, database: &str) -> Option<Arc<Database>> {
        let known = self.shared.databases.read().get(database).map(Arc::clone);
        known.or_else(|| self.start(database))
    }

    /// A session of that database has run DDL, or ended a transaction with DDL in it. From now on
    /// there is no catalog until the server was asked again.
    pub fn note_ddl(&self, database: &str) {
        let known = self.shared.databases.read().get(database).map(Arc::clone);
        if let Some(entry) = known {
            entry.reported.fetch_add(1, Ordering::AcqRel);
            entry.wake.notify_one();
        }
    }

    /// Leaves a database for a while: a statement is about to run that no connection may see.
    pub fn leave(&self, database: &str) {
        let known = self.shared.databases.read().get(database).map(Arc::clone);
        if let Some(entry) = known {
            *entry.left_until.lock() = Some(Instant::now() + LEAVE);
            self.shared.source.leave(database);
        }
    }

    fn start(&self, database: &str) -> Option<Arc<Database>> {
        let mut databases = self.shared.databases.write();
        if let Some(entry) = databases.get(database) {
            return Some(Arc::clone(entry));
        }
        if databases.len() >= DATABASES {
            return None;
        }
        let entry = Arc::new(Database::default());
        databases.insert(database.into(), Arc::clone(&entry));
        let keeper = Keeper {
            shared: Arc::clone(&self.shared),
            name: database.into(),
            database: Arc::clone(&entry),
        };
        self.shared.runtime.spawn(keeper.run());
        Some(entry)
    }
}

/// One database's catalog as somebody sees it who asks again and again.
#[derive(Debug, Default)]
pub struct Follower {
    followed: Option<Arc<Database>>,
    /// How often the snapshot had been replaced by the last look.
    replaced: u32,
    /// The look that the snapshot must have come through to be believed; 0: it is.
    doubts_until: u32,
    seen: Option<Arc<Catalog>>,
    /// The last that it saw, whether it is believed still or not.
    last: Option<Arc<Catalog>>,
}

impl Follower {
    /// Looks again; where nothing has changed that costs a few comparisons. The database is to be one that exists:
    /// whoever only says a name is not to have it looked for.
    pub fn look(&mut self, catalogs: &Catalogs, database: &str) {
        let gone = |followed: &Arc<Database>| followed.forgotten.load(Ordering::Acquire);
        if self.followed.as_ref().is_none_or(gone) {
            *self = Self { followed: catalogs.entry(database), ..Self::default() };
        }
        let Some(database) = &self.followed else { return };
        database.ask();
        if self.doubts_until != 0 && database.has_ended(self.doubts_until) {
            self.doubts_until = 0;
        }
        if self.doubts_until != 0 || database.is_stale() {
            self.seen = None;
            self.replaced = 0;
            return;
        }
        let replaced = database.replaced.load(Ordering::Acquire);
        if replaced != self.replaced || self.seen.is_none() {
            self.seen = database.catalog.load_full();
            self.replaced = replaced;
            if self.seen.is_some() {
                self.last.clone_from(&self.seen);
            }
        }
    }

    /// Whether it has looked at all.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.followed.is_some()
    }

    /// Whoever follows may have changed the catalog itself: it goes without until it has been looked at
    /// again, soon. To others the change comes from elsewhere.
    pub fn doubt(&mut self) {
        let Some(database) = &self.followed else { return };
        // The next look begins from here on.
        self.doubts_until = database.begun.load(Ordering::Acquire).wrapping_add(1).max(1);
        database.doubted.notify_one();
    }

    /// Waits until another look will see a catalog, for who can do nothing else; for ever, if there are
    /// too many databases. Cancel safe.
    pub async fn known(&self) {
        let Some(database) = &self.followed else { return std::future::pending().await };
        loop {
            let mut known = pin!(database.known.notified());
            known.as_mut().enable();
            let believed = self.doubts_until == 0 || database.has_ended(self.doubts_until);
            if believed && !database.is_stale() && database.catalog.load().is_some()
                || database.forgotten.load(Ordering::Acquire)
            {
                return;
            }
            known.await;
        }
    }

    /// The last that it saw, though much may have changed since.
    #[must_use]
    pub fn last(&self) -> Option<&Catalog> {
        self.last.as_deref()
    }

    /// What it saw.
    #[must_use]
    pub fn catalog(&self) -> Option<&Catalog> {
        self.seen.as_deref()
    }
}

/// The task of one database.
struct Keeper {
    shared: Arc<Shared>,
    name: Box<str>,
    database: Arc<Database>,
}

/// What the last look at the server saw.
#[derive(Default)]
struct Seen {
    fingerprint: Option<String>,
    /// How long the last fingerprint took.
    took: Duration,
    writes: i64,
    cheap_looks: u32,
    /// When the snapshot was last held against a server.
    held_at: Option<Instant>,
}

/// How long to rest after so many failures in a row, the last of which this was.
fn retry_after(failures: u32, error: &LoadError) -> Duration {
    let most = match error {
        // Asking costs nothing.
        LoadError::NoNode => RETRY,
        error if error.is_refusal() => RETRY_REFUSED,
        _ => RETRY_UNREACHABLE,
    };
    (RETRY * (1 << failures.saturating_sub(1).min(16))).min(most)
}

impl Keeper {
    async fn run(self) {
        let stop = self.shared.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep() => {}
        }
    }

    async fn keep(&self) {
        let mut seen = Seen::default();
        let mut asked_at = Instant::now();
        let mut failures = 0;
        loop {
            self.stay_away(&mut seen).await;
            let rest = match self.look(&mut seen).await {
                Ok(rest) => {
                    failures = 0;
                    rest
                }
                Err(error) if error.is_absent_database() => {
                    tracing::debug!(database = %self.name, "there is no such database");
                    self.disbelieve(&mut seen);
                    tokio::time::sleep(FORGET_ABSENT).await;
                    return self.forget();
                }
                Err(error) => {
                    if seen.held_at.is_none_or(|held_at| held_at.elapsed() > BELIEVED) {
                        self.disbelieve(&mut seen);
                    }
                    tracing::debug!(database = %self.name, %error, "catalog not loaded");
                    failures += 1;
                    retry_after(failures, &error)
                }
            };
            self.rest(rest, &mut seen).await;
            if self.database.asked.swap(false, Ordering::Relaxed) {
                asked_at = Instant::now();
            } else if asked_at.elapsed() > FORGET_AFTER {
                return self.forget();
            }
        }
    }

    /// Who still follows it looks for another, made when somebody asks again.
    fn forget(&self) {
        self.shared.source.leave(&self.name);
        self.shared.databases.write().remove(&self.name);
        self.database.forgotten.store(true, Ordering::Release);
        self.database.known.notify_waiters();
    }

    /// Waits until the next look, which leaves nothing out where somebody asks for it.
    async fn rest(&self, rest: Duration, seen: &mut Seen) {
        let ended = Instant::now();
        let mut until = ended + rest;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = self.database.wake.notified() => {
                    seen.cheap_looks = THOROUGH_EVERY;
                    return;
                }
                () = self.database.doubted.notified() => {
                    seen.cheap_looks = THOROUGH_EVERY;
                    until = until.min(ended + seen.took * REST_PER_LOOK);
                }
            }
        }
    }

    /// Waits as long as the database is to be left alone. However long that is, what is known of it is believed
    /// for no longer than when it cannot be reached.
    async fn stay_away(&self, seen: &mut Seen) {
        loop {
            let now = Instant::now();
            let left = *self.database.left_until.lock();
            let Some(until) = left.filter(|until| *until > now) else { return };
            match seen.held_at.map(|held_at| held_at + BELIEVED) {
                Some(believed) if believed > now => {
                    tokio::time::sleep_until(until.min(believed)).await;
                }
                Some(_) => self.disbelieve(seen),
                None => tokio::time::sleep_until(until).await,
            }
        }
    }

    /// What is known could not be held against a server for too long.
    fn disbelieve(&self, seen: &mut Seen) {
        self.database.replace(None);
        *seen = Seen::default();
    }

    /// Looks whether the snapshot is still true, and makes another if it is not.
    /// Returns how long to wait until the next look.
    async fn look(&self, seen: &mut Seen) -> Result<Duration, LoadError> {
        let mut rest = POLL;
        let number = self.database.begun.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        let reported = self.database.reported.load(Ordering::Acquire);
        let server = self.shared.source.connect(&self.name).await?;
        let writes = server.writes().await?;
        seen.cheap_looks += 1;
        // A small catalog is compared each time.
        let thorough = writes != seen.writes
            || seen.cheap_looks >= THOROUGH_EVERY
            || seen.took * REST_PER_LOOK <= POLL;
        if seen.fingerprint.is_none() || thorough {
            let began = Instant::now();
            let fingerprint = server.fingerprint().await?;
            seen.took = began.elapsed();
            rest = rest.max(seen.took * REST_PER_LOOK);
            if seen.fingerprint.as_ref() != Some(&fingerprint) {
                let began = Instant::now();
                let catalog = server.load(next_version()).await?;
                rest = rest.max(began.elapsed() * REST_PER_LOAD);
                let (functions, relations) = catalog.size();
                let bytes = catalog.bytes();
                tracing::debug!(database = %self.name, functions, relations, bytes, "catalog loaded");
                self.database.replace(Some(catalog));
                // Taken before the load: what changes between the two is seen at the next look.
                seen.fingerprint = Some(fingerprint);
            }
            seen.cheap_looks = 0;
        }
        seen.writes = writes;
        if seen.cheap_looks == 0 {
            seen.held_at = Some(Instant::now());
            self.database.covered.store(reported, Ordering::Release);
            self.database.ended.store(number, Ordering::Release);
            self.database.known.notify_waiters();
        }
        Ok(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follower() -> (Arc<Database>, Follower, Catalogs) {
        let nowhere: super::super::source::NodeToAsk = Arc::new(|| None);
        let source = Source::new("app", None, crate::tls::ConnectorCell::default(), nowhere);
        let catalogs = Catalogs::new(source, Handle::current(), CancellationToken::new());
        let database = Arc::new(Database::default());
        catalogs.shared.databases.write().insert("app".into(), database.clone());
        (database, Follower::default(), catalogs)
    }

    /// A look that leaves nothing out.
    fn look(database: &Database, found: bool) {
        let begun = database.begun.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        if found {
            database.replace(Some(Catalog::default()));
        }
        database.ended.store(begun, Ordering::Release);
    }

    #[tokio::test]
    async fn who_doubts_sees_nothing_until_a_look_has_begun_and_ended() {
        for begun in [0, 1, u32::MAX - 1, u32::MAX] {
            let (database, mut follower, catalogs) = follower();
            database.begun.store(begun, Ordering::Release);
            look(&database, true);
            let sees = |follower: &mut Follower| {
                follower.look(&catalogs, "app");
                follower.catalog().is_some()
            };
            assert!(sees(&mut follower));
            // One that began before the doubt proves nothing.
            let under_way = database.begun.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
            follower.doubt();
            database.ended.store(under_way, Ordering::Release);
            assert!(!sees(&mut follower), "{begun}");
            look(&database, false);
            follower.known().await;
            assert!(sees(&mut follower), "{begun}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_alone_again_and_again_is_not_believed_for_ever() {
        let (database, mut follower, catalogs) = follower();
        look(&database, true);
        let (shared, name) = (catalogs.shared.clone(), "app".into());
        let keeper = Keeper { shared, name, database: database.clone() };
        let mut seen = Seen { held_at: Some(Instant::now()), ..Seen::default() };
        catalogs.leave("app");
        let again = async {
            for _ in 0..8 {
                tokio::time::sleep(LEAVE * 9 / 10).await;
                catalogs.leave("app");
            }
        };
        let watch = async {
            tokio::time::sleep(BELIEVED * 9 / 10).await;
            follower.look(&catalogs, "app");
            assert!(follower.catalog().is_some());
            tokio::time::sleep(BELIEVED / 5).await;
            follower.look(&catalogs, "app");
            assert!(follower.catalog().is_none(), "nobody has looked for so long");
        };
        tokio::join!(keeper.stay_away(&mut seen), again, watch);
    }

    #[test]
    fn who_cannot_be_asked_is_asked_less_and_less_often() {
        let rests = |error: &LoadError| -> Vec<_> {
            (1..40).step_by(3).map(|failures| retry_after(failures, error).as_millis()).collect()
        };
        assert_eq!(rests(&LoadError::NoNode)[..3], [500, 500, 500]);
        assert_eq!(rests(&LoadError::TimedOut)[..3], [500, 4000, 4000]);
    }

    #[tokio::test]
    async fn a_doubt_ends_with_the_entry_that_it_was_of() {
        let (database, mut follower, catalogs) = follower();
        database.begun.store(36_000, Ordering::Release);
        look(&database, true);
        follower.look(&catalogs, "app");
        follower.doubt();
        let successor = Arc::new(Database::default());
        catalogs.shared.databases.write().insert("app".into(), successor.clone());
        database.forgotten.store(true, Ordering::Release);
        look(&successor, true);
        follower.look(&catalogs, "app");
        assert!(follower.catalog().is_some());
    }

    #[tokio::test]
    async fn what_was_changed_is_seen_by_nobody_until_it_was_looked_at() {
        let (database, mut follower, catalogs) = follower();
        look(&database, true);
        follower.look(&catalogs, "app");
        assert!(follower.catalog().is_some() && catalogs.get("app").is_some());
        catalogs.note_ddl("app");
        follower.look(&catalogs, "app");
        assert!(follower.catalog().is_none() && catalogs.get("app").is_none());
    }
}
