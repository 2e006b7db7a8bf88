//! Large things pass in constant memory, both ways.

use std::process::{Command, Stdio};

use crate::harness::{Proxy, ProxyOptions, fresh_database, run, shared_cluster};
use crate::wire::{Wire, frame, query};

const VALUE: usize = 256 * 1024 * 1024;
/// What the proxy may grow by, in KiB, for a value of [`VALUE`] bytes.
const GROWTH: u64 = 24 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_value_of_256_mib_passes_in_constant_memory_both_ways() {
    let proxy = Proxy::start(shared_cluster(), &ProxyOptions::default()).await;
    let mut wire = Wire::login(&proxy, "app").await;
    wire.send(&query("SELECT 1")).await;
    wire.until_ready().await;
    let before = proxy.peak_memory();

    wire.send(&query(&format!("SELECT repeat('x', {VALUE})"))).await;
    let (kinds, bytes) = wire.until_ready().await;
    assert_eq!(kinds, "TDCZ");
    assert!(bytes > VALUE, "{bytes}");
    let grown = proxy.peak_memory() - before;
    assert!(grown < GROWTH, "grew by {grown} KiB for a value to the client");

    // As a parameter: Parse, Bind (written piece by piece), Execute, Sync.
    wire.send(&frame(b'P', b"\0SELECT length($1::text)\0\0\0")).await;
    let head =
        [b"\0\0\0\0\0\x01".as_slice(), &u32::try_from(VALUE).unwrap().to_be_bytes()].concat();
    let tail = b"\0\0";
    let length = u32::try_from(4 + head.len() + VALUE + tail.len()).unwrap();
    wire.send(b"B").await;
    wire.send(&length.to_be_bytes()).await;
    wire.send(&head).await;
    let piece = vec![b'y'; 1024 * 1024];
    for _ in 0..VALUE / piece.len() {
        wire.send(&piece).await;
    }
    wire.send(tail).await;
    wire.send(&frame(b'E', b"\0\0\0\0\0")).await;
    wire.send(&frame(b'S', b"")).await;
    let (kind, _) = wire.message().await;
    assert_eq!(kind, b'1');
    assert_eq!(wire.message().await.0, b'2');
    let (kind, row) = wire.message().await;
    assert_eq!((kind, &row[6..]), (b'D', VALUE.to_string().as_bytes()));
    wire.until_ready().await;
    let grown = proxy.peak_memory() - before;
    assert!(grown < GROWTH, "grew by {grown} KiB for a value from the client");
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_out_into_copy_in() {
    const ROWS: usize = 600_000;
    let database = fresh_database(shared_cluster()).await;
    let proxy = Proxy::start(shared_cluster(), &ProxyOptions::default()).await;
    let client = proxy.connect(&database).await;
    client.batch_execute("CREATE TABLE copied (n int, filler text)").await.unwrap();
    let before = proxy.peak_memory();

    let psql = format!(
        "psql -X -q -v ON_ERROR_STOP=1 'host=127.0.0.1 port={} user=app password=app dbname={database}'",
        proxy.address.port()
    );
    let out = format!(
        "COPY (SELECT n, repeat(chr(97 + n % 26), 100) FROM generate_series(1, {ROWS}) n) TO STDOUT"
    );
    let pipe = format!("set -e; {psql} -c \"{out}\" | {psql} -c 'COPY copied FROM STDIN'");
    let mut command = Command::new("sh");
    command.args(["-c", &pipe]).stdin(Stdio::null());
    run(command).await;

    let grown = proxy.peak_memory() - before;
    assert!(grown < GROWTH, "grew by {grown} KiB");
    let direct = shared_cluster().primary().connect(&database).await.unwrap();
    let sums = "SELECT count(*), sum(n), sum(length(filler)) FROM copied \
                WHERE filler = repeat(chr(97 + n % 26), 100)";
    let row = direct.query_one(sums, &[]).await.unwrap();
    let rows = i64::try_from(ROWS).unwrap();
    let have: (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(have, (rows, rows * (rows + 1) / 2, rows * 100));
}
