//! Moving bytes between a client and the server it has on loan.
//!
//! [`exchange`] is the hot path: write the request, then read, scan headers and write the same bytes
//! until ReadyForQuery. [`duplex`] is for what cannot be done in turns: COPY data, pipelines cut by
//! Flush, messages too large to hold. Neither holds a message whole; each side is read only while
//! the other takes what was read.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use super::judge::Judge;
use super::machine::Machine;
use crate::client::ClientConn;
use crate::protocol::frame::{self, FrameError};
use crate::protocol::request::{Frame, Limits};
use crate::protocol::response::{Piece, Progress, ResponseError};
use crate::protocol::write;
use crate::server::ServerConn;

/// First size of a server's read buffer in bytes; it grows while answers fill it.
const READ_FIRST: usize = 8 << 10;
/// Less room than this in it is not worth a system call, in bytes.
const READ_LEAST: usize = 1 << 10;
/// Last size of a server's read buffer in bytes.
const READ_MOST: usize = 128 << 10;
/// How much may wait to be written to one side before the other is no longer read, in bytes.
const UNSENT_MOST: usize = 128 << 10;
/// How much of a client's next requests is read while it waits for an answer, in bytes.
const AHEAD_MOST: usize = 64 << 10;

/// Within so many bytes the names of a Bind are looked for each time more of it has come.
const NAMES_MOST: usize = 64 << 10;
/// Most of an answer that is held back so that its request can be run elsewhere.
const HELD_MOST: usize = 64 << 10;

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The server is ready; its status is in its `responses`.
    Ready,
    /// The server refused, and nothing of its answer was shown.
    Refused,
    /// The server asked for COPY data.
    CopyIn,
}

