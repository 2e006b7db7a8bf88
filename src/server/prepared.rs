//! The statements that Causeway has prepared on one server, and what they are called there.

use std::hash::{BuildHasher, RandomState};

use bytes::BytesMut;
use rustc_hash::FxHashMap;

/// The statements that Causeway has prepared on a server, by number, with the least recently used
/// known.
#[derive(Debug)]
pub struct PreparedHere {
    last_used: FxHashMap<u64, u64>,
    clock: u64,
    /// What their names begin with. No client can guess it: what is prepared for others is not there for it to name.
    prefix: [u8; PREFIX],
}

/// Length of the beginning of a statement's name at a server: `cw_`, forty bits, `_`.
const PREFIX: usize = 14;

impl Default for PreparedHere {
    fn default() -> Self {
        let random = RandomState::new().hash_one(0).to_le_bytes();
        let mut prefix = *b"cw_0000000000_";
        for (place, digit) in prefix[3..PREFIX - 1].iter_mut().enumerate() {
            let half = random[place / 2] >> (4 * (place % 2));
            *digit = b"0123456789abcdef"[usize::from(half & 0xf)];
        }
        Self { last_used: FxHashMap::default(), clock: 0, prefix }
    }
}

impl PreparedHere {
    /// Appends the name under which a statement is prepared here.
    pub fn put_name(&self, out: &mut BytesMut, number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(&digits[at..]);
    }

    /// What the names of all of them begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        // It is made of ASCII.
        std::str::from_utf8(&self.prefix).unwrap_or_default()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.last_used.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.last_used.is_empty()
    }

    /// Whether the statement is prepared; if so, it counts as used now.
    pub fn touch(&mut self, number: u64) -> bool {
        self.clock += 1;
        let clock = self.clock;
        self.last_used.get_mut(&number).map(|used| *used = clock).is_some()
    }

    /// The statement was prepared.
    pub fn insert(&mut self, number: u64) {
        self.clock += 1;
        self.last_used.insert(number, self.clock);
    }

    /// The statement was closed.
    pub fn remove(&mut self, number: u64) {
        self.last_used.remove(&number);
    }

    /// Forgets all statements, and tells their numbers.
    pub fn take(&mut self) -> Vec<u64> {
        self.last_used.drain().map(|(number, _)| number).collect()
    }

    /// All statements are gone.
    pub fn clear(&mut self) {
        self.last_used.clear();
    }

    /// A statement to close before one more is prepared, if there are `limit` already.
    #[must_use]
    pub fn surplus(&self, limit: usize) -> Option<u64> {
        if self.last_used.len() < limit.max(1) {
            return None;
        }
        self.last_used.iter().min_by_key(|(_, used)| **used).map(|(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decimal_behind_what_nobody_guesses() {
        let (one, other) = (PreparedHere::default(), PreparedHere::default());
        assert_ne!(one.prefix, other.prefix);
        for number in [0, 7, 10, 987, u64::MAX] {
            let mut out = BytesMut::new();
            one.put_name(&mut out, number);
            let name = String::from_utf8(out.to_vec()).unwrap();
            let (prefix, digits) = name.split_at(PREFIX);
            assert!(prefix.starts_with("cw_") && digits == number.to_string(), "{name}");
        }
    }

    #[test]
    fn the_least_recently_used_statement_goes_first() {
        let mut here = PreparedHere::default();
        here.insert(1);
        here.insert(2);
        assert_eq!(here.surplus(3), None);
        assert!(here.touch(1) && !here.touch(9));
        assert_eq!(here.surplus(2), Some(2));
        here.remove(2);
        assert_eq!(here.surplus(2), None);
    }
}
