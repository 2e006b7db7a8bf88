//! Where a statement goes, and why: pure decisions over the facts of the text (`sql`), of the
//! database (`catalog`) and of the cluster (`cluster`).
//!
//! Owns the closed set of reasons, the rules and hints with their precedence, and the choice of a
//! replica. Opens nothing and waits for nothing.

pub mod balance;
pub mod decide;
pub mod decision;
mod facts;
pub mod learned;
pub mod router;
pub mod rules;
pub mod shadow;
mod unseen;

pub use balance::Balancer;
pub use decide::{Asked, decide, decide_statement};
pub use decision::{Decision, Reason, RuleId, Target};
pub use facts::{Finding, findings, reason_of};
pub use learned::LearnedShapes;
pub use router::{Router, SessionView};
pub use rules::{CompiledRules, SafeFunctions};
pub use shadow::{RuleProblem, rule_problems};
