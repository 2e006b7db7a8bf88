//! Why a session must keep its server.
//!
//! Which of these hold is read from the server itself when a transaction that may have changed them
//! has ended (see [`super::audit`]); only what no query can tell is followed by hand.

use crate::routing::Reason;

/// One cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum Pin {
    /// `pool.mode = "session"`.
    SessionMode = 1,
    /// Temporary relations.
    TempTable = 1 << 1,
    /// LISTEN.
    Listen = 1 << 2,
    /// Session-level advisory locks.
    AdvisoryLock = 1 << 3,
    /// Cursors WITH HOLD.
    HoldCursor = 1 << 4,
    /// Statements of SQL's PREPARE.
    Prepared = 1 << 5,
    /// Sequence values that currval or lastval may ask for.
    Sequence = 1 << 6,
    /// A loaded library.
    Load = 1 << 7,
    /// The server could not be asked.
    Opaque = 1 << 8,
}

impl Pin {
    /// All of them, the one that is named first where several hold first.
    pub const ALL: [Self; 9] = [
        Self::SessionMode,
        Self::TempTable,
        Self::Listen,
        Self::AdvisoryLock,
        Self::HoldCursor,
        Self::Prepared,
        Self::Sequence,
        Self::Load,
        Self::Opaque,
    ];

    /// The reason that statements of a session pinned so are counted under.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::SessionMode => Reason::PinnedSessionMode,
            Self::TempTable => Reason::PinnedTempTable,
            Self::Listen => Reason::PinnedListen,
            Self::AdvisoryLock => Reason::PinnedAdvisoryLock,
            Self::HoldCursor => Reason::PinnedHoldCursor,
            Self::Prepared => Reason::PinnedPrepared,
            Self::Sequence => Reason::PinnedSequence,
            Self::Load => Reason::PinnedLoad,
            Self::Opaque => Reason::PinnedOpaque,
        }
    }
}

/// The causes that hold now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pins(u16);

impl Pins {
    /// Whether the session may go to any server.
    #[must_use]
    pub fn is_free(self) -> bool {
        self.0 == 0
    }

    /// Whether this cause holds.
    #[must_use]
    pub fn has(self, pin: Pin) -> bool {
        self.0 & pin as u16 != 0
    }

    /// Adds a cause.
    pub fn add(&mut self, pin: Pin) {
        self.0 |= pin as u16;
    }

    /// Takes a cause away.
    pub fn remove(&mut self, pin: Pin) {
        self.0 &= !(pin as u16);
    }

    /// The cause that is named for the session's statements.
    #[must_use]
    pub fn first(self) -> Option<Pin> {
        Pin::ALL.into_iter().find(|pin| self.has(*pin))
    }

    /// Every cause that holds.
    pub fn iter(self) -> impl Iterator<Item = Pin> {
        Pin::ALL.into_iter().filter(move |pin| self.has(*pin))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_come_and_go_one_by_one() {
        let mut pins = Pins::default();
        pins.add(Pin::Listen);
        pins.add(Pin::TempTable);
        assert_eq!(pins.first(), Some(Pin::TempTable));
        pins.remove(Pin::TempTable);
        assert_eq!(pins.iter().collect::<Vec<_>>(), [Pin::Listen]);
        pins.remove(Pin::Listen);
        assert!(pins.is_free());
    }
}
