//! What a database knows: function volatility, relation kinds, and what stands behind names.
//!
//! Owns the immutable [`Catalog`] snapshot of each database, its loading from the primary and its
//! refreshing after DDL, the look-up of [`Roles`] that the file does not have, and what is known of PostgreSQL's own objects without asking. Decides
//! nothing: it tells of a name whether it is a [`Hazard`] on a replica.

mod answers;
mod assemble;
pub mod body;
pub mod builtin;
mod custom;
pub mod hazard;
mod lasting;
mod load;
mod lookups;
pub mod node_tree;
pub mod registry;
pub mod roles;
pub mod rows;
pub mod search_path;
pub mod snapshot;
pub mod source;

pub use hazard::Hazard;
pub use registry::{Catalogs, Follower};
pub use roles::{LookUpError, Roles};
pub use search_path::SearchPath;
pub use snapshot::{Catalog, Verdict};
pub use source::{LoadError, Source};
