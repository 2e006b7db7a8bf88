//! What a text does, judged by the text alone.
//!
//! Owns the token scanner, the classification, the bounded look through `sqlparser`, and the shape
//! that statements differing only in literals share. Knows nothing of a database or a session: what
//! a name means is for `catalog`, where a statement goes for `routing`.

pub mod statement;

pub use statement::{Script, Statement};
