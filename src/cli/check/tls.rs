//! The certificates and keys that the file names: can they be used, and for how long.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::advice::Finding;
use crate::config::settings::{NodeTlsMode, Settings, TlsMode};
use crate::tls::{self, Acceptor, Connector};

/// A certificate that ends sooner is told of.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);
const DAY: u64 = 24 * 60 * 60;

/// What is asked of clients and of nodes, in the file's words.
pub fn summary(settings: &Settings) -> String {
    let clients = match settings.tls.mode {
        TlsMode::Disable => "disable",
        TlsMode::Allow => "allow",
        TlsMode::Require => "require",
        TlsMode::VerifyFull => "verify-full",
    };
    let nodes = match settings.node_tls.mode {
        NodeTlsMode::Disable => "disable",
        NodeTlsMode::Prefer => "prefer",
        NodeTlsMode::Require => "require",
        NodeTlsMode::VerifyCa => "verify-ca",
        NodeTlsMode::VerifyFull => "verify-full",
    };
    format!("to clients: {clients}; to nodes: {nodes}")
}

/// Loads what a start or a reload would. `None` if nodes cannot be spoken to.
pub fn load(settings: &Settings, findings: &mut Vec<Finding>) -> Option<Connector> {
    if let Err(error) = Acceptor::load(&settings.tls) {
        findings.push(Finding::wrong(error.to_string()));
    }
    let connector = match Connector::load(&settings.node_tls) {
        Ok(connector) => Some(connector),
        Err(error) => {
            findings.push(Finding::wrong(error.to_string()));
            None
        }
    };
    for (key, path) in [
        ("tls.certificate", &settings.tls.certificate),
        ("tls.client_root", &settings.tls.client_root),
        ("node_tls.certificate", &settings.node_tls.certificate),
        ("node_tls.root", &settings.node_tls.root),
    ] {
        if let Some(path) = path {
            findings.extend(ending(key, path, SystemTime::now()));
        }
    }
    for (key, path) in [("tls.key", &settings.tls.key), ("node_tls.key", &settings.node_tls.key)] {
        if let Some(path) = path {
            findings.extend(open_to_all(key, path));
        }
    }
    connector
}

fn ending(key: &str, path: &Path, now: SystemTime) -> Option<Finding> {
    let until = tls::valid_until(path)?;
    match until.duration_since(now) {
        Err(past) => Some(Finding::wrong(format!(
            "{key}: the certificate in {} expired {} days ago; renew it, then reload",
            path.display(),
            past.duration().as_secs() / DAY
        ))),
        Ok(left) if left < SOON => Some(Finding::note(format!(
            "{key}: the certificate in {} expires in {} days; renew it, then reload",
            path.display(),
            left.as_secs() / DAY
        ))),
        Ok(_) => None,
    }
}

fn open_to_all(key: &str, path: &Path) -> Option<Finding> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o004 != 0).then(|| {
        Finding::note(format!(
            "{key}: everybody on this machine may read {0}: chmod o-r {0}",
            path.display()
        ))
    })
}
