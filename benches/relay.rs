//! What passing a query on costs: the borders of a request, the scan of an answer, and the exchange of
//! both over sockets, which shows how much of it is the operating system's.

use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream as Peer;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use causeway::client::ClientConn;
use causeway::cluster::NodeId;
use causeway::config::settings::Address;
use causeway::net::Stream;
use causeway::protocol::request::{Indexer, Limits};
use causeway::protocol::response::{Responses, Sent};
use causeway::protocol::write;
use causeway::server::{Identity, ServerConn};
use causeway::session::relay;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const LIMITS: Limits = Limits { message: 1 << 30, statement: 1 << 20, pipeline: 1 << 20 };
const QUERY: &[u8] = b"SELECT abalance FROM pgbench_accounts WHERE aid = 12345;";

/// Bind, Describe, Execute, Sync, as drivers send them.
fn pipeline() -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, body) in [(b'B', 24), (b'D', 2), (b'E', 5), (b'S', 0)] {
        bytes.push(kind);
        bytes.put_u32(4 + body);
        bytes.extend(std::iter::repeat_n(0, body as usize));
    }
    bytes
}

/// The answer to a query with so many rows of one short column.
fn answer(rows: usize) -> Vec<u8> {
    let mut out = BytesMut::new();
    write::message(&mut out, b'T', |body| body.put_slice(&[0; 28]));
    for _ in 0..rows {
        write::message(&mut out, b'D', |body| body.put_slice(b"\0\x01\0\0\0\x0412345"));
    }
    write::command_complete(&mut out, "SELECT 1");
    write::ready_for_query(&mut out, b'I');
    out.to_vec()
}

fn framing(criterion: &mut Criterion) {
    let request = pipeline();
    let mut group = criterion.benchmark_group("framing");
    group.bench_function("a pipeline of four messages", |bencher| {
        let mut indexer = Indexer::default();
        bencher.iter(|| indexer.index(black_box(&request), &LIMITS));
    });
    group.finish();
}

fn scanning(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scanning");
    for rows in [1, 1000] {
        let input = answer(rows);
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(format!("an answer of {rows} rows"), |bencher| {
            let mut responses = Responses::default();
            bencher.iter(|| {
                responses.begin();
                responses.expect(Sent::Query, None);
                let progress = responses.scan(black_box(&input), |_| false);
                (progress, responses.flushed())
            });
        });
    }
    group.finish();
}

fn pair() -> (Stream, Peer) {
    let (near, far) = Peer::pair().expect("a pair of sockets");
    near.set_nonblocking(true).expect("a socket that does not wait");
    let near = tokio::net::UnixStream::from_std(near).expect("a reactor");
    (Stream::Unix(near), far)
}

/// One query and its answer. Both ends are played by the same thread, so that no one waits.
fn exchange(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let within = runtime.enter();
    let ((client, mut application), (server, mut node)) = (pair(), pair());
    drop(within);
    let mut client = ClientConn::new(client, BytesMut::new());
    let address = Address { host: "127.0.0.1".into(), port: 1 };
    let identity = Identity::new(NodeId(0), address, 1, Bytes::new());
    let mut server = ServerConn::new(server, identity, 1, 0);
    let reply = answer(1);
    let mut heard = vec![0; 4096];
    criterion.bench_function("exchange over sockets", |bencher| {
        bencher.iter(|| {
            node.write_all(&reply).expect("room for an answer");
            server.responses.begin();
            write::query(&mut server.output, QUERY);
            server.responses.expect(Sent::Query, None);
            let refusals = |_: &[u8]| false;
            let done = runtime.block_on(relay::exchange(&mut client, &mut server, true, refusals));
            client.input.advance(client.input.len());
            let asked = node.read(&mut heard).expect("a query");
            (done.expect("an answer"), asked, application.read(&mut heard).expect("the same"))
        });
    });
}

criterion_group!(benches, framing, scanning, exchange);
criterion_main!(benches);
