//! The settings: the TOML file's shape, its checks, and the values that the rest of Causeway sees.
//!
//! Owns parsing, defaults, units and the wording of every complaint about the file. Knows no socket
//! and no clock. What leaves this room is checked: the rest of Causeway never validates a setting.
//!
//! A file is read in three steps, and the problems of all three are told together:
//! [`shape`] finds keys that do not exist, [`file`] reads each value into the type its key wants, and
//! [`resolve`] fills in defaults, fetches passwords and holds the values against each other.

mod access;
mod address;
pub mod error;
pub mod file;
pub mod network;
mod password;
mod reader;
pub mod resolve;
mod routing;
pub mod settings;
pub mod shape;
mod tls;
pub mod value;

use std::path::Path;

pub use error::{Complaint, ConfigError, Problem};
pub use settings::Settings;

/// Reads and checks the file at `path`. Relative paths in it are meant from its own directory.
///
/// # Errors
/// When the file cannot be read, is not TOML, or says something that Causeway cannot do. All the
/// problems of a file are in one error, and its text is meant for the operator.
pub fn load(path: &Path) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|reason| ConfigError::Unreadable { path: path.to_owned(), reason })?;
    let base = path.parent().unwrap_or(Path::new("."));
    parse(&text, base).map_err(|error| error.in_file(path))
}

/// Checks `text`; relative paths in it are meant from `base_dir`.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, base_dir: &Path) -> Result<Settings, ConfigError> {
    parse_with(text, base_dir, &|name| std::env::var(name).ok())
}

/// As [`parse`], with the environment as an argument.
///
/// # Errors
/// As [`load`].
pub fn parse_with(
    text: &str,
    base_dir: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, ConfigError> {
    let mut problems = shape::unknown_keys(text)?;
    let file = match toml::from_str::<file::File>(text) {
        Ok(file) => file,
        // Something other than a table where a section belongs: `shape` has said so already.
        Err(_) if !problems.is_empty() => return Err(ConfigError::invalid(problems)),
        Err(error) => return Err(ConfigError::syntax(text, &error)),
    };
    let resolved = resolve::resolve(text, base_dir, environment, file, &mut problems);
    match resolved {
        Some(settings) if problems.is_empty() => Ok(settings),
        _ => Err(ConfigError::invalid(problems)),
    }
}

#[cfg(test)]
mod tests;
