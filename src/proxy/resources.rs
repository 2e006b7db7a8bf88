//! What the operating system gives the process: open files and memory.

use rustix::param::page_size;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Settings;

/// Files that are open whoever connects: listeners, reactors, the monitor's connections, logs.
const OWN_FILES: u64 = 100;

/// What the files that may be open are enough for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Files {
    /// As many as may be open.
    pub allowed: u64,
    /// As many as clients and servers may need at most, by the file.
    pub needed: u64,
}

impl Files {
    /// Whether they may not be enough.
    #[must_use]
    pub fn are_short(self) -> bool {
        self.allowed < self.needed
    }
}

/// Raises the number of files that may be open to as many as the system allows this process, and tells
/// whether that is enough.
#[must_use]
pub fn raise_files(settings: &Settings) -> Files {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // A process may always raise its own limit up to the maximum; if not, it is as it was.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    let allowed = if raised { maximum } else { current };
    Files { allowed: allowed.unwrap_or(u64::MAX), needed: needed(settings) }
}

/// The same without raising it.
#[must_use]
pub fn files(settings: &Settings) -> Files {
    let maximum = getrlimit(Resource::Nofile).maximum;
    Files { allowed: maximum.unwrap_or(u64::MAX), needed: needed(settings) }
}

/// One for each client, one for each that logs in or is told why it may not, and the servers of each user in one database.
fn needed(settings: &Settings) -> u64 {
    let usual = settings.pool.size;
    let sizes = settings.users.iter().map(|user| user.pool_size.unwrap_or(usual));
    let servers = sizes.sum::<usize>().max(usual) * settings.nodes.len();
    let clients = settings.limits.clients + settings.limits.logins;
    let clients = clients + settings.limits.refusals + settings.limits.http_connections;
    u64::try_from(servers + clients).unwrap_or(u64::MAX) + OWN_FILES
}

/// The memory that the process has resident, in bytes; 0 where the system does not tell.
#[must_use]
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * u64::try_from(page_size()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_files_are_known() {
        assert!(resident_bytes() > 1 << 20);
        let text = "cluster.nodes = [\"a\", \"b\"]\nmonitor.user = \"m\"\n\
                    user = [{ name = \"u\", pool_size = 7 }, { name = \"v\" }]\n\
                    pool.size = 5\nlimits = { clients = 1000, logins = 50, refusals = 9, http_connections = 3 }";
        let settings = crate::config::parse(text, std::path::Path::new("/")).unwrap();
        let files = files(&settings);
        assert_eq!(files.needed, 1000 + 50 + 9 + 3 + 2 * (7 + 5) + OWN_FILES);
        assert!(!Files { allowed: files.needed, ..files }.are_short());
        assert!(Files { allowed: files.needed - 1, ..files }.are_short());
    }
}
