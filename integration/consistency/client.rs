//! A client that speaks each protocol as asked and tells refusals from lost connections.
//!
//! Requests may be sent several at a time; answers come one per ReadyForQuery. Values are text.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wire::{Wire, frame, query};

/// How requests are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A Query message.
    Simple,
    /// Parse, Bind, Execute, Sync, of an unnamed statement.
    Extended,
    /// The same with a statement that is parsed once.
    Prepared,
    /// As `Extended`, with several requests on their way at a time.
    Pipelined,
}

/// A statement with parameters `$1`, `$2` ...: numbers, in text.
#[derive(Debug, Clone)]
pub struct Sql {
    pub text: String,
    pub values: Vec<String>,
}

impl Sql {
    pub fn new(text: impl Into<String>, values: &[u64]) -> Self {
        Self { text: text.into(), values: values.iter().map(u64::to_string).collect() }
    }
}

pub type Columns = Vec<Option<String>>;

/// What came up to a ReadyForQuery.
#[derive(Debug, Default, Clone)]
pub struct Answer {
    pub rows: Vec<Columns>,
    pub refusal: Option<Refusal>,
    /// What was announced on the way, as channels.
    pub notified: usize,
}

/// An ErrorResponse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub sqlstate: String,
    pub message: String,
}

/// A logged-in client.
pub struct Client {
    stream: TcpStream,
    unread: BytesMut,
    prepared: HashMap<String, usize>,
}

impl Client {
    /// Logs in as `app`, with these start-up parameters.
    pub async fn connect(
        address: SocketAddr,
        database: &str,
        parameters: &[(String, String)],
    ) -> Self {
        let (wire, _) = Wire::login_at(address, database, parameters).await;
        let unread = BytesMut::with_capacity(16_384);
        Self { stream: wire.stream, unread, prepared: HashMap::new() }
    }

    /// One statement.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn ask(&mut self, protocol: Protocol, sql: &Sql) -> io::Result<Answer> {
        let request = self.request(protocol, sql);
        self.send(&request).await?;
        self.answer().await
    }

    /// A script in a Query message.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn run(&mut self, script: &str) -> io::Result<Answer> {
        self.send(&query(script)).await?;
        self.answer().await
    }

    /// `COPY ... FROM STDIN` with its data.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn copy(&mut self, copy: &str, data: &str) -> io::Result<Answer> {
        self.send(&query(copy)).await?;
        loop {
            let (kind, _) = self.peek().await?;
            if kind == b'G' {
                break;
            }
            if kind == b'E' {
                return self.answer().await;
            }
            self.message().await?;
        }
        self.send(&[frame(b'd', data.as_bytes()), frame(b'c', b"")].concat()).await?;
        self.answer().await
    }

    /// The messages of one statement, up to where the client would wait.
    pub fn request(&mut self, protocol: Protocol, sql: &Sql) -> Bytes {
        if protocol == Protocol::Simple {
            let mut text = sql.text.clone();
            for (number, value) in sql.values.iter().enumerate() {
                text = text.replace(&format!("${}", number + 1), value);
            }
            return query(&text);
        }
        let mut request = BytesMut::new();
        let (name, known) = self.name(protocol, &sql.text);
        if !known {
            let mut parse = BytesMut::new();
            put_text(&mut parse, &name);
            put_text(&mut parse, &sql.text);
            parse.put_u16(0);
            request.put(frame(b'P', &parse));
        }
        request.put(frame(b'B', &bind(&name, &sql.values)));
        request.put(frame(b'E', &[0, 0, 0, 0, 0]));
        request.put(frame(b'S', b""));
        request.freeze()
    }

    /// The statement's name, and whether the server has it.
    fn name(&mut self, protocol: Protocol, text: &str) -> (String, bool) {
        if protocol != Protocol::Prepared {
            return (String::new(), false);
        }
        if let Some(number) = self.prepared.get(text) {
            return (format!("s{number}"), true);
        }
        let number = self.prepared.len();
        self.prepared.insert(text.to_owned(), number);
        (format!("s{number}"), false)
    }

    /// Sends requests and waits for nothing.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn send(&mut self, requests: &[u8]) -> io::Result<()> {
        self.stream.write_all(requests).await
    }

    /// Everything up to the next ReadyForQuery.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn answer(&mut self) -> io::Result<Answer> {
        let mut answer = Answer::default();
        loop {
            let (kind, mut body) = self.message().await?;
            match kind {
                b'D' => answer.rows.push(columns(&mut body)),
                b'A' => answer.notified += 1,
                b'E' => answer.refusal = Some(refusal(&body)),
                b'Z' => return Ok(answer),
                _ => {}
            }
        }
    }

    /// Waits for what is announced on a channel.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn notification(&mut self) -> io::Result<()> {
        while self.message().await?.0 != b'A' {}
        Ok(())
    }

    /// The next message, which is left where it is: its kind and length.
    async fn peek(&mut self) -> io::Result<(u8, usize)> {
        while self.unread.len() < 5 {
            self.read().await?;
        }
        let length = u32::from_be_bytes([1, 2, 3, 4].map(|at| self.unread[at]));
        Ok((self.unread[0], length as usize + 1))
    }

    async fn message(&mut self) -> io::Result<(u8, Bytes)> {
        let (kind, length) = self.peek().await?;
        while self.unread.len() < length {
            self.read().await?;
        }
        let mut message = self.unread.split_to(length).freeze();
        message.advance(5);
        Ok((kind, message))
    }

    async fn read(&mut self) -> io::Result<()> {
        if self.stream.read_buf(&mut self.unread).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

fn put_text(buffer: &mut BytesMut, text: &str) {
    buffer.put_slice(text.as_bytes());
    buffer.put_u8(0);
}

fn bind(name: &str, values: &[String]) -> BytesMut {
    let mut bind = BytesMut::new();
    put_text(&mut bind, "");
    put_text(&mut bind, name);
    bind.put_u16(0);
    bind.put_u16(u16::try_from(values.len()).expect("few values"));
    for value in values {
        bind.put_u32(u32::try_from(value.len()).expect("short values"));
        bind.put_slice(value.as_bytes());
    }
    bind.put_u16(0);
    bind
}

fn columns(body: &mut Bytes) -> Columns {
    let count = body.get_u16();
    let column = |_| {
        let length = usize::try_from(body.get_i32()).ok()?;
        Some(String::from_utf8_lossy(&body.split_to(length)).into_owned())
    };
    (0..count).map(column).collect()
}

fn refusal(body: &[u8]) -> Refusal {
    let field = |kind: u8| {
        let mut fields = body.split(|byte| *byte == 0).filter(|field| !field.is_empty());
        let found = fields.find(|field| field[0] == kind).map(|field| &field[1..]);
        String::from_utf8_lossy(found.unwrap_or_default()).into_owned()
    };
    Refusal { sqlstate: field(b'C'), message: field(b'M') }
}
