//! What no client should send: each case ends, in the answer that it deserves.

use bytes::{BufMut, BytesMut};
use causeway::client::{Entered, HandshakeError};
use causeway::protocol::{ErrorReport, frontend, write};
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{HANG, Outcome, entrance};

/// A start-up packet of protocol 3.0 with these strings.
pub fn session_packet(strings: &[&str]) -> Vec<u8> {
    packet(3 << 16, strings)
}

/// A start-up packet.
fn packet(version: u32, strings: &[&str]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for text in strings {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    first_packet(&body)
}

fn first_packet(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&length.to_be_bytes()[..], body].concat()
}

/// A message with its type.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    write::message(&mut out, kind, |out| out.put_slice(body));
    out.to_vec()
}

/// A login of `app` followed by these bytes.
pub fn then(tail: &[u8]) -> Vec<u8> {
    [session_packet(&["user", "app"]), tail.to_vec()].concat()
}

/// A login of `app` with this as the first SASL message.
pub fn with_first(scram: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    frontend::sasl_initial_response(&mut out, "SCRAM-SHA-256", scram);
    then(&out)
}

/// A login of `app` with a good first message and this as the last.
pub fn with_last(scram: &[u8]) -> Vec<u8> {
    [with_first(b"n,,n=,r=abc"), message(b'p', scram)].concat()
}

/// What the client must see.
#[derive(Debug, Clone, Copy)]
enum Ends {
    /// A FATAL with this SQLSTATE and a message that begins so.
    Told(&'static str, &'static str),
    /// The connection closed without a word.
    Silent,
}
use Ends::{Silent, Told};

const MALFORMED: Ends = Told("08P01", "malformed SCRAM message");
/// As PostgreSQL: it only logs this.
const LENGTH: Ends = Silent;
const LAYOUT: Ends = Told("08P01", "invalid startup packet layout");
const VERSION: Ends = Told("0A000", "unsupported frontend protocol");
pub const SSL: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSSENC: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

/// Sends all of `bytes`, ends its half if told to, and returns what the proxy made of it and what
/// the client heard.
pub async fn play(bytes: &[u8], half_close: bool) -> (Outcome, Vec<u8>) {
    let (client, task) = entrance().await;
    let (mut reader, mut writer) = client.into_split();
    let bytes = bytes.to_vec();
    let sender = tokio::spawn(async move {
        // The proxy may well have hung up before it has heard all.
        if writer.write_all(&bytes).await.is_ok() && half_close {
            let _ = writer.shutdown().await;
        }
        writer
    });
    let played = timeout(HANG, async {
        let mut heard = Vec::new();
        let _ = reader.read_to_end(&mut heard).await;
        let writer = sender.await.unwrap();
        drop(writer);
        (task.await.unwrap(), heard)
    });
    played.await.unwrap_or_else(|_| panic!("hangs"))
}

/// The ErrorResponse at the end of what was heard, if there is one.
pub fn last_words(mut heard: &[u8]) -> Option<ErrorReport> {
    let mut report = None;
    while let [kind, a, b, c, d, rest @ ..] = heard {
        if *kind == b'N' && !matches!((a, b), (0, 0)) {
            // The single-byte answer to a request for encryption.
            heard = &heard[1..];
            continue;
        }
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize - 4;
        if *kind == b'E' {
            report = Some(ErrorReport::parse(&rest[..length]));
        }
        heard = &rest[length..];
    }
    report
}

async fn check(name: &str, bytes: &[u8], ends: Ends, half_close: bool) {
    let (outcome, heard) = play(bytes, half_close).await;
    let Err(error) = outcome else { panic!("{name}: let in") };
    let report = last_words(&heard);
    match (ends, &report) {
        (Silent, None) => {}
        (Told(sqlstate, text), Some(report)) => {
            assert_eq!(report.severity, "FATAL", "{name}");
            assert_eq!(report.sqlstate, sqlstate, "{name}: {report}");
            assert!(report.message.starts_with(text), "{name}: {report}");
        }
        _ => panic!("{name}: {error:?}, heard {report:?}"),
    }
    assert_eq!(error.report(), report, "{name}: what is logged is what was told");
}

