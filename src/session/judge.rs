//! What the machine asks about texts: their facts, and where they go.

use std::sync::Arc;

use crate::routing::{Decision, Reason};
use crate::sql::Script;
use crate::sql::statement::Lexis;

/// Gives the facts of texts and decides on them, for one session at one moment.
pub trait Judge {
    /// The facts of a text.
    fn script(&self, text: &[u8], lexis: Lexis) -> Arc<Script>;

    /// Where a text with these facts goes, taken alone and outside of a transaction, and at which level.
    fn decide(&self, script: &Arc<Script>) -> Decision;

    /// The primary, for this reason, at the level of a text that says nothing of it.
    fn primary(&self, reason: Reason) -> Decision {
        Decision::primary(reason)
    }

    /// Whether transactions are SERIALIZABLE unless they say otherwise, as far as the session has said so.
    fn is_serializable(&self) -> bool {
        false
    }

    /// Whether the database's catalog is known, so that what a text may do is more than a guess.
    fn knows_catalog(&self) -> bool {
        true
    }

    /// Whether a text with these facts may move a sequence, so that currval and lastval change.
    fn moves_sequence(&self, script: &Arc<Script>) -> bool;

    /// Custom settings that the sources of the database's functions name.
    fn custom_settings(&self) -> &[Box<str>] {
        &[]
    }
}
