//! Logs to standard error, as text for people or JSON for collectors.
//!
//! Owns that a record is one line: what a client or a server has put into a name or a message can neither begin
//! another nor command a terminal.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write, stderr};

use tracing_subscriber::EnvFilter;

use crate::config::settings::LogFormat;

/// What is logged without `RUST_LOG`. The probes' pool warns of what the monitor tells better.
const DEFAULT: &str = "info,deadpool.postgres=error";

/// Sends the process's log records to standard error. `RUST_LOG` sets the level, [`DEFAULT`] without it.
/// Does nothing if that was done before.
pub fn init(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal());
    // The only error is that another subscriber is in place, which then stays.
    let _ = match format {
        LogFormat::Text => {
            let colours = stderr().is_terminal();
            let lines = move || OneLine { to: stderr(), colours };
            builder.with_target(false).with_writer(lines).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// Writes each record on one line.
struct OneLine<W> {
    to: W,
    /// Escape characters are the formatter's own: it lets nobody else's through.
    colours: bool,
}

impl<W: Write> Write for OneLine<W> {
    /// The formatter gives a record in one piece.
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(record);
        let line = text.strip_suffix('\n').unwrap_or(&text);
        if !line.chars().any(|one| is_command(one, self.colours)) {
            self.to.write_all(record)?;
            return Ok(record.len());
        }
        let mut escaped = String::with_capacity(record.len() + 64);
        for one in line.chars() {
            if is_command(one, self.colours) {
                // Writing to a string does not fail.
                let _ = write!(escaped, "{}", one.escape_default());
            } else {
                escaped.push(one);
            }
        }
        escaped.push('\n');
        self.to.write_all(escaped.as_bytes())?;
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Whether a character does something instead of being one: controls, line ends, and changes of direction.
fn is_command(one: char, colours: bool) -> bool {
    match one {
        '\u{1b}' => !colours,
        '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        one => one.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(record: &str, colours: bool) -> String {
        let mut to = Vec::new();
        let mut lines = OneLine { to: &mut to, colours };
        lines.write_all(record.as_bytes()).unwrap();
        lines.flush().unwrap();
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn a_record_is_one_line_whatever_stands_in_it() {
        for (record, expected) in [
            ("INFO all is well peer=1.2.3.4\n", "INFO all is well peer=1.2.3.4\n"),
            ("INFO na\u{ef}ve \u{65e5}\u{672c}\n", "INFO na\u{ef}ve \u{65e5}\u{672c}\n"),
            (
                "INFO database=x\n2026 INFO client let in\n",
                "INFO database=x\\n2026 INFO client let in\n",
            ),
            ("WARN a\rb\tc\0d\u{85}e\n", "WARN a\\rb\\tc\\u{0}d\\u{85}e\n"),
            ("WARN \u{202e}drawkcab\u{2028}\n", "WARN \\u{202e}drawkcab\\u{2028}\n"),
            ("WARN \u{1b}[2Jgone\n", "WARN \\u{1b}[2Jgone\n"),
            ("\n", "\n"),
        ] {
            assert_eq!(written(record, false), expected);
        }
        assert_eq!(
            written("\u{1b}[32mINFO\u{1b}[0m x\ny\n", true),
            "\u{1b}[32mINFO\u{1b}[0m x\\ny\n"
        );
    }

    /// What a field displays comes through the formatter to the same place.
    #[test]
    fn a_field_cannot_begin_a_record() {
        use std::sync::{Arc, Mutex};

        #[derive(Clone, Default)]
        struct Kept(Arc<Mutex<Vec<u8>>>);
        impl Write for Kept {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let kept = Kept::default();
        let to = kept.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || OneLine { to: to.clone(), colours: false })
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let forged = "x\n2026-01-01T00:00:00Z  INFO client logged in user=\"postgres\"";
            tracing::info!(database = %forged, user = forged, "login refused");
            tracing::info!("login of {forged} refused");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}
