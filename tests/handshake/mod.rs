//! The way in for clients: real drivers, refusals, and everything that a client must not send.

mod cves;
mod drivers;
mod hostile;
mod slow;
mod tls;
mod turned_away;

use std::time::Duration;

use bytes::BytesMut;
use causeway::auth::verifier::{ITERATIONS, Verifier};
use causeway::auth::{Credentials, Throttle};
use causeway::client::{Entered, Entrance, HandshakeError, enter};
use causeway::config::settings::{
    AccessRule, Address, Limits, Secret, TimeLimits, User, UserPassword,
};
use causeway::net::{PeerAddr, Stream};
use causeway::protocol::ErrorReport;
use causeway::server::{ConnectError, ServerLogin, connect};
use causeway::telemetry::Registry;
use causeway::tls::{Acceptor, Connector};
use tokio::net::{TcpListener, TcpStream};

/// Far beyond what any step takes: only a hang reaches it.
const HANG: Duration = Duration::from_secs(30);

fn limits() -> Limits {
    Limits {
        clients: 100,
        clients_per_user: None,
        clients_per_database: None,
        clients_per_address: None,
        logins: 100,
        refusals: 100,
        http_connections: 1,
        memory: None,
        startup_timeout: Duration::from_secs(15),
        startup_packet: 10_000,
        message: 1 << 30,
        pipeline: 1 << 20,
        statement: 1 << 20,
        times: TimeLimits::default(),
        idle_timeout: None,
        session_keys: 100,
    }
}

/// `app` with a plain password, `kept` with a verifier of it, `none` with none.
fn credentials() -> Credentials {
    let user = |name: &str, password| User { name: name.to_owned(), password, ..User::default() };
    let verifier = Verifier::derive("secret", b"0123456789abcdef", ITERATIONS).to_text();
    let users = [
        user("app", Some(UserPassword::Plain(Secret::new("secret")))),
        user("kept", Some(UserPassword::Verifier(Secret::new(verifier)))),
        user("none", None),
        user(
            "old",
            Some(UserPassword::Md5(Secret::new(causeway::auth::md5::kept("old", "secret")))),
        ),
        user("unicode", Some(UserPassword::Plain(Secret::new("I\u{ad}X\u{a0}\u{2168}")))),
    ];
    Credentials::from_users(&users, None).unwrap()
}

/// Why no server is had from there.
async fn connect_to(address: &Address) -> ConnectError {
    let login = ServerLogin {
        user: "app".to_owned(),
        database: "app".to_owned(),
        secret: None,
        parameters: Vec::new(),
    };
    connect(address, &Connector::disabled(), &login, HANG).await.expect_err("no server")
}

type Outcome = Result<Entered, HandshakeError>;

/// Runs [`enter`] on a task of its own, as the proxy does, over a TCP connection whose other end is
/// returned.
async fn entrance() -> (TcpStream, tokio::task::JoinHandle<Outcome>) {
    entrance_with(limits(), None).await
}

async fn entrance_with(
    limits: Limits,
    closed: Option<ErrorReport>,
) -> (TcpStream, tokio::task::JoinHandle<Outcome>) {
    entrance_over(limits, closed, None).await
}

async fn entrance_over(
    limits: Limits,
    closed: Option<ErrorReport>,
    tls: Option<Acceptor>,
) -> (TcpStream, tokio::task::JoinHandle<Outcome>) {
    entrance_by(limits, closed, tls, Vec::new()).await
}

async fn entrance_by(
    limits: Limits,
    closed: Option<ErrorReport>,
    tls: Option<Acceptor>,
    access: Vec<AccessRule>,
) -> (TcpStream, tokio::task::JoinHandle<Outcome>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let task = tokio::spawn(async move {
        let credentials = credentials();
        let throttle = Throttle::new(&Registry::new(1));
        let entrance = Entrance {
            credentials: &credentials,
            roles: None,
            access: &access,
            peer: PeerAddr::Local,
            throttle: &throttle,
            limits: &limits,
            deadline: tokio::time::Instant::now() + limits.startup_timeout,
            closed: closed.as_ref(),
            tls: tls.as_ref(),
        };
        enter(Stream::Tcp(stream), BytesMut::new(), entrance).await
    });
    (client, task)
}
