//! The standard's own exchange, and every message that is refused, in PostgreSQL's words.

use super::*;
use crate::auth::verifier::ITERATIONS;

/// RFC 7677 section 3.
const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                            s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
                            p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

fn pencil() -> Verifier {
    let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
    Verifier::derive("pencil", &salt, ITERATIONS)
}

fn first(message: &[u8]) -> Result<String, ScramError> {
    let verifier = pencil();
    let exchange = AwaitingFirst::new(&verifier, Standing::Genuine);
    exchange.on_client_first(message, SERVER_NONCE).map(|(_, challenge)| challenge)
}

fn last(standing: Standing, message: &str) -> Result<String, ScramError> {
    let verifier = pencil();
    let (exchange, _) = AwaitingFirst::new(&verifier, standing)
        .on_client_first(CLIENT_FIRST.as_bytes(), SERVER_NONCE)
        .unwrap();
    exchange.on_client_final(message.as_bytes()).map(|accepted| accepted.message)
}

#[test]
fn the_standards_own_exchange() {
    assert_eq!(first(CLIENT_FIRST.as_bytes()).as_deref(), Ok(SERVER_FIRST));
    assert_eq!(last(Standing::Genuine, CLIENT_FINAL).as_deref(), Ok(SERVER_FINAL));
}

#[test]
fn the_doomed_fail_though_their_proof_fits() {
    assert_eq!(last(Standing::Doomed, CLIENT_FINAL), Err(ScramError::Mismatch));
}

#[test]
fn first_messages() {
    let shown = |byte: u8| Shown(Some(byte));
    let end = Shown(None);
    let cases: &[(&[u8], Result<(), ScramError>)] = &[
        (b"n,,n=,r=x", Ok(())),
        (b"y,,n=,r=x", Ok(())),
        (b"n,,n=any=thing,r=x=y,e=1,f=", Ok(())),
        (b"", Err(Malformed::Empty.into())),
        (b"n,,n=,r=x\0", Err(Malformed::Length.into())),
        (b"n,,n=\xff,r=x", Err(Malformed::Encoding.into())),
        (b"p=tls-server-end-point,,n=,r=x", Err(Malformed::ChannelBindingData.into())),
        (b"x,,n=,r=x", Err(Malformed::ChannelBindingFlag(shown(b'x')).into())),
        (b"\x01,,n=,r=x", Err(Malformed::ChannelBindingFlag(shown(1)).into())),
        (b",,n=,r=x", Err(Malformed::ChannelBindingFlag(shown(b',')).into())),
        (b"n", Err(Malformed::Comma(end).into())),
        (b"nx,n=,r=x", Err(Malformed::Comma(shown(b'x')).into())),
        (b"n,", Err(Malformed::UnexpectedAttribute(end).into())),
        (b"n,x=1,n=,r=x", Err(Malformed::UnexpectedAttribute(shown(b'x')).into())),
        (b"n,\xc3\xa9,n=,r=x", Err(Malformed::UnexpectedAttribute(shown(0xc3)).into())),
        (b"n,a=root,n=,r=x", Err(ScramError::AuthorizationIdentity)),
        (b"n,,m=ext,n=,r=x", Err(ScramError::MandatoryExtension)),
        (b"n,,", Err(Malformed::Attribute('n', end).into())),
        (b"n,,r=x", Err(Malformed::Attribute('n', shown(b'r')).into())),
        (b"n,,n", Err(Malformed::Equals(shown(b'n')).into())),
        (b"n,,nx=,r=x", Err(Malformed::Equals(shown(b'n')).into())),
        (b"n,,n=", Err(Malformed::Attribute('r', end).into())),
        (b"n,,n=,", Err(Malformed::Attribute('r', end).into())),
        (b"n,,n=,r", Err(Malformed::Equals(shown(b'r')).into())),
        (b"n,,n=,r=", Err(ScramError::NonceCharacters)),
        (b"n,,n=,r=a b", Err(ScramError::NonceCharacters)),
        (b"n,,n=,r=\xc3\xa9", Err(ScramError::NonceCharacters)),
        (b"n,,n=,r=x,1=", Err(Malformed::NoAttribute(shown(b'1')).into())),
        (b"n,,n=,r=x,,", Err(Malformed::NoAttribute(shown(b',')).into())),
        (b"n,,n=,r=x,\xc3\xa9=1", Err(Malformed::NoAttribute(shown(0xc3)).into())),
    ];
    for (message, expected) in cases {
        let found = first(message).map(|_| ());
        assert_eq!(found, *expected, "{}", message.escape_ascii());
    }
}

