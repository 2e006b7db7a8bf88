//! What proofs cost is kept away from the workers, whose sessions would have to wait: key derivations take turns,
//! and threads that do such work give way to those that serve.

use std::cell::Cell;
use std::sync::LazyLock;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::{self, JoinError};

/// How many may run at once: half of the cores are left to those who serve.
static TURNS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Semaphore::new((cores / 2).max(1))
});

/// A turn: while it is there, somebody else has to wait.
pub struct Turn {
    /// Never closed; if it were, there would be no turns to wait for.
    _permit: Option<SemaphorePermit<'static>>,
}

impl Turn {
    /// Waits until it has come.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn take() -> Self {
        Self { _permit: TURNS.acquire().await.ok() }
    }

    /// Runs it on a thread of its own. The turn comes back with what came of it: whoever gives up waiting leaves
    /// it to the work, which runs to its end, unheard.
    ///
    /// # Errors
    /// If the runtime is shutting down, or `work` panicked.
    pub async fn derive<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<(T, Self), JoinError> {
        task::spawn_blocking(move || {
            give_way();
            (work(), self)
        })
        .await
    }
}

/// Runs it on a thread of its own when its turn has come.
///
/// # Errors
/// If the runtime is shutting down, or `work` panicked.
///
/// # Cancel safety
/// Safe: what has begun runs to its end, unheard, and keeps its turn until then.
pub async fn derive<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    let (derived, _turn) = Turn::take().await.derive(work).await?;
    Ok(derived)
}

/// So much nicer (`nice`) is a thread that gives way: where processors are short it gets a third of what another
/// gets, and does not interrupt it.
const NICER: i32 = 5;

/// Makes the calling thread give way to those that serve, once and for good.
pub fn give_way() {
    thread_local! {
        static GIVES_WAY: Cell<bool> = const { Cell::new(false) };
    }
    if !GIVES_WAY.replace(true) {
        // Linux lowers a thread and not its process; where it is refused, all threads are equals.
        if let Err(error) = rustix::process::nice(NICER) {
            tracing::debug!(%error, "the thread's priority cannot be lowered");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Whoever comes and hangs up again and again must not have more work done at once than there are turns.
    #[tokio::test]
    async fn work_that_nobody_waits_for_keeps_its_turn() {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let mut ends = Vec::new();
        for _ in 0..(cores / 2).max(1) {
            let (end, ended) = mpsc::channel::<()>();
            let begun = std::sync::Arc::new(tokio::sync::Notify::new());
            let begins = begun.clone();
            let work = tokio::spawn(derive(move || {
                begins.notify_one();
                ended.recv()
            }));
            begun.notified().await;
            work.abort();
            assert!(work.await.unwrap_err().is_cancelled());
            ends.push(end);
        }
        assert_eq!(TURNS.available_permits(), 0);
        drop(ends);
        derive(|| ()).await.unwrap();
    }
}
