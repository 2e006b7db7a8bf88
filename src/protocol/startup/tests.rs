//! Packets as clients send them and as nobody should: what is read, what is refused, in which words.

use super::*;

/// A body: version, then the strings, each with its NUL, then the terminator.
fn body(version: u32, strings: &[&str]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for text in strings {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    body
}

fn session(version: u32, strings: &[&str]) -> Result<Startup, StartupError> {
    match parse(&body(version, strings))? {
        StartupPacket::Session(startup) => Ok(startup),
        other => panic!("{other:?}"),
    }
}

#[test]
fn lengths_that_a_packet_may_have() {
    for (word, limit, expected) in [
        (8, 10_000, Ok(4)),
        (10_004, 10_000, Ok(10_000)),
        (10_005, 10_000, Err(StartupError::Length)),
        (7, 10_000, Err(StartupError::Length)),
        (4, 10_000, Err(StartupError::Length)),
        (3, 10_000, Err(StartupError::Length)),
        (0, 10_000, Err(StartupError::Length)),
        (u32::MAX, 10_000, Err(StartupError::Length)),
        (0x8000_0000, 10_000, Err(StartupError::Length)),
        (0x1603_0100, 10_000, Err(StartupError::Length)),
        (u32::from_be_bytes(*b"GET "), 10_000, Err(StartupError::Length)),
    ] {
        assert_eq!(body_length(u32::to_be_bytes(word), limit), expected, "{word:#x}");
    }
}

#[test]
fn a_usual_login() {
    let startup = session(
        3 << 16,
        &["user", "app", "database", "shop", "application_name", "web", "options", "-c a=b"],
    )
    .unwrap();
    assert_eq!((&*startup.user, &*startup.database), ("app", "shop"));
    assert_eq!(
        startup.parameters,
        [
            ("application_name".to_owned(), "web".to_owned()),
            ("options".to_owned(), "-c a=b".to_owned())
        ]
    );
    assert_eq!(
        startup.protocol,
        Negotiation { minor: 0, must_answer: false, unrecognized: vec![] }
    );
}

#[test]
fn the_database_defaults_to_the_user() {
    assert_eq!(session(3 << 16, &["user", "app"]).unwrap().database, "app");
    assert_eq!(session(3 << 16, &["user", "app", "database", ""]).unwrap().database, "app");
}

#[test]
fn the_last_of_a_kind_wins() {
    let startup =
        session(3 << 16, &["user", "a", "DateStyle", "1", "x", "2", "user", "b", "datestyle", "3"])
            .unwrap();
    assert_eq!(startup.user, "b");
    assert_eq!(
        startup.parameters,
        [("x".to_owned(), "2".to_owned()), ("datestyle".to_owned(), "3".to_owned())]
    );
}

#[test]
fn names_are_cut_where_postgresql_cuts_them() {
    let long = format!("{}\u{e9}\u{e9}", "a".repeat(62));
    assert_eq!(session(3 << 16, &["user", &long]).unwrap().user, "a".repeat(62));
    assert_eq!(truncate_name("short"), "short");
    assert_eq!(truncate_name(&"a".repeat(63)).len(), 63);
    assert_eq!(truncate_name(&"a".repeat(64)).len(), 63);
}

#[test]
fn versions() {
    let agreed =
        |minor, must_answer| Ok(Negotiation { minor, must_answer, unrecognized: Vec::new() });
    let refused = |major, minor| Err(StartupError::Version { major, minor });
    for (major, minor, expected) in [
        (3, 0, agreed(0, false)),
        (3, 1, agreed(0, false)),
        (3, 2, agreed(2, false)),
        (3, 3, agreed(2, true)),
        (3, 9999, agreed(2, true)),
        (3, 65535, agreed(2, true)),
        (2, 0, refused(2, 0)),
        (1, 0, refused(1, 0)),
        (0, 0, refused(0, 0)),
        (4, 0, refused(4, 0)),
        (1234, 5677, refused(1234, 5677)),
        (1234, 5681, refused(1234, 5681)),
        (65535, 65535, refused(65535, 65535)),
    ] {
        let found = session(code(major, minor), &["user", "u"]).map(|s| s.protocol);
        assert_eq!(found, expected, "{major}.{minor}");
    }
    assert_eq!(
        StartupError::Version { major: 2, minor: 0 }.to_string(),
        "unsupported frontend protocol 2.0: server supports 3.0 to 3.2"
    );
}

#[test]
fn unknown_protocol_options_are_named() {
    let startup =
        session(3 << 16 | 2, &["user", "u", "_pq_.a", "1", "_pq_.b", "", "_pqx", "2"]).unwrap();
    assert_eq!(
        startup.protocol,
        Negotiation {
            minor: 2,
            must_answer: true,
            unrecognized: vec!["_pq_.a".to_owned(), "_pq_.b".to_owned()]
        }
    );
    assert_eq!(startup.parameters, [("_pqx".to_owned(), "2".to_owned())]);
}

#[test]
fn layouts_that_are_refused() {
    let version = (3u32 << 16).to_be_bytes();
    for rest in [
        &b""[..],
        b"\0\0",
        b"user",
        b"user\0",
        b"user\0\0",
        b"user\0app",
        b"user\0app\0",
        b"user\0app\0database\0\0",
        b"user\0app\0\0x",
        b"user\0app\0\0\0",
        b"\0user\0app\0\0",
        b"user\0app\0\0x\0y\0\0",
    ] {
        let body = [&version[..], rest].concat();
        assert_eq!(parse(&body), Err(StartupError::Layout), "{}", rest.escape_ascii());
    }
    assert_eq!(parse(&[&version[..], b"\0"].concat()), Err(StartupError::NoUser));
    assert_eq!(parse(&[&version[..], b"user\0\0\0"].concat()), Err(StartupError::NoUser));
    assert_eq!(parse(&[&version[..], b"user\0\xff\0\0"].concat()), Err(StartupError::Encoding));
    assert_eq!(parse(&[&version[..], b"\xff\0x\0\0"].concat()), Err(StartupError::Encoding));
    assert_eq!(parse(b""), Err(StartupError::Length));
    assert_eq!(parse(b"\0\x03\0"), Err(StartupError::Length));
}

#[test]
fn replication_is_refused_and_its_absence_is_not() {
    for (value, expected) in [
        ("true", Some("0A000")),
        ("ON", Some("0A000")),
        ("y", Some("0A000")),
        ("1", Some("0A000")),
        ("database", Some("0A000")),
        ("false", None),
        ("of", None),
        ("n", None),
        ("0", None),
        ("o", Some("22023")),
        ("", Some("22023")),
        ("2", Some("22023")),
        ("trueish", Some("22023")),
    ] {
        let found = session(3 << 16, &["user", "u", "replication", value]);
        let sqlstate = found.err().map(|error| error.report().sqlstate.into_owned());
        assert_eq!(sqlstate.as_deref(), expected, "{value}");
    }
}

#[test]
fn cancel_requests() {
    let request = |secret: usize| {
        let mut body = CANCEL_REQUEST.to_be_bytes().to_vec();
        body.extend_from_slice(&(-7i32).to_be_bytes());
        body.extend(std::iter::repeat_n(9, secret));
        parse(&body)
    };
    for length in [1, 4, 32, 256] {
        let secret = Bytes::from(vec![9; length]);
        assert_eq!(
            request(length),
            Ok(StartupPacket::Cancel(CancelKey { process_id: -7, secret }))
        );
    }
    for length in [0, 257] {
        assert_eq!(request(length), Err(StartupError::CancelLength));
    }
    assert_eq!(parse(&CANCEL_REQUEST.to_be_bytes()), Err(StartupError::CancelLength));
    let key = CancelKey { process_id: 1, secret: Bytes::from_static(b"hush") };
    assert_eq!(format!("{key:?}"), "CancelKey(1, ***)");
}

#[test]
fn a_packet_full_of_names_costs_no_quadratic_time() {
    let mut body = (3u32 << 16).to_be_bytes().to_vec();
    body.extend_from_slice(b"user\0u\0");
    for name in 0..300_000u32 {
        body.extend_from_slice(format!("{name:x}").as_bytes());
        body.extend_from_slice(b"\0\0");
    }
    body.push(0);
    let StartupPacket::Session(startup) = parse(&body).unwrap() else { panic!() };
    assert_eq!(startup.parameters.len(), 300_000);
}
