//! The certificates and keys that the file names: can they be used, and for how long.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::advice::Finding;
use crate::config::settings::{Method, NodeTlsMode, Settings, TlsMode};
use crate::tls::{self, Acceptor, Connector};

/// A certificate that ends sooner is told of.
const SOON: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// A revocation list that ends sooner is told of; they are renewed more often.
const LIST_SOON: Duration = Duration::from_secs(2 * DAY);
const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

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
    for (key, path) in
        [("tls.client_crl", &settings.tls.client_crl), ("node_tls.crl", &settings.node_tls.crl)]
    {
        if let Some(path) = path {
            findings.extend(list_ending(key, path, SystemTime::now()));
        }
    }
    for (key, path) in [("tls.key", &settings.tls.key), ("node_tls.key", &settings.node_tls.key)] {
        if let Some(path) = path {
            findings.extend(open_to_all(key, path));
        }
    }
    findings.extend(never_proved(settings));
    connector
}

/// A rule that asks for a certificate which nobody could show.
fn never_proved(settings: &Settings) -> Option<Finding> {
    let asks = settings.access.iter().any(|rule| rule.method == Method::Cert);
    let takes = settings.tls.mode != TlsMode::Disable && settings.tls.client_root.is_some();
    (asks && !takes).then(|| {
        Finding::wrong(
            "an [[access]] rule asks for a client certificate, and none would be believed; give \
             [tls] a mode and a client_root"
                .to_owned(),
        )
    })
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

/// A list that is over, or soon will be: then no certificate of its authority's is believed.
fn list_ending(key: &str, path: &Path, now: SystemTime) -> Option<Finding> {
    let until = tls::revocation::valid_until(path)?;
    match until.duration_since(now) {
        Err(past) => Some(Finding::wrong(format!(
            "{key}: a list in {} was to be replaced {} days ago, and whom its authority has signed is \
             refused; get the new one, then reload",
            path.display(),
            past.duration().as_secs() / DAY
        ))),
        Ok(left) if left < LIST_SOON => Some(Finding::note(format!(
            "{key}: a list in {} ends in {} hours, and then whom its authority has signed is refused; get \
             the new one, then reload",
            path.display(),
            left.as_secs() / HOUR
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn certificates_that_end_are_told_of() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("crt");
        let mut parameters = rcgen::CertificateParams::default();
        parameters.not_after = rcgen::date_time_ymd(2030, 1, 15);
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(&path, parameters.self_signed(&key).unwrap().pem()).unwrap();
        let at = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * DAY);
        // 2030-01-15 is day 21,929.
        for (day, said) in [
            (21_914, None),
            (21_916, Some("expires in 13 days")),
            (21_928, Some("expires in 1 days")),
            (21_932, Some("expired 3 days ago")),
        ] {
            let found = ending("tls.certificate", &path, at(day)).map(|found| found.to_string());
            match (&found, said) {
                (None, None) => {}
                (Some(found), Some(part)) if found.contains(part) => {}
                _ => panic!("on day {day}: {found:?}"),
            }
        }
        assert_eq!(ending("tls.certificate", Path::new("/nonexistent"), at(0)), None);
    }

    #[test]
    fn what_cannot_work_is_told() {
        let file = "cluster.nodes = [\"a:1\"]\nmonitor = { user = \"m\" }\n\
                    user = [{ name = \"u\", password = \"p\" }]\n\
                    access = [{ from = \"all\", tls = true, method = \"cert\" }]\n\
                    tls = { mode = \"allow\", certificate = \"c\", key = \"k\" }\n\
                    node_tls = { mode = \"verify-ca\", root = \"r\" }";
        let settings = config::parse(file, Path::new("/nonexistent")).unwrap();
        let mut findings = Vec::new();
        assert!(load(&settings, &mut findings).is_none());
        let said: Vec<_> = findings.iter().map(ToString::to_string).collect();
        for (found, wanted) in said.iter().zip([
            "tls.certificate: cannot read /nonexistent/c",
            "node_tls.root: cannot read /nonexistent/r",
            "asks for a client certificate, and none would be believed",
        ]) {
            assert!(found.contains(wanted), "{found}");
        }
        assert_eq!(said.len(), 3, "{said:?}");
    }
}