fn first_packets() -> Vec<(&'static str, Vec<u8>, Ends)> {
    let version = &(3u32 << 16).to_be_bytes()[..];
    vec![
        ("length 0", vec![0, 0, 0, 0], LENGTH),
        ("length 4", vec![0, 0, 0, 4], LENGTH),
        ("length 7", vec![0, 0, 0, 7, 0, 3, 0], LENGTH),
        ("length 10005", vec![0, 0, 0x27, 0x15], LENGTH),
        ("length of 2 GiB", vec![0x7f, 0xff, 0xff, 0xff], LENGTH),
        ("negative length", vec![0xff, 0xff, 0xff, 0xff], LENGTH),
        ("oversized packet, sent whole", first_packet(&vec![b'x'; 1 << 20]), LENGTH),
        ("a TLS ClientHello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), LENGTH),
        ("a hello of SSL 2", b"\x80\x2e\x01\x03\x01\0\x15\0\0\0\x10".to_vec(), LENGTH),
        ("a TLS alert", b"\x15\x03\x01\0\x02\x02\x28".to_vec(), LENGTH),
        ("a PROXY line", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(), LENGTH),
        (
            "a PROXY header from who may not send one",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01\0\x01\0\x02".to_vec(),
            LENGTH,
        ),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), LENGTH),
        ("an SSH banner", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), LENGTH),
        ("a query before the login", message(b'Q', b"select 1\0"), LENGTH),
        ("a goodbye before the login", message(b'X', b""), LENGTH),
        ("zeroes", vec![0; 4096], LENGTH),
        ("protocol 2.0", first_packet(&[0, 2, 0, 0, 0]), VERSION),
        (
            "protocol 2.0 as it was laid out",
            first_packet(&[&[0, 2, 0, 0][..], &[0; 288]].concat()),
            VERSION,
        ),
        ("protocol 4.0", packet(4 << 16, &["user", "app"]), VERSION),
        ("protocol 0.0", first_packet(&[0; 4]), VERSION),
        ("an unknown request code", first_packet(&[4, 210, 22, 49]), VERSION),
        ("no parameter list", first_packet(version), LAYOUT),
        ("no user", session_packet(&[]), Told("28000", "no PostgreSQL user name")),
        ("an empty user", session_packet(&["user", ""]), Told("28000", "no PostgreSQL user name")),
        (
            "only a database",
            session_packet(&["database", "x"]),
            Told("28000", "no PostgreSQL user"),
        ),
        ("a name without value", session_packet(&["user"]), LAYOUT),
        ("an odd string", session_packet(&["user", "app", "x"]), LAYOUT),
        ("an empty name", session_packet(&["user", "app", "", "x"]), LAYOUT),
        ("no terminator", first_packet(&[version, b"user\0app\0"].concat()), LAYOUT),
        (
            "bytes behind the terminator",
            first_packet(&[version, b"user\0app\0\0x"].concat()),
            LAYOUT,
        ),
        (
            "not UTF-8",
            first_packet(&[version, b"user\0\xc3\x28\0\0"].concat()),
            Told("22021", "invalid byte sequence"),
        ),
        (
            "replication",
            session_packet(&["user", "app", "replication", "true"]),
            Told("0A000", "replication"),
        ),
        (
            "logical replication",
            session_packet(&["user", "app", "replication", "database"]),
            Told("0A000", "replication"),
        ),
        (
            "replication of what",
            session_packet(&["user", "app", "replication", "maybe"]),
            Told("22023", "invalid value"),
        ),
        ("cancel without a key", first_packet(&[4, 210, 22, 46]), Silent),
        ("cancel with an empty key", first_packet(&[4, 210, 22, 46, 0, 0, 0, 1]), Silent),
        (
            "cancel with a key too long",
            first_packet(&[&[4, 210, 22, 46, 0, 0, 0, 1][..], &[7; 257]].concat()),
            Silent,
        ),
        (
            "plain text behind an SSLRequest",
            [&SSL[..], &session_packet(&["user", "app"])].concat(),
            Told("08P01", "received unencrypted data after SSL request"),
        ),
        (
            "one byte behind an SSLRequest",
            [&SSL[..], b"x"].concat(),
            Told("08P01", "received unencrypted data after SSL request"),
        ),
        (
            "two SSLRequests at once",
            [SSL, SSL].concat(),
            Told("08P01", "received unencrypted data after SSL request"),
        ),
        (
            "plain text behind a GSSENCRequest",
            [&GSSENC[..], b"x"].concat(),
            Told("08P01", "received unencrypted data after GSSAPI"),
        ),
    ]
}

