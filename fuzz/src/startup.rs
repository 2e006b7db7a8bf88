//! The packets that open a connection: what is read of them keeps its bounds, whatever they claim.

use causeway::protocol::startup::{self, StartupPacket, body_length, parse, truncate_name};

const LIMIT: usize = 10_000;

/// The first four bytes as a length, all of them as a body.
pub fn check(input: &[u8]) {
    if let Some(word) = input.first_chunk::<4>()
        && let Ok(length) = body_length(*word, LIMIT)
    {
        assert!((4..=LIMIT).contains(&length), "a length within the limit");
    }
    match parse(input) {
        Ok(StartupPacket::Session(startup)) => {
            assert!(!startup.user.is_empty() && !startup.database.is_empty());
            for name in [&startup.user, &startup.database] {
                assert_eq!(truncate_name(name), name, "a name that PostgreSQL would keep");
            }
            assert!(matches!(startup.protocol.minor, 0 | 2));
            let bytes: usize = startup.parameters.iter().map(|(n, v)| n.len() + v.len()).sum();
            assert!(bytes <= input.len(), "nothing is made of nothing");
            let mut names: Vec<_> =
                startup.parameters.iter().map(|(n, _)| n.to_ascii_lowercase()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), startup.parameters.len(), "each name once");
        }
        Ok(StartupPacket::Cancel(key)) => {
            assert!((1..=startup::CANCEL_KEY_MAX).contains(&key.secret.len()));
        }
        Ok(StartupPacket::Ssl | StartupPacket::Gssenc) => {}
        Err(error) => assert_eq!(error.report().sqlstate.len(), 5, "a refusal that can be told"),
    }
}
