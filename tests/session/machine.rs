//! The machine against a model of PostgreSQL, for any sequence of requests: a client sees through
//! Causeway, byte for byte, what it would see of one server; a server is never given back inside a
//! transaction, nor kept outside of one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use causeway::cluster::{Lsn, NodeId};
use causeway::config::settings::Address;
use causeway::net::Stream;
use causeway::protocol::request::{Indexer, Limits};
use causeway::protocol::response::{Piece, Progress, Sent};
use causeway::protocol::{ErrorReport, frame, write};
use causeway::routing::decision::Reason;
use causeway::routing::{Decision, Target};
use causeway::server::{Identity, ServerConn};
use causeway::session::audit::Findings;
use causeway::session::judge::Judge;
use causeway::session::machine::Machine;
use causeway::session::settings::SessionSettings;
use causeway::session::statements;
use causeway::session::step::{After, Question, Step};
use causeway::sql::statement::Class;
use causeway::sql::{self, Lexis, Script};
use proptest::prelude::*;

/// As much of PostgreSQL as a transaction status needs.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts of one connection")]
struct Model {
    /// Some things it does not do even in a transaction that only reads.
    standby: bool,
    /// Its transaction only reads.
    read_only: bool,
    in_transaction: bool,
    failed: bool,
    /// Its connection was lost: of a session that has none any more, only the end is possible.
    lost: bool,
    /// It was, when the pipeline under way began: what follows its end comes too late.
    was_lost: bool,
    savepoints: Vec<String>,
    prepared: HashMap<Vec<u8>, String>,
    portal: Option<String>,
    skipping: bool,
}

fn ends(text: &str) -> bool {
    matches!(text, "commit" | "rollback")
}

impl Model {
    fn status(&self) -> u8 {
        match (self.in_transaction, self.failed) {
            (false, _) => b'I',
            (true, false) => b'T',
            (true, true) => b'E',
        }
    }

    fn end(&mut self) {
        (self.in_transaction, self.failed, self.lost) = (false, false, false);
        self.read_only = false;
        self.savepoints.clear();
    }

    /// Whether a statement is let through at all.
    fn admits(&self, text: &str) -> bool {
        !self.failed && !self.was_lost
            || ends(text)
            || !self.lost
                && !self.was_lost
                && (text.starts_with("rollback to") || text == "commit and chain")
    }

    fn run(&mut self, text: &str) -> Result<&'static str, &'static str> {
        if !self.admits(text) {
            return Err("25P02");
        }
        match text {
            "begin" | "begin read only" => {
                self.read_only |= text == "begin read only";
                self.in_transaction = true;
                Ok("BEGIN")
            }
            "commit" => {
                let failed = self.failed || self.was_lost;
                self.end();
                Ok(if failed { "ROLLBACK" } else { "COMMIT" })
            }
            "commit and chain" if self.in_transaction => {
                let (failed, read_only) = (self.failed, self.read_only);
                self.end();
                (self.in_transaction, self.read_only) = (true, read_only);
                Ok(if failed { "ROLLBACK" } else { "COMMIT" })
            }
            "rollback" => {
                self.end();
                Ok("ROLLBACK")
            }
            "savepoint a" if self.in_transaction => {
                self.savepoints.push("a".to_owned());
                Ok("SAVEPOINT")
            }
            "ROLLBACK TO SAVEPOINT cw_failed" => Err("3B001"),
            "rollback to a" if !self.savepoints.is_empty() => {
                self.failed = false;
                Ok("ROLLBACK")
            }
            "commit and chain" | "savepoint a" | "rollback to a" => Err("25P01"),
            "select boom()" => Err("22012"),
            "delete from t" if self.read_only => Err("25006"),
            "notify a" if self.standby => Err("25006"),
            "notify a" => Ok("NOTIFY"),
            _ if text.starts_with("set ") => Ok("SET"),
            _ => Ok("SELECT 1"),
        }
    }

    fn fails(&mut self, sqlstate: &'static str, out: &mut BytesMut) {
        self.failed |= self.in_transaction;
        ErrorReport::error(sqlstate, "as the model says").encode(out);
    }

    fn query(&mut self, texts: &str, out: &mut BytesMut) {
        if texts.is_empty() {
            write::message(out, b'I', |_| ());
        } else {
            for text in texts.split("; ") {
                // Without a server nobody could run what would follow.
                let ran = if self.lost && text != texts { Err("25P02") } else { self.run(text) };
                match ran {
                    Ok(tag) => write::command_complete(out, tag),
                    Err(sqlstate) => {
                        self.fails(sqlstate, out);
                        break;
                    }
                }
            }
        }
        write::ready_for_query(out, self.status());
    }

