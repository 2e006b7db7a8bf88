//! The [`Connector`] as tokio-postgres wants it, for the monitor, the catalog and look-ups.

use std::io;
use std::pin::Pin;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{self, ChannelBinding, MakeTlsConnect, TlsConnect};

use super::client::server_name;
use super::{ClientSide, Connector, TlsStream, Want, channel_binding};
use crate::config::settings::Address;

impl Connector {
    /// The same as a `sslmode` of tokio-postgres.
    #[must_use]
    pub fn ssl_mode(&self, address: &Address) -> SslMode {
        match self.want(address) {
            Want::Plain => SslMode::Disable,
            Want::Prefer => SslMode::Prefer,
            Want::Require => SslMode::Require,
        }
    }
}

impl<IO> MakeTlsConnect<IO> for Connector
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = TlsStream<IO, ClientSide>;
    type TlsConnect = ToNode;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> Result<ToNode, io::Error> {
        // A Unix socket has no host; there TLS is not asked for.
        let name = (!host.is_empty()).then(|| server_name(host)).transpose();
        let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(ToNode { connector: self.clone(), name })
    }
}

/// One connection to a node.
#[derive(Debug)]
pub struct ToNode {
    connector: Connector,
    name: Option<ServerName<'static>>,
}

impl<IO> TlsConnect<IO> for ToNode
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = TlsStream<IO, ClientSide>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Stream>> + Send>>;

    fn connect(self, stream: IO) -> Self::Future {
        Box::pin(async move {
            let (Some(config), Some(name)) = (self.connector.config(), self.name) else {
                return Err(io::ErrorKind::Unsupported.into());
            };
            TlsStream::connect(stream, config, name).await
        })
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> tls::TlsStream for TlsStream<IO, ClientSide> {
    fn channel_binding(&self) -> ChannelBinding {
        let certificate = self.agreed().peer_certificates().and_then(<[_]>::first);
        match certificate.and_then(|der| channel_binding::tls_server_end_point(der)) {
            Some(hash) => ChannelBinding::tls_server_end_point(hash),
            None => ChannelBinding::none(),
        }
    }
}
