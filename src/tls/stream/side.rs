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

/// The two differ in rustls's types, and in nothing that is done with them here.
macro_rules! side {
    ($side:ty, $data:ty) => {
        impl Side for $side {
            type Data = $data;

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

side!(ServerSide, ServerConnectionData);
side!(ClientSide, ClientConnectionData);
