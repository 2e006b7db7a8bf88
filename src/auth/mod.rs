//! Who may enter, and how Causeway proves itself to servers.
//!
//! Owns SCRAM-SHA-256 on both sides, the verifiers derived from the file, and the pretence for users
//! that do not exist. Opens no socket. Invariant: nothing that leaves this room tells an unknown user
//! from a wrong password, neither by its text nor by the work done.

pub mod credentials;
pub mod scram;
pub mod scram_client;
pub mod verifier;

pub use credentials::{Credentials, CredentialsError};
pub use verifier::Verifier;