    fn step(&mut self, kind: u8, body: &[u8]) -> Result<(u8, Option<&'static str>), &'static str> {
        let cstr = |body: &[u8]| {
            let (text, rest) = frame::cstr(body).unwrap();
            (text.to_vec(), rest.to_vec())
        };
        match kind {
            b'P' => {
                let (name, rest) = cstr(body);
                let text = String::from_utf8(cstr(&rest).0).unwrap();
                if !self.admits(&text) {
                    return Err("25P02");
                }
                if !name.is_empty() && self.prepared.contains_key(&name) {
                    return Err("42P05");
                }
                self.prepared.insert(name, text);
                Ok((b'1', None))
            }
            b'B' => {
                let (_, rest) = cstr(body);
                let Some(text) = self.prepared.get(&cstr(&rest).0).cloned() else {
                    return Err(if self.lost || self.was_lost { "25P02" } else { "26000" });
                };
                if !self.admits(&text) {
                    return Err("25P02");
                }
                self.portal = Some(text);
                Ok((b'2', None))
            }
            b'C' => {
                self.prepared.remove(&cstr(&body[1..]).0);
                Ok((b'3', None))
            }
            b'E' => {
                let text = self.portal.clone().ok_or("34000")?;
                self.run(&text).map(|tag| (b'C', Some(tag)))
            }
            other => panic!("the model knows no {}", char::from(other)),
        }
    }

    fn hears(&mut self, mut sent: &[u8], out: &mut BytesMut) {
        self.was_lost = self.lost;
        while let Some(header) = frame::frontend(sent, 1 << 20).unwrap() {
            let (message, rest) = sent.split_at(header.length);
            sent = rest;
            let body = &message[frame::HEADER..];
            match header.kind {
                b'Q' => {
                    self.prepared.remove(&b""[..]);
                    let text = std::str::from_utf8(&body[..body.len() - 1]).unwrap();
                    // Causeway's own settings come as a list that ends in a semicolon.
                    self.query(text.trim_end_matches(';'), out);
                }
                b'S' => {
                    self.skipping = false;
                    write::ready_for_query(out, self.status());
                }
                _ if self.skipping => {}
                kind => match self.step(kind, body) {
                    Ok((_, Some(tag))) => write::command_complete(out, tag),
                    Ok((kind, None)) => write::message(out, kind, |_| ()),
                    Err(sqlstate) => {
                        self.fails(sqlstate, out);
                        self.skipping = true;
                    }
                },
            }
        }
        assert!(sent.is_empty(), "half a message");
        self.was_lost = false;
    }
}

struct Texts;

impl Judge for Texts {
    fn script(&self, text: &[u8], lexis: Lexis) -> Arc<Script> {
        Arc::new(sql::analyze(text, lexis))
    }

    fn decide(&self, script: &Arc<Script>) -> Decision {
        if script.statements.iter().all(|statement| statement.class == Class::Read) {
            Decision::replica(Reason::Read)
        } else {
            Decision::primary(Reason::Write)
        }
    }

    fn moves_sequence(&self, _: &Arc<Script>) -> bool {
        false
    }
}

/// A session and the two servers that it may be lent, each with what it is really in.
struct World {
    machine: Machine,
    servers: [Option<(ServerConn, Model)>; 2],
    /// Which one is on loan.
    lent: Option<usize>,
    shown: BytesMut,
}

fn server(standby: bool) -> (ServerConn, Model) {
    let (near, _far) = tokio::net::UnixStream::pair().unwrap();
    let address = Address { host: "127.0.0.1".to_owned(), port: 1 };
    let identity = Identity::new(NodeId(0), address, 1, Bytes::new());
    let server = ServerConn::new(Stream::Unix(near), identity, 0, 0);
    (server, Model { standby, ..Model::default() })
}

impl World {
    fn new() -> Self {
        let shared = Arc::new(statements::Shared::default());
        // Few statements a server, so that some are closed to make room.
        let machine = Machine::new(SessionSettings::default(), shared, 2);
        let servers = [Some(server(false)), Some(server(true))];
        Self { machine, servers, lent: None, shown: BytesMut::new() }
    }

