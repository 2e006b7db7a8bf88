//! Key derivations take turns, away from the workers, whose other sessions would have to wait.

use std::sync::LazyLock;

use tokio::sync::Semaphore;
use tokio::task::{self, JoinError};

/// How many may run at once: half of the cores are left to those who serve.
static TURNS: LazyLock<Semaphore> = LazyLock::new(|| {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Semaphore::new((cores / 2).max(1))
});

/// Runs it on a thread of its own when its turn has come.
///
/// # Errors
/// If the runtime is shutting down, or `work` panicked.
///
/// # Cancel safety
/// Safe: what has begun runs to its end, unheard.
pub async fn derive<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    // Never closed; if it were, there would be no turns to wait for.
    let turn = TURNS.acquire().await;
    let derived = task::spawn_blocking(work).await;
    drop(turn);
    derived
}
