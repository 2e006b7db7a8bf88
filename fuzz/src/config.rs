//! The file: whatever stands in it, it is understood or refused in words, and no secret shows.

use std::path::Path;

use causeway::config::{ConfigError, parse_with};

/// Of a file that names other files nothing is asked: they would be opened.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if text.contains("file") || text.contains("\\u") {
        return;
    }
    let secret = "a secret of the environment";
    match parse_with(text, Path::new("/nowhere"), &|_| Some(secret.to_owned())) {
        Ok(settings) => {
            assert!(!settings.nodes.is_empty() && !settings.proxy.listen.is_empty());
            assert!(!format!("{settings:?}").contains(secret), "a secret shows");
        }
        Err(error @ ConfigError::Invalid { .. }) => {
            assert!(!error.problems().is_empty(), "an error without a problem");
            assert!(!error.to_string().contains(secret), "a secret shows");
        }
        Err(ConfigError::Unreadable { .. }) => unreachable!("no file was read"),
    }
}