    fn asks(&mut self, bytes: &[u8]) {
        let limits = Limits { message: 1 << 20, statement: 1 << 16, pipeline: 1 << 16 };
        let mut buffer = BytesMut::from(bytes);
        let mut indexer = Indexer::default();
        let mut asked = None;
        while let Some(request) = asked.take().or_else(|| indexer.index(&buffer, &limits).unwrap())
        {
            let status = self.lent.map(|at| self.at(at).0.responses.status());
            match self.machine.on_request(&request, &buffer, status, &Texts) {
                Step::Answer(_) => self.shown.extend_from_slice(&self.machine.reply),
                Step::Exchange(decision) => self.exchange(&request, &buffer, decision),
                Step::Consult(Question::Leaving) => {
                    self.leave();
                    asked = Some(request);
                    continue;
                }
                step => panic!("{step:?}"),
            }
            buffer.advance(request.length);
        }
    }

    fn at(&mut self, at: usize) -> &mut (ServerConn, Model) {
        self.servers[at].as_mut().unwrap()
    }

    fn exchange(
        &mut self,
        request: &causeway::protocol::request::Request,
        buffer: &[u8],
        decision: Decision,
    ) {
        let at = self.lent.unwrap_or(usize::from(decision.target == Target::Replica));
        let (mut server, mut model) = self.servers[at].take().unwrap();
        server.responses.begin();
        if server.responses.status() == b'I' {
            if self.machine.compose_settings(&mut server) {
                self.settle(&mut server, &mut model);
            }
            self.machine.compose_prefix(&mut server, 1);
        }
        self.machine.compose(request, buffer, &mut server, &Texts);
        self.settle(&mut server, &mut model);
        assert!(server.responses.own_failure().is_none(), "what is laid is good");
        let on_replica = at == 1;
        let after = match self.machine.on_ready(&mut server, on_replica) {
            After::Audit => {
                assert_eq!(model.status(), b'I', "asked inside a transaction");
                let laid = self.machine.settings.committed().clone();
                let own = server.prepared.len();
                let found = Findings { laid, own, ..Findings::default() };
                self.machine.on_audit(Some(found), &mut server)
            }
            after => after,
        };
        assert_eq!(server.responses.status(), model.status());
        if after == After::Release {
            assert_eq!(model.status(), b'I', "given back inside a transaction");
            assert!(server.is_clean() && self.machine.is_idle());
            self.lent = None;
        } else {
            assert!(model.status() != b'I' || !self.machine.pins().is_free(), "kept in vain");
            self.lent = Some(at);
        }
        self.servers[at] = Some((server, model));
    }

    /// The transaction is ended on the replica, to be begun anew.
    fn leave(&mut self) {
        let at = self.lent.take().unwrap();
        assert_eq!(at, 1, "only a replica is left");
        let (mut server, mut model) = self.servers[at].take().unwrap();
        let failed = server.responses.status() == b'E';
        server.responses.begin();
        write::query(&mut server.output, b"rollback");
        server.responses.expect_own(Sent::Query, None);
        let shown = self.shown.len();
        self.settle(&mut server, &mut model);
        assert_eq!(self.shown.len(), shown, "the client sees nothing of it");
        self.servers[at] = Some((server, model));
        self.machine.on_left_replica(failed);
    }

    /// Sends what is composed, and shows what the client shall see of the answer.
    fn settle(&mut self, server: &mut ServerConn, model: &mut Model) {
        let sent = server.output.split();
        model.hears(&sent, &mut server.input);
        let progress = server.responses.scan(&server.input, |_| false).unwrap();
        assert_eq!(progress, Progress::Ready);
        for piece in server.responses.pieces() {
            self.shown.extend_from_slice(match piece {
                Piece::Input(range) => &server.input[range.clone()],
                Piece::Own(bytes) => bytes,
            });
        }
        let done = server.responses.flushed();
        server.input.advance(done);
        assert!(server.input.is_empty() && server.responses.is_quiet());
    }

