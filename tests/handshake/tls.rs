//! TLS on the way in: both ways to begin it, what must not be taken for protected, and who is told what.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use causeway::client::{Entered, HandshakeError};
use causeway::config::settings::{Address, NodeTls, NodeTlsMode, Tls, TlsMode, Ways};
use causeway::net::Stream;
use causeway::net::postgres::open;
use causeway::protocol::startup::StartupError;
use causeway::protocol::{ErrorReport, frontend, write};
use causeway::tls::{Acceptor, ClientSide, Connector, TlsStream};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::config::{ChannelBinding, SslMode};

use super::{HANG, Outcome, entrance_over, limits};

const SSL_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x2f";
const GSSENC_REQUEST: &[u8] = b"\0\0\0\x08\x04\xd2\x16\x30";

/// A certificate for "db", which is its own authority, in files.
struct Made {
    directory: tempfile::TempDir,
}

impl Made {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["db".to_owned()]).unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        std::fs::write(directory.path().join("crt"), certificate.pem()).unwrap();
        std::fs::write(directory.path().join("key"), key.serialize_pem()).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn acceptor(&self, mode: TlsMode) -> Acceptor {
        let settings = Tls {
            mode,
            certificate: Some(self.path("crt")),
            key: Some(self.path("key")),
            client_root: Some(self.path("crt")),
            client_crl: None,
            names: Vec::new(),
        };
        Acceptor::load(&settings).unwrap().unwrap()
    }

    fn connector(&self) -> Connector {
        connector(NodeTlsMode::VerifyFull, Some(&self.path("crt")))
    }
}

fn connector(mode: NodeTlsMode, root: Option<&Path>) -> Connector {
    let root = root.map(Path::to_owned);
    let settings =
        NodeTls { mode, root, crl: None, certificate: None, key: None, require_auth: None };
    Connector::load(&settings).unwrap()
}

async fn entrance(files: &Made, mode: TlsMode) -> (TcpStream, tokio::task::JoinHandle<Outcome>) {
    entrance_over(limits(), None, Some(files.acceptor(mode))).await
}

/// Everything up to the end.
async fn rest(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut heard = Vec::new();
    let _ = timeout(HANG, stream.read_to_end(&mut heard)).await.expect("the connection hangs");
    heard
}

/// The ErrorResponse that is all there is.
fn report(heard: &[u8]) -> ErrorReport {
    assert_eq!(heard.first(), Some(&b'E'), "{}", heard.escape_ascii());
    ErrorReport::parse(&heard[5..])
}

fn startup(user: &str) -> BytesMut {
    let mut out = BytesMut::new();
    frontend::startup(&mut out, 0, [("user", user), ("database", "shop")]);
    out
}

/// Begins TLS at once, with these protocols.
async fn direct(
    stream: TcpStream,
    made: &Made,
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream, ClientSide>> {
    let mut config = ClientConfig::clone(&made.connector().config().unwrap());
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    TlsStream::connect(stream, Arc::new(config), ServerName::try_from("db").unwrap()).await
}

#[tokio::test]
async fn a_login_over_tls_is_bound_to_it() {
    let made = Made::new();
    for (mode, binding) in [
        (TlsMode::Allow, ChannelBinding::Require),
        (TlsMode::Require, ChannelBinding::Require),
        (TlsMode::Require, ChannelBinding::Prefer),
        (TlsMode::Require, ChannelBinding::Disable),
    ] {
        let (client, task) = entrance(&made, mode).await;
        let mut config = Config::new();
        config.host("db").user("app").password("secret").dbname("shop");
        config.ssl_mode(SslMode::Require).channel_binding(binding);
        let connector = {
            use tokio_postgres::tls::MakeTlsConnect;
            MakeTlsConnect::<TcpStream>::make_tls_connect(&mut made.connector(), "db").unwrap()
        };
        let session = async {
            let Ok(Entered::Session(mut welcome)) = task.await.unwrap() else { panic!("refused") };
            let mut out = std::mem::take(&mut welcome.unsent);
            write::ready_for_query(&mut out, b'I');
            welcome.stream.write_all(&out).await.unwrap();
            welcome.stream.flush().await.unwrap();
            welcome
        };
        let both = async { tokio::join!(config.connect_raw(client, connector), session) };
        let (driver, welcome) = timeout(HANG, both).await.expect("the login hangs");
        driver.map(|_| ()).unwrap();
        assert!(welcome.stream.tls().is_some());
    }
}

/// CVE-2021-23214: bytes that came in plain text are never taken for bytes of the TLS connection.
#[tokio::test]
async fn what_is_sent_behind_the_request_is_refused() {
    let made = Made::new();
    for behind in [b"x".to_vec(), startup("app").to_vec(), vec![0x16, 3, 1, 0, 1, 0]] {
        let (mut client, task) = entrance(&made, TlsMode::Allow).await;
        client.write_all(&[SSL_REQUEST, &behind].concat()).await.unwrap();
        let told = report(&rest(&mut client).await);
        assert_eq!(told.message, "received unencrypted data after SSL request");
        assert_eq!(told.sqlstate, "08P01");
        let refused = task.await.unwrap().unwrap_err();
        assert!(
            matches!(refused, HandshakeError::Startup(StartupError::DataAfterSsl)),
            "{refused:?}"
        );
    }
    // Later it is but a handshake that is none.
    let (mut client, task) = entrance(&made, TlsMode::Allow).await;
    client.write_all(SSL_REQUEST).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'S');
    client.write_all(&startup("app")).await.unwrap();
    let heard = rest(&mut client).await;
    assert_eq!(heard.first(), Some(&0x15), "an alert: {}", heard.escape_ascii());
    assert!(matches!(task.await.unwrap(), Err(HandshakeError::Tls(_))));
}

