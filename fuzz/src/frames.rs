//! The borders of messages in both directions: requests never reach beyond what has arrived, and what a
//! client is shown of an answer does not depend on how it arrives.

use causeway::protocol::request::{Indexer, Limits};
use causeway::protocol::response::{Piece, Progress, Responses, Sent};

const LIMITS: Limits = Limits { message: 1 << 20, statement: 256, pipeline: 512 };

/// The input as a client's, and, after two bytes that say what was asked, as a server's.
pub fn check(input: &[u8]) {
    requests(input);
    if let [asked, cut, answer @ ..] = input {
        let cut = usize::from(*cut) * answer.len() / 256;
        let (whole, parts) = (shown(*asked, answer, answer.len()), shown(*asked, answer, cut));
        if let (Some(whole), Some(parts)) = (whole, parts) {
            assert_eq!(whole, parts, "shown whole and in parts");
        }
    }
}

fn requests(input: &[u8]) {
    let mut rest = input;
    let mut indexer = Indexer::default();
    while let Ok(Some(request)) = indexer.index(rest, &LIMITS) {
        assert!(request.length <= rest.len(), "no more than has arrived");
        let mut at = 0;
        for frame in &request.frames {
            assert_eq!(frame.start, at, "frames follow each other");
            assert!(frame.end >= frame.start + 5 && frame.end <= request.length);
            assert!(frame.body(rest).len() + 5 == frame.bytes(rest).len());
            at = frame.end;
        }
        if request.length == 0 {
            return;
        }
        rest = &rest[request.length..];
    }
}

/// What the client sees of an answer that comes in two parts, up to where the scan stops; nothing if the
/// server broke the protocol.
fn shown(asked: u8, answer: &[u8], cut: usize) -> Option<(Vec<u8>, u8)> {
    let mut responses = Responses::default();
    for sent in [Sent::Parse, Sent::Bind, Sent::Execute, Sent::Close] {
        responses.expect(sent, Some(u32::from(asked)));
        if asked & 1 == 0 {
            break;
        }
    }
    responses.expect_own(if asked & 2 == 0 { Sent::Query } else { Sent::Sync }, None);
    responses.expect(if asked & 4 == 0 { Sent::Query } else { Sent::Sync }, None);
    let (mut seen, mut input, mut done) = (Vec::new(), Vec::new(), 0);
    for part in [&answer[..cut], &answer[cut..]] {
        input.extend_from_slice(part);
        loop {
            let progress =
                responses.scan(&input[done..], |state| asked & 8 != 0 && state == b"25006");
            let progress = progress.ok()?;
            for piece in responses.pieces() {
                match piece {
                    Piece::Input(range) => seen.extend_from_slice(&input[done..][range.clone()]),
                    Piece::Own(bytes) => seen.extend_from_slice(bytes),
                }
            }
            let scanned = responses.flushed();
            assert!(done + scanned <= input.len(), "no more than has arrived");
            done += scanned;
            match progress {
                Progress::More => break,
                Progress::CopyIn => {}
                Progress::Ready | Progress::Refused | Progress::Fatal => {
                    return Some((seen, responses.status()));
                }
            }
        }
    }
    Some((seen, responses.status()))
}
