//! The demo's table: redrawn in place on a terminal, a line now and then elsewhere.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

use super::witness::Account;

/// One row of the table.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// The node's name for people.
    pub name: String,
    /// Its address, as the proxy's file has it.
    pub address: String,
    /// As the proxy sees it; empty where it has not said.
    pub role: String,
    /// As the proxy sees it.
    pub state: String,
    /// In seconds, as the proxy sees it.
    pub lag: Option<f64>,
    /// In bytes, as the proxy sees it.
    pub lag_bytes: Option<f64>,
    /// Served, by the node's own account.
    pub account: Account,
    /// Reads a second since the last row.
    pub rate: f64,
}

/// What stands under the table.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Reads answered to clients.
    pub reads: u64,
    /// Writes answered to clients.
    pub writes: u64,
    /// Statements that failed.
    pub failed: u64,
}

/// Where the demo is shown.
#[derive(Debug)]
pub struct Screen {
    live: bool,
    begun: Instant,
    /// Lines of the last drawing, to be drawn over.
    drawn: usize,
    events: Vec<String>,
    last_line: Option<Instant>,
}

/// Events that stay visible under a live table.
const EVENTS: usize = 8;
/// Between two lines where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

impl Screen {
    /// Standard output.
    #[must_use]
    pub fn new() -> Self {
        let live = std::io::stdout().is_terminal();
        Self { live, begun: Instant::now(), drawn: 0, events: Vec::new(), last_line: None }
    }

    /// Something happened; `what` is one line.
    pub fn event(&mut self, what: &str) {
        let line = format!("{:>7.1} s  {what}", self.begun.elapsed().as_secs_f64());
        if self.live {
            self.events.push(line);
        } else {
            print(&format!("{line}\n"));
        }
    }

    /// Draws the table, or on something that is no terminal a line every few seconds.
    pub fn show(&mut self, rows: &[Row], totals: Totals) {
        if self.live {
            let text = self.table(rows, totals);
            let lines = text.lines().count();
            // Up to where the last one began, each line written over and cleared to its end.
            let up = if self.drawn > 0 { format!("\x1b[{}A", self.drawn) } else { String::new() };
            print(&format!("{up}{}\x1b[J", text.replace('\n', "\x1b[K\n")));
            self.drawn = lines;
        } else if self.last_line.is_none_or(|last| last.elapsed() >= LINE_INTERVAL) {
            self.last_line = Some(Instant::now());
            let mut line = format!("{:>7.1} s ", self.begun.elapsed().as_secs_f64());
            for row in rows {
                let _ = write!(
                    line,
                    " {} {} {}, {} reads, {} writes;",
                    row.name,
                    row.state,
                    lag(row),
                    row.account.reads,
                    row.account.writes
                );
            }
            print(&format!("{line} {} failed\n", totals.failed));
        }
    }

    fn table(&self, rows: &[Row], totals: Totals) -> String {
        let mut text = format!(
            "\n  {:<10} {:<21} {:<8} {:<8} {:>16} {:>9} {:>7} {:>9}\n",
            "node", "address", "role", "state", "lag", "reads", "/s", "writes"
        );
        for row in rows {
            let colour = match row.state.as_str() {
                "up" => "\x1b[32m",
                "ejected" => "\x1b[33m",
                _ => "\x1b[31m",
            };
            let _ = writeln!(
                text,
                "  {:<10} {:<21} {:<8} {colour}{:<8}\x1b[0m {:>16} {:>9} {:>7.0} {:>9}",
                row.name,
                row.address,
                row.role,
                row.state,
                lag(row),
                row.account.reads,
                row.rate,
                row.account.writes
            );
        }
        let _ = writeln!(
            text,
            "\n  clients: {} reads, {} writes, {} failed; {:.0} s; Ctrl-C ends it\n",
            totals.reads,
            totals.writes,
            totals.failed,
            self.begun.elapsed().as_secs_f64()
        );
        for event in self.events.iter().skip(self.events.len().saturating_sub(EVENTS)) {
            let _ = writeln!(text, "{event}");
        }
        text
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// A closed pipe is no reason to fail: the demo's end, and its exit code, still count.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

fn lag(row: &Row) -> String {
    if row.role == "primary" {
        return "-".into();
    }
    match (row.lag, row.lag_bytes) {
        (Some(seconds), Some(bytes)) => format!("{seconds:.1} s {}", size(bytes)),
        (Some(seconds), None) => format!("{seconds:.1} s"),
        _ => "?".into(),
    }
}

fn size(bytes: f64) -> String {
    match bytes {
        kilo if kilo < 1024.0 => format!("{bytes:.0} B"),
        mega if mega < 1024.0 * 1024.0 => format!("{:.0} kB", bytes / 1024.0),
        _ => format!("{:.1} MB", bytes / 1024.0 / 1024.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_of_a_primary_and_of_an_unknown_node_is_no_number() {
        let row = |role: &str, lag| Row { role: role.into(), lag, ..Row::default() };
        assert_eq!(lag(&row("primary", Some(0.0))), "-");
        assert_eq!(lag(&row("replica", None)), "?");
        assert_eq!(lag(&row("replica", Some(1.25))), "1.2 s");
        assert_eq!(
            lag(&Row { lag_bytes: Some(2_621_440.0), ..row("replica", Some(3.0)) }),
            "3.0 s 2.5 MB"
        );
    }
}
