//! One client's session: a machine that decides and a driver that does.
//!
//! Pure: [`machine`], [`phase`], [`step`], [`asks`], [`fields`], [`pipeline`], [`compose`], [`bind`], [`settings`], [`statements`],
//! [`pins`], [`options`], [`sight`]. With sockets: [`driver`], [`attempt`], [`recovery`], [`relocation`], [`signal`], [`deadlines`], [`disturb`],
//! [`acquire`], [`fresh`], [`keep_up`], [`relay`], [`audit`], [`greet`], [`registry`]; on another thread: [`study`].

pub mod acquire;
mod asks;
mod attempt;
pub mod audit;
mod barrier;
mod bind;
mod books;
pub mod compose;
pub mod deadlines;
mod disturb;
pub mod driver;
pub mod eyes;
pub mod failure;
mod fields;
mod fresh;
pub mod greet;
pub mod judge;
mod keep_up;
pub mod keys;
mod lend;
mod lost;
pub mod machine;
pub mod metrics;
pub mod options;
mod outlook;
mod phase;
pub mod pins;
mod pipeline;
mod positions;
pub mod post;
mod recovery;
pub mod registry;
pub mod relay;
mod relocation;
mod sequences;
pub mod settings;
pub mod shared;
pub mod sight;
mod signal;
pub mod statements;
pub mod step;
pub mod study;
mod texts;
mod unread;

pub use disturb::Vain;
pub use driver::Session;
pub use shared::{Rules, Shared};
