//! What a text does, judged by the text alone.
//!
//! Owns the token scanner, the classification, the bounded look through `sqlparser`, and the shape
//! that statements differing only in literals share. Knows nothing of a database or a session: what
//! a name means is for `catalog`, where a statement goes for `routing`.
//!
//! A query string goes through four steps: [`scan`] finds its tokens, [`shape`] turns them into a
//! normal form without literals (the key of the [`cache`]), and on a miss [`classify`] and `names`
//! read the facts from the normal form and [`walk`] lets `sqlparser` speak against them.

mod analyze;
mod borders;
mod cache;
mod classify;
mod hint;
mod names;
mod recent;
pub mod scan;
mod setting;
pub mod shape;
pub mod statement;
pub mod subject;
mod tokens;
mod transaction;
mod verb;
mod walk;
mod words;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tables;

pub use analyze::analyze;
pub use borders::split;
pub use cache::ScriptCache;
pub use scan::{encoding_is_ascii_safe, highest_parameter};
pub use setting::{SetStatement, SetValue, is_transaction_mode, set_value};
pub use statement::{Lexis, Script, Statement};
