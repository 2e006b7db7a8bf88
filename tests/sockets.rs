//! Listening: both kinds of socket, their files, and what is in the way of them.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use causeway::config::settings::{Address, Listen};
use causeway::net::connect::{connect, socket_path};
use causeway::net::{Bound, BoundAddr, PeerAddr, SocketOptions, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

fn unix(directory: &Path) -> Listen {
    Listen::Unix { directory: directory.to_owned(), port: 6432 }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

async fn greet(address: &Address, bound: Bound) -> PeerAddr {
    let listener = bound.listen().unwrap();
    let options = SocketOptions::default();
    let (client, accepted) = tokio::join!(connect(address, &options, soon()), listener.accept());
    let (mut client, (mut server, peer)) = (client.unwrap(), accepted);
    server.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
    if let (Stream::Tcp(client), Stream::Tcp(server)) = (&client, &server) {
        assert!(client.nodelay().unwrap() && server.nodelay().unwrap());
        for socket in [client, server] {
            assert!(socket2::SockRef::from(socket).keepalive().unwrap());
        }
    }
    peer
}

#[tokio::test]
async fn tcp_by_number_and_by_name() {
    for host in ["127.0.0.1", "localhost"] {
        let bound = Bound::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap()), false).unwrap();
        let BoundAddr::Tcp(at) = bound.local_addr().unwrap() else { panic!() };
        assert_ne!(at.port(), 0);
        let address = Address { host: host.to_owned(), port: at.port() };
        let PeerAddr::Tcp(peer) = greet(&address, bound).await else { panic!() };
        assert!(peer.ip().is_loopback());
    }
}

#[tokio::test]
async fn a_port_in_use_is_an_error_of_the_start() {
    let first = Bound::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap()), false).unwrap();
    let BoundAddr::Tcp(at) = first.local_addr().unwrap() else { panic!() };
    let error = Bound::bind(&Listen::Tcp(at), false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    drop(first);
    let shared = Bound::bind(&Listen::Tcp(at), true).unwrap();
    let _also = Bound::bind(&Listen::Tcp(at), true).unwrap();
    drop(shared);
}

#[tokio::test]
async fn a_socket_file_lives_as_long_as_its_last_handle() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_path(directory.path(), 6432);
    assert!(path.ends_with(".s.PGSQL.6432"));
    let bound = Bound::bind(&unix(directory.path()), false).unwrap();
    assert_eq!(bound.local_addr().unwrap().to_string(), path.display().to_string());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
    let clone = bound.try_clone().unwrap();
    let host = directory.path().to_str().unwrap().to_owned();
    assert_eq!(greet(&Address { host, port: 6432 }, bound).await, PeerAddr::Local);
    assert!(path.exists());
    drop(clone);
    assert!(!path.exists());
}

#[test]
fn what_lies_in_a_sockets_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = socket_path(directory.path(), 6432);
    // Left behind by a process that is gone: replaced.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let bound = Bound::bind(&unix(directory.path()), false).unwrap();
    // Alive: not touched.
    let error = Bound::bind(&unix(directory.path()), false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    UnixStream::connect(&path).unwrap();
    // Replaced by a successor: not removed.
    std::fs::remove_file(&path).unwrap();
    let _successor = UnixListener::bind(&path).unwrap();
    drop(bound);
    assert!(path.exists());
    // No socket at all: not touched.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    let error = Bound::bind(&unix(directory.path()), false).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

/// Two workers, each with a runtime of its own, share one queue.
#[test]
fn every_clone_accepts() {
    let bound = Bound::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap()), false).unwrap();
    let BoundAddr::Tcp(at) = bound.local_addr().unwrap() else { panic!() };
    let workers: Vec<_> = [bound.try_clone().unwrap(), bound]
        .into_iter()
        .map(|bound| {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.unwrap().block_on(async {
                    let listener = bound.listen().unwrap();
                    let _ = tokio::time::timeout(Duration::from_secs(30), listener.accept())
                        .await
                        .expect("no connection came");
                });
            })
        })
        .collect();
    // Each worker takes exactly one, so both must have had their turn.
    let _clients = [(); 2].map(|()| std::net::TcpStream::connect(at).unwrap());
    for worker in workers {
        worker.join().unwrap();
    }
}

#[tokio::test]
async fn nobody_there_is_an_error_at_once() {
    let bound = Bound::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap()), false).unwrap();
    let BoundAddr::Tcp(at) = bound.local_addr().unwrap() else { panic!() };
    drop(bound);
    let directory = tempfile::tempdir().unwrap();
    let host = directory.path().to_str().unwrap().to_owned();
    for (address, kind) in [
        (
            Address { host: "127.0.0.1".to_owned(), port: at.port() },
            io::ErrorKind::ConnectionRefused,
        ),
        (Address { host, port: 1 }, io::ErrorKind::NotFound),
    ] {
        let error = connect(&address, &SocketOptions::default(), soon()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{address}");
    }
}

/// Says that this process is the one with few descriptors.
const STARVED: &str = "CAUSEWAY_TEST_STARVED";

/// The limit is the process's, so this test runs itself again in one of its own.
#[test]
fn a_shortage_of_descriptors_is_waited_out() {
    if std::env::var_os(STARVED).is_some() {
        return accept_while_starved();
    }
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 48 && exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "sockets::a_shortage_of_descriptors_is_waited_out", "--nocapture"])
        .env(STARVED, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

fn accept_while_starved() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bound = Bound::bind(&Listen::Tcp("127.0.0.1:0".parse().unwrap()), false).unwrap();
        let BoundAddr::Tcp(at) = bound.local_addr().unwrap() else { panic!() };
        let listener = bound.listen().unwrap();
        let mut ballast = Vec::new();
        while let Ok(file) = std::fs::File::open("/dev/null") {
            ballast.push(file);
        }
        // One descriptor for the client, none for our end of its connection.
        ballast.pop();
        let _client = std::net::TcpStream::connect(at).unwrap();
        let mut accept = std::pin::pin!(listener.accept());
        let early = tokio::time::timeout(Duration::from_millis(300), accept.as_mut()).await;
        assert!(early.is_err(), "there was no descriptor to accept with");
        drop(ballast);
        let accepted = tokio::time::timeout(Duration::from_secs(30), accept).await;
        accepted.expect("accepting has stopped for good");
    });
}
