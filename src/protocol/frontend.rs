//! Messages of the frontend during a login: reading a client's, writing our own to a server.
//!
//! Owns the bodies only; frame borders are `frame`'s, the first packets' rules `startup`'s.

use bytes::{BufMut, BytesMut};

use super::startup::{CANCEL_REQUEST, SSL_REQUEST};
use super::write::{cstr, message, set_length};

/// A SASLInitialResponse as a client sends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaslInitialResponse<'a> {
    /// The mechanism that the client chose.
    pub mechanism: &'a [u8],
    /// Its first message; `None` where it waits for an empty challenge first.
    pub response: Option<&'a [u8]>,
}

impl<'a> SaslInitialResponse<'a> {
    /// Reads the body of a `p` message; `None` when it has another shape.
    #[must_use]
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let end = memchr::memchr(0, body)?;
        let (mechanism, rest) = (&body[..end], &body[end + 1..]);
        let (length, response) = rest.split_first_chunk::<4>()?;
        let response = match i32::from_be_bytes(*length) {
            -1 if response.is_empty() => None,
            length if usize::try_from(length) == Ok(response.len()) => Some(response),
            _ => return None,
        };
        Some(Self { mechanism, response })
    }
}

/// Appends a StartupMessage for protocol 3.`minor`.
pub fn startup<'a>(
    out: &mut BytesMut,
    minor: u16,
    parameters: impl IntoIterator<Item = (&'a str, &'a str)>,
) {
    let start = out.len();
    out.put_u32(0);
    out.put_u32(3 << 16 | u32::from(minor));
    for (name, value) in parameters {
        cstr(out, name.as_bytes());
        cstr(out, value.as_bytes());
    }
    out.put_u8(0);
    set_length(out, start);
}

/// Appends an SSLRequest.
pub fn ssl_request(out: &mut BytesMut) {
    out.put_u32(8);
    out.put_u32(SSL_REQUEST);
}

/// Appends a CancelRequest.
pub fn cancel_request(out: &mut BytesMut, process_id: i32, secret: &[u8]) {
    let start = out.len();
    out.put_u32(0);
    out.put_u32(CANCEL_REQUEST);
    out.put_i32(process_id);
    out.put_slice(secret);
    set_length(out, start);
}

/// Appends a PasswordMessage: a clear or hashed password.
pub fn password(out: &mut BytesMut, password: &[u8]) {
    message(out, b'p', |body| cstr(body, password));
}

/// Appends a SASLInitialResponse.
///
/// # Panics
/// If `response` is longer than 2 GiB: our own are some dozens of bytes.
pub fn sasl_initial_response(out: &mut BytesMut, mechanism: &str, response: &[u8]) {
    message(out, b'p', |body| {
        cstr(body, mechanism.as_bytes());
        body.put_i32(i32::try_from(response.len()).expect("our own messages are small"));
        body.put_slice(response);
    });
}

/// Appends a SASLResponse.
pub fn sasl_response(out: &mut BytesMut, response: &[u8]) {
    message(out, b'p', |body| body.put_slice(response));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::startup::{self, StartupPacket};

    #[test]
    fn sasl_initial_responses() {
        let read = |body: &'static [u8]| SaslInitialResponse::parse(body);
        let shape = |mechanism, response| Some(SaslInitialResponse { mechanism, response });
        assert_eq!(read(b"M\0\0\0\0\x02ab"), shape(b"M", Some(&b"ab"[..])));
        assert_eq!(read(b"M\0\0\0\0\0"), shape(b"M", Some(&b""[..])));
        assert_eq!(read(b"\0\xff\xff\xff\xff"), shape(b"", None));
        for body in [
            &b""[..],
            b"M",
            b"M\0",
            b"M\0\0\0\0",
            b"M\0\0\0\0\x02a",
            b"M\0\0\0\0\x02abc",
            b"M\0\xff\xff\xff\xffa",
            b"M\0\xff\xff\xff\xfe",
            b"M\0\x7f\xff\xff\xffab",
        ] {
            assert_eq!(read(body), None, "{}", body.escape_ascii());
        }
    }

    #[test]
    fn what_is_written_is_what_the_other_side_reads() {
        let mut out = BytesMut::new();
        startup(&mut out, 2, [("user", "app"), ("database", "shop")]);
        let length = startup::body_length([out[0], out[1], out[2], out[3]], 10_000).unwrap();
        assert_eq!(length, out.len() - 4);
        let StartupPacket::Session(read) = startup::parse(&out[4..]).unwrap() else { panic!() };
        assert_eq!((&*read.user, &*read.database, read.protocol.minor), ("app", "shop", 2));

        out.clear();
        cancel_request(&mut out, 7, b"secret");
        let StartupPacket::Cancel(key) = startup::parse(&out[4..]).unwrap() else { panic!() };
        assert_eq!((key.process_id, &key.secret[..]), (7, &b"secret"[..]));

        out.clear();
        ssl_request(&mut out);
        assert_eq!(startup::parse(&out[4..]), Ok(StartupPacket::Ssl));

        out.clear();
        sasl_initial_response(&mut out, "M", b"n,,n=,r=x");
        let read = SaslInitialResponse::parse(&out[5..]).unwrap();
        assert_eq!(read, SaslInitialResponse { mechanism: b"M", response: Some(b"n,,n=,r=x") });
    }
}
