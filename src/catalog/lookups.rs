//! Who looks roles up at the moment.
//!
//! Owns two queues. Those who look the same name up go one after the other, so that all but the first find the answer;
//! and of one address few look up at once, so that whoever thinks of many names keeps those who come from elsewhere from
//! nothing.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many look up at once from one address.
const EACH: usize = 4;

/// All who look something up.
#[derive(Debug, Default)]
pub struct LookUps {
    names: Queues<Box<str>>,
    addresses: Queues<Option<IpAddr>>,
}

#[derive(Debug)]
struct Queues<K>(Mutex<HashMap<K, Arc<Semaphore>>>);

/// A place at the head of a queue, or in it.
struct InQueue<'a, K: Hash + Eq> {
    queues: &'a Queues<K>,
    key: K,
    queue: Option<Arc<Semaphore>>,
    permit: Option<OwnedSemaphorePermit>,
}

/// Whose turn it is, while it is there.
#[must_use]
pub struct Turn<'a> {
    _name: InQueue<'a, Box<str>>,
}

impl LookUps {
    /// Waits until nobody else looks the name up.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn turn_of(&self, name: &str) -> Turn<'_> {
        Turn { _name: self.names.enter(name.into(), 1).await }
    }

    /// Waits until few others from there look anything up.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn turn_from(&self, from: Option<IpAddr>) -> impl Drop + '_ {
        self.addresses.enter(from, EACH).await
    }
}

impl<K> Default for Queues<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone> Queues<K> {
    async fn enter(&self, key: K, most: usize) -> InQueue<'_, K> {
        let queue = {
            let mut queues = self.0.lock();
            queues.entry(key.clone()).or_insert_with(|| Arc::new(Semaphore::new(most))).clone()
        };
        let mut place = InQueue { queues: self, key, queue: Some(queue.clone()), permit: None };
        // Never closed; if it were, there would be nothing to wait for.
        place.permit = queue.acquire_owned().await.ok();
        place
    }
}

impl<K: Hash + Eq> Drop for InQueue<'_, K> {
    fn drop(&mut self) {
        drop(self.permit.take());
        drop(self.queue.take());
        let mut queues = self.queues.0.lock();
        // Others hold it as long as they wait or have their turn.
        if queues.get(&self.key).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            queues.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn those_who_ask_for_the_same_go_one_after_the_other() {
        let all = LookUps::default();
        let first = all.turn_of("app").now_or_never().expect("nobody is there");
        let mut second = Box::pin(all.turn_of("app"));
        assert!((&mut second).now_or_never().is_none());
        drop(all.turn_of("other").now_or_never().expect("another's turn"));
        // Who gives up waiting leaves nothing behind.
        assert!(all.turn_of("app").now_or_never().is_none());
        drop(first);
        drop((&mut second).now_or_never().expect("its turn"));
        drop(second);
        assert!(all.names.0.lock().is_empty());
    }

    #[tokio::test]
    async fn who_asks_for_much_keeps_nobody_elsewhere_waiting() {
        let all = LookUps::default();
        let from = |host: &str| Some(host.parse().unwrap());
        let there: Vec<_> =
            (0..EACH).map(|_| all.turn_from(from("192.0.2.1")).now_or_never().unwrap()).collect();
        assert!(all.turn_from(from("192.0.2.1")).now_or_never().is_none());
        assert!(all.turn_from(from("192.0.2.2")).now_or_never().is_some());
        assert!(all.turn_from(None).now_or_never().is_some());
        drop(there);
        assert!(all.turn_from(from("192.0.2.1")).now_or_never().is_some());
        assert!(all.addresses.0.lock().is_empty());
    }
}