#[test]
fn last_messages() {
    let nonce = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let proof = "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let end = Shown(None);
    let cases: &[(String, ScramError)] = &[
        (String::new(), Malformed::Empty.into()),
        (format!("c=eSws,{nonce},{proof}"), ScramError::ChannelBinding),
        (format!("c=,{nonce},{proof}"), ScramError::ChannelBinding),
        (format!("{nonce},{proof}"), Malformed::Attribute('c', Shown(Some(b'r'))).into()),
        (format!("c=biws,{proof}"), Malformed::Attribute('r', Shown(Some(b'p'))).into()),
        ("c=biws".to_owned(), Malformed::Attribute('r', end).into()),
        (format!("c=biws,{nonce}"), Malformed::NoAttribute(end).into()),
        (format!("c=biws,{nonce},x=1"), Malformed::NoAttribute(end).into()),
        (format!("c=biws,{nonce},p=abc"), Malformed::Proof.into()),
        (format!("c=biws,{nonce},p="), Malformed::Proof.into()),
        (format!("c=biws,{nonce},p={}", "A".repeat(900)), Malformed::Proof.into()),
        (format!("c=biws,{nonce},{proof},x=1"), Malformed::Garbage.into()),
        (format!("c=biws,r=other,{proof}"), ScramError::NonceMismatch),
        (format!("c=biws,{nonce}x,{proof}"), ScramError::NonceMismatch),
        (format!("c=biws,r=,{proof}"), ScramError::NonceMismatch),
        (format!("c=biws,r=rOprNGfwEbeRWgbNEkqO,{proof}"), ScramError::NonceMismatch),
        // An extension is allowed but it is signed, so this proof does not fit.
        (format!("c=biws,{nonce},x=1,{proof}"), ScramError::Mismatch),
        (format!("c=biws,{nonce},p={}", STANDARD.encode([0; 32])), ScramError::Mismatch),
        (CLIENT_FIRST.to_owned(), Malformed::Attribute('c', Shown(Some(b'n'))).into()),
    ];
    for (message, expected) in cases {
        let found = last(Standing::Genuine, message);
        assert_eq!(found.as_ref(), Err(expected), "{message}");
        if *expected != ScramError::Mismatch {
            // What is malformed is so for everybody.
            assert_eq!(last(Standing::Doomed, message), found, "{message}");
        }
    }
}

#[test]
fn what_a_first_message_may_be_bound_to() {
    use Binding::{Declined, EndPoint, Impossible};
    let no_data = Malformed::NoChannelBindingData;
    let data = Malformed::ChannelBindingData;
    let cases: &[(&str, Binding<'_>, Result<(), ScramError>)] = &[
        ("n,,n=,r=x", Declined, Ok(())),
        // Somebody has taken the offer out of what the client was sent.
        ("y,,n=,r=x", Declined, Err(ScramError::BindingNegotiation)),
        ("p=tls-server-end-point,,n=,r=x", Declined, Err(data.into())),
        ("y,,n=,r=x", Impossible, Ok(())),
        ("p=tls-server-end-point,,n=,r=x", EndPoint(b"hash"), Ok(())),
        ("n,,n=,r=x", EndPoint(b"hash"), Err(no_data.into())),
        ("y,,n=,r=x", EndPoint(b"hash"), Err(no_data.into())),
        ("p=tls-unique,,n=,r=x", EndPoint(b"hash"), Err(ScramError::BindingType)),
        ("p=,,n=,r=x", EndPoint(b"hash"), Err(ScramError::BindingType)),
        ("p,,n=,r=x", EndPoint(b"hash"), Err(Malformed::Equals(Shown(Some(b'p'))).into())),
        (
            "p=tls-server-end-point",
            EndPoint(b"hash"),
            Err(Malformed::UnexpectedAttribute(Shown(None)).into()),
        ),
        (
            "p=tls-server-end-point,a=root,n=,r=x",
            EndPoint(b"hash"),
            Err(ScramError::AuthorizationIdentity),
        ),
        ("x,,n=,r=x", EndPoint(b""), Err(Malformed::ChannelBindingFlag(Shown(Some(b'x'))).into())),
    ];
    let verifier = pencil();
    for (message, binding, expected) in cases {
        let exchange = AwaitingFirst::new(&verifier, Standing::Genuine).bound_to(*binding);
        let found = exchange.on_client_first(message.as_bytes(), SERVER_NONCE).map(|_| ());
        assert_eq!(found, *expected, "{message} {binding:?}");
    }
}

#[test]
fn reports_about_bindings_are_postgresqls() {
    for (error, sqlstate) in [
        (ScramError::BindingCheck, "28000"),
        (ScramError::BindingNegotiation, "28000"),
        (ScramError::BindingType, "08P01"),
        (Malformed::NoChannelBindingData.into(), "08P01"),
    ] {
        assert_eq!(error.report("app").sqlstate, sqlstate, "{error}");
    }
}

#[test]
fn nonces_do_not_repeat_and_may_be_sent() {
    let (one, other) = (nonce(), nonce());
    assert_ne!(one, other);
    assert_eq!(one.len(), 24);
    assert!(one.bytes().all(|byte| byte.is_ascii_graphic() && byte != b','));
}

#[test]
fn the_report_of_a_mismatch_is_postgresqls() {
    let report = ScramError::Mismatch.report("app");
    assert_eq!(report.sqlstate, "28P01");
    assert_eq!(report.message, "password authentication failed for user \"app\"");
    assert_eq!((report.detail, report.hint), (None, None));
}
