//! A server on loan, and the place in a pool that it takes.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::Pool;
use crate::server::ServerConn;

/// A place in a pool, taken. Dropping it frees the place, and whoever waits longest may open a
/// server in it.
#[derive(Debug)]
pub struct Place {
    pool: Option<Arc<Pool>>,
}

impl Place {
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        Self { pool: Some(pool) }
    }

    pub(super) fn pool(&self) -> &Arc<Pool> {
        self.pool.as_ref().expect("a place has its pool until it is dropped or passed on")
    }

    /// Gives the place up without freeing it: it passes to the server that is put back.
    pub(super) fn keep(mut self) -> Arc<Pool> {
        self.pool.take().expect("a place has its pool until it is dropped or passed on")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.free_place();
        }
    }
}

/// A server on loan to one session. Dropping it closes the server.
#[derive(Debug)]
pub struct Lease {
    // In this order: the server is closed before its place is free.
    server: Box<ServerConn>,
    place: Place,
}

impl Lease {
    pub(super) fn new(server: Box<ServerConn>, place: Place) -> Self {
        Self { server, place }
    }

    /// Puts the server back for the next session, or closes it if it is not clean, is too old, or
    /// was opened in an epoch that is over.
    pub fn give_back(self, epoch: u64) {
        let Self { server, place } = self;
        if server.is_clean() {
            place.keep().put_back(server, epoch);
        }
    }

    /// Closes the server and keeps its place.
    pub(super) fn close(self) -> Place {
        self.place
    }

    /// The server itself, with its place still taken.
    pub(super) fn take_back(self) -> Box<ServerConn> {
        let Self { server, place } = self;
        drop(place.keep());
        server
    }

    /// Whose pool it is from.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        self.place.pool()
    }
}

impl Deref for Lease {
    type Target = ServerConn;

    fn deref(&self) -> &ServerConn {
        &self.server
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut ServerConn {
        &mut self.server
    }
}