/// Why an exchange did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The client's connection broke.
    #[error("the client's connection broke")]
    Client(#[source] io::Error),
    /// The client sent something that is not a frame.
    #[error(transparent)]
    ClientFrame(FrameError),
    /// The server's connection broke.
    #[error("the server's connection broke")]
    Server(#[source] io::Error),
    /// The server said a last word (FATAL) and is gone.
    #[error("the server ended the connection")]
    ServerFatal,
    /// The server broke the protocol.
    #[error(transparent)]
    ServerProtocol(#[from] ResponseError),
}

/// Sends what is composed and passes the answer on until the server is ready. With `hold`, nothing
/// is shown before it cannot be taken back, and an error that `refusals` knows ends the exchange.
///
/// # Errors
/// If either side is gone. After a server's end, `responses` tells how far it came.
///
/// # Cancel safety
/// Not safe: the server must be closed.
pub async fn exchange(
    client: &mut ClientConn,
    server: &mut ServerConn,
    mut hold: bool,
    refusals: fn(&[u8]) -> bool,
) -> Result<Outcome, RelayError> {
    send(server).await?;
    loop {
        let runs_again = hold && !server.responses.committed();
        read_answer(client, server, runs_again).await?;
        // A function may raise notices without end.
        hold &= server.input.len() < HELD_MOST;
        let progress =
            server.responses.scan(&server.input, |sqlstate| hold && refusals(sqlstate))?;
        match progress {
            Progress::Refused => return Ok(Outcome::Refused),
            Progress::Fatal => return Err(RelayError::ServerFatal),
            Progress::More if hold && !server.responses.committed() => continue,
            _ => show(client, server).await?,
        }
        match progress {
            Progress::Ready => return Ok(Outcome::Ready),
            Progress::CopyIn => return Ok(Outcome::CopyIn),
            _ => {}
        }
    }
}

/// After [`Outcome::Refused`]: reads the rest of the answer, showing nothing.
///
/// # Errors
/// If the server is gone.
pub async fn drain(server: &mut ServerConn) -> Result<(), RelayError> {
    server.responses.hide();
    loop {
        match server.responses.scan(&server.input, |_| false)? {
            Progress::Ready => {
                let done = server.responses.flushed();
                server.input.advance(done);
                return Ok(());
            }
            Progress::Fatal => return Err(RelayError::ServerFatal),
            _ => {}
        }
        let done = server.responses.flushed();
        server.input.advance(done);
        server.input.reserve(READ_FIRST);
        poll_fn(|cx| server.poll_read(true, cx)).await.map_err(RelayError::Server)?;
    }
}

/// Sends what is composed, all of it Causeway's own, and reads the answer. What the client would see
/// of it is appended to `said`.
///
/// # Errors
/// If the server is gone. Whether it accepted is in its `responses`.
pub async fn settle(server: &mut ServerConn, said: &mut BytesMut) -> Result<(), RelayError> {
    send(server).await?;
    loop {
        server.input.reserve(READ_FIRST);
        poll_fn(|cx| server.poll_read(true, cx)).await.map_err(RelayError::Server)?;
        let progress = server.responses.scan(&server.input, |_| false)?;
        collect(said, server);
        match progress {
            Progress::Ready => return Ok(()),
            Progress::Fatal => return Err(RelayError::ServerFatal),
            _ => {}
        }
    }
}

/// Passes on what a server said unasked, or what was read behind the end of an answer: a notification
/// may come in one piece with it.
///
/// # Errors
/// If either side is gone.
pub async fn pass_on(client: &mut ClientConn, server: &mut ServerConn) -> Result<(), RelayError> {
    match server.responses.scan(&server.input, |_| false)? {
        Progress::Fatal => Err(RelayError::ServerFatal),
        _ => show(client, server).await,
    }
}

async fn send(server: &mut ServerConn) -> Result<(), RelayError> {
    server.stream.send(&server.output).await.map_err(RelayError::Server)?;
    server.output.clear();
    if server.output.capacity() > UNSENT_MOST {
        server.output = BytesMut::new();
    }
    Ok(())
}

/// Reads from the server, and meanwhile notices if the client leaves: what it sends ahead is kept.
async fn read_answer(
    client: &mut ClientConn,
    server: &mut ServerConn,
    runs_again: bool,
) -> Result<(), RelayError> {
    reserve(&mut server.input);
    poll_fn(|cx| {
        if let Poll::Ready(read) = server.poll_read(runs_again, cx) {
            return Poll::Ready(read.map_err(RelayError::Server));
        }
        while client.input.len() < AHEAD_MOST {
            if let Err(error) = ready!(client.poll_read(cx)) {
                return Poll::Ready(Err(RelayError::Client(error)));
            }
        }
        Poll::Pending
    })
    .await
}

fn client_left() -> RelayError {
    RelayError::Client(io::ErrorKind::UnexpectedEof.into())
}

/// Makes room to read into. What was done with before the unread bytes is reclaimed.
fn reserve(input: &mut BytesMut) {
    let spare = input.capacity() - input.len();
    if spare < READ_LEAST || input.is_empty() && spare < READ_FIRST {
        input.reserve(READ_FIRST);
    }
}

/// Writes what the client shall see of what was scanned: the same bytes where they are one run.
async fn show(client: &mut ClientConn, server: &mut ServerConn) -> Result<(), RelayError> {
    name_notifiers(server);
    let written = match server.responses.pieces() {
        [] => Ok(()),
        [Piece::Input(range)] if client.output.is_empty() => {
            client.writing = true;
            let written = client.stream.send(&server.input[range.clone()]).await;
            client.writing = false;
            written
        }
        pieces => {
            for piece in pieces {
                client.output.extend_from_slice(match piece {
                    Piece::Input(range) => &server.input[range.clone()],
                    Piece::Own(bytes) => bytes,
                });
            }
            client.flush().await
        }
    };
    written.map_err(RelayError::Client)?;
    let filled = server.input.len() == server.input.capacity();
    let done = server.responses.flushed();
    server.input.advance(done);
    if filled && server.input.is_empty() {
        let next = (done * 2).clamp(READ_FIRST, READ_MOST);
        server.input.reserve(next);
    }
    Ok(())
}

/// Passes both ways at once until the server is ready and the client's last frame is through.
/// Frames are composed one by one as they arrive; the pipeline ends with its Sync.
///
/// # Errors
/// If either side is gone.
///
/// # Cancel safety
/// Not safe: the server must be closed.
pub async fn duplex(
    client: &mut ClientConn,
    server: &mut ServerConn,
    machine: &mut Machine,
    judge: &impl Judge,
    limits: &Limits,
    mut turn: Turn,
) -> Result<(), RelayError> {
    let mut over = false;
    loop {
        // What is over is over when the frame under way has been passed on, and before another is.
        if over {
            pass_frame(client, server);
        } else if let Err(error) = take_frames(client, server, machine, judge, limits, &mut turn) {
            return Err(last_answers(client, server, error).await);
        }
        let progress = server.responses.scan(&server.input, |_| false)?;
        collect(&mut client.output, server);
        if progress == Progress::Fatal {
            return Err(RelayError::ServerFatal);
        }
        if server.responses.own_failure().is_some() {
            // Nothing of what follows is shown, and the client may wait for it.
            return Ok(());
        }
        over |= progress == Progress::Ready;
        if over && client.frame_left == 0 {
            while !server.output.is_empty() {
                send(server).await?;
            }
            client.flush().await.map_err(RelayError::Client)?;
            return Ok(());
        }
        if turn == Turn::Answer && server.responses.is_skipping() {
            // A query in the middle of a failed pipeline is dropped like the rest: Sync must come.
            turn = Turn::Pipeline;
            client.sync_passed = false;
            continue;
        }
        if progress == Progress::CopyIn {
            turn = match turn {
                Turn::Query | Turn::QueryCopy => Turn::QueryCopy,
                _ => Turn::Pipeline,
            };
            continue;
        }
        happen(client, server, turn).await?;
    }
}

/// What the client sent before it broke the protocol is answered first.
async fn last_answers(
    client: &mut ClientConn,
    server: &mut ServerConn,
    error: RelayError,
) -> RelayError {
    if !matches!(error, RelayError::ClientFrame(FrameError::UnknownKind(_))) {
        return error;
    }
    write::flush(&mut server.output);
    let answers = async {
        send(server).await?;
        while !server.responses.is_quiet() && !server.responses.is_skipping() {
            reserve(&mut server.input);
            poll_fn(|cx| server.poll_read(false, cx)).await.map_err(RelayError::Server)?;
            let progress = server.responses.scan(&server.input, |_| false)?;
            collect(&mut client.output, server);
            if progress == Progress::Fatal {
                return Err(RelayError::ServerFatal);
            }
        }
        client.flush().await.map_err(RelayError::Client)
    };
    answers.await.err().unwrap_or(error)
}

/// Whose turn it is to speak in [`duplex`], as far as the client is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// A simple query is answered: the client waits.
    Query,
    /// A simple query takes COPY data, up to CopyDone or CopyFail.
    QueryCopy,
    /// A pipeline goes on, up to its Sync.
    Pipeline,
    /// The client has said all and waits.
    Answer,
}

/// Passes on what has come of the frame that is under way; whether that is all of it.
fn pass_frame(client: &mut ClientConn, server: &mut ServerConn) -> bool {
    let here = client.frame_left.min(client.input.len());
    server.output.extend_from_slice(&client.input[..here]);
    client.input.advance(here);
    client.frame_left -= here;
    client.frame_left == 0
}

/// Composes the frames that are there, as long as it is the client's turn.
fn take_frames(
    client: &mut ClientConn,
    server: &mut ServerConn,
    machine: &mut Machine,
    judge: &impl Judge,
    limits: &Limits,
    turn: &mut Turn,
) -> Result<(), RelayError> {
    loop {
        let waited = std::mem::take(&mut client.needed) > 0;
        if !pass_frame(client, server) {
            return Ok(());
        }
        if matches!(turn, Turn::Query | Turn::Answer) || server.output.len() > UNSENT_MOST {
            return Ok(());
        }
        let Some(header) =
            frame::frontend(&client.input, limits.message).map_err(RelayError::ClientFrame)?
        else {
            return Ok(());
        };
        if header.kind == b'X' {
            return Err(client_left());
        }
        let here = client.input.len();
        if here < header.length {
            let streams = matches!(header.kind, b'd' | b'F')
                || matches!(header.kind, b'B' | b'Q') && header.length > limits.pipeline;
            // Names are at its beginning, or it is looked at once more, when it is whole.
            let streams = streams && !(waited && here > NAMES_MOST);
            if !streams || !machine.compose_head(&client.input, header, server, judge) {
                client.needed = header.length;
                return Ok(());
            }
            client.frame_left = header.length - here;
            client.input.clear();
            if matches!(header.kind, b'Q' | b'F') {
                client.sync_passed = true;
                *turn = Turn::Answer;
            }
            continue;
        }
        let frame = Frame { kind: header.kind, start: 0, end: header.length };
        machine.look_at(frame, &mut client.input);
        let swallowed = header.kind == b'S' && server.responses.swallows_sync();
        machine.compose_frame(frame, &client.input, server, judge);
        client.input.advance(header.length);
        if swallowed {
            continue;
        }
        client.sync_passed |= matches!(header.kind, b'S' | b'Q' | b'F');
        *turn = match (header.kind, *turn) {
            (b'S' | b'Q' | b'F', _) | (b'c' | b'f', Turn::QueryCopy) => Turn::Answer,
            (_, turn) => turn,
        };
    }
}

/// Makes notifications speak of sessions, not of servers.
fn name_notifiers(server: &mut ServerConn) {
    for number in 0..server.responses.notifiers().len() {
        let at = server.responses.notifiers()[number];
        let mut process_id = [0; 4];
        process_id.copy_from_slice(&server.input[at..at + 4]);
        server.name_notifier(&mut process_id);
        server.input[at..at + 4].copy_from_slice(&process_id);
    }
}

/// Moves what the client shall see to its output.
fn collect(output: &mut BytesMut, server: &mut ServerConn) {
    name_notifiers(server);
    for piece in server.responses.pieces() {
        output.extend_from_slice(match piece {
            Piece::Input(range) => &server.input[range.clone()],
            Piece::Own(bytes) => bytes,
        });
    }
    let done = server.responses.flushed();
    server.input.advance(done);
}

/// Writes and reads on both sides until one of them has said something new.
async fn happen(
    client: &mut ClientConn,
    server: &mut ServerConn,
    turn: Turn,
) -> Result<(), RelayError> {
    reserve(&mut server.input);
    poll_fn(|cx| {
        let mut wrote =
            poll_send(&mut server.stream, &mut server.output, cx).map_err(RelayError::Server)?;
        wrote |=
            poll_send(&mut client.stream, &mut client.output, cx).map_err(RelayError::Client)?;
        if client.output.len() < UNSENT_MOST
            && let Poll::Ready(read) = server.poll_read(false, cx)
        {
            return Poll::Ready(read.map_err(RelayError::Server));
        }
        let room = match turn {
            Turn::Query | Turn::Answer if client.frame_left == 0 => AHEAD_MOST,
            // What must be whole is bounded by `limits.message`.
            _ => UNSENT_MOST.max(client.needed),
        };
        if client.input.len() < room && server.output.len() < UNSENT_MOST {
            client.input.reserve(READ_FIRST);
            match poll_read_buf(Pin::new(&mut client.stream), cx, &mut client.input) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(client_left())),
                Poll::Ready(Ok(_)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(RelayError::Client(error))),
                Poll::Pending => {}
            }
        }
        if wrote {
            // What was held back for want of room may go on now.
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    })
    .await
}

/// Writes as much as the socket takes; whether it took anything.
fn poll_send(
    stream: &mut crate::net::Stream,
    output: &mut BytesMut,
    cx: &mut Context<'_>,
) -> io::Result<bool> {
    let mut wrote = false;
    while !output.is_empty() {
        match Pin::new(&mut *stream).poll_write(cx, output) {
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => {
                output.advance(n);
                wrote = true;
            }
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => break,
        }
    }
    // Over TLS what was taken may not have gone out yet; what is left of it is waited for with the rest.
    match Pin::new(stream).poll_flush(cx) {
        Poll::Ready(Err(error)) => Err(error),
        _ => Ok(wrote),
    }
}
