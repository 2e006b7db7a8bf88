//! Pairs of streams over carriers of any size: what arrives, what ends them, what is refused.

use std::time::Duration;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

use super::*;

const HANG: Duration = Duration::from_secs(30);

type Server = TlsStream<DuplexStream, ServerSide>;
type Client = TlsStream<DuplexStream, ClientSide>;

fn configs(version: &'static SupportedProtocolVersion) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let parameters = rcgen::CertificateParams::new(vec!["db".to_owned()]).unwrap();
    let certificate = parameters.self_signed(&key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let provider = Arc::new(default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    server.send_tls13_tickets = 0;
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

/// A connection over a carrier that holds `room` bytes.
async fn pair(version: &'static SupportedProtocolVersion, room: usize) -> (Server, Client) {
    let (server, client) = configs(version);
    let (near, far) = duplex(room);
    let name = ServerName::try_from("db").unwrap();
    let accept = TlsStream::accept(near, server, BytesMut::new());
    let both = async { tokio::join!(accept, TlsStream::connect(far, client, name)) };
    let (server, client) = timeout(HANG, both).await.expect("the handshake hangs");
    (server.unwrap(), client.unwrap())
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

/// Whatever the carrier holds at once, and however much is read at once.
#[tokio::test]
async fn everything_arrives_both_ways_at_once() {
    for version in [&TLS12, &TLS13] {
        for (room, chunk) in [(1 << 20, 1 << 20), (70_000, 8192), (4096, 333), (61, 17)] {
            let (server, client) = pair(version, room).await;
            let sent = bytes(if room < 100 { 20_000 } else { 600_000 });
            let (mut server_reads, mut server_writes) = tokio::io::split(server);
            let (mut client_reads, mut client_writes) = tokio::io::split(client);
            let write = async |half: &mut (dyn AsyncWrite + Unpin + Send)| {
                half.write_all(&sent).await.unwrap();
                half.flush().await.unwrap();
            };
            let read = async |half: &mut (dyn AsyncRead + Unpin + Send)| {
                let mut heard = Vec::new();
                let mut piece = vec![0; chunk];
                while heard.len() < sent.len() {
                    let count = half.read(&mut piece).await.unwrap();
                    assert_ne!(count, 0, "it ended after {}", heard.len());
                    heard.extend_from_slice(&piece[..count]);
                }
                assert!(heard == sent, "{room} {chunk}");
            };
            let all = async {
                tokio::join!(
                    write(&mut server_writes),
                    write(&mut client_writes),
                    read(&mut server_reads),
                    read(&mut client_reads)
                )
            };
            timeout(HANG, all).await.expect("it hangs");
        }
    }
}

/// What has come is never hidden: while [`TlsStream::has_unread`] is false, whatever will be read has
/// still to come through the carrier.
#[tokio::test]
async fn a_silent_carrier_does_not_hide_what_has_come() {
    let (mut server, mut client) = pair(&TLS13, 1 << 20).await;
    let sent = bytes(3000);
    // Three records, which come at once.
    for record in sent.chunks(1000) {
        client.write_all(record).await.unwrap();
    }
    client.flush().await.unwrap();
    let mut heard = vec![0; 100];
    server.read_exact(&mut heard).await.unwrap();
    while heard.len() < sent.len() {
        assert!(server.has_unread(), "after {}", heard.len());
        let mut piece = [0; 100];
        let count = server.read(&mut piece).await.unwrap();
        heard.extend_from_slice(&piece[..count]);
    }
    assert!(heard == sent);
    let nothing = timeout(Duration::from_millis(10), server.read(&mut [0; 100])).await;
    assert!(nothing.is_err());
    assert!(!server.has_unread());
    assert_eq!((server.incoming.capacity(), server.plaintext.capacity()), (0, 0));
    assert_eq!(client.outgoing.capacity(), 0);
}

/// A part of a record is nothing to read, and is not lost.
#[tokio::test]
async fn half_a_record_is_waited_for() {
    let (mut server, mut client) = pair(&TLS13, 1 << 20).await;
    client.say(&mut Context::from_waker(Waker::noop()), Say::Data(b"hello")).unwrap();
    let record = client.outgoing.split();
    client.io.write_all(&record[..7]).await.unwrap();
    let early = timeout(Duration::from_millis(20), server.read(&mut [0; 100])).await;
    assert!(early.is_err());
    client.io.write_all(&record[7..]).await.unwrap();
    let mut heard = [0; 5];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test]
async fn new_keys_are_taken_in_between() {
    let (mut server, mut client) = pair(&TLS13, 1 << 20).await;
    for round in 0..3_u8 {
        let ConnectionState::WriteTraffic(traffic) = client.side.process(&mut []).state.unwrap()
        else {
            panic!("not ready to write")
        };
        traffic.refresh_traffic_keys().unwrap();
        client.write_all(&[round]).await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), round);
        server.write_all(&[round + 100]).await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), round + 100);
    }
}

