//! Deliberate faults, so that the consistency checker can be seen to catch them: `CAUSEWAY_MUTANT`
//! names one in a build with debug assertions. A release build has none.
//!
//! In this crate's own tests a thread can be made wrong for a while (`among_tests`).

/// One variant a fault, with its name in `CAUSEWAY_MUTANT`.
macro_rules! mutants {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A fault.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[$doc])* $variant,)*
        }

        impl Mutant {
            /// Every fault.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name in `CAUSEWAY_MUTANT`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

mutants! {
    /// Every read is `eventual`.
    Eventual = "eventual",
    /// The clock shows what was written to the operating system, not what was inserted:
    /// `pg_current_wal_lsn()` for `pg_current_wal_insert_lsn()`.
    WriteLsn = "write_lsn",
    /// A tick that was sent before the answer counts.
    EarlySample = "early_sample",
    /// What a session must not fall behind is forgotten after a read.
    FloorCleared = "floor_cleared",
    /// A replica is waited for in the read's own transaction, whose snapshot is older than the wait.
    CheckInRead = "check_in_read",
    /// No visibility barrier: the primary serves who has read on a replica at once.
    NoBarrier = "no_barrier",
    /// What a replica had replayed counts for servers that were opened after it was started again.
    StaleWatermark = "stale_watermark",
}

#[cfg(debug_assertions)]
static CHOSEN: std::sync::LazyLock<Option<Mutant>> = std::sync::LazyLock::new(|| {
    let name = std::env::var("CAUSEWAY_MUTANT").ok()?;
    let Some(mutant) = Mutant::ALL.iter().copied().find(|mutant| mutant.name() == name) else {
        tracing::error!(name, "CAUSEWAY_MUTANT names no fault");
        return None;
    };
    tracing::warn!(?mutant, "this proxy is made to be wrong");
    Some(mutant)
});

/// Whether this fault is wanted.
#[cfg(debug_assertions)]
#[must_use]
pub fn is(mutant: Mutant) -> bool {
    #[cfg(test)]
    if let Some(chosen) = among_tests::CHOSEN.get() {
        return chosen == mutant;
    }
    *CHOSEN == Some(mutant)
}

/// Whether this fault is wanted: never.
#[cfg(not(debug_assertions))]
#[must_use]
pub const fn is(_: Mutant) -> bool {
    false
}

/// Faults of one thread.
#[cfg(all(test, debug_assertions))]
pub(crate) mod among_tests {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        pub(super) static CHOSEN: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Runs `what` with this fault.
    pub(crate) fn with<T>(mutant: Mutant, what: impl FnOnce() -> T) -> T {
        CHOSEN.set(Some(mutant));
        let result = what();
        CHOSEN.set(None);
        result
    }
}