/// These claim more than they send and then end: there is nobody left to be told.
fn truncated() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("nothing", vec![]),
        ("one byte", vec![0]),
        ("half a length", vec![0, 0]),
        ("a length and no more", vec![0, 0, 0, 8]),
        ("half a version", vec![0, 0, 0, 9, 0, 3]),
        ("a length that lies", vec![0, 0, 0x27, 0x10, 0, 3, 0, 0, b'u', b's', b'e', b'r']),
        ("an SSLRequest and no more", SSL.to_vec()),
        ("a login and no more", then(b"")),
        ("half a message", then(b"p\0\0")),
        ("a message that lies", then(b"p\0\0\x03\xffSCRAM-SHA-256\0")),
        ("the exchange broken off", with_first(b"n,,n=,r=abc")),
        ("a thousand settings", {
            let settings: Vec<_> = (0..1000).map(|n| format!("a.{n}")).collect();
            let pairs = settings.iter().flat_map(|name| [name, "x"]);
            session_packet(&["user", "app"].into_iter().chain(pairs).collect::<Vec<_>>())
        }),
        ("a database's name of 9,000 bytes", {
            session_packet(&["user", "app", "database", &"d".repeat(9000)])
        }),
        ("protocol 3.9999", packet(0x0003_270f, &["user", "app"])),
        ("options of the protocol that nobody knows", {
            let options: Vec<_> = (0..500).map(|n| format!("_pq_.o{n}")).collect();
            let pairs = options.iter().flat_map(|name| [name, "x"]);
            session_packet(&["user", "app"].into_iter().chain(pairs).collect::<Vec<_>>())
        }),
        ("the last message cut", [&with_first(b"n,,n=,r=abc")[..], b"p\0\0\0\x40c=biws"].concat()),
    ]
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn answers() -> Vec<(&'static str, Vec<u8>, Ends)> {
    let not_p = Told("08P01", "expected SASL response");
    let length = Told("08P01", "invalid message length");
    let format = Told("08P01", "invalid message format");
    let mechanism = Told("08P01", "client selected an invalid SASL");
    let mega = vec![b'x'; 1 << 20];
    vec![
        ("a query instead of an answer", then(&message(b'Q', b"select 1\0")), not_p),
        ("terminate instead of an answer", then(&write::TERMINATE), not_p),
        ("a sync instead of an answer", then(&message(b'S', b"")), not_p),
        ("a message type that does not exist", then(&message(0, b"")), not_p),
        ("another login", then(&session_packet(&["user", "app"])), not_p),
        ("an SSLRequest after the login", then(&SSL), not_p),
        ("copy data", then(&message(b'd', &mega)), not_p),
        ("message length 0", then(b"p\0\0\0\0"), length),
        ("message length 3", then(b"p\0\0\0\x03"), length),
        ("message length 1025", then(b"p\0\0\x04\x01"), length),
        ("message length of 2 GiB", then(b"p\x7f\xff\xff\xff"), length),
        ("negative message length", then(b"p\xff\xff\xff\xff"), length),
        ("a nonce of 1 MiB", with_first(&[b"n,,n=,r=", &mega[..]].concat()), length),
        ("an empty answer", then(&message(b'p', b"")), format),
        ("a clear password", then(&message(b'p', b"secret\0")), format),
        (
            "an inner length that lies",
            then(&message(b'p', b"SCRAM-SHA-256\0\0\0\x7f\xffn,,n=,r=a")),
            format,
        ),
        (
            "bytes behind the inner length",
            then(&message(b'p', b"SCRAM-SHA-256\0\0\0\0\x01n,")),
            format,
        ),
        ("an unterminated mechanism", then(&message(b'p', b"SCRAM-SHA-256")), format),
        ("no mechanism", then(&message(b'p', b"\0\0\0\0\x03n,,")), mechanism),
        (
            "the mechanism with binding",
            then(&message(b'p', b"SCRAM-SHA-256-PLUS\0\0\0\0\x03p=x")),
            mechanism,
        ),
        (
            "the mechanism in small letters",
            then(&message(b'p', b"scram-sha-256\0\0\0\0\x03n,,")),
            mechanism,
        ),
        (
            "an inner length below none",
            then(&message(b'p', b"SCRAM-SHA-256\0\xff\xff\xff\xfe")),
            format,
        ),
        (
            "nothing to begin with, and nothing when asked",
            [then(&message(b'p', b"SCRAM-SHA-256\0\xff\xff\xff\xff")), message(b'p', b"")].concat(),
            MALFORMED,
        ),
        (
            "a whole login in one breath, and a query behind it",
            [with_last(b"c=biws,r=abc,p=AAAA"), message(b'Q', b"select 1\0")].concat(),
            MALFORMED,
        ),
        ("the flag of binding in capitals", with_first(b"N,,n=,r=abc"), MALFORMED),
        ("NUL in the first message", with_first(b"n,,n=,r=a\0bc"), MALFORMED),
        (
            "a nonce beyond ASCII",
            with_first("n,,n=,r=\u{e9}".as_bytes()),
            Told("08P01", "non-printable"),
        ),
        (
            "a binding that was declined and is not",
            [with_first(b"y,,n=,r=abc"), message(b'p', b"c=biws,r=abc,p=AAAA")].concat(),
            Told("08P01", "unexpected SCRAM channel-binding"),
        ),
        (
            "something behind the proof",
            with_last(b"c=biws,r=abc,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=,x=y"),
            MALFORMED,
        ),
        ("the proof first", with_last(b"p=AAAA,c=biws,r=abc"), MALFORMED),
        ("an empty first message", with_first(b""), MALFORMED),
        ("a first message of NUL", with_first(b"\0"), MALFORMED),
        ("a first message without nonce", with_first(b"n,,n="), MALFORMED),
        ("a first message in disorder", with_first(b"n,,r=abc,n="), MALFORMED),
        ("channel binding not offered", with_first(b"p=tls-unique,,n=,r=abc"), MALFORMED),
        (
            "a nonce that is not printable",
            with_first(b"n,,n=,r=a\x01b"),
            Told("08P01", "non-printable"),
        ),
        (
            "another identity",
            with_first(b"n,a=postgres,n=,r=abc"),
            Told("0A000", "client uses authorization"),
        ),
        ("a mandatory extension", with_first(b"n,,m=x,n=,r=abc"), Told("0A000", "client requires")),
        ("random bytes as first message", with_first(&[0x80, 0xff, 0x31, 0x7f]), MALFORMED),
        ("an empty last message", with_last(b""), MALFORMED),
        ("the first message again", with_last(b"n,,n=,r=abc"), MALFORMED),
        (
            "the whole first answer again",
            [with_first(b"n,,n=,r=abc"), with_first(b"n,,n=,r=abc")].concat(),
            not_p,
        ),
        ("the last message first", with_first(b"c=biws,r=abc,p=AAAA"), MALFORMED),
        (
            "the initial response twice",
            [with_first(b"n,,n=,r=abc"), message(b'p', b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc")]
                .concat(),
            MALFORMED,
        ),
        (
            "a nonce of the client's making",
            with_last(b"c=biws,r=abc,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
            Told("08P01", "invalid SCRAM response"),
        ),
        ("a proof too short", with_last(b"c=biws,r=abc,p=AAAA"), MALFORMED),
        ("a proof that is not base64", with_last(b"c=biws,r=abc,p=!!!!"), MALFORMED),
        ("no proof", with_last(b"c=biws,r=abc"), MALFORMED),
        (
            "another header in the binding",
            with_last(b"c=eSws,r=abc,p=AAAA"),
            Told("08P01", "unexpected SCRAM channel-binding"),
        ),
        (
            "a last message of 1 MiB",
            [with_first(b"n,,n=,r=abc"), message(b'p', &mega)].concat(),
            length,
        ),
        (
            "a query instead of the last message",
            [with_first(b"n,,n=,r=abc"), message(b'Q', b"select 1\0")].concat(),
            not_p,
        ),
    ]
}

#[tokio::test]
async fn first_packets_that_are_refused() {
    for (name, bytes, ends) in first_packets() {
        check(name, &bytes, ends, false).await;
        check(name, &bytes, ends, true).await;
    }
}

#[tokio::test]
async fn answers_that_are_refused() {
    for (name, bytes, ends) in answers() {
        check(name, &bytes, ends, false).await;
        check(name, &bytes, ends, true).await;
    }
}

#[tokio::test]
async fn clients_that_break_off() {
    for (name, bytes) in truncated() {
        check(name, &bytes, Silent, true).await;
        let (outcome, _) = play(&bytes, true).await;
        assert!(matches!(outcome, Err(HandshakeError::Gone { .. })), "{name}: {outcome:?}");
    }
}

/// What breaks off where a driver may is no cause for a line in the log.
#[tokio::test]
async fn a_port_check_is_told_from_a_failure() {
    for (bytes, expected) in [
        (vec![], false),
        (SSL.to_vec(), false),
        (then(b""), false),
        (vec![0, 0], true),
        (with_first(b"n,,n=,r=abc"), true),
    ] {
        let (outcome, _) = play(&bytes, true).await;
        match outcome {
            Err(HandshakeError::Gone { midway }) => assert_eq!(midway, expected, "{bytes:?}"),
            other => panic!("{other:?}"),
        }
    }
}

/// A second request for encryption, answered once already, is but an unknown version.
#[tokio::test]
async fn encryption_is_asked_for_once() {
    for (code, text) in [(SSL, "1234.5679"), (GSSENC, "1234.5680")] {
        let (mut client, task) = entrance().await;
        client.write_all(&code).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'N');
        client.write_all(&code).await.unwrap();
        let report = hear_to_end(client).await;
        assert_eq!(report.sqlstate, "0A000");
        assert!(report.message.contains(text), "{report}");
        assert!(matches!(task.await.unwrap(), Err(HandshakeError::Startup(_))));
    }
}

async fn hear_to_end(mut client: TcpStream) -> ErrorReport {
    let mut heard = Vec::new();
    timeout(HANG, client.read_to_end(&mut heard)).await.expect("hangs").unwrap();
    last_words(&heard).expect("a last word")
}

#[tokio::test]
async fn random_bytes_end_and_never_enter() {
    let mut random = StdRng::seed_from_u64(2);
    for round in 0..300 {
        let mut bytes = vec![0; random.random_range(0..2000)];
        random.fill_bytes(&mut bytes);
        // A third gets past the length, a third past the login: chance alone would not.
        match round % 3 {
            0 => {}
            1 => bytes = [vec![0, 0, 0, 9], bytes].concat(),
            _ => bytes = then(&[b"p\0\0\0\x40", &bytes[..]].concat()),
        }
        let (outcome, _) = play(&bytes, true).await;
        assert!(outcome.is_err(), "{bytes:?}");
    }
}

/// Every byte of a good login but the last proof's is changed, one at a time: never let in by it,
/// never without an end.
#[tokio::test]
async fn a_login_with_a_flipped_byte_ends() {
    let good = with_last(b"c=biws,r=abc,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0x81;
        let (outcome, _) = play(&bytes, true).await;
        assert!(!matches!(outcome, Ok(Entered::Session(_))), "byte {at}");
    }
}

/// Logs in by hand, with `split` deciding where each write is cut.
pub async fn log_in(startup: &[u8], first_is_empty: bool, tail: &[u8], step: usize) -> Outcome {
    let (mut client, task) = entrance().await;
    let mut scram = ScramSha256::new(b"secret", ChannelBinding::unrequested());
    let mut out = BytesMut::from(startup);
    if first_is_empty {
        out.extend_from_slice(&message(b'p', b"SCRAM-SHA-256\0\xff\xff\xff\xff"));
        drip(&mut client, &out, step).await;
        skip_to(&mut client, 11).await;
        out.clear();
        frontend::sasl_response(&mut out, scram.message());
    } else {
        frontend::sasl_initial_response(&mut out, "SCRAM-SHA-256", scram.message());
    }
    drip(&mut client, &out, step).await;
    let challenge = skip_to(&mut client, 11).await;
    scram.update(&challenge).unwrap();
    out.clear();
    frontend::sasl_response(&mut out, scram.message());
    out.extend_from_slice(tail);
    drip(&mut client, &out, step).await;
    let mut outcome = timeout(HANG, task).await.expect("hangs").unwrap();
    if let Ok(Entered::Session(welcome)) = &mut outcome {
        welcome.stream.send(&welcome.unsent).await.unwrap();
    }
    let last = skip_to(&mut client, 12).await;
    scram.finish(&last).unwrap();
    assert!(skip_to(&mut client, 0).await.is_empty());
    outcome
}

async fn drip(client: &mut TcpStream, bytes: &[u8], step: usize) {
    for part in bytes.chunks(step) {
        client.write_all(part).await.unwrap();
        tokio::task::yield_now().await;
    }
}

/// The payload of the next authentication request of this code; what comes before is passed over.
async fn skip_to(client: &mut TcpStream, code: u32) -> Vec<u8> {
    loop {
        let kind = client.read_u8().await.unwrap();
        let mut body = vec![0; client.read_u32().await.unwrap() as usize - 4];
        client.read_exact(&mut body).await.unwrap();
        if kind == b'R' && body[..4] == code.to_be_bytes() {
            return body.split_off(4);
        }
    }
}

/// Odd, but right: whatever is here must be let in, or the cases above prove nothing.
#[tokio::test]
async fn what_is_odd_but_right_is_let_in() {
    let query = message(b'Q', b"select 1\0");
    let long = "x".repeat(9_900);
    for (name, startup, empty, tail, step, minor) in [
        ("as usual", session_packet(&["user", "app"]), false, &b""[..], 4096, 0),
        ("byte by byte", session_packet(&["user", "app"]), false, b"", 1, 0),
        ("in threes", packet(3 << 16 | 2, &["user", "app"]), false, b"", 3, 2),
        ("first asked, then answered", session_packet(&["user", "app"]), true, b"", 4096, 0),
        ("a query behind the login", session_packet(&["user", "app"]), false, &query, 4096, 0),
        ("protocol 3.1", packet(3 << 16 | 1, &["user", "app"]), false, b"", 4096, 0),
        ("protocol 3.9999", packet(0x0003_270F, &["user", "app"]), false, b"", 4096, 2),
        ("protocol options", session_packet(&["user", "app", "_pq_.x", "1"]), false, b"", 4096, 0),
        ("a long parameter", session_packet(&["user", "app", "x", &long]), false, b"", 4096, 0),
        (
            "no replication",
            session_packet(&["user", "app", "replication", "off"]),
            false,
            b"",
            9,
            0,
        ),
    ] {
        let Ok(Entered::Session(welcome)) = log_in(&startup, empty, tail, step).await else {
            panic!("{name}: not let in");
        };
        assert_eq!((&*welcome.user, &*welcome.database), ("app", "app"), "{name}");
        assert_eq!(welcome.protocol_minor, minor, "{name}");
        assert_eq!(&welcome.buffer[..], tail, "{name}");
    }
}

#[tokio::test]
async fn newer_versions_and_options_are_negotiated() {
    for (startup, expected) in [
        (packet(0x0003_270F, &["user", "app"]), &b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0"[..]),
        (
            packet(3 << 16, &["user", "app", "_pq_.x", "1"]),
            b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0",
        ),
    ] {
        let (mut client, _task) = entrance().await;
        client.write_all(&startup).await.unwrap();
        let mut heard = vec![0; expected.len()];
        timeout(HANG, client.read_exact(&mut heard)).await.expect("hangs").unwrap();
        assert_eq!(heard, expected);
        assert_eq!(client.read_u8().await.unwrap(), b'R');
    }
}

#[tokio::test]
async fn cancel_requests_are_handed_on() {
    for (before, secret) in [(&b""[..], &[1u8, 2, 3, 4][..]), (&SSL, &[9; 256])] {
        let (mut client, task) = entrance().await;
        if !before.is_empty() {
            client.write_all(before).await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), b'N');
        }
        let mut out = BytesMut::new();
        frontend::cancel_request(&mut out, -5, secret);
        client.write_all(&out).await.unwrap();
        let Ok(Entered::Cancel { stream, key }) = timeout(HANG, task).await.unwrap().unwrap()
        else {
            panic!("not handed on");
        };
        assert_eq!((key.process_id, &key.secret[..]), (-5, secret));
        drop(stream);
        assert_eq!(client.read_to_end(&mut Vec::new()).await.unwrap(), 0);
    }
}