#[tokio::test]
async fn how_it_ends() {
    // By goodbye, which dropping says too.
    for version in [&TLS12, &TLS13] {
        let (mut server, mut client) = pair(version, 1 << 20).await;
        client.write_all(b"last").await.unwrap();
        client.shutdown().await.unwrap();
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"last");
        assert!(server.has_unread(), "the end is something to hear");
        drop(server);
        assert_eq!(client.read(&mut [0; 10]).await.unwrap(), 0);
    }
    // By the carrier's end.
    let (mut server, client) = pair(&TLS13, 1 << 20).await;
    let mut client = std::mem::ManuallyDrop::new(client);
    client.io.shutdown().await.unwrap();
    assert_eq!(server.read(&mut [0; 10]).await.unwrap(), 0);
}

/// Plain text, and records that were tampered with, are an error, and the peer hears an alert.
#[tokio::test]
async fn what_is_not_protected_is_refused() {
    let (mut server, mut client) = pair(&TLS13, 1 << 20).await;
    client.io.write_all(b"Q\0\0\0\x0dSELECT 1\0").await.unwrap();
    let error = server.read(&mut [0; 100]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    let error = client.read(&mut [0; 100]).await.unwrap_err();
    assert!(error.to_string().contains("fatal alert"), "{error}");

    let (mut server, mut client) = pair(&TLS13, 1 << 20).await;
    client.say(&mut Context::from_waker(Waker::noop()), Say::Data(b"hello")).unwrap();
    let mut record = client.outgoing.split();
    record[8] ^= 1;
    client.io.write_all(&record).await.unwrap();
    assert!(server.read(&mut [0; 100]).await.is_err());
    assert!(server.write_all(b"more").await.is_err());
    assert!(server.read(&mut [0; 100]).await.is_err());
}

#[tokio::test]
async fn handshakes_that_fail() {
    let (server, client) = configs(&TLS13);
    // The peer speaks something else.
    let (near, mut far) = duplex(1 << 16);
    far.write_all(b"\0\0\0\x08\x04\xd2\x16\x2fand more").await.unwrap();
    let failed = TlsStream::accept(near, server.clone(), BytesMut::new()).await;
    assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::InvalidData);
    // The peer leaves.
    let (near, far) = duplex(1 << 16);
    drop(far);
    let failed = TlsStream::accept(near, server.clone(), BytesMut::new()).await;
    assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    // The certificate is another's.
    let (near, far) = duplex(1 << 16);
    let name = ServerName::try_from("other").unwrap();
    let (server, client) = tokio::join!(
        TlsStream::accept(near, server, BytesMut::new()),
        TlsStream::connect(far, client, name)
    );
    assert!(client.unwrap_err().to_string().contains("not valid for name"));
    assert!(server.is_err());
}

/// A peer that announces a handshake message without end is not listened to for ever.
#[tokio::test]
async fn a_handshake_is_not_endless() {
    let (server, _) = configs(&TLS13);
    let (near, mut far) = duplex(1 << 20);
    let mut record = vec![0x16, 3, 1, 0x40, 0];
    record.extend_from_slice(&[1, 0, 0xFF, 0xFF]);
    record.resize(5 + 0x4000, 0);
    let flood = async {
        for _ in 0..1000 {
            if far.write_all(&record).await.is_err() {
                break;
            }
            record.splice(5..9, [0, 0, 0, 0]);
        }
    };
    let accept = TlsStream::accept(near, server, BytesMut::new());
    let (failed, ()) = timeout(HANG, async { tokio::join!(accept, flood) }).await.unwrap();
    assert!(failed.is_err());
}

/// Whoever has not said who it is may make us hold so much and no more, however it cuts it up.
#[tokio::test]
async fn a_greeting_that_does_not_end_is_not_kept() {
    let (config, _) = configs(&TLS13);
    for record in [100, 16_384] {
        let (near, mut far) = duplex(1024);
        let mut hello = vec![1, 0, 0xea, 0x60];
        hello.resize(60_000, 0);
        let accept = tokio::spawn(TlsStream::accept(near, config.clone(), BytesMut::new()));
        let mut taken = 0;
        for piece in hello.chunks(record) {
            let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
            let sent = [&[0x16, 3, 1, length[0], length[1]][..], piece].concat();
            for byte in sent.chunks(64) {
                if timeout(HANG, far.write_all(byte)).await.expect("it is read or closed").is_err()
                {
                    break;
                }
                taken += byte.len();
            }
        }
        let error = timeout(HANG, accept).await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "a TLS message of unlawful length");
        assert!(taken <= ServerSide::INCOMING_MOST + READ_FIRST + 1024, "{record}: {taken}");
    }
}
