//! Prepared statements: any name, any client, on any server.
//!
//! A text is known by a number, shared between all clients that prepare the same text with the same
//! parameter types under settings of the same meaning. At a server it is prepared once, under the
//! name that no client can guess. A session owns only the map from its own names to numbers.
//!
//! Those of SQL's PREPARE are in the same map, for the names are the same to PostgreSQL. They are
//! prepared under the session's own names, by the same PREPARE, where they are needed.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, OnceLock, Weak};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::sql::{self, Lexis, Script};

/// How a statement was prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum By {
    /// By the protocol's Parse.
    Parse,
    /// By SQL's PREPARE.
    Sql,
}

/// A text with its parameter types and its facts.
#[derive(Debug)]
pub struct Prepared {
    /// How it was prepared.
    pub by: By,
    /// Its number: the same for the same text, types and meaning.
    pub number: u64,
    /// The text; of SQL's PREPARE all of it.
    pub text: Bytes,
    /// The parameter types as Parse carries them: a count and so many OIDs.
    pub types: Bytes,
    /// What its execution does.
    pub script: Arc<Script>,
    values: OnceLock<Option<u16>>,
}

impl Prepared {
    /// How many values a Bind must bring: as many types as were declared, or as high as the text
    /// counts, whichever is more. `None` if the text is not for counting.
    #[must_use]
    pub fn parameters(&self, lexis: Lexis) -> Option<u16> {
        *self.values.get_or_init(|| {
            let declared = self.types.first_chunk().map_or(0, |count| u16::from_be_bytes(*count));
            Some(declared.max(sql::highest_parameter(&self.text, lexis)?))
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    by: By,
    text: Bytes,
    types: Bytes,
    meaning: u64,
}

/// The statements of all sessions: one entry a text, for as long as any session has it.
#[derive(Debug, Default)]
pub struct Shared(Mutex<Interned>);

#[derive(Debug, Default)]
struct Interned {
    by_key: HashMap<Key, Weak<Prepared>>,
    last_number: u64,
    sweep_at: usize,
}

impl Shared {
    /// The statement of this text, types and meaning. Texts are copied only when they are new.
    pub fn intern(
        &self,
        text: &[u8],
        types: &[u8],
        meaning: u64,
        script: &Arc<Script>,
    ) -> Arc<Prepared> {
        self.intern_by(By::Parse, text, types, meaning, script)
    }

    /// The statement that this PREPARE prepares; `script` has the facts of its execution.
    pub fn intern_sql(&self, text: &[u8], script: &Arc<Script>) -> Arc<Prepared> {
        self.intern_by(By::Sql, text, &[], 0, script)
    }

    fn intern_by(
        &self,
        by: By,
        text: &[u8],
        types: &[u8],
        meaning: u64,
        script: &Arc<Script>,
    ) -> Arc<Prepared> {
        let key = Key {
            by,
            text: Bytes::copy_from_slice(text),
            types: Bytes::copy_from_slice(types),
            meaning,
        };
        let mut interned = self.0.lock();
        if let Some(known) = interned.by_key.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        interned.sweep();
        interned.last_number += 1;
        let prepared = Arc::new(Prepared {
            by,
            number: interned.last_number,
            text: key.text.clone(),
            types: key.types.clone(),
            script: script.clone(),
            values: OnceLock::new(),
        });
        interned.by_key.insert(key, Arc::downgrade(&prepared));
        prepared
    }

    /// The catalog has changed: whoever prepares a text from now on gets it with the result that it
    /// has now. Those who have it keep what they have, and hear so from PostgreSQL if that differs.
    pub fn forget(&self) {
        self.0.lock().by_key.clear();
    }

    /// How many texts are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().by_key.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Interned {
    /// Forgets what no session has, each time the map has doubled.
    fn sweep(&mut self) {
        if self.by_key.len() >= self.sweep_at {
            self.by_key.retain(|_, prepared| prepared.strong_count() > 0);
            self.sweep_at = (self.by_key.len() * 2).max(1024);
        }
    }
}

/// A session's unnamed statement. Its buffers are used again and again.
#[derive(Debug, Default)]
pub struct Unnamed {
    text: BytesMut,
    types: BytesMut,
    script: Option<Arc<Script>>,
    hash: u64,
}

impl Unnamed {
    /// Takes a new text.
    pub fn set(&mut self, text: &[u8], types: &[u8], meaning: u64, script: Arc<Script>) {
        self.text.clear();
        self.text.extend_from_slice(text);
        self.types.clear();
        self.types.extend_from_slice(types);
        self.script = Some(script);
        self.hash = rustc_hash::FxBuildHasher.hash_one((text, types, meaning));
    }

    /// Forgets the text.
    pub fn clear(&mut self) {
        self.script = None;
    }

    /// Its text, types, facts and a hash over text, types and meaning, if there is one.
    #[must_use]
    #[allow(clippy::type_complexity, reason = "four things that are only used together")]
    pub fn get(&self) -> Option<(&[u8], &[u8], &Arc<Script>, u64)> {
        self.script.as_ref().map(|script| (&self.text[..], &self.types[..], script, self.hash))
    }
}

/// The prepared statements of one session.
#[derive(Debug, Default)]
pub struct Statements {
    named: FxHashMap<Bytes, Arc<Prepared>>,
    /// How many of them are of SQL's PREPARE.
    of_sql: usize,
    /// The unnamed statement.
    pub unnamed: Unnamed,
}

impl Statements {
    /// The statement under the client's `name`.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&Arc<Prepared>> {
        self.named.get(name)
    }

    /// The statement was prepared under the client's `name`.
    pub fn insert(&mut self, name: Bytes, prepared: Arc<Prepared>) {
        self.of_sql += usize::from(prepared.by == By::Sql);
        let before = self.named.insert(name, prepared);
        self.of_sql -= usize::from(before.is_some_and(|before| before.by == By::Sql));
    }

    /// The client's `name` was closed.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let removed = self.named.remove(name);
        self.of_sql -= usize::from(removed.as_ref().is_some_and(|gone| gone.by == By::Sql));
        removed.is_some()
    }

    /// Whether any is of SQL's PREPARE.
    #[must_use]
    pub fn has_any_of_sql(&self) -> bool {
        self.of_sql > 0
    }

    /// Every name with its statement.
    pub fn iter(&self) -> impl Iterator<Item = (&Bytes, &Arc<Prepared>)> {
        self.named.iter()
    }

    /// All names are gone (DEALLOCATE ALL, DISCARD ALL).
    pub fn clear(&mut self) {
        self.named.clear();
        self.of_sql = 0;
        self.unnamed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_shared_and_what_nobody_has_is_forgotten() {
        let shared = Shared::default();
        let script = Arc::new(Script::default());
        let one = shared.intern(b"select 1", b"\0\0", 0, &script);
        assert_eq!(shared.intern(b"select 1", b"\0\0", 0, &script).number, one.number);
        assert_ne!(shared.intern(b"select 1", b"\0\0", 1, &script).number, one.number);
        assert_ne!(shared.intern(b"select 1", b"\0\x01\0\0\0\x17", 0, &script).number, one.number);
        for number in 0..5000 {
            shared.intern(format!("select {number}").as_bytes(), b"\0\0", 0, &script);
        }
        assert!(shared.len() < 2500, "{} texts are kept", shared.len());
        assert_eq!(shared.intern(b"select 1", b"\0\0", 0, &script).number, one.number);
    }

    #[test]
    fn a_text_is_prepared_anew_after_the_catalog_changed() {
        let shared = Shared::default();
        let script = Arc::new(Script::default());
        let before = shared.intern(b"select * from t", b"\0\0", 0, &script);
        shared.forget();
        let after = shared.intern(b"select * from t", b"\0\0", 0, &script);
        assert_ne!(after.number, before.number);
    }

    #[test]
    fn values_are_counted_by_the_text_and_by_the_types() {
        let shared = Shared::default();
        let script = Arc::new(Script::default());
        for (text, types, expected) in [
            ("select 1", &b"\0\0"[..], Some(0)),
            ("select $2, $1, '$9'", b"\0\0", Some(2)),
            ("select $1", b"\0\x02\0\0\0\x17\0\0\0\x17", Some(2)),
            ("select $99999999999", b"\0\0", None),
        ] {
            let prepared = shared.intern(text.as_bytes(), types, 0, &script);
            assert_eq!(prepared.parameters(Lexis::default()), expected, "{text}");
        }
    }
}
