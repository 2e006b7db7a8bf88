//! Accepting clients and handing them to the workers.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::crew::Crew;
use crate::net::Listener;

/// Accepts until `stop` is cancelled; the socket is closed then.
pub async fn accept(listener: Listener, crew: Arc<Crew>, stop: CancellationToken) {
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        crew.accept(stream, peer);
    }
}