#[tokio::test]
async fn direct_negotiation_needs_the_protocols_name() {
    let made = Made::new();
    let (client, task) = entrance(&made, TlsMode::Require).await;
    let mut tls = direct(client, &made, &[b"postgresql"]).await.unwrap();
    tls.write_all(&startup("app")).await.unwrap();
    tls.flush().await.unwrap();
    assert_eq!(tls.read_u8().await.unwrap(), b'R');
    drop(tls);
    assert!(matches!(task.await.unwrap(), Err(HandshakeError::Gone { .. })));

    let (client, task) = entrance(&made, TlsMode::Require).await;
    let mut tls = direct(client, &made, &[]).await.unwrap();
    assert_eq!(rest(&mut tls).await, b"");
    assert!(matches!(task.await.unwrap(), Err(HandshakeError::NoAlpn)));

    let (client, task) = entrance(&made, TlsMode::Require).await;
    assert!(direct(client, &made, &[b"http/1.1"]).await.is_err());
    assert!(matches!(task.await.unwrap(), Err(HandshakeError::Tls(_))));

    // Where no TLS is offered it is a length that nobody takes.
    let (client, task) = entrance_over(limits(), None, None).await;
    assert!(direct(client, &made, &[b"postgresql"]).await.is_err());
    assert!(matches!(task.await.unwrap(), Err(HandshakeError::Startup(StartupError::Length))));
}

#[tokio::test]
async fn encryption_is_asked_for_once() {
    let made = Made::new();
    // GSSAPI is declined, and then TLS is taken.
    let (mut client, task) = entrance(&made, TlsMode::Require).await;
    client.write_all(GSSENC_REQUEST).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'N');
    client.write_all(SSL_REQUEST).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'S');
    let mut tls = direct(client, &made, &[]).await.unwrap();
    // Within TLS both are versions that nobody speaks.
    tls.write_all(SSL_REQUEST).await.unwrap();
    tls.flush().await.unwrap();
    let told = report(&rest(&mut tls).await);
    assert_eq!(told.sqlstate, "0A000");
    assert!(told.message.starts_with("unsupported frontend protocol 1234.5679"), "{told}");
    assert!(matches!(
        task.await.unwrap(),
        Err(HandshakeError::Startup(StartupError::Version { .. }))
    ));
    let (client, _task) = entrance(&made, TlsMode::Require).await;
    let mut tls = direct(client, &made, &[b"postgresql"]).await.unwrap();
    tls.write_all(GSSENC_REQUEST).await.unwrap();
    tls.flush().await.unwrap();
    let told = report(&rest(&mut tls).await);
    assert!(told.message.starts_with("unsupported frontend protocol 1234.5680"), "{told}");
}

#[tokio::test]
async fn who_must_come_with_tls_is_told_so() {
    let made = Made::new();
    for mode in [TlsMode::Require, TlsMode::VerifyFull] {
        let (mut client, task) = entrance(&made, mode).await;
        client.write_all(&startup("app")).await.unwrap();
        let told = report(&rest(&mut client).await);
        assert_eq!((&*told.sqlstate, &*told.message), ("28000", "connection requires TLS"));
        assert!(matches!(task.await.unwrap(), Err(HandshakeError::TlsRequired)));
        // A cancel request may come in plain text, as libpq before 17 sends it.
        let (mut client, task) = entrance(&made, mode).await;
        let mut cancel = BytesMut::new();
        frontend::cancel_request(&mut cancel, 7, b"key!");
        client.write_all(&cancel).await.unwrap();
        assert!(matches!(task.await.unwrap(), Ok(Entered::Cancel { .. })));
    }
    let (client, task) = entrance(&made, TlsMode::VerifyFull).await;
    let mut tls = direct(client, &made, &[b"postgresql"]).await.unwrap();
    tls.write_all(&startup("app")).await.unwrap();
    tls.flush().await.unwrap();
    let told = report(&rest(&mut tls).await);
    assert_eq!(told.message, "connection requires a valid client certificate");
    assert!(matches!(task.await.unwrap(), Err(HandshakeError::NoCertificate)));
}

