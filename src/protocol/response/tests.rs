//! The scanner over written answers: what the client sees of them, whole and cut anywhere.

use super::*;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn answers(kinds: &str) -> Vec<u8> {
    kinds
        .bytes()
        .flat_map(|kind| match kind {
            b'Z' => message(b'Z', b"I"),
            b'E' => message(b'E', b"SERROR\0VERROR\0C42601\0Moops\0\0"),
            b'R' => message(b'E', b"SERROR\0VERROR\0C25006\0Mreplica\0\0"),
            b'F' => message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0"),
            b'C' => message(b'C', b"SELECT 1\0"),
            b'D' => message(b'D', b"row"),
            other => message(other, b""),
        })
        .collect()
}

/// What the client sees, as message types, `*` for what was put in.
fn shown(responses: &mut Responses, input: &[u8]) -> (String, Progress) {
    let progress = responses.scan(input, |state| state == b"25006").unwrap();
    let mut seen = String::new();
    for piece in responses.pieces() {
        match piece {
            Piece::Own(_) => seen.push('*'),
            Piece::Input(range) => {
                let mut rest = &input[range.clone()];
                while let Some(header) = frame::backend(rest).unwrap() {
                    seen.push(char::from(header.kind));
                    rest = &rest[header.length.min(rest.len())..];
                }
            }
        }
    }
    responses.flushed();
    (seen, progress)
}

fn pipeline(sent: &[Sent]) -> Responses {
    let mut responses = Responses::default();
    for one in sent {
        responses.expect(*one, None);
    }
    responses
}

#[test]
fn a_simple_query_passes_up_to_ready() {
    let mut responses = pipeline(&[Sent::Query]);
    assert_eq!(shown(&mut responses, &answers("TDDCZ")), ("TDDCZ".into(), Progress::Ready));
    assert!(responses.is_quiet() && responses.committed() && responses.rows_shown());
}

#[test]
fn statements_that_were_added_are_not_seen() {
    let mut responses = pipeline(&[Sent::Query]);
    responses.expect_veiled([Completion::Shown, Completion::Hidden, Completion::Said(b"x")]);
    let input = answers("TDCTDCDCSZ");
    assert_eq!(shown(&mut responses, &input), ("TDC*SZ".into(), Progress::Ready));
    responses.begin();
    responses.expect(Sent::Query, None);
    assert_eq!(shown(&mut responses, &answers("TDCZ")), ("TDCZ".into(), Progress::Ready));
}

#[test]
fn an_error_among_added_statements_is_seen() {
    let mut responses = pipeline(&[Sent::Query]);
    responses.expect_veiled([Completion::Hidden, Completion::Shown]);
    assert_eq!(shown(&mut responses, &answers("CEZ")), ("EZ".into(), Progress::Ready));
}

#[test]
fn what_may_fail_quietly_is_not_seen_to_fail() {
    let mut responses = Responses::default();
    responses.expect_quiet(Sent::Parse);
    responses.expect_own(Sent::Sync, None);
    responses.expect(Sent::Query, None);
    assert_eq!(shown(&mut responses, &answers("EZTCZ")), ("TCZ".into(), Progress::Ready));
    assert!(!responses.failed());
}

#[test]
fn one_error_answers_a_query_whose_statement_cannot_be_lent() {
    let mut responses = Responses::default();
    responses.expect_own(Sent::Parse, None);
    responses.expect_own(Sent::Sync, None);
    responses.expect(Sent::Query, None);
    assert_eq!(shown(&mut responses, &answers("EZEZ")), ("EZ".into(), Progress::Ready));
    assert!(responses.failed());
}

#[test]
fn the_process_ids_of_notifications_are_found() {
    let mut responses = pipeline(&[Sent::Query]);
    let input = [answers("C"), message(b'A', b"\0\0\0\x07c\0p\0"), answers("Z")].concat();
    responses.scan(&input, |_| false).unwrap();
    let [at] = responses.notifiers() else { panic!("one notification") };
    assert_eq!(input[*at..*at + 4], [0, 0, 0, 7]);
    responses.flushed();
    assert!(responses.notifiers().is_empty());

    for short in [&b""[..], b"\0\0\0"] {
        let mut responses = pipeline(&[Sent::Query]);
        let refused = responses.scan(&message(b'A', short), |_| false);
        assert_eq!(refused, Err(ResponseError::Unexpected('A')), "{short:?}");
    }
}

