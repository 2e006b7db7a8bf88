//! Connections of HTTP, bounded in number and in time.
//!
//! Owns how many there are at once, and until when each must have asked and taken its answer. Whoever comes beyond
//! waits in the kernel's queue.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::telemetry::metrics::Gauge;

/// How long a connection's first request may take to come: whoever opens connections and says nothing holds up the checks
/// of a load balancer no longer than that.
const FIRST: Duration = Duration::from_secs(1);
/// How long a request may take to come, from the answer before it, and how long a peer
/// may take nothing of an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection lives at most: what drips is not waited for, however steadily it does.
const LIFE: Duration = Duration::from_secs(60);

/// Accepts so many at once.
pub struct BoundedListener {
    listener: TcpListener,
    places: Arc<Semaphore>,
    open: Gauge,
}

impl BoundedListener {
    /// `most` connections of `listener`, counted in `open`.
    pub fn new(listener: TcpListener, most: usize, open: Gauge) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(most)), open }
    }
}

impl Listener for BoundedListener {
    type Io = BoundedStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (BoundedStream, SocketAddr) {
        // Never closed; if it were, there would be no bound to keep.
        let place = self.places.clone().acquire_owned().await.ok();
        let (stream, from) = Listener::accept(&mut self.listener).await;
        self.open.inc();
        let now = Instant::now();
        let timer = Box::pin(sleep_until(now + FIRST));
        let end = now + LIFE;
        (
            BoundedStream {
                stream,
                timer,
                end,
                asked: false,
                open: self.open.clone(),
                _place: place,
            },
            from,
        )
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when its time is over.
pub struct BoundedStream {
    stream: TcpStream,
    timer: Pin<Box<Sleep>>,
    end: Instant,
    /// Its first request was there, so that an answer is on its way.
    asked: bool,
    open: Gauge,
    _place: Option<OwnedSemaphorePermit>,
}

impl BoundedStream {
    fn late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.timer.as_mut().poll(cx).map(|()| io::ErrorKind::TimedOut.into())
    }

    /// Something of an answer was taken: there is time again, but for those who have had all of it.
    fn goes_on(&mut self) {
        let until = (Instant::now() + PATIENCE).min(self.end);
        self.timer.as_mut().reset(until);
    }
}

impl Drop for BoundedStream {
    fn drop(&mut self) {
        self.open.dec();
    }
}

impl AsyncRead for BoundedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(late) = this.late(cx) {
            return Poll::Ready(Err(late));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for BoundedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.asked, true) {
            this.goes_on();
        }
        if let Poll::Ready(late) = this.late(cx) {
            return Poll::Ready(Err(late));
        }
        let written = ready!(Pin::new(&mut this.stream).poll_write(cx, buf));
        this.goes_on();
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
