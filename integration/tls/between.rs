//! Somebody in between: who strips TLS, who puts bytes in before it, and who speaks TLS to both sides.

use std::net::SocketAddr;
use std::sync::Arc;

use causeway::cli::demo::cluster::APP;
use causeway::config::settings::{Address, NodeTlsMode, Tls, TlsMode};
use causeway::server::ConnectError;
use causeway::server::open::OpenError;
use causeway::tls::client::server_name;
use causeway::tls::{Acceptor, TlsStream};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode};

use super::nodes::{log_in, look, offering};
use super::{connector, directory, section, session, start};
use crate::certificates::{Authority, Identity};

const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const PLUS: &[u8] = b"SCRAM-SHA-256-PLUS\0";

/// What he does with a connection that asks for TLS.
#[derive(Clone)]
enum Does {
    /// Says that there is none, and passes on what follows.
    Strip,
    /// Lets TLS begin, with something of his own before it.
    Inject,
    /// Speaks TLS with both sides.
    Impersonate(Arc<ServerConfig>),
    /// The same, and takes the offer of channel binding out.
    ImpersonateUnbound(Arc<ServerConfig>),
}

/// Where he listens; aborted when dropped.
struct Somebody {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Somebody {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Somebody {
    async fn before(target: u16, does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                // His victims hang up on him.
                tokio::spawn(meddle(client, target, does.clone()));
            }
        });
        Self { address, task }
    }

    fn as_node(&self) -> Address {
        Address { host: "127.0.0.1".to_owned(), port: self.address.port() }
    }
}

