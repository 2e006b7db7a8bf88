//! The PROXY protocol, version 2: what a load balancer says of its client before anything else.
//!
//! Pure: bytes in, an address out. Owns the borders and their limits; whom to believe is for others.
//! Source: <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>, section 2.2.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The bytes that every header begins with: no start-up packet, for it would claim 218 MB.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, and the length of what follows.
pub const FIXED: usize = 16;
/// The most that may follow. Addresses take 36 bytes; the rest is extensions, which mean nothing here.
pub const MOST: usize = 2048;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From the balancer itself (a health check), or from somewhere it cannot name.
    Balancer,
    /// From this address.
    Client(SocketAddr),
}

/// A header that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// It does not begin as it must.
    #[error("a PROXY protocol header must come first from this address, and did not")]
    Signature,
    /// Another version than 2.
    #[error("PROXY protocol version {0} is not supported")]
    Version(u8),
    /// Neither LOCAL nor PROXY.
    #[error("unknown PROXY protocol command {0}")]
    Command(u8),
    /// More than [`MOST`].
    #[error("a PROXY protocol header of {0} bytes is too long")]
    Length(u16),
    /// Fewer bytes than its family's addresses take.
    #[error("a PROXY protocol header is too short for its addresses")]
    Addresses,
    /// A family or transport that no client of ours can have.
    #[error("PROXY protocol family and transport {0:#04x} are not supported")]
    Family(u8),
}

/// How many bytes follow the fixed part, as it says itself.
///
/// # Errors
/// When it is no header of version 2, or one that is too long.
pub fn body_length(fixed: &[u8; FIXED]) -> Result<usize, ProxyHeaderError> {
    if !fixed.starts_with(&SIGNATURE) {
        return Err(ProxyHeaderError::Signature);
    }
    if fixed[12] >> 4 != 2 {
        return Err(ProxyHeaderError::Version(fixed[12] >> 4));
    }
    let length = u16::from_be_bytes([fixed[14], fixed[15]]);
    if usize::from(length) > MOST {
        return Err(ProxyHeaderError::Length(length));
    }
    Ok(usize::from(length))
}

/// Reads the header: its fixed part, which [`body_length`] has accepted, and what follows it.
///
/// # Errors
/// When it does not hold.
pub fn parse(fixed: &[u8; FIXED], body: &[u8]) -> Result<Source, ProxyHeaderError> {
    match fixed[12] & 15 {
        0 => return Ok(Source::Balancer),
        1 => {}
        command => return Err(ProxyHeaderError::Command(command)),
    }
    let address = match fixed[13] {
        // AF_UNSPEC, AF_UNIX: there is no address.
        0x00 | 0x31 => return Ok(Source::Balancer),
        0x11 => {
            let [a, b, c, d, _, _, _, _, high, low, _, _] = part(body)?;
            (IpAddr::from(Ipv4Addr::new(a, b, c, d)), u16::from_be_bytes([high, low]))
        }
        0x21 => {
            let addresses: [u8; 36] = part(body)?;
            let mut from = [0; 16];
            from.copy_from_slice(&addresses[..16]);
            (IpAddr::from(Ipv6Addr::from(from)), u16::from_be_bytes([addresses[32], addresses[33]]))
        }
        family => return Err(ProxyHeaderError::Family(family)),
    };
    Ok(Source::Client(address.into()))
}

fn part<const N: usize>(body: &[u8]) -> Result<[u8; N], ProxyHeaderError> {
    body.first_chunk::<N>().copied().ok_or(ProxyHeaderError::Addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version_command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[version_command, family], &length, body].concat()
    }

    fn read(header: &[u8]) -> Result<Source, ProxyHeaderError> {
        let fixed = header.first_chunk::<FIXED>().unwrap();
        let length = body_length(fixed)?;
        assert_eq!(length, header.len() - FIXED);
        parse(fixed, &header[FIXED..])
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x04, 0xd2, 0x19, 0x20];

    #[test]
    fn addresses_are_read() {
        let client = |text: &str| Ok(Source::Client(text.parse().unwrap()));
        assert_eq!(read(&header(0x21, 0x11, &V4)), client("192.0.2.7:1234"));
        let extended = [&V4[..], &[0x04, 0, 1, 9]].concat();
        assert_eq!(read(&header(0x21, 0x11, &extended)), client("192.0.2.7:1234"));
        let from: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let v6 = [&from.octets()[..], &[0; 16], &[0x04, 0xd2, 0, 0]].concat();
        assert_eq!(read(&header(0x21, 0x21, &v6)), client("[2001:db8::7]:1234"));
        for local in [header(0x20, 0x11, &V4), header(0x20, 0, &[]), header(0x21, 0, &[])] {
            assert_eq!(read(&local), Ok(Source::Balancer));
        }
        assert_eq!(read(&header(0x21, 0x31, &[0; 216])), Ok(Source::Balancer));
    }

    #[test]
    fn what_does_not_hold() {
        use ProxyHeaderError::{Addresses, Command, Family, Length, Signature, Version};
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.7".to_vec(), Signature),
            (b"\0\0\0\x08\x04\xd2\x16\x2f\0\0\0\0\0\0\0\0".to_vec(), Signature),
            (header(0x11, 0x11, &V4), Version(1)),
            (header(0x31, 0x11, &V4), Version(3)),
            (header(0x22, 0x11, &V4), Command(2)),
            (header(0x2f, 0x11, &V4), Command(15)),
            (header(0x21, 0x11, &V4[..11]), Addresses),
            (header(0x21, 0x11, &[]), Addresses),
            (header(0x21, 0x21, &V4), Addresses),
            (header(0x21, 0x12, &V4), Family(0x12)),
            (header(0x21, 0x41, &V4), Family(0x41)),
            (header(0x21, 0x11, &[0; MOST + 1]), Length(2049)),
            (header(0x20, 0x11, &vec![0; 65_535]), Length(65_535)),
        ] {
            let fixed = header.first_chunk::<FIXED>().unwrap();
            let found = body_length(fixed).and_then(|_| parse(fixed, &header[FIXED..]));
            assert_eq!(found, Err(expected));
        }
    }
}
