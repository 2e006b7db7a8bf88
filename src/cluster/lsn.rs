//! A write-ahead log position (PostgreSQL `pg_lsn`, `src/backend/utils/adt/pg_lsn.c`).

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log of one history. Zero is "none" (PostgreSQL's
/// `InvalidXLogRecPtr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Bytes from `other` up to `self`; zero when `other` is ahead.
    #[must_use]
    pub fn bytes_past(self, other: Self) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text is not `hex/hex`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid input syntax for type pg_lsn: \"{0}\"")]
pub struct InvalidLsn(String);

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let parse = || {
            let (high, low) = text.split_once('/')?;
            let digits = |part: &str| {
                (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit())
            };
            if !digits(high) || !digits(low) {
                return None;
            }
            let high = u64::from(u32::from_str_radix(high, 16).ok()?);
            let low = u64::from(u32::from_str_radix(low, 16).ok()?);
            Some(Self(high << 32 | low))
        };
        parse().ok_or_else(|| InvalidLsn(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_what_postgresql_does() {
        for text in ["0/0", "0/16B3748", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for text in ["", "/", "0", "0/", "/0", "G/0", "0/123456789", "-1/0", " 0/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
    }
}
