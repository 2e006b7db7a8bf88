//! What is read out of an X.509 certificate beyond its verification: the name of its holder, the time
//! for which it holds, and how it was signed.
//!
//! A reader of DER that walks the outer structure (RFC 5280 section 4.1) and answers `None` for
//! anything of another shape. Verifies nothing: that is rustls's.

use std::time::{Duration, SystemTime};

pub(super) const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, `[3]`: explicit tags.
const VERSION: u8 = 0xA0;
const EXTENSIONS: u8 = 0xA3;
/// UTF8String, PrintableString, IA5String: those whose bytes are UTF-8.
const TEXTS: [u8; 3] = [0x0C, 0x13, 0x16];
/// `id-at-commonName`, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// `id-ce-subjectAltName`, 2.5.29.17.
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1D, 0x11];

/// The parts of a certificate that are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Certificate<'a> {
    /// The object identifier of the algorithm that its issuer signed it with.
    pub signature_algorithm: &'a [u8],
    /// The algorithm's parameters, as they stand.
    pub signature_parameters: &'a [u8],
    /// From when it holds.
    pub not_before: SystemTime,
    /// Until when it holds.
    pub not_after: SystemTime,
    subject: &'a [u8],
    /// Whether it names its holder by `subjectAltName`.
    pub has_alternative_names: bool,
}

impl<'a> Certificate<'a> {
    /// Reads it.
    #[must_use]
    pub fn parse(der: &'a [u8]) -> Option<Self> {
        let mut outer = Reader(Reader(der).take(SEQUENCE)?);
        let mut inner = Reader(outer.take(SEQUENCE)?);
        let mut algorithm = Reader(outer.take(SEQUENCE)?);
        let signature_algorithm = algorithm.take(OBJECT_IDENTIFIER)?;
        if inner.peek()? == VERSION {
            inner.next()?;
        }
        // Serial number, the algorithm once more, and the issuer.
        for _ in 0..3 {
            inner.next()?;
        }
        let mut validity = Reader(inner.take(SEQUENCE)?);
        let subject = inner.take(SEQUENCE)?;
        let _public_key = inner.take(SEQUENCE)?;
        let mut has_alternative_names = false;
        while let Some((tag, content)) = inner.next() {
            if tag == EXTENSIONS {
                let mut extensions = Reader(Reader(content).take(SEQUENCE)?);
                while !extensions.0.is_empty() {
                    let mut extension = Reader(extensions.take(SEQUENCE)?);
                    has_alternative_names |=
                        extension.take(OBJECT_IDENTIFIER)? == ALTERNATIVE_NAMES;
                }
            }
        }
        Some(Self {
            signature_algorithm,
            signature_parameters: algorithm.0,
            not_before: validity.time()?,
            not_after: validity.time()?,
            subject,
            has_alternative_names,
        })
    }

    /// The subject's first common name, if it is a text without NUL.
    #[must_use]
    pub fn common_name(&self) -> Option<&'a str> {
        let mut names = Reader(self.subject);
        while !names.0.is_empty() {
            let mut parts = Reader(names.take(SET)?);
            while !parts.0.is_empty() {
                let mut part = Reader(parts.take(SEQUENCE)?);
                if part.take(OBJECT_IDENTIFIER)? == COMMON_NAME {
                    let (tag, text) = part.next()?;
                    let text = std::str::from_utf8(text).ok()?;
                    return (TEXTS.contains(&tag) && !text.contains('\0')).then_some(text);
                }
            }
        }
        None
    }
}

/// Walks over DER elements.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// Tag and content of the next element. Tags of more than one byte do not occur where this looks.
    pub(super) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7F => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
                (bytes.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, which must have this tag.
    pub(super) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().and_then(|(found, content)| (found == tag).then_some(content))
    }

    /// A time: `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`.
    pub(super) fn time(&mut self) -> Option<SystemTime> {
        let (tag, text) = self.next()?;
        let digits = text.strip_suffix(b"Z")?;
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number =
            |text: &[u8]| text.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        let (year, rest) = match tag {
            UTC_TIME => {
                let (year, rest) = digits.split_at_checked(2)?;
                // RFC 5280 section 4.1.2.5.1.
                (number(year) + if number(year) >= 50 { 1900 } else { 2000 }, rest)
            }
            GENERALIZED_TIME => {
                let (year, rest) = digits.split_at_checked(4)?;
                (number(year), rest)
            }
            _ => return None,
        };
        if rest.len() != 10 {
            return None;
        }
        let field = |at: usize| number(&rest[at..at + 2]);
        let days = days_since_1970(year, field(0), field(2));
        let seconds = ((days * 24 + field(4)) * 60 + field(6)) * 60 + field(8);
        let past = |seconds: i64| Duration::from_secs(seconds.unsigned_abs());
        if seconds >= 0 {
            SystemTime::UNIX_EPOCH.checked_add(past(seconds))
        } else {
            SystemTime::UNIX_EPOCH.checked_sub(past(seconds))
        }
    }
}

/// Days from 1970-01-01 to a day of the Gregorian calendar; of a year that begins in March, so that the
/// leap day is its last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_the_calendars() {
        for (date, days) in [
            ((1970, 1, 1), 0),
            ((1969, 12, 31), -1),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2024, 12, 31), 20_088),
            ((2100, 3, 1), 47_541),
        ] {
            assert_eq!(days_since_1970(date.0, date.1, date.2), days, "{date:?}");
        }
    }

    #[test]
    fn what_is_read_out_of_a_certificate() {
        let mut parameters = rcgen::CertificateParams::new(vec!["db.example".to_owned()]).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "Example");
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "app \u{e9}");
        parameters.not_before = rcgen::date_time_ymd(2001, 2, 3);
        parameters.not_after = rcgen::date_time_ymd(2061, 2, 3);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = parameters.self_signed(&key).unwrap();
        let read = Certificate::parse(made.der()).unwrap();
        assert_eq!(read.common_name(), Some("app \u{e9}"));
        let day = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
        assert_eq!((read.not_before, read.not_after), (day(11_356), day(33_271)));
        assert!(read.has_alternative_names);

        let mut nameless = rcgen::CertificateParams::default();
        nameless.distinguished_name = rcgen::DistinguishedName::new();
        let made = nameless.self_signed(&key).unwrap();
        let read = Certificate::parse(made.der()).unwrap();
        assert_eq!(read.common_name(), None);
        assert!(!read.has_alternative_names);
    }

    /// No length lies, no tail and no cut make it panic or read past the end.
    #[test]
    fn what_is_no_certificate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let whole = made.der().to_vec();
        for end in 0..whole.len() {
            assert!(Certificate::parse(&whole[..end]).is_none(), "cut at {end}");
        }
        for at in 0..whole.len() {
            for byte in [0, 0x7F, 0x80, 0x84, 0xFF] {
                let mut bent = whole.clone();
                bent[at] = byte;
                if let Some(read) = Certificate::parse(&bent) {
                    let _ = read.common_name();
                }
            }
        }
    }
}
