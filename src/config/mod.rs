//! The settings: the TOML file's shape, its checks, and the values that the rest of Causeway sees.
//!
//! Owns parsing, defaults, units and the wording of every complaint about the file. Knows no socket
//! and no clock. What leaves this room is checked: the rest of Causeway never validates a setting.

pub mod settings;

pub use settings::Settings;
