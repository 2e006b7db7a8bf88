//! Deliberate faults, so that the consistency checker can be seen to catch them: `CAUSEWAY_MUTANT`
//! names one in a build with debug assertions. A release build has none.

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Every read is `eventual`.
    Eventual,
    /// The clock shows what was written to the operating system, not what was inserted.
    WriteLsn,
    /// A tick that was sent before the answer counts.
    EarlySample,
    /// What a session must not fall behind is forgotten after a read.
    FloorCleared,
    /// The watermark is asked for by the read itself.
    CheckInRead,
    /// No visibility barrier.
    NoBarrier,
    /// A watermark counts for servers that were opened after it.
    StaleWatermark,
}

#[cfg(debug_assertions)]
static CHOSEN: std::sync::LazyLock<Option<Mutant>> = std::sync::LazyLock::new(|| {
    let name = std::env::var("CAUSEWAY_MUTANT").ok()?;
    let mutant = match name.as_str() {
        "eventual" => Mutant::Eventual,
        "write_lsn" => Mutant::WriteLsn,
        "early_sample" => Mutant::EarlySample,
        "floor_cleared" => Mutant::FloorCleared,
        "check_in_read" => Mutant::CheckInRead,
        "no_barrier" => Mutant::NoBarrier,
        "stale_watermark" => Mutant::StaleWatermark,
        _ => {
            tracing::error!(name, "CAUSEWAY_MUTANT names no fault");
            return None;
        }
    };
    tracing::warn!(?mutant, "this proxy is made to be wrong");
    Some(mutant)
});

/// Whether this fault is wanted.
#[cfg(debug_assertions)]
#[must_use]
pub fn is(mutant: Mutant) -> bool {
    *CHOSEN == Some(mutant)
}

/// Whether this fault is wanted: never.
#[cfg(not(debug_assertions))]
#[must_use]
pub const fn is(_: Mutant) -> bool {
    false
}
