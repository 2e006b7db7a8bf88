//! What proofs cost is kept away from the workers, whose sessions would have to wait: key derivations take turns,
//! and threads that do such work give way to those that serve.

use std::cell::Cell;
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
    let derived = task::spawn_blocking(move || {
        give_way();
        work()
    })
    .await;
    drop(turn);
    derived
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
