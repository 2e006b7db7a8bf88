//! What a server's answers brought, for the session's books.
//!
//! Owns the list and its bound: a server may report settings as often as it likes, so of each only the
//! last word is kept, and no more of them than [`REPORTED_MOST`].

use super::progress::ResponseError;

/// So much of what a server reports of its settings is kept within one exchange, in bytes.
pub(super) const REPORTED_MOST: usize = 1 << 20;
/// What a setting counts for beside its text.
const REPORT_COST: usize = 64;

/// What the answers brought, for the session's books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The message that was sent under this tag succeeded.
    Done(u32),
    /// The server reported a setting.
    Parameter(Box<[u8]>, Box<[u8]>),
}

/// What the answers brought since the exchange began, in order.
#[derive(Debug, Default)]
pub(super) struct Events {
    list: Vec<Event>,
    /// What the settings among these take, in bytes.
    reported: usize,
}

impl Events {
    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.reported = 0;
    }

    pub(super) fn drain(&mut self) -> std::vec::Drain<'_, Event> {
        self.reported = 0;
        self.list.drain(..)
    }

    /// What was sent under this tag succeeded, if it has one.
    pub(super) fn done(&mut self, tag: Option<u32>) {
        self.list.extend(tag.map(Event::Done));
    }

    /// A setting was reported.
    pub(super) fn report(&mut self, name: &[u8], value: &[u8]) -> Result<(), ResponseError> {
        let known = self.list.iter_mut().find_map(|event| match event {
            Event::Parameter(known, value) if **known == *name => Some(value),
            _ => None,
        });
        if let Some(known) = known {
            self.reported -= known.len();
            *known = value.into();
        } else {
            self.reported += name.len() + REPORT_COST;
            self.list.push(Event::Parameter(name.into(), value.into()));
        }
        self.reported += value.len();
        if self.reported > REPORTED_MOST { Err(ResponseError::Reports) } else { Ok(()) }
    }
}
