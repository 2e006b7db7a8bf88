//! How one session sees texts: the facts from the shared cache, the decision from the rules, its
//! database's catalog and its own settings.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::judge::Judge;
use super::options::Options;
use super::shared::{Rules, Shared};
use super::study::Studied;
use crate::catalog::{Catalog, Follower};
use crate::config::settings::TimeLimits;
use crate::pool::Account;
use crate::routing::router::{Circumstances, SessionView};
use crate::routing::{Decision, Reason};
use crate::server::Laid;
use crate::sql::Script;
use crate::sql::statement::Lexis;

/// One session's view, renewed before each request.
#[derive(Debug)]
pub struct Eyes {
    shared: Arc<Shared>,
    account: Arc<Account>,
    /// The rules at the moment.
    pub rules: Arc<Rules>,
    newest_rules: Cache<Arc<ArcSwap<Rules>>, Arc<Rules>>,
    catalog: Follower,
    seen: Laid,
    /// The long texts of the request under way.
    pub studied: Studied,
    /// What the session's settings mean to routing.
    pub options: Options,
    names_are_utf8: bool,
    /// How long its statements and transactions may take, where no rule says.
    pub times: TimeLimits,
    /// Whether anything limits its times.
    pub timed: bool,
    /// The catalog was waited for, and did not come.
    catalog_is_late: bool,
    /// What the view above comes to, and the versions of the catalog and of the learned shapes that
    /// it was reckoned with.
    circumstances: Circumstances,
    versions: (u64, u64),
}

impl Eyes {
    /// Opens them.
    #[must_use]
    pub fn new(shared: Arc<Shared>, account: Arc<Account>, laid: &Laid) -> Self {
        let rules = shared.rules.load_full();
        let times = Shared::times(&rules.settings, &account.user);
        let mut catalog = Follower::default();
        if account.has_been_opened() {
            catalog.look(&shared.catalogs, &account.database);
        }
        let mut eyes = Self {
            circumstances: Circumstances::default(),
            versions: (0, 0),
            timed: false,
            catalog_is_late: false,
            times,
            rules,
            newest_rules: Cache::new(shared.rules.clone()),
            catalog,
            shared,
            account,
            seen: laid.clone(),
            studied: Studied::default(),
            options: Options::of(laid),
            names_are_utf8: true,
        };
        eyes.timed = eyes.is_timed();
        eyes.reckon();
        eyes
    }

    /// Whether these settings are not those that were last looked at.
    #[must_use]
    pub fn miss(&self, laid: &Laid) -> bool {
        !laid.is(&self.seen)
    }

    /// Looks again: at the rules, the catalog, and the session's settings. Whether these have changed.
    pub fn renew(&mut self, laid: &Laid, names_are_utf8: bool) -> bool {
        let mut changed = names_are_utf8 != self.names_are_utf8;
        self.names_are_utf8 = names_are_utf8;
        let rules = self.newest_rules.load();
        if !Arc::ptr_eq(rules, &self.rules) {
            self.times = Shared::times(&rules.settings, &self.account.user);
            self.rules = rules.clone();
            self.timed = self.is_timed();
            changed = true;
        }
        if self.catalog.follows() || self.account.has_been_opened() {
            self.follow();
        }
        let mut set = false;
        if !laid.is(&self.seen) {
            set = *laid != self.seen;
            if set {
                self.options = Options::of(laid);
                self.timed = self.is_timed();
            }
            self.seen = laid.clone();
        }
        changed |= set;
        if changed || self.versions != self.versions_now() {
            self.reckon();
        }
        set
    }

    /// Looks at the catalog of the session's database, which is to be one that exists: a server was opened there.
    pub fn follow(&mut self) {
        self.catalog.look(&self.shared.catalogs, &self.account.database);
    }

    fn is_timed(&self) -> bool {
        self.rules.router.rules().timed
            || self.rules.settings.limits.idle_timeout.is_some()
            || !self.times.is_empty()
            || self.options.limits_silence()
    }

    /// Whether the database's catalog was there when they last looked.
    #[must_use]
    pub fn has_catalog(&self) -> bool {
        self.catalog.catalog().is_some()
    }

    /// Waits until they would see it. Cancel safe.
    pub async fn await_catalog(&self) {
        self.catalog.known().await;
    }

    /// Whether it has been there once, or was waited for in vain.
    #[must_use]
    pub fn has_had_catalog(&self) -> bool {
        self.catalog_is_late || self.catalog.last().is_some()
    }

    /// It was waited for in vain.
    pub fn give_up_catalog(&mut self) {
        self.catalog_is_late = true;
    }

    /// What the session has run may have changed the catalog.
    pub fn doubt_catalog(&mut self) {
        self.catalog.doubt();
    }

    fn versions_now(&self) -> (u64, u64) {
        let catalog = self.catalog.catalog().map_or(0, Catalog::version);
        (catalog, self.rules.router.learned().version())
    }

    fn reckon(&mut self) {
        self.versions = self.versions_now();
        self.circumstances = self.rules.router.circumstances(&self.view());
    }
}

impl Eyes {
    /// How long the script may take, by rule.
    #[must_use]
    pub fn times_of(&self, script: &Script) -> TimeLimits {
        self.rules.router.times(script, &self.view())
    }

    /// The level and the lag of a decision, where no hint and no rule says.
    fn at_level(&self, decision: Decision) -> Decision {
        let level = self.options.consistency.unwrap_or(self.rules.settings.routing.consistency);
        decision.unless_said(level, self.options.max_lag)
    }

    fn view(&self) -> SessionView<'_> {
        SessionView {
            catalog: self.catalog.catalog(),
            database: &self.account.database,
            user: self.options.role.as_deref().unwrap_or(&self.account.user),
            application_name: &self.options.application_name,
            search_path: self.options.search_path.as_deref(),
            route: self.options.route,
            consistency: self.options.consistency,
            max_lag: self.options.max_lag,
            default_isolation_serializable: self.options.serializable,
            names_are_utf8: self.names_are_utf8,
            // A session that has any is pinned, and not asked about.
            temp_names_possible: false,
        }
    }
}

impl Judge for Eyes {
    fn script(&self, text: &[u8], lexis: Lexis) -> Arc<Script> {
        if text.len() > self.rules.settings.limits.statement {
            return Arc::new(Script::unread());
        }
        let studied = self.studied.of(text, lexis);
        studied.unwrap_or_else(|| self.shared.scripts.script(text, lexis))
    }

    fn decide(&self, script: &Arc<Script>) -> Decision {
        self.at_level(self.rules.router.decide_under(self.circumstances, script, &self.view()))
    }

    fn primary(&self, reason: Reason) -> Decision {
        self.at_level(Decision::primary(reason))
    }

    fn is_serializable(&self) -> bool {
        self.options.serializable
    }

    fn custom_settings(&self) -> &[Box<str>] {
        // Of one that is no longer believed as well: who has set none of them loses nothing.
        self.catalog.last().map_or(&[], |catalog| catalog.custom_settings())
    }

    fn knows_catalog(&self) -> bool {
        self.has_catalog()
    }

    fn moves_sequence(&self, script: &Arc<Script>) -> bool {
        self.decide(script).moves
    }
}
