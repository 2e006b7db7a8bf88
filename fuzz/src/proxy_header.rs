//! The PROXY protocol's header: an address is taken from it only where one stands.

use causeway::protocol::proxy_header::{FIXED, MOST, SIGNATURE, Source, body_length, parse};

/// The input as it is, and behind the signature.
pub fn check(input: &[u8]) {
    header(input);
    header(&[&SIGNATURE[..], input].concat());
}

fn header(bytes: &[u8]) {
    let Some(fixed) = bytes.first_chunk::<FIXED>() else { return };
    let Ok(length) = body_length(fixed) else { return };
    assert!(fixed.starts_with(&SIGNATURE) && length <= MOST);
    let body = &bytes[FIXED..];
    let body = &body[..length.min(body.len())];
    if let Ok(Source::Client(address)) = parse(fixed, body) {
        let mut octets = Vec::new();
        match address.ip() {
            std::net::IpAddr::V4(ip) => octets.extend(ip.octets()),
            std::net::IpAddr::V6(ip) => octets.extend(ip.octets()),
        }
        assert!(body.starts_with(&octets), "the address that was sent");
    }
}
