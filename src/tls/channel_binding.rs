//! `tls-server-end-point`: what binds a SCRAM exchange to the certificate of the TLS connection that
//! carries it.
//!
//! Source: RFC 5929 section 4.1, and PostgreSQL's `be_tls_get_certificate_hash`: the certificate is hashed
//! by the hash of its signature's algorithm, MD5 and SHA-1 replaced by SHA-256. Where the algorithm
//! names no hash (Ed25519) there is no binding, and none is offered.

use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::certificate::{Certificate, Reader};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// PKCS #1: 1.2.840.113549.1.1.
const PKCS_1: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];
/// ANSI X9.62 signatures: 1.2.840.10045.4.
const ECDSA: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04];
/// NIST's hashes: 2.16.840.1.101.3.4.2.
const NIST_HASHES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];

/// The binding to a server's certificate in DER, if its signature's algorithm has a hash.
#[must_use]
pub fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    Some(match hash_of(&Certificate::parse(certificate)?)? {
        Hash::Sha224 => Sha224::digest(certificate).to_vec(),
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

fn hash_of(certificate: &Certificate<'_>) -> Option<Hash> {
    let algorithm = certificate.signature_algorithm;
    if let Some(kind) = algorithm.strip_prefix(PKCS_1) {
        return match kind {
            // md5WithRSAEncryption, sha1WithRSAEncryption, sha256WithRSAEncryption.
            [4 | 5 | 11] => Some(Hash::Sha256),
            [12] => Some(Hash::Sha384),
            [13] => Some(Hash::Sha512),
            [14] => Some(Hash::Sha224),
            [10] => pss_hash(certificate.signature_parameters),
            _ => None,
        };
    }
    match algorithm.strip_prefix(ECDSA)? {
        // ecdsa-with-SHA1, ecdsa-with-SHA256.
        [1] | [3, 2] => Some(Hash::Sha256),
        [3, 1] => Some(Hash::Sha224),
        [3, 3] => Some(Hash::Sha384),
        [3, 4] => Some(Hash::Sha512),
        _ => None,
    }
}

/// The hash in RSASSA-PSS-params (RFC 4055 section 3.1); SHA-1 where it is left out.
fn pss_hash(parameters: &[u8]) -> Option<Hash> {
    let mut inner = Reader(Reader(parameters).take(0x30)?);
    let Some(algorithm) = inner.take(0xA0) else { return Some(Hash::Sha256) };
    let hash = Reader(Reader(algorithm).take(0x30)?).take(0x06)?;
    match hash.strip_prefix(NIST_HASHES) {
        // What is none of NIST's is SHA-1 or MD5.
        Some([1]) | None => Some(Hash::Sha256),
        Some([2]) => Some(Hash::Sha384),
        Some([3]) => Some(Hash::Sha512),
        Some([4]) => Some(Hash::Sha224),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate<'a>(
        algorithm: &'a [u8],
        parameters: &'a [u8],
        der: &'a [u8],
    ) -> Certificate<'a> {
        let mut certificate = Certificate::parse(der).unwrap();
        certificate.signature_algorithm = algorithm;
        certificate.signature_parameters = parameters;
        certificate
    }

    #[test]
    fn the_hash_is_the_signatures() {
        let key = rcgen::KeyPair::generate().unwrap();
        let der = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let rsa = |kind: u8| [PKCS_1, &[kind]].concat();
        let pss = |hash: &[u8]| {
            let oid = [&[0x06, u8::try_from(hash.len()).unwrap()], hash].concat();
            let wrap = |tag: u8, body: Vec<u8>| {
                [&[tag, u8::try_from(body.len()).unwrap()], &body[..]].concat()
            };
            wrap(0x30, wrap(0xA0, wrap(0x30, oid)))
        };
        let sha = |kind: u8| [NIST_HASHES, &[kind]].concat();
        for (algorithm, parameters, hash) in [
            (rsa(4), vec![], Some(Hash::Sha256)),
            (rsa(5), vec![], Some(Hash::Sha256)),
            (rsa(11), vec![], Some(Hash::Sha256)),
            (rsa(12), vec![], Some(Hash::Sha384)),
            (rsa(13), vec![], Some(Hash::Sha512)),
            (rsa(14), vec![], Some(Hash::Sha224)),
            (rsa(10), vec![0x30, 0], Some(Hash::Sha256)),
            (rsa(10), pss(&sha(1)), Some(Hash::Sha256)),
            (rsa(10), pss(&sha(2)), Some(Hash::Sha384)),
            (rsa(10), pss(&sha(3)), Some(Hash::Sha512)),
            (rsa(10), pss(&sha(4)), Some(Hash::Sha224)),
            (rsa(10), pss(&sha(9)), None),
            (rsa(10), pss(&[0x2B, 0x0E, 0x03, 0x02, 0x1A]), Some(Hash::Sha256)),
            (rsa(10), vec![], None),
            (rsa(1), vec![], None),
            ([ECDSA, &[1]].concat(), vec![], Some(Hash::Sha256)),
            ([ECDSA, &[3, 1]].concat(), vec![], Some(Hash::Sha224)),
            ([ECDSA, &[3, 2]].concat(), vec![], Some(Hash::Sha256)),
            ([ECDSA, &[3, 3]].concat(), vec![], Some(Hash::Sha384)),
            ([ECDSA, &[3, 4]].concat(), vec![], Some(Hash::Sha512)),
            // Ed25519.
            (vec![0x2B, 0x65, 0x70], vec![], None),
        ] {
            let found = hash_of(&certificate(&algorithm, &parameters, der.der()));
            assert_eq!(found, hash, "{algorithm:?} {parameters:?}");
        }
    }

    #[test]
    fn a_certificate_is_hashed_whole() {
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let expected = Sha256::digest(made.der()).to_vec();
        assert_eq!(tls_server_end_point(made.der()), Some(expected));
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let made = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        assert_eq!(tls_server_end_point(made.der()), None);
        assert_eq!(tls_server_end_point(b"no certificate"), None);
    }
}
