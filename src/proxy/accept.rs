//! Accepting clients and handing each to the worker that has the fewest.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::worker::Worker;
use crate::net::Listener;

/// Accepts until `stop` is cancelled; the socket is closed then.
pub async fn accept(listener: Listener, workers: Arc<Vec<Worker>>, stop: CancellationToken) {
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        if let Some(worker) = workers.iter().min_by_key(|worker| worker.load()) {
            worker.hand_over(stream, peer);
        }
    }
}