    /// The leased server is gone, if there is one and the session is in a transaction on it.
    fn lose(&mut self) -> bool {
        let Some(at) = self.lent.take() else { return false };
        assert_ne!(self.at(at).1.status(), b'I');
        self.servers[at] = Some(server(at == 1));
        self.machine.on_server_lost(true);
        true
    }
}

#[derive(Debug, Clone)]
enum Deed {
    Query(String),
    /// Parse (unless it is there), Bind, Execute, of an unnamed or a named statement, and Sync.
    Pipeline(Vec<(Option<u8>, &'static str)>),
    Close(u8),
    Lose,
}

fn texts() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        3 => Just("begin"),
        1 => Just("begin read only"),
        3 => Just("commit"),
        2 => Just("rollback"),
        1 => Just("commit and chain"),
        2 => Just("savepoint a"),
        2 => Just("rollback to a"),
        4 => Just("select 1"),
        2 => Just("delete from t"),
        2 => Just("select boom()"),
        1 => Just("set application_name to 'a'"),
        1 => Just("set application_name to 'b'"),
        2 => Just("notify a"),
    ]
}

fn deeds() -> impl Strategy<Value = Deed> {
    const NAMED: [&str; 4] = ["select 1", "select 2", "delete from t", "select 3"];
    let step = prop_oneof![
        texts().prop_map(|text| (None, text)),
        (0..4u8).prop_map(|name| (Some(name), NAMED[usize::from(name)])),
    ];
    prop_oneof![
        6 => texts().prop_map(|text| Deed::Query(text.to_owned())),
        2 => proptest::collection::vec(texts(), 2..4)
            .prop_map(|texts| Deed::Query(texts.join("; "))),
        1 => Just(Deed::Query(String::new())),
        5 => proptest::collection::vec(step, 1..4).prop_map(Deed::Pipeline),
        1 => (0..4u8).prop_map(Deed::Close),
        1 => Just(Deed::Lose),
    ]
}

fn written(deed: &Deed, parsed: &mut HashSet<u8>) -> BytesMut {
    let mut out = BytesMut::new();
    match deed {
        Deed::Query(text) => write::query(&mut out, text.as_bytes()),
        Deed::Pipeline(steps) => {
            for (name, text) in steps {
                let own = name.map_or(Vec::new(), |name| vec![b'a' + name]);
                // What failed to be parsed is not there: its Bind is an error, here as anywhere.
                if name.is_none_or(|name| parsed.insert(name)) {
                    write::parse(&mut out, &own, text.as_bytes(), &[0, 0]);
                }
                write::message(&mut out, b'B', |body| {
                    body.extend_from_slice(&[0]);
                    body.extend_from_slice(&own);
                    body.extend_from_slice(&[0; 7]);
                });
                write::message(&mut out, b'E', |body| body.extend_from_slice(&[0; 5]));
            }
            write::sync(&mut out);
        }
        Deed::Close(name) => {
            parsed.remove(name);
            write::close_statement(&mut out, &[b'a' + name]);
            write::sync(&mut out);
        }
        Deed::Lose => {}
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn a_session_is_what_one_server_would_be(deeds in proptest::collection::vec(deeds(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _within = runtime.enter();
        let mut world = World::new();
        let mut direct = Model::default();
        let mut parsed = HashSet::new();
        for deed in &deeds {
            if matches!(deed, Deed::Lose) {
                if world.lose() {
                    direct.failed = true;
                    direct.lost = true;
                }
                continue;
            }
            let sent = written(deed, &mut parsed);
            let mut expected = BytesMut::new();
            direct.hears(&sent, &mut expected);
            world.asks(&sent);
            let shown = world.shown.split();
            prop_assert_eq!(readable(&shown), readable(&expected), "after {:?}", deed);
            prop_assert_eq!(world.machine.client_status(), match direct.status() {
                b'E' if !direct.lost => b'T',
                status => status,
            });
        }
    }
}

/// The position is asked once for a request, however often the request shows it.
#[test]
fn a_position_that_is_shown_twice_is_asked_once() {
    let shared = Arc::new(statements::Shared::default());
    let mut machine = Machine::new(SessionSettings::default(), shared, 2);
    let mut buffer = BytesMut::new();
    for _ in 0..2 {
        write::parse(&mut buffer, b"", b"SHOW causeway.lsn", &[0, 0]);
        write::message(&mut buffer, b'B', |body| body.extend_from_slice(&[0; 8]));
        write::message(&mut buffer, b'E', |body| body.extend_from_slice(&[0; 5]));
    }
    write::sync(&mut buffer);
    let limits = Limits { message: 1 << 20, statement: 1 << 16, pipeline: 1 << 16 };
    let request = Indexer::default().index(&buffer, &limits).unwrap().unwrap();
    let step = machine.on_request(&request, &buffer, None, &Texts);
    assert_eq!(step, Step::Consult(Question::Position));
    machine.position = Some(Lsn(7));
    let step = machine.on_request(&request, &buffer, None, &Texts);
    assert!(matches!(step, Step::Exchange(_)), "{step:?}");
}

/// Types, tags, SQLSTATEs and states of messages.
fn readable(mut bytes: &[u8]) -> Vec<String> {
    let mut words = Vec::new();
    while let Some(header) = frame::backend(bytes).unwrap() {
        let (message, rest) = bytes.split_at(header.length);
        bytes = rest;
        let body = &message[frame::HEADER..];
        words.push(match header.kind {
            b'E' => format!("E:{}", ErrorReport::parse(body).sqlstate),
            kind => format!("{}:{}", char::from(kind), String::from_utf8_lossy(body)),
        });
    }
    assert!(bytes.is_empty(), "half a message");
    words
}
