//! What the client shall see of a server's answers: ranges of the input, and what was put in.
//!
//! Owns how far the input has been scanned and the places in it that count. Does not judge what may be
//! seen. Invariant: the ranges are in order, and those that touch are one.

use std::ops::Range;

use smallvec::SmallVec;

/// A part of what the client shall see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These bytes of the input.
    Input(Range<usize>),
    /// These bytes, which no server sent.
    Own(&'static [u8]),
}

/// What the client shall see of the input that has been scanned.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    /// How far the input has been scanned.
    scanned: usize,
    list: SmallVec<[Piece; 4]>,
    /// Where in the input the process ids of notifications are.
    notifiers: SmallVec<[usize; 1]>,
    /// Nothing more of this exchange is shown.
    hidden: bool,
    /// Something of it has been written.
    shown: bool,
}

impl Pieces {
    /// Begins a new exchange.
    pub(super) fn begin(&mut self) {
        self.hidden = false;
        self.shown = false;
    }

    /// Shows nothing more of this exchange.
    pub(super) fn hide(&mut self) {
        self.hidden = true;
    }

    /// Forgets what was not written yet.
    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    pub(super) fn scanned(&self) -> usize {
        self.scanned
    }

    pub(super) fn is_hidden(&self) -> bool {
        self.hidden
    }

    pub(super) fn is_shown(&self) -> bool {
        self.shown
    }

    pub(super) fn list(&self) -> &[Piece] {
        &self.list
    }

    pub(super) fn notifiers(&self) -> &[usize] {
        &self.notifiers
    }

    /// A process id stands so many bytes after what is scanned.
    pub(super) fn note_notifier(&mut self, after: usize) {
        self.notifiers.push(self.scanned + after);
    }

    /// Moves past `length` bytes, showing them or not.
    pub(super) fn pass(&mut self, length: usize, shown: bool) {
        let start = self.scanned;
        self.scanned += length;
        if !shown || length == 0 {
            return;
        }
        if let Some(Piece::Input(range)) = self.list.last_mut()
            && range.end == start
        {
            range.end = self.scanned;
        } else {
            self.list.push(Piece::Input(start..self.scanned));
        }
    }

    /// Puts in what no server sent.
    pub(super) fn put_in(&mut self, bytes: &'static [u8]) {
        if !self.hidden {
            self.list.push(Piece::Own(bytes));
        }
    }

    /// All is written or dropped: tells how many bytes of the input are done with.
    pub(super) fn flushed(&mut self) -> usize {
        self.shown |= !self.list.is_empty();
        self.list.clear();
        self.notifiers.clear();
        std::mem::take(&mut self.scanned)
    }
}
