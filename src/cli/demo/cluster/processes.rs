//! Processes of this machine, as far as a shell and /proc can tell and touch them.

use std::fs;
use std::io;
use std::process::{Command, Stdio};

/// Sends a signal through the shell, which is everywhere (and needs no unsafe code).
///
/// # Errors
/// When there is no shell. Processes that are gone are no error.
pub fn signal(name: &str, pids: &[u32]) -> io::Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", r#"signal=$1; shift; for pid; do kill -s "$signal" "$pid"; done"#, "sh"]);
    command.arg(name).args(pids.iter().map(u32::to_string));
    command.stderr(Stdio::null()).status().map(|_| ())
}

/// The processes whose parent is `pid`, from /proc.
pub(super) fn children_of(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter(|&number: &u32| {
            let stat = fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
            // "pid (name) state ppid ...": the name may hold anything but its last parenthesis.
            let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
            parent.is_some_and(|parent| parent == pid.to_string())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_found() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(children_of(std::process::id()).contains(&child.id()));
        signal("KILL", &[child.id()]).unwrap();
        child.wait().unwrap();
        assert!(!children_of(std::process::id()).contains(&child.id()));
    }
}
