//! Certificates made for a test: an authority, and what it signs.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// An authority with a directory into which it writes.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
    /// Its own certificate.
    pub root: PathBuf,
}

/// A certificate and its key, in files.
#[derive(Clone)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

fn named(common_name: &str, alternative_names: &[&str]) -> CertificateParams {
    let names: Vec<String> = alternative_names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = CertificateParams::new(names).unwrap();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters
}

impl Authority {
    /// A new one of this name, whose files are in `directory`.
    pub fn new(directory: &Path, name: &str) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let mut parameters = named(name, &[]);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        let root = directory.join(format!("{name}.crt"));
        std::fs::write(&root, certificate.pem()).unwrap();
        let issuer = Issuer::new(parameters, key);
        Self { issuer, directory: directory.to_owned(), root }
    }

    /// A certificate with this common name for these names, good for decades.
    pub fn sign(&self, file: &str, common_name: &str, names: &[&str]) -> Identity {
        self.write(file, &named(common_name, names))
    }

    /// One that has expired.
    pub fn sign_expired(&self, file: &str, common_name: &str, names: &[&str]) -> Identity {
        let mut parameters = named(common_name, names);
        parameters.not_before = date_time_ymd(2001, 1, 1);
        parameters.not_after = date_time_ymd(2002, 1, 1);
        self.write(file, &parameters)
    }

    fn write(&self, file: &str, parameters: &CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        let identity = Identity {
            certificate: self.directory.join(format!("{file}.crt")),
            key: self.directory.join(format!("{file}.key")),
        };
        std::fs::write(&identity.certificate, certificate.pem()).unwrap();
        write_key(&identity.key, &key.serialize_pem());
        identity
    }
}

/// libpq takes no key that others may read.
fn write_key(path: &Path, pem: &str) {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    std::io::Write::write_all(&mut file.unwrap(), pem.as_bytes()).unwrap();
}
