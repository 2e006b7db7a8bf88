//! Lists of certificates that their authorities have taken back (RFC 5280 section 5), as files name them.
//!
//! Owns the order in which they are asked, and what an operator hears of a file that cannot be used. Whether
//! a certificate stands in one is rustls's to say. As with PostgreSQL's `ssl_crl_file`, every certificate of
//! a chain must be vouched for: by a list of its issuer's whose time is not over.

use std::cmp::Reverse;
use std::path::Path;
use std::time::SystemTime;

use rustls::client::VerifierBuilderError;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::{self, PemObject};

use super::certificate::{Reader, SEQUENCE};
use super::{TlsError, read};

const INTEGER: u8 = 0x02;

/// The lists in a file, at least one, the newest first: rustls asks the first that is of the issuer's,
/// and a file may have a renewed list behind the one that it replaces.
pub(super) fn lists(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let wanted = "certificate revocation list";
    let not_pem = || TlsError::NotPem { key, path: path.to_owned(), wanted };
    let text = read(key, path)?;
    let mut found = CertificateRevocationListDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, pem::Error>>()
        .map_err(|_| not_pem())?;
    if found.is_empty() {
        return Err(not_pem());
    }
    if found.iter().filter_map(|list| Outline::parse(list)).any(|outline| !outline.has_version) {
        return Err(TlsError::OldRevocationList { key, path: path.to_owned() });
    }
    found.sort_by_key(|list| Reverse(Outline::parse(list).map(|outline| outline.this_update)));
    Ok(found)
}

/// What it means that no verifier can be built with the lists in this file.
pub(super) fn unusable(key: &'static str, path: &Path, reason: VerifierBuilderError) -> TlsError {
    TlsError::RevocationList { key, path: path.to_owned(), reason: Box::new(reason) }
}

/// Until when all the lists in a file hold, if they can be read: from then on nobody is believed whose
/// authority's list is over.
#[must_use]
pub fn valid_until(path: &Path) -> Option<SystemTime> {
    let lists = lists("", path).ok()?;
    lists.iter().filter_map(|list| Outline::parse(list)?.next_update).min()
}

/// For when a list speaks, and in which form.
struct Outline {
    /// The first version has no number.
    has_version: bool,
    this_update: SystemTime,
    /// When there will be another, at the latest.
    next_update: Option<SystemTime>,
}

impl Outline {
    fn parse(der: &[u8]) -> Option<Self> {
        let mut inner = Reader(Reader(Reader(der).take(SEQUENCE)?).take(SEQUENCE)?);
        let has_version = inner.peek()? == INTEGER;
        if has_version {
            inner.next()?;
        }
        // How it is signed, and by whom.
        inner.take(SEQUENCE)?;
        inner.take(SEQUENCE)?;
        Some(Self { has_version, this_update: inner.time()?, next_update: inner.time() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
        KeyIdMethod, KeyPair, KeyUsagePurpose, SerialNumber, date_time_ymd,
    };

    use super::*;

    fn list(number: u64, months: (u8, u8)) -> String {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::CrlSign];
        let issuer = Issuer::new(parameters, KeyPair::generate().unwrap());
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2030, months.0, 1),
            next_update: date_time_ymd(2030, months.1, 1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&issuer).unwrap().pem().unwrap()
    }

    #[test]
    fn the_newest_is_asked_first_and_the_first_to_end_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("crl");
        let file = [list(1, (1, 5)), list(2, (3, 4)), list(3, (2, 6))].concat();
        std::fs::write(&path, file).unwrap();
        // 2030-01-01 is day 21,915.
        let day = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
        let found = lists("tls.client_crl", &path).unwrap();
        let times: Vec<_> =
            found.iter().map(|list| Outline::parse(list).unwrap().this_update).collect();
        assert_eq!(times, [day(21_915 + 59), day(21_915 + 31), day(21_915)]);
        assert_eq!(valid_until(&path), Some(day(21_915 + 90)));
    }

    #[test]
    fn a_file_without_a_list_is_told_of() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("crl");
        for text in ["", "-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----\n"] {
            std::fs::write(&path, text).unwrap();
            let error = lists("tls.client_crl", &path).unwrap_err().to_string();
            assert!(error.starts_with("tls.client_crl: "), "{error}");
            assert!(error.ends_with("has no certificate revocation list in PEM form"), "{error}");
        }
    }

    /// No cut and no bent byte makes it panic.
    #[test]
    fn what_is_no_list() {
        let pem = list(1, (1, 2));
        let whole = CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).unwrap();
        for end in 0..whole.len() {
            assert!(Outline::parse(&whole[..end]).is_none(), "cut at {end}");
        }
        for at in 0..whole.len() {
            for byte in [0, 0x7F, 0x80, 0x84, 0xFF] {
                let mut bent = whole.to_vec();
                bent[at] = byte;
                let _ = Outline::parse(&bent);
            }
        }
    }
}
