//! SCRAM on both sides: nobody enters and no server is believed without the keys, and what is kept of a
//! password is read as it is written.

use std::num::NonZeroU32;
use std::sync::{Arc, LazyLock};

use causeway::auth::scram::{AwaitingFirst, Standing};
use causeway::auth::scram_client::{AwaitingChallenge, Binding, Prover};
use causeway::auth::{Kept, ScramKeys, Verifier};

const SALT: &[u8] = b"0123456789abcdef";
const ROUNDS: NonZeroU32 = NonZeroU32::new(2).unwrap();

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| Verifier::derive("secret", SALT, ROUNDS));
static KEYS: LazyLock<Arc<ScramKeys>> =
    LazyLock::new(|| Arc::new(ScramKeys::derive(b"secret", SALT, ROUNDS)));

/// The first byte says where the first message ends.
pub fn check(input: &[u8]) {
    let Some((cut, messages)) = input.split_first() else { return };
    let (first, last) = messages.split_at(usize::from(*cut).min(messages.len()));
    as_server(first, last);
    as_client(first, last);
    if let Ok(text) = std::str::from_utf8(messages)
        && let Some(Kept::Scram(verifier)) = Kept::parse(text)
    {
        let again = Verifier::parse(&verifier.to_text());
        assert_eq!(again.as_ref(), Ok(&*verifier), "written as it was read");
    }
}

fn as_server(first: &[u8], last: &[u8]) {
    for standing in [Standing::Genuine, Standing::Doomed] {
        let begun = AwaitingFirst::new(&VERIFIER, standing);
        let nonce = "fyko+d2lbbFgONRv9qkxdawL";
        match begun.on_client_first(first, nonce) {
            Ok((exchange, challenge)) => {
                assert!(challenge.starts_with("r=") && challenge.contains(nonce));
                assert!(exchange.on_client_final(last).is_err(), "nobody enters without the keys");
            }
            Err(error) => assert_eq!(error.report("app").sqlstate.len(), 5),
        }
    }
}

/// A server's challenge is believed only if it continues our nonce, so that is put before the input.
fn as_client(first: &[u8], last: &[u8]) {
    for ours in [true, false] {
        let client = AwaitingChallenge::new(Prover::Keys(KEYS.clone()), Binding::Impossible);
        let nonce = String::from_utf8_lossy(client.message()).replace("n,,n=,", "").into_bytes();
        let challenge = if ours { [&nonce, first].concat() } else { first.to_vec() };
        if let Ok(exchange) = client.on_challenge(&challenge) {
            assert!(ours, "a challenge without our nonce");
            assert!(exchange.message().starts_with(b"c=biws,r="));
            assert!(exchange.on_server_final(last).is_err(), "an impostor");
        }
    }
}
