//! Messages of the backend during a login: reading a server's, writing our own to a client.
//!
//! Owns the bodies only. A reader answers `None` for a body of another shape than the protocol's;
//! what to do about it is the caller's.

use bytes::{BufMut, Bytes, BytesMut};

use super::startup::{CANCEL_KEY_MAX, LATEST_MINOR};
use super::write::{cstr, message};

/// The body of an `R` message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// The login is complete.
    Ok,
    /// The password itself is asked for.
    CleartextPassword,
    /// The password, hashed with this salt, is asked for.
    Md5Password([u8; 4]),
    /// The mechanisms of which one is to be chosen: a list of NUL-terminated names.
    Sasl(&'a [u8]),
    /// A SASL challenge.
    SaslContinue(&'a [u8]),
    /// SASL is complete, with the server's last word.
    SaslFinal(&'a [u8]),
    /// GSSAPI, SSPI, Kerberos ..., by its number.
    Other(u32),
}

impl<'a> Authentication<'a> {
    /// Reads the body.
    #[must_use]
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let (code, rest) = body.split_first_chunk::<4>()?;
        Some(match (u32::from_be_bytes(*code), rest) {
            (0, []) => Self::Ok,
            (3, []) => Self::CleartextPassword,
            (5, &[a, b, c, d]) => Self::Md5Password([a, b, c, d]),
            (10, [mechanisms @ .., 0]) => Self::Sasl(mechanisms),
            (11, challenge) => Self::SaslContinue(challenge),
            (12, last) => Self::SaslFinal(last),
            (0 | 3 | 5 | 10, _) => return None,
            (other, _) => Self::Other(other),
        })
    }
}

/// Reads `BackendKeyData`: the process id and the secret that cancels. In protocol 3.0 the secret has
/// four bytes, in 3.2 from 4 to 256.
#[must_use]
pub fn parse_key_data(body: &[u8], minor: u16) -> Option<(i32, Bytes)> {
    let (process_id, secret) = body.split_first_chunk::<4>()?;
    let longest = if minor >= 2 { CANCEL_KEY_MAX } else { 4 };
    (4..=longest)
        .contains(&secret.len())
        .then(|| (i32::from_be_bytes(*process_id), Bytes::copy_from_slice(secret)))
}

/// Reads `ParameterStatus`: name and value.
#[must_use]
pub fn parse_parameter_status(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let body = body.strip_suffix(&[0])?;
    let end = memchr::memchr(0, body)?;
    let (name, value) = (&body[..end], &body[end + 1..]);
    (!name.is_empty() && !value.contains(&0)).then_some((name, value))
}

/// Reads the version out of `NegotiateProtocolVersion`: the newest minor version of protocol 3 that
/// the server speaks.
#[must_use]
pub fn parse_negotiated_minor(body: &[u8]) -> Option<u16> {
    let (version, _) = body.split_first_chunk::<4>()?;
    let version = u32::from_be_bytes(*version);
    // PostgreSQL has always sent the whole version here, though its documentation says "minor".
    (version >> 16 == 3).then(|| u16::try_from(version & 0xFFFF).ok()).flatten()
}

/// Appends `NegotiateProtocolVersion`: the version that will be spoken and the options that are not
/// known.
///
/// # Panics
/// If there are more than 2^31 options: they come out of one bounded packet.
pub fn negotiate_protocol_version(out: &mut BytesMut, minor: u16, unrecognized: &[String]) {
    message(out, b'v', |body| {
        body.put_u32(3 << 16 | u32::from(minor.min(LATEST_MINOR)));
        body.put_i32(i32::try_from(unrecognized.len()).expect("bounded by the packet"));
        for option in unrecognized {
            cstr(body, option.as_bytes());
        }
    });
}

/// Appends `AuthenticationMD5Password`.
pub fn authentication_md5_password(out: &mut BytesMut, salt: [u8; 4]) {
    message(out, b'R', |body| {
        body.put_u32(5);
        body.put_slice(&salt);
    });
}

/// Appends `AuthenticationCleartextPassword`.
pub fn authentication_cleartext_password(out: &mut BytesMut) {
    message(out, b'R', |body| body.put_u32(3));
}

/// Appends `AuthenticationSASL` with the mechanisms offered.
pub fn authentication_sasl(out: &mut BytesMut, mechanisms: &[&str]) {
    message(out, b'R', |body| {
        body.put_u32(10);
        for mechanism in mechanisms {
            cstr(body, mechanism.as_bytes());
        }
        body.put_u8(0);
    });
}

/// Appends `AuthenticationSASLContinue`.
pub fn authentication_sasl_continue(out: &mut BytesMut, challenge: &[u8]) {
    message(out, b'R', |body| {
        body.put_u32(11);
        body.put_slice(challenge);
    });
}

/// Appends `AuthenticationSASLFinal`.
pub fn authentication_sasl_final(out: &mut BytesMut, last: &[u8]) {
    message(out, b'R', |body| {
        body.put_u32(12);
        body.put_slice(last);
    });
}

/// Appends `AuthenticationOk`.
pub fn authentication_ok(out: &mut BytesMut) {
    message(out, b'R', |body| body.put_u32(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authentication_requests() {
        for (body, expected) in [
            (&b"\0\0\0\0"[..], Some(Authentication::Ok)),
            (b"\0\0\0\x03", Some(Authentication::CleartextPassword)),
            (b"\0\0\0\x05salt", Some(Authentication::Md5Password(*b"salt"))),
            (b"\0\0\0\x0aA\0B\0\0", Some(Authentication::Sasl(b"A\0B\0"))),
            (b"\0\0\0\x0bx", Some(Authentication::SaslContinue(b"x"))),
            (b"\0\0\0\x0c", Some(Authentication::SaslFinal(b""))),
            (b"\0\0\0\x07", Some(Authentication::Other(7))),
            (b"\0\0\0\0x", None),
            (b"\0\0\0\x05sal", None),
            (b"\0\0\0\x0aA", None),
            (b"\0\0\0", None),
        ] {
            assert_eq!(Authentication::parse(body), expected, "{}", body.escape_ascii());
        }
    }

    #[test]
    fn keys_have_the_length_of_their_version() {
        for (secret, minor, fits) in [
            (4, 0, true),
            (3, 0, false),
            (5, 0, false),
            (32, 0, false),
            (32, 2, true),
            (256, 2, true),
            (257, 2, false),
            (0, 2, false),
        ] {
            let body = [&7i32.to_be_bytes()[..], &vec![1; secret]].concat();
            assert_eq!(parse_key_data(&body, minor).is_some(), fits, "{secret} in 3.{minor}");
        }
        assert_eq!(parse_key_data(b"\0\0", 0), None);
    }

    #[test]
    fn parameters_are_two_strings() {
        assert_eq!(parse_parameter_status(b"a\0b\0"), Some((&b"a"[..], &b"b"[..])));
        assert_eq!(parse_parameter_status(b"a\0\0"), Some((&b"a"[..], &b""[..])));
        for body in [&b""[..], b"\0", b"a\0", b"a\0b", b"\0b\0", b"a\0b\0c\0"] {
            assert_eq!(parse_parameter_status(body), None, "{}", body.escape_ascii());
        }
    }

    #[test]
    fn negotiation() {
        let mut out = BytesMut::new();
        negotiate_protocol_version(&mut out, 2, &["_pq_.x".to_owned()]);
        assert_eq!(&out[..], b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0");
        assert_eq!(parse_negotiated_minor(&out[5..]), Some(2));
        assert_eq!(parse_negotiated_minor(b"\0\x02\0\0"), None);
        assert_eq!(parse_negotiated_minor(b"\0\x03"), None);
    }
}
