//! The cache by shape: one entry for all texts that differ only in literals, white space and
//! ordinary comments.
//!
//! The key is the normal form itself (with the hints), compared byte for byte, so that no text can
//! be given the facts of another. Bounded in entries and in bytes; a text too long to be worth an
//! entry is analysed each time and evicts nothing.

use std::cell::RefCell;
use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::analyze::from_normal;
use super::hint;
use super::recent::Recent;
use super::shape;
use super::statement::{Lexis, Script};

/// Normal forms longer than this, in bytes, get no entry.
const MAX_KEY: usize = 32 * 1024;
/// A key of this many bytes weighs as much as one entry.
const BYTES_PER_ENTRY: usize = 1024;

thread_local! {
    /// What a normal form is written into: a look-up that finds its shape allocates nothing.
    static NORMAL: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The facts of a text are its own, of whichever cache they are asked.
    static RECENT: RefCell<Recent> = RefCell::default();
}

/// Remembers the facts of query strings by their shape. Shared by all sessions of the process.
#[derive(Debug)]
pub struct ScriptCache {
    scripts: Cache<Box<[u8]>, Arc<Script>, ByLength>,
}

/// A long key counts as several entries.
#[derive(Debug, Clone)]
struct ByLength;

impl Weighter<Box<[u8]>, Arc<Script>> for ByLength {
    fn weight(&self, key: &Box<[u8]>, _script: &Arc<Script>) -> u64 {
        1 + (key.len() / BYTES_PER_ENTRY) as u64
    }
}

impl ScriptCache {
    /// A cache of about `capacity` shapes of ordinary length (under a KiB in normal form).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self { scripts: Cache::with_weighter(capacity, capacity as u64, ByLength) }
    }

    /// The facts of a query string: remembered, or read now and remembered.
    ///
    /// Never fails; takes time in proportion to the text. Two sessions that ask for one new shape at
    /// once may both read it.
    #[must_use]
    pub fn script(&self, text: &[u8], lexis: Lexis) -> Arc<Script> {
        RECENT.with_borrow_mut(|recent| {
            if let Some(script) = recent.find(text, lexis) {
                return script;
            }
            let script = NORMAL.with_borrow_mut(|key| {
                let script = self.look_up(text, lexis, key);
                key.clear();
                key.shrink_to(MAX_KEY);
                script
            });
            recent.keep(text, lexis, &script);
            script
        })
    }

    fn look_up(&self, text: &[u8], lexis: Lexis, key: &mut Vec<u8>) -> Arc<Script> {
        let hints = shape::normalise(text, lexis, key);
        let normal = key.len();
        hint::write_key(&hints, key);
        if let Some(script) = self.scripts.get(key.as_slice()) {
            return script;
        }
        let script = Arc::new(from_normal(&key[..normal], hints));
        if key.len() <= MAX_KEY {
            self.scripts.insert(key.as_slice().into(), Arc::clone(&script));
        }
        script
    }

    /// How many shapes it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.scripts.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.scripts.len() == 0
    }
}
