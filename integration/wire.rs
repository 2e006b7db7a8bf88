//! A client that speaks the protocol by hand, so that it can do it wrongly, stop in the middle, and
//! read a value of any size without holding it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Proxy, SOON};

/// A logged-in connection.
pub struct Wire {
    pub stream: TcpStream,
}

/// A start-up packet for `app` and this database.
pub fn startup(database: &str) -> Bytes {
    startup_with(database, &[])
}

/// The same with parameters.
pub fn startup_with(database: &str, parameters: &[(String, String)]) -> Bytes {
    startup_speaking(database, parameters, 0)
}

/// The same in this minor version of protocol 3.
fn startup_speaking(database: &str, parameters: &[(String, String)], minor: u16) -> Bytes {
    let mut packet = BytesMut::new();
    packet.put_u32(0);
    packet.put_u32(196_608 + u32::from(minor));
    let more = parameters.iter().flat_map(|(name, value)| [&**name, &**value]);
    for text in ["user", "app", "database", database].into_iter().chain(more).chain([""]) {
        packet.put_slice(text.as_bytes());
        packet.put_u8(0);
    }
    let length = u32::try_from(packet.len()).unwrap();
    packet[..4].copy_from_slice(&length.to_be_bytes());
    packet.freeze()
}

/// One frontend message.
pub fn frame(kind: u8, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(body.len() + 5);
    frame.put_u8(kind);
    frame.put_u32(u32::try_from(body.len() + 4).unwrap());
    frame.put_slice(body);
    frame.freeze()
}

/// A simple Query message.
pub fn query(text: &str) -> Bytes {
    frame(b'Q', format!("{text}\0").as_bytes())
}

impl Wire {
    /// Logs in with SCRAM-SHA-256 and reads up to the first ReadyForQuery.
    pub async fn login(proxy: &Proxy, database: &str) -> Self {
        Self::login_at(proxy.address, database, &[]).await.0
    }

    /// Logs in to whoever serves there and returns what it said after AuthenticationOk.
    pub async fn login_at(
        address: SocketAddr,
        database: &str,
        parameters: &[(String, String)],
    ) -> (Self, Vec<(u8, Bytes)>) {
        Self::login_speaking(address, database, parameters, 0).await
    }

    /// The same in this minor version of protocol 3.
    pub async fn login_speaking(
        address: SocketAddr,
        database: &str,
        parameters: &[(String, String)],
        minor: u16,
    ) -> (Self, Vec<(u8, Bytes)>) {
        let mut wire = Self { stream: TcpStream::connect(address).await.unwrap() };
        wire.stream.set_nodelay(true).unwrap();
        let packet = startup_speaking(database, parameters, minor);
        wire.stream.write_all(&packet).await.unwrap();
        let (kind, body) = wire.message().await;
        assert_eq!((kind, &body[..4]), (b'R', &10_u32.to_be_bytes()[..]), "SASL is asked for");
        let mut scram = ScramSha256::new(b"app", ChannelBinding::unsupported());

        let mut first = BytesMut::new();
        first.put_slice(SCRAM_SHA_256.as_bytes());
        first.put_u8(0);
        first.put_u32(u32::try_from(scram.message().len()).unwrap());
        first.put_slice(scram.message());
        wire.send(&frame(b'p', &first)).await;

        let (_, body) = wire.message().await;
        scram.update(&body[4..]).unwrap();
        let answer = frame(b'p', scram.message());
        wire.send(&answer).await;
        let (_, body) = wire.message().await;
        scram.finish(&body[4..]).unwrap();
        let mut greeting = Vec::new();
        loop {
            greeting.push(wire.message().await);
            if matches!(greeting.last(), Some((b'Z' | b'E', _))) {
                return (wire, greeting);
            }
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next message, whole.
    pub async fn message(&mut self) -> (u8, Bytes) {
        let (kind, length) = self.header().await.expect("a message, not the end");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).await.unwrap();
        (kind, body.into())
    }

    /// Kind and body length of the next message; nothing at the stream's end.
    pub async fn header(&mut self) -> Option<(u8, usize)> {
        let mut head = [0; 5];
        tokio::time::timeout(SOON, self.stream.read_exact(&mut head)).await.ok()?.ok()?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        Some((head[0], length as usize - 4))
    }

    /// Drops so many bytes.
    pub async fn skip(&mut self, bytes: usize) {
        let mut body = vec![0; bytes];
        self.stream.read_exact(&mut body).await.unwrap();
    }

    /// Runs a simple query and returns the kinds of the messages that answer it, but for those that
    /// may come at any time.
    pub async fn ask(&mut self, text: &str) -> String {
        self.send(&query(text)).await;
        let (kinds, _) = self.until_ready().await;
        kinds.chars().filter(|kind| !matches!(kind, 'S' | 'N' | 'A')).collect()
    }

    /// Reads up to ReadyForQuery without holding more than a piece; returns the kinds of the messages
    /// and the bytes of all their bodies together.
    pub async fn until_ready(&mut self) -> (String, usize) {
        let mut kinds = String::new();
        let mut bytes = 0;
        let mut piece = vec![0; 65_536];
        loop {
            let (kind, mut left) = self.header().await.expect("a message, not the end");
            kinds.push(kind.into());
            bytes += left;
            while left > 0 {
                let part = left.min(piece.len());
                left -= self.stream.read(&mut piece[..part]).await.unwrap();
            }
            if kind == b'Z' {
                return (kinds, bytes);
            }
        }
    }

    /// Everything up to the end of the stream, which must come within the limit.
    pub async fn until_end(mut self, limit: Duration) -> Vec<u8> {
        read_to_end(&mut self.stream, limit).await
    }
}

/// Everything up to the end of the stream, which must come within the limit. A reset is an end too.
pub async fn read_to_end(stream: &mut TcpStream, limit: Duration) -> Vec<u8> {
    let mut all = Vec::new();
    let end = tokio::time::timeout(limit, stream.read_to_end(&mut all)).await;
    assert!(end.is_ok(), "the connection is not closed after {limit:?}");
    all
}