async fn meddle(mut client: TcpStream, target: u16, does: Does) -> std::io::Result<()> {
    let mut request = [0; 8];
    client.read_exact(&mut request).await?;
    let mut server = TcpStream::connect(("127.0.0.1", target)).await?;
    if request != SSL_REQUEST {
        server.write_all(&request).await?;
        copy_bidirectional(&mut client, &mut server).await?;
        return Ok(());
    }
    let (config, unbound) = match does {
        Does::Strip => {
            client.write_all(b"N").await?;
            copy_bidirectional(&mut client, &mut server).await?;
            return Ok(());
        }
        Does::Inject => {
            // AuthenticationOk and more, to be taken for the server's.
            client.write_all(b"SR\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await?;
            client.read_to_end(&mut Vec::new()).await?;
            return Ok(());
        }
        Does::Impersonate(config) => (config, false),
        Does::ImpersonateUnbound(config) => (config, true),
    };
    client.write_all(b"S").await?;
    let mut client = TlsStream::accept(client, config, bytes::BytesMut::new()).await?;
    server.write_all(SSL_REQUEST).await?;
    assert_eq!(server.read_u8().await?, b'S');
    let believing = connector(NodeTlsMode::Require, None, None).config().unwrap();
    let name = server_name("127.0.0.1").unwrap();
    let mut server = TlsStream::connect(server, believing, name).await?;
    if unbound {
        take_offer_out(&mut client, &mut server).await?;
    }
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// Passes the start-up packet and the first answer on, without the mechanism that binds.
async fn take_offer_out(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    server: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let length = client.read_u32().await?;
    let mut startup = vec![0; length as usize - 4];
    client.read_exact(&mut startup).await?;
    server.write_u32(length).await?;
    server.write_all(&startup).await?;
    server.flush().await?;
    let kind = server.read_u8().await?;
    let mut body = vec![0; server.read_u32().await? as usize - 4];
    server.read_exact(&mut body).await?;
    let at = body.windows(PLUS.len()).position(|part| part == PLUS).expect("PLUS is offered");
    body.drain(at..at + PLUS.len());
    client.write_u8(kind).await?;
    client.write_u32(u32::try_from(body.len()).unwrap() + 4).await?;
    client.write_all(&body).await?;
    client.flush().await
}

/// With a certificate of his own, for everybody's name.
fn forged(authority: &Authority) -> Arc<ServerConfig> {
    let Identity { certificate, key } =
        authority.sign("somebody", "localhost", &["localhost", "127.0.0.1"]);
    let settings = Tls {
        mode: TlsMode::Allow,
        certificate: Some(certificate),
        key: Some(key),
        client_root: None,
        client_crl: None,
        names: Vec::new(),
    };
    Acceptor::load(&settings).unwrap().unwrap().config().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_not_deceived() {
    let directory = directory();
    let authority = Authority::new(&directory, "authority");
    let served = authority.sign("server", "localhost", &["localhost"]);
    let proxy = start(section("require", &served, "")).await;
    let port = proxy.address.port();
    let forged = forged(&Authority::new(&directory, "stranger"));
    let believing = || connector(NodeTlsMode::Require, None, None);
    let through = |somebody: &Somebody, ssl_mode, binding| {
        let mut config = Config::new();
        config
            .host("localhost")
            .hostaddr("127.0.0.1".parse().unwrap())
            .port(somebody.address.port())
            .user(APP)
            .password(APP)
            .dbname(APP)
            .ssl_mode(ssl_mode)
            .channel_binding(binding);
        config
    };
    let told = |error: tokio_postgres::Error| match error.as_db_error() {
        Some(report) => report.message().to_owned(),
        None => format!("{error:?}"),
    };

    // He speaks TLS with both, and the client does not look at certificates.
    let somebody = Somebody::before(port, Does::Impersonate(forged.clone())).await;
    let unbound = through(&somebody, SslMode::Require, ChannelBinding::Disable);
    session(&unbound, believing()).await.expect("without binding he is not noticed");
    for binding in [ChannelBinding::Prefer, ChannelBinding::Require] {
        let config = through(&somebody, SslMode::Require, binding);
        let error = session(&config, believing()).await.expect_err("he holds another certificate");
        assert_eq!(told(error), "SCRAM channel binding check failed");
    }
    let verifying = connector(NodeTlsMode::VerifyFull, Some(&authority.root), None);
    let config = through(&somebody, SslMode::Require, ChannelBinding::Prefer);
    let error = session(&config, verifying).await.expect_err("he is unknown");
    assert!(told(error).contains("UnknownIssuer"));

    let somebody = Somebody::before(port, Does::ImpersonateUnbound(forged)).await;
    let config = through(&somebody, SslMode::Require, ChannelBinding::Prefer);
    let error = session(&config, believing()).await.expect_err("the offer was taken out");
    assert_eq!(told(error), "SCRAM channel binding negotiation error");
    let config = through(&somebody, SslMode::Require, ChannelBinding::Require);
    assert!(session(&config, believing()).await.is_err());

    let somebody = Somebody::before(port, Does::Strip).await;
    let config = through(&somebody, SslMode::Require, ChannelBinding::Prefer);
    assert!(session(&config, believing()).await.is_err(), "the client wants TLS");
    let config = through(&somebody, SslMode::Prefer, ChannelBinding::Prefer);
    let error = session(&config, believing()).await.expect_err("Causeway wants TLS");
    assert_eq!(told(error), "connection requires TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_not_mistaken() {
    let node = offering().await;
    let port = node.cluster.primary().port();
    let forged = forged(&node.stranger);
    let believing = connector(NodeTlsMode::Require, None, None);
    let preferring = connector(NodeTlsMode::Prefer, None, None);

    // PostgreSQL itself notices that we are bound to another certificate.
    for (does, message) in [
        (Does::Impersonate(forged.clone()), "SCRAM channel binding check failed"),
        (Does::ImpersonateUnbound(forged), "SCRAM channel binding negotiation error"),
    ] {
        let somebody = Somebody::before(port, does).await;
        for connector in [&believing, &preferring] {
            let error = log_in(&somebody.as_node(), connector, APP).await.unwrap_err();
            assert_eq!(error.report().message, message);
            let error = look(&somebody.as_node(), connector).await.unwrap_err();
            assert!(error.contains(message), "{error}");
        }
        let error = log_in(&somebody.as_node(), &node.trusting(), APP).await.unwrap_err();
        assert!(error.to_string().contains("UnknownIssuer"), "{error}");
        assert!(look(&somebody.as_node(), &node.trusting()).await.is_err());
    }

    let somebody = Somebody::before(port, Does::Strip).await;
    let stripped = log_in(&somebody.as_node(), &preferring, APP).await.expect("prefer goes on");
    assert!(stripped.stream.tls().is_none());
    for connector in [&believing, &node.trusting()] {
        let error = log_in(&somebody.as_node(), connector, APP).await.unwrap_err();
        assert!(matches!(error, ConnectError::Tls(OpenError::NotOffered)), "{error}");
        assert!(look(&somebody.as_node(), connector).await.is_err());
    }

    // CVE-2021-23222.
    let somebody = Somebody::before(port, Does::Inject).await;
    for connector in [&preferring, &believing, &node.trusting()] {
        let error = log_in(&somebody.as_node(), connector, APP).await.unwrap_err();
        assert!(
            matches!(error, ConnectError::Tls(OpenError::Injected | OpenError::Handshake(_))),
            "{error}"
        );
        assert!(look(&somebody.as_node(), connector).await.is_err());
    }
}
