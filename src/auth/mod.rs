//! Who may enter, and how Causeway proves itself to servers.
//!
//! Owns the rules of access, SCRAM-SHA-256 on both sides, md5, the verifiers derived from the file, and
//! the pretence for users that do not exist. Opens no socket. Invariant: nothing that leaves this room tells an unknown user
//! from a wrong password, neither by its text nor by the work done.

pub mod access;
pub mod credentials;
pub mod md5;
pub mod role;
pub mod scram;
pub mod scram_client;
pub mod secret;
pub mod throttle;
pub mod turns;
pub mod verifier;

pub use access::{Refusal, Visitor, admit};
pub use credentials::{Credentials, CredentialsError};
pub use role::{Kept, Role};
pub use secret::{ScramKeys, ServerSecret};
pub use throttle::Throttle;
pub use verifier::Verifier;