/// A client that says that it would bind but was not offered it was shown a shorter list by somebody.
#[tokio::test]
async fn a_stripped_offer_of_channel_binding_is_noticed() {
    let made = Made::new();
    for (mechanism, first, sqlstate) in [
        ("SCRAM-SHA-256", "y,,n=,r=x", "28000"),
        ("SCRAM-SHA-256-PLUS", "n,,n=,r=x", "08P01"),
        ("SCRAM-SHA-256-PLUS", "p=tls-unique,,n=,r=x", "08P01"),
        ("SCRAM-SHA-256", "p=tls-server-end-point,,n=,r=x", "08P01"),
        ("SCRAM-SHA-1", "n,,n=,r=x", "08P01"),
    ] {
        let (client, task) = entrance(&made, TlsMode::Require).await;
        let mut tls = direct(client, &made, &[b"postgresql"]).await.unwrap();
        let mut out = startup("app");
        frontend::sasl_initial_response(&mut out, mechanism, first.as_bytes());
        tls.write_all(&out).await.unwrap();
        tls.flush().await.unwrap();
        let heard = rest(&mut tls).await;
        let offer = b"R\0\0\0\x2a\0\0\0\x0aSCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";
        let told = heard.strip_prefix(offer).expect("both mechanisms are offered");
        assert_eq!(report(told).sqlstate, sqlstate, "{mechanism} {first}");
        assert!(task.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn a_handshake_has_its_time() {
    let made = Made::new();
    let mut limits = limits();
    limits.startup_timeout = Duration::from_millis(200);
    let acceptor = made.acceptor(TlsMode::Require);
    let (mut client, task) = entrance_over(limits, None, Some(acceptor)).await;
    client.write_all(SSL_REQUEST).await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'S');
    let mut begun = BytesMut::new();
    begun.put_slice(&[0x16, 3, 1, 2, 0, 1]);
    client.write_all(&begun).await.unwrap();
    assert_eq!(rest(&mut client).await, b"");
    assert!(matches!(task.await.unwrap(), Err(HandshakeError::Timeout { started: false })));
}

/// What a node may ask for holds inside of TLS as well, of connections of tokio-postgres, too.
#[tokio::test]
async fn a_password_is_not_given_inside_of_tls_where_it_may_not_be_asked_for() {
    let files = Made::new();
    let scram = Some(Ways::SCRAM);
    for (mode, require_auth, given) in [
        (NodeTlsMode::Require, scram, false),
        (NodeTlsMode::Prefer, scram, false),
        (NodeTlsMode::VerifyCa, scram, false),
        (NodeTlsMode::Require, Some(Ways::PASSWORD), true),
        (NodeTlsMode::VerifyCa, Some(Ways::PASSWORD.with(Ways::MD5)), true),
        (NodeTlsMode::Require, None, true),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = files.acceptor(TlsMode::Allow);
        // Asks for the password in plain, and returns what it was given.
        let node = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 8];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(b"S").await.unwrap();
            let stream = Stream::Tcp(stream);
            let mut stream =
                stream.accept_tls(acceptor.config().clone(), BytesMut::new()).await.unwrap();
            let mut startup = [0; 512];
            let _ = stream.read(&mut startup).await.unwrap();
            stream.write_all(b"R\0\0\0\x08\0\0\0\x03").await.unwrap();
            stream.flush().await.unwrap();
            let mut heard = Vec::new();
            let mut some = [0; 512];
            while !heard.ends_with(b"secret\0") {
                match stream.read(&mut some).await {
                    Ok(0) | Err(_) => break,
                    Ok(count) => heard.extend_from_slice(&some[..count]),
                }
            }
            heard
        });
        let root = (mode == NodeTlsMode::VerifyCa).then(|| files.path("crt"));
        let settings =
            NodeTls { mode, root, crl: None, certificate: None, key: None, require_auth };
        let connector = Connector::load(&settings).unwrap();
        let address = Address { host: "127.0.0.1".to_owned(), port };
        let mut config = Config::new();
        config.host(&address.host).port(port).user("app").password("secret");
        config.ssl_mode(connector.ssl_mode(&address));
        let opened = timeout(HANG, open(&config, &connector));
        let (opened, heard) = tokio::join!(opened, node);
        let heard = heard.unwrap();
        assert!(opened.expect("it hangs").is_err());
        assert_eq!(heard.ends_with(b"secret\0"), given, "{mode:?} {require_auth:?} {heard:?}");
    }
}
