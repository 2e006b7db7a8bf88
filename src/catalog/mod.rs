//! What a database knows: function volatility, relation kinds, and what stands behind names.
//!
//! Owns the immutable [`Catalog`] snapshot of each database, its loading from the primary and its
//! refreshing after DDL, and what is known of PostgreSQL's own objects without asking. Decides
//! nothing: it tells of a name whether it is a [`Hazard`] on a replica.

mod assemble;
pub mod builtin;
pub mod hazard;
pub mod node_tree;
pub mod rows;
pub mod search_path;
pub mod snapshot;

pub use hazard::Hazard;
pub use search_path::SearchPath;
pub use snapshot::{Catalog, Verdict};
