//! Shapes that a replica has refused: sent to the primary from then on.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::sync::Cache;

/// A bounded memory of (database, shape). Old entries give way to new ones; a shape forgotten is
/// learned again at the price of one second run.
#[derive(Debug)]
pub struct LearnedShapes {
    refused: Cache<u64, ()>,
    hasher: RandomState,
    version: AtomicU64,
}

impl Default for LearnedShapes {
    fn default() -> Self {
        Self::new(4096)
    }
}

impl LearnedShapes {
    /// Remembers at most so many shapes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            refused: Cache::new(capacity),
            hasher: RandomState::new(),
            version: AtomicU64::new(0),
        }
    }

    /// A replica refused this shape in this database. True the first time.
    pub fn learn(&self, database: &str, shape: u128) -> bool {
        let key = self.key(database, shape);
        let new = self.refused.peek(&key).is_none();
        self.refused.insert(key, ());
        if new {
            self.version.fetch_add(1, Ordering::Release);
        }
        new
    }

    /// Whether one has.
    #[must_use]
    pub fn contains(&self, database: &str, shape: u128) -> bool {
        !self.refused.is_empty() && self.refused.get(&self.key(database, shape)).is_some()
    }

    /// How many shapes are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.refused.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.refused.is_empty()
    }

    /// Forgets everything: after DDL a shape may mean something else.
    pub fn clear(&self) {
        self.refused.clear();
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Raised whenever a shape is learned or all are forgotten.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn key(&self, database: &str, shape: u128) -> u64 {
        self.hasher.hash_one((database, shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_by_database_and_stays_bounded() {
        let learned = LearnedShapes::new(100);
        assert!(!learned.contains("app", 1));
        assert!(learned.learn("app", 1));
        assert!(!learned.learn("app", 1));
        assert!(learned.contains("app", 1));
        assert!(!learned.contains("other", 1) && !learned.contains("app", 2));
        for shape in 0..10_000 {
            learned.learn("app", shape);
        }
        assert!(learned.len() <= 100);
    }
}
