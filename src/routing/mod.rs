//! Where a statement goes, and why: pure decisions over the facts of the text (`sql`), of the
//! database (`catalog`) and of the cluster (`cluster`).
//!
//! Owns the closed set of reasons, the rules and hints with their precedence, and the choice of a
//! replica. Opens nothing and waits for nothing.

pub mod decision;

pub use decision::{Decision, Target};
