//! A scripted PostgreSQL: a listener on a free port of loopback whose connections each run a script.
//!
//! A script is an async closure over a [`Peer`], which offers the server's half of the protocol in
//! small steps. A script that fails (its client hung up) ends its connection and nothing else; what a
//! test must know it learns from its own side.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut, BytesMut};
use causeway::auth::scram::{self, Standing};
use causeway::auth::verifier::{ITERATIONS, Verifier};
use causeway::config::settings::Address;
use causeway::protocol::startup::{self, Startup, StartupPacket};
use causeway::protocol::{backend, write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The listener; dropped, it takes its connections with it.
pub struct FakeServer {
    /// Where it listens.
    pub address: Address,
    accepted: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl FakeServer {
    /// Listens, and runs `script` on every connection.
    pub async fn start<F, Script>(script: F) -> Self
    where
        F: Fn(Peer) -> Script + Send + Sync + 'static,
        Script: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let task = tokio::spawn(async move {
            let mut running = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                running.spawn(script(Peer { stream, out: BytesMut::new() }));
            }
        });
        Self { address: Address { host: "127.0.0.1".to_owned(), port }, accepted, task }
    }

    /// A server that lets everybody in and then answers each simple query by `reply`, until the
    /// client leaves.
    pub async fn answering<F>(reply: F) -> Self
    where
        F: Fn(&str, &mut BytesMut) + Clone + Send + Sync + 'static,
    {
        Self::start(move |mut peer| {
            let reply = reply.clone();
            async move {
                peer.log_in(&Login::Trust).await?;
                peer.ready().await?;
                peer.answer_queries(reply).await
            }
        })
        .await
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a fake server wants its clients to prove themselves.
#[derive(Debug, Clone)]
pub enum Login {
    /// Not at all.
    Trust,
    /// By this password as it is.
    Cleartext(&'static str),
    /// By the md5 of the password, the user and the salt: what the client must send.
    Md5([u8; 4], &'static str),
    /// By SCRAM-SHA-256 with this password.
    Scram(&'static str),
}

/// The server's end of one connection.
pub struct Peer {
    stream: TcpStream,
    /// What [`Peer::flush`] sends.
    pub out: BytesMut,
}

impl Peer {
    /// The end of a connection that the test has made itself.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream, out: BytesMut::new() }
    }

    /// The start-up packet, whatever it is.
    pub async fn first_packet(&mut self) -> io::Result<StartupPacket> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).await?;
        let mut body = vec![0; startup::body_length(length, 10_000).map_err(io::Error::other)?];
        self.stream.read_exact(&mut body).await?;
        startup::parse(&body).map_err(io::Error::other)
    }

    /// The next message: its type and its body.
    pub async fn message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let kind = self.stream.read_u8().await?;
        let length = self.stream.read_u32().await?.saturating_sub(4);
        let mut body = vec![0; length as usize];
        self.stream.read_exact(&mut body).await?;
        Ok((kind, body))
    }

    /// Sends `bytes` at once.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends what is in `out`.
    pub async fn flush(&mut self) -> io::Result<()> {
        let out = self.out.split();
        self.stream.write_all(&out).await
    }

    /// Ends our half, then waits as [`Peer::until_closed`] does: a connection closed while what the
    /// client sent lies unread would be reset, and the reset might overtake what was sent to it.
    pub async fn hang_up(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        self.until_closed().await
    }

    /// Waits until the client closes its half, throwing away what it sends.
    pub async fn until_closed(&mut self) -> io::Result<()> {
        let mut nothing = [0; 1024];
        while self.stream.read(&mut nothing).await? > 0 {}
        Ok(())
    }

    /// From the start-up packet up to `AuthenticationOk`. A wrong password is 28P01.
    pub async fn log_in(&mut self, login: &Login) -> io::Result<Startup> {
        let StartupPacket::Session(startup) = self.first_packet().await? else {
            return Err(io::Error::other("not a login"));
        };
        if !self.prove(login).await? {
            scram::password_failed(&startup.user).encode(&mut self.out);
            self.flush().await?;
            return Err(io::Error::other("a wrong password"));
        }
        backend::authentication_ok(&mut self.out);
        self.flush().await?;
        Ok(startup)
    }

    async fn prove(&mut self, login: &Login) -> io::Result<bool> {
        let (request, expected) = match login {
            Login::Trust => return Ok(true),
            Login::Scram(password) => return self.prove_by_scram(password).await,
            Login::Cleartext(password) => (3u32.to_be_bytes().to_vec(), password),
            Login::Md5(salt, hashed) => ([&5u32.to_be_bytes()[..], salt].concat(), hashed),
        };
        write::message(&mut self.out, b'R', |body| body.put_slice(&request));
        self.flush().await?;
        let (_, sent) = self.message().await?;
        Ok(sent.strip_suffix(&[0]) == Some(expected.as_bytes()))
    }

    async fn prove_by_scram(&mut self, password: &str) -> io::Result<bool> {
        let verifier = Verifier::derive(password, b"0123456789abcdef", ITERATIONS);
        let exchange = scram::AwaitingFirst::new(&verifier, Standing::Genuine);
        backend::authentication_sasl(&mut self.out, &[scram::MECHANISM]);
        self.flush().await?;
        let (_, body) = self.message().await?;
        let first = body.splitn(2, |&byte| byte == 0).nth(1).unwrap_or_default();
        let (exchange, challenge) = exchange
            .on_client_first(first.get(4..).unwrap_or_default(), &scram::nonce())
            .map_err(io::Error::other)?;
        backend::authentication_sasl_continue(&mut self.out, challenge.as_bytes());
        self.flush().await?;
        let (_, last) = self.message().await?;
        let Ok(last) = exchange.on_client_final(&last) else { return Ok(false) };
        backend::authentication_sasl_final(&mut self.out, last.message.as_bytes());
        Ok(true)
    }

    /// Some parameters, the key (process id 4711, secret `key!`), and `ReadyForQuery`.
    pub async fn ready(&mut self) -> io::Result<()> {
        write::parameter_status(&mut self.out, b"server_version", b"15.0 (fake)");
        write::parameter_status(&mut self.out, b"client_encoding", b"UTF8");
        write::backend_key_data(&mut self.out, 4711, b"key!");
        write::ready_for_query(&mut self.out, b'I');
        self.flush().await
    }

    /// Answers simple queries until the client leaves; all else is ignored. `reply` appends what
    /// comes before `ReadyForQuery`.
    pub async fn answer_queries(&mut self, reply: impl Fn(&str, &mut BytesMut)) -> io::Result<()> {
        loop {
            match self.message().await? {
                (b'X', _) => return Ok(()),
                (b'Q', body) => {
                    let text = String::from_utf8_lossy(&body[..body.len() - 1]).into_owned();
                    reply(&text, &mut self.out);
                    write::ready_for_query(&mut self.out, b'I');
                    self.flush().await?;
                }
                _ => {}
            }
        }
    }
}
