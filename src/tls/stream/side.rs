//! The two roles of TLS: the server's and the client's.
//!
//! Owns the difference between rustls's types for them, and nothing else: what a stream does is the same
//! for both.

use rustls::CommonState;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::UnbufferedStatus;

/// Our end of a TLS connection: which of the two roles we play.
pub trait Side: Unpin {
    /// What rustls keeps for this role.
    type Data;

    /// The most that may lie unprocessed, in bytes: a handshake message, in its records.
    const INCOMING_MOST: usize;

    /// Takes apart what has come.
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// What has been agreed on.
    fn agreed(&self) -> &CommonState;
}

/// We are the server.
pub type ServerSide = UnbufferedServerConnection;
/// We are the client.
pub type ClientSide = UnbufferedClientConnection;

/// What a client may send before anybody knows who it is: a greeting, and a chain of certificates, which has some
/// kilobytes. rustls would keep up to 64 KiB of either.
const OF_CLIENTS: usize = 28 << 10;
/// Of a server's messages rustls takes up to 64 KiB, in records that may be small.
const OF_SERVERS: usize = 160 << 10;

/// The two differ in rustls's types, and in nothing that is done with them here.
macro_rules! side {
    ($side:ty, $data:ty, $most:expr) => {
        impl Side for $side {
            type Data = $data;

            const INCOMING_MOST: usize = $most;

            fn process<'c, 'i>(
                &'c mut self,
                incoming: &'i mut [u8],
            ) -> UnbufferedStatus<'c, 'i, Self::Data> {
                self.process_tls_records(incoming)
            }

            fn agreed(&self) -> &CommonState {
                self
            }
        }
    };
}

side!(ServerSide, ServerConnectionData, OF_CLIENTS);
side!(ClientSide, ClientConnectionData, OF_SERVERS);