#[test]
fn reports_are_bounded_however_many_there_are() {
    let mut responses = pipeline(&[Sent::Query]);
    let mut hear = |name: &str, value: &str| {
        let report = message(b'S', format!("{name}\0{value}\0").as_bytes());
        let scanned = responses.scan(&report, |_| false);
        responses.flushed();
        scanned
    };
    for round in 0..100_000 {
        assert_eq!(hear("application_name", &round.to_string()), Ok(Progress::More));
    }
    for round in 0..200 {
        assert_eq!(hear("search_path", &"x".repeat(round * 1000)), Ok(Progress::More));
    }
    let refused = (0..100_000).find_map(|number| hear(&format!("x.{number}"), "").err());
    assert_eq!(refused, Some(ResponseError::Reports));
    let last = Event::Parameter((*b"application_name").into(), (*b"99999").into());
    let events: Vec<_> = responses.events().collect();
    assert_eq!(events[0], last);
    assert!(events.len() < 20_000, "{}", events.len());
}

#[test]
fn a_copy_out_passes_with_its_copy_done() {
    let mut responses = pipeline(&[Sent::Query]);
    assert_eq!(shown(&mut responses, &answers("HddcCZ")), ("HddcCZ".into(), Progress::Ready));
    assert!(responses.is_quiet());
}

#[test]
fn a_sync_in_the_middle_of_a_copy_is_not_answered() {
    let mut responses = pipeline(&[Sent::Query]);
    assert_eq!(shown(&mut responses, &answers("G")), ("G".into(), Progress::CopyIn));
    responses.expect(Sent::Sync, None);
    responses.expect(Sent::CopyEnd, None);
    assert_eq!(shown(&mut responses, &answers("CZ")), ("CZ".into(), Progress::Ready));
    assert!(responses.is_quiet());
}

#[test]
fn what_causeway_asked_is_not_shown() {
    let mut responses = Responses::default();
    responses.expect_own(Sent::Query, None);
    responses.expect_own(Sent::Parse, Some(7));
    for sent in [Sent::Bind, Sent::Execute, Sent::Sync] {
        responses.expect(sent, None);
    }
    assert_eq!(shown(&mut responses, &answers("SCZ12DCZ")), ("2DCZ".into(), Progress::Ready));
    assert!(responses.events().any(|event| event == Event::Done(7)));
}

#[test]
fn an_own_parse_that_fails_answers_the_bind() {
    let mut responses = Responses::default();
    responses.expect_own(Sent::Parse, Some(1));
    for sent in [Sent::Bind, Sent::Execute, Sent::Sync] {
        responses.expect(sent, None);
    }
    assert_eq!(shown(&mut responses, &answers("EZ")), ("EZ".into(), Progress::Ready));
    assert_eq!(responses.events().count(), 0);
}

#[test]
fn an_own_query_that_fails_hides_the_rest() {
    let mut responses = Responses::default();
    responses.expect_own(Sent::Query, None);
    responses.expect(Sent::Query, None);
    assert_eq!(shown(&mut responses, &answers("EZTDCZ")), (String::new(), Progress::Ready));
    assert_eq!(responses.own_failure().unwrap().sqlstate, "42601");
}

#[test]
fn an_error_skips_to_the_sync() {
    use Sent::{Bind, Execute, Parse, Sync};
    let mut responses = pipeline(&[Parse, Bind, Execute, Parse, Bind, Execute, Sync, Parse, Sync]);
    assert_eq!(shown(&mut responses, &answers("12EZ1Z")), ("12EZ1Z".into(), Progress::Ready));
    let mut open = pipeline(&[Parse, Bind]);
    assert_eq!(shown(&mut open, &answers("E")), ("E".into(), Progress::More));
    open.expect(Execute, None);
    open.expect(Sync, None);
    assert_eq!(shown(&mut open, &answers("Z")), ("Z".into(), Progress::Ready));
    assert!(open.is_quiet());
}

#[test]
fn a_refusal_is_seen_before_anything_is_shown() {
    use Sent::{Bind, Execute, Parse, Sync};
    let mut responses = pipeline(&[Parse, Bind, Execute, Sync]);
    let input = answers("12RZ");
    assert_eq!(responses.scan(&input, |s| s == b"25006").unwrap(), Progress::Refused);
    assert!(!responses.committed());
    responses.hide();
    assert_eq!(responses.scan(&input, |_| false).unwrap(), Progress::Ready);
    assert!(responses.pieces().is_empty());
    let mut late = pipeline(&[Sent::Query]);
    assert_eq!(shown(&mut late, &answers("TDRZ")), ("TDEZ".into(), Progress::Ready));
}

