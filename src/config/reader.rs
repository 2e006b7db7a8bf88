//! Takes keys of the shape one by one, notes what is wrong, and goes on.

use std::collections::HashSet;
use std::hash::Hash;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::time::Duration;

use super::error::{Complaint, Problem, line_of};
use super::value::{Bytes, Key, OneOf, Word};

/// Where in the file a key or table stands.
pub(super) type Span = Option<Range<usize>>;

/// The file being read, and what was found wrong so far.
pub(super) struct Reader<'a> {
    pub(super) text: &'a str,
    pub(super) base_dir: &'a Path,
    pub(super) environment: &'a dyn Fn(&str) -> Option<String>,
    pub(super) problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    pub(super) fn complain(&mut self, key: &str, span: &Span, complaint: Complaint) {
        let line = span.as_ref().map(|span| line_of(self.text, span));
        self.problems.push(Problem { line, key: key.to_owned(), complaint });
    }

    /// The value of a key, if it is there and right.
    pub(super) fn optional<T>(&mut self, name: &str, key: Key<T>) -> Option<T> {
        match key.value? {
            Ok(value) => Some(value),
            Err(complaint) => {
                self.complain(name, &key.span, complaint);
                None
            }
        }
    }

    /// The value of a key that must be there; `span` is its table's.
    pub(super) fn required<T>(
        &mut self,
        name: &str,
        key: Key<T>,
        span: &Span,
        example: &'static str,
    ) -> Option<T> {
        if key.value.is_none() {
            self.complain(name, span, Complaint::Missing { example });
            return None;
        }
        self.optional(name, key)
    }

    pub(super) fn word<T: Word>(&mut self, name: &str, key: Key<OneOf<T>>, default: T) -> T {
        self.optional(name, key).map_or(default, |word| word.0)
    }

    pub(super) fn number(
        &mut self,
        name: &str,
        key: Key<u64>,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> u64 {
        let span = key.span.clone();
        let value = self.optional(name, key).unwrap_or(default);
        let (low, high) = range.into_inner();
        if value < low || value > high {
            self.complain(name, &span, Complaint::OutOfRange { value, low, high });
        }
        value
    }

    pub(super) fn count(
        &mut self,
        name: &str,
        key: Key<u64>,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> Option<usize> {
        usize::try_from(self.number(name, key, range, default)).ok()
    }

    pub(super) fn bytes(
        &mut self,
        name: &str,
        key: Key<Bytes>,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> Option<usize> {
        let plain = Key { value: key.value.map(|read| read.map(|bytes| bytes.0)), span: key.span };
        self.count(name, plain, range, default)
    }

    pub(super) fn time(
        &mut self,
        name: &str,
        key: Key<Duration>,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        let span = key.span.clone();
        let value = self.optional(name, key).unwrap_or(default);
        let (low, high) = range.into_inner();
        if value < low || value > high {
            self.complain(name, &span, Complaint::TimeOutOfRange { value, low, high });
        }
        value
    }

    pub(super) fn twice<T: Eq + Hash>(
        &mut self,
        seen: &mut HashSet<T>,
        value: T,
        key: &str,
        span: &Span,
        text: &str,
    ) {
        if !seen.insert(value) {
            self.complain(key, span, Complaint::Twice { text: text.to_owned() });
        }
    }
}
