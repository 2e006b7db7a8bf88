//! Real drivers' logins: tokio-postgres, and the exchange as libpq makes it.

use causeway::auth::ServerSecret;
use causeway::auth::credentials::Doom;
use causeway::client::{Entered, HandshakeError, Welcome};
use causeway::config::settings::{AccessRule, Method, Origin};
use causeway::protocol::{ErrorReport, write};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_postgres::{Config, NoTls};

use super::{HANG, entrance, entrance_with, limits};

/// Logs in with tokio-postgres; the session's part is played by hand.
async fn log_in(
    config: &Config,
) -> (Result<(), tokio_postgres::Error>, Result<Welcome, HandshakeError>) {
    let (client, task) = entrance().await;
    let server = async {
        let mut welcome = match task.await.unwrap()? {
            Entered::Session(welcome) => welcome,
            Entered::Cancel { .. } => panic!("a login is no cancel request"),
        };
        let mut out = std::mem::take(&mut welcome.unsent);
        write::ready_for_query(&mut out, b'I');
        welcome.stream.write_all(&out).await.unwrap();
        Ok(welcome)
    };
    let (driver, welcome) =
        timeout(HANG, async { tokio::join!(config.connect_raw(client, NoTls), server) })
            .await
            .expect("the login hangs");
    (driver.map(|_| ()), welcome)
}

fn config(user: &str, password: &str) -> Config {
    let mut config = Config::new();
    config.user(user).password(password).dbname("shop").application_name("test");
    config
}

#[tokio::test]
async fn those_who_know_the_password_are_welcome() {
    for (user, password) in [
        ("app", "secret"),
        ("kept", "secret"),
        ("unicode", "I\u{ad}X\u{a0}\u{2168}"),
        ("unicode", "IX IX"),
    ] {
        let (driver, welcome) = log_in(&config(user, password)).await;
        driver.unwrap_or_else(|error| panic!("{user}: {error}"));
        let welcome = welcome.unwrap();
        assert_eq!((&*welcome.user, &*welcome.database), (user, "shop"));
        assert_eq!(welcome.protocol_minor, 0);
        assert!(welcome.buffer.is_empty());
        let application = ("application_name".to_owned(), "test".to_owned());
        assert!(welcome.parameters.contains(&application), "{:?}", welcome.parameters);
    }
}

/// One text, one SQLSTATE, whatever was wrong.
#[tokio::test]
async fn those_who_do_not_know_it_cannot_tell_why() {
    for (user, password, doom) in [
        ("app", "Secret", None),
        ("app", "", None),
        ("kept", "wrong", None),
        ("none", "secret", Some(Doom::NoPassword)),
        ("none", "", Some(Doom::NoPassword)),
        ("nobody", "secret", Some(Doom::UnknownUser)),
    ] {
        let (driver, welcome) = log_in(&config(user, password)).await;
        let error = driver.expect_err(user);
        let report = error.as_db_error().unwrap_or_else(|| panic!("{user}: {error:?}"));
        assert_eq!(report.code().code(), "28P01");
        assert_eq!(report.severity(), "FATAL");
        assert_eq!(report.message(), format!("password authentication failed for user \"{user}\""));
        assert_eq!((report.detail(), report.hint()), (None, None));
        match welcome {
            Err(HandshakeError::Authentication { doom: found, .. }) => assert_eq!(found, doom),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn when_closed_a_client_hears_why_before_it_is_asked_for_a_password() {
    let closed = ErrorReport::fatal("53300", "sorry, too many clients already");
    let (client, task) = entrance_with(limits(), Some(closed)).await;
    let config = config("app", "secret");
    let driver = timeout(HANG, config.connect_raw(client, NoTls)).await.unwrap();
    let error = driver.err().expect("closed");
    assert_eq!(error.as_db_error().expect("a report").code().code(), "53300");
    assert!(matches!(task.await.unwrap(), Err(HandshakeError::Closed(_))));
}

/// tokio-postgres with TLS "prefer" asks with an SSLRequest and goes on in plain text.
#[tokio::test]
async fn an_offer_of_encryption_is_declined_and_the_login_goes_on() {
    let (mut client, task) = entrance().await;
    for request in [&b"\0\0\0\x08\x04\xd2\x16\x2f"[..], b"\0\0\0\x08\x04\xd2\x16\x30"] {
        client.write_all(request).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), b'N');
    }
    let config = config("app", "secret");
    let session = async {
        let Ok(Entered::Session(mut welcome)) = task.await.unwrap() else { panic!() };
        let mut out = std::mem::take(&mut welcome.unsent);
        write::ready_for_query(&mut out, b'I');
        welcome.stream.write_all(&out).await.unwrap();
        welcome
    };
    let (driver, _) =
        timeout(HANG, async { tokio::join!(config.connect_raw(client, NoTls), session) })
            .await
            .unwrap();
    driver.map(|_| ()).unwrap();
}

/// A rule may ask for md5: whose md5 hash is kept proves itself by it, and all others by SCRAM all the same.
#[tokio::test]
async fn clients_prove_themselves_by_md5_where_only_that_is_kept() {
    for (user, password, method, expected) in [
        ("old", "secret", Method::Md5, Ok("md5")),
        ("old", "wrong", Method::Md5, Err("28P01")),
        ("app", "secret", Method::Md5, Ok("scram")),
        ("kept", "secret", Method::Md5, Ok("scram")),
        ("app", "wrong", Method::Md5, Err("28P01")),
        ("nobody", "secret", Method::Md5, Err("28P01")),
        ("none", "secret", Method::Md5, Err("28P01")),
        // Where SCRAM is asked for an md5 hash proves nobody.
        ("old", "secret", Method::Scram, Err("28P01")),
    ] {
        let rule = AccessRule {
            from: vec![Origin::Local],
            users: Vec::new(),
            databases: Vec::new(),
            tls: None,
            method,
        };
        let (client, task) = super::entrance_by(limits(), None, None, vec![rule]).await;
        let server = async {
            let Ok(Entered::Session(mut welcome)) = task.await.unwrap() else { return None };
            let mut out = std::mem::take(&mut welcome.unsent);
            write::ready_for_query(&mut out, b'I');
            welcome.stream.write_all(&out).await.unwrap();
            Some(welcome)
        };
        let config = config(user, password);
        let both = async { tokio::join!(config.connect_raw(client, NoTls), server) };
        let (driver, welcome) = timeout(HANG, both).await.expect("the login hangs");
        let case = format!("{user} {password} {method:?}");
        match expected {
            Ok(by) => {
                drop(driver.unwrap_or_else(|error| panic!("{case}: {error}")));
                let secret = welcome.and_then(|welcome| welcome.secret);
                let is_md5 = matches!(secret, Some(ServerSecret::Md5(_)));
                assert_eq!(is_md5, by == "md5", "{case}: what it has shown opens servers");
            }
            Err(code) => {
                let error = driver.err().unwrap_or_else(|| panic!("{case}: let in"));
                assert_eq!(
                    error.code().map(tokio_postgres::error::SqlState::code),
                    Some(code),
                    "{case}"
                );
                assert!(welcome.is_none(), "{case}");
            }
        }
    }
}