#[test]
fn a_put_in_answer_takes_its_place() {
    use Sent::{Answer, Bind, Describe, Execute, Parse, Sync};
    let mut responses =
        pipeline(&[Parse, Answer(b"1"), Bind, Describe, Answer(b"3"), Execute, Sync]);
    let seen = shown(&mut responses, &answers("12nCZ"));
    assert_eq!(seen, ("1*2n*CZ".into(), Progress::Ready));
}

#[test]
fn copy_in_swallows_the_sync_that_came_with_it() {
    use Sent::{Bind, CopyEnd, Execute, Parse, Sync};
    let mut responses = pipeline(&[Parse, Bind, Execute, Sync]);
    assert_eq!(shown(&mut responses, &answers("12G")), ("12G".into(), Progress::CopyIn));
    responses.expect(CopyEnd, None);
    responses.expect(Sync, None);
    assert_eq!(shown(&mut responses, &answers("CZ")), ("CZ".into(), Progress::Ready));
    assert!(responses.is_quiet());
    let mut ahead = pipeline(&[Execute, CopyEnd, Sync]);
    assert_eq!(shown(&mut ahead, &answers("G")).1, Progress::CopyIn);
    assert_eq!(shown(&mut ahead, &answers("CZ")).1, Progress::Ready);
}

#[test]
fn a_copy_of_a_simple_query_ends_with_its_ready() {
    let mut responses = pipeline(&[Sent::Query]);
    assert_eq!(shown(&mut responses, &answers("G")).1, Progress::CopyIn);
    responses.expect(Sent::CopyEnd, None);
    assert_eq!(shown(&mut responses, &answers("CZ")), ("CZ".into(), Progress::Ready));
    assert!(responses.is_quiet());
}

#[test]
fn a_copy_out_passes_with_its_end() {
    use Sent::{Bind, Execute, Parse, Sync};
    let mut simple = pipeline(&[Sent::Query]);
    assert_eq!(shown(&mut simple, &answers("HddcCZ")), ("HddcCZ".into(), Progress::Ready));
    let mut extended = pipeline(&[Parse, Bind, Execute, Sync]);
    assert_eq!(shown(&mut extended, &answers("12HdcCZ")), ("12HdcCZ".into(), Progress::Ready));
    assert!(simple.is_quiet() && extended.is_quiet() && extended.rows_shown());
}

#[test]
fn a_fatal_ends_it() {
    let mut responses = pipeline(&[Sent::Query]);
    assert_eq!(shown(&mut responses, &answers("F")), (String::new(), Progress::Fatal));
    assert_eq!(responses.last_error().unwrap().sqlstate, "57P01");
}

#[test]
fn any_split_shows_the_same() {
    use Sent::{Bind, Describe, Execute, Parse, Sync};
    let input = answers("12TDDDC12nCZ");
    let sent = [Parse, Bind, Describe, Execute, Parse, Bind, Describe, Execute, Sync];
    for step in 1..input.len() {
        let mut responses = pipeline(&sent);
        let (mut buffer, mut seen) = (Vec::new(), Vec::new());
        let mut last = Progress::More;
        for chunk in input.chunks(step) {
            buffer.extend_from_slice(chunk);
            last = responses.scan(&buffer, |_| false).unwrap();
            for piece in responses.pieces() {
                if let Piece::Input(range) = piece {
                    seen.extend_from_slice(&buffer[range.clone()]);
                }
            }
            buffer.drain(..responses.flushed());
        }
        assert_eq!((seen, last), (input.clone(), Progress::Ready), "step {step}");
    }
}

#[test]
fn a_stale_plan_is_not_asked_of_another_node() {
    let mut responses = Responses::default();
    responses.begin();
    responses.expect(Sent::Bind, None);
    responses.expect(Sent::Sync, None);
    let body = b"SERROR\0VERROR\0C0A000\0Mcached plan\0RRevalidateCachedQuery\0\0";
    let mut input = message(b'E', body);
    input.extend(answers("Z"));
    assert_eq!(responses.scan(&input, |state| state == b"0A000").unwrap(), Progress::Ready);
    assert!(responses.stale_plan());
    responses.flushed();
    responses.begin();
    assert!(!responses.stale_plan());
}
