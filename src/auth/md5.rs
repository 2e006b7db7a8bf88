//! PostgreSQL's md5 authentication: what is kept, and what is sent.
//!
//! Kept is `md5` and the MD5 of password and user name in hexadecimal digits; sent is the same of those
//! digits and a salt. Source: `src/common/md5_common.c`, `pg_md5_encrypt`.

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

/// What a client sends that knows the password behind `kept`.
#[must_use]
pub fn salted(kept: &str, salt: [u8; 4]) -> String {
    hashed(&[kept.strip_prefix("md5").unwrap_or(kept).as_bytes(), &salt])
}

/// What is kept of a password.
#[must_use]
pub fn kept(user: &str, password: &str) -> String {
    hashed(&[password.as_bytes(), user.as_bytes()])
}

/// Whether a text is what is kept of a password.
#[must_use]
pub fn is_kept(text: &str) -> bool {
    let digits = text.strip_prefix("md5");
    digits.is_some_and(|digits| {
        digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Whether a client that sent this knows the password behind `kept`.
#[must_use]
pub fn proves(sent: &[u8], kept: &str, salt: [u8; 4]) -> bool {
    sent.ct_eq(salted(kept, salt).as_bytes()).into()
}

fn hashed(parts: &[&[u8]]) -> String {
    let mut digest = Md5::new();
    for part in parts {
        digest.update(part);
    }
    let digest = digest.finalize();
    let mut text = String::with_capacity(35);
    text.push_str("md5");
    for byte in digest {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_protocol::authentication::md5_hash;

    #[test]
    fn it_is_what_drivers_send() {
        let kept = kept("app", "secret");
        assert!(is_kept(&kept) && !is_kept("md5") && !is_kept(&kept.to_uppercase()));
        let sent = md5_hash(b"app", b"secret", [1, 2, 3, 4]);
        assert_eq!(salted(&kept, [1, 2, 3, 4]), sent);
        assert!(proves(sent.as_bytes(), &kept, [1, 2, 3, 4]));
        assert!(!proves(sent.as_bytes(), &kept, [1, 2, 3, 5]));
        assert!(!proves(kept.as_bytes(), &kept, [1, 2, 3, 4]));
    }
}
