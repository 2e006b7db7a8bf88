//! The least that a proxy can do: accept, connect, copy bytes both ways. `make bench` measures it
//! beside Causeway, so that one sees what of a proxy's cost is the price of being in the way at all.
//!
//! forwarder LISTEN UPSTREAM [THREADS]: a current-thread runtime per thread, each with a listener of
//! its own (SO_REUSEPORT), as Causeway's workers have.

use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections waiting to be accepted.
const BACKLOG: i32 = 1024;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, upstream, rest @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: forwarder LISTEN UPSTREAM [THREADS]");
    };
    let (listen, upstream) = (listen.parse()?, upstream.parse()?);
    let threads: usize = match rest {
        [threads, ..] => threads.parse()?,
        [] => std::thread::available_parallelism()?.get(),
    };
    let threads = (0..threads).map(|_| std::thread::spawn(move || work(listen, upstream)));
    for thread in threads.collect::<Vec<_>>() {
        thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }
    Ok(())
}

fn work(listen: SocketAddr, upstream: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let socket = Socket::new(Domain::for_address(listen), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_port(true)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&listen.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from_std(socket.into())?;
        loop {
            let (client, _) = listener.accept().await?;
            tokio::task::spawn_local(forward(client, upstream));
        }
    })
}

async fn forward(mut client: TcpStream, upstream: SocketAddr) -> std::io::Result<()> {
    let mut server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}
