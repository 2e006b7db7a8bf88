//! Input that no honest client sends, and clients that leave in the middle: a clear error or a closed
//! connection, never a panic, a hang, or a server that is worse for the next client.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::harness::{Proxy, ProxyOptions, SOON, await_until, fresh_database, shared_cluster};
use crate::wire::{Wire, frame, query, read_to_end, startup};

/// A proxy with one server per node, so that a poisoned one would be met by the next client.
async fn narrow_proxy() -> Proxy {
    let options = ProxyOptions {
        proxy: "workers = 1",
        pool: "size = 1\nwait = \"20s\"",
        more: "[limits]\nstartup_timeout = \"3s\"",
        ..Default::default()
    };
    Proxy::start(shared_cluster(), &options).await
}

/// Reads and writes work, each on its node.
async fn assert_serves(proxy: &Proxy) {
    let client = proxy.connect("app").await;
    for _ in 0..4 {
        let row = client.query_one("SELECT 40 + 2", &[]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), 42);
    }
    client.batch_execute("CREATE TEMP TABLE gone (n int); DROP TABLE gone").await.unwrap();
}

/// The SQLSTATE in an answer that is one ErrorResponse.
fn sqlstate(answer: &[u8]) -> String {
    assert_eq!(answer.first(), Some(&b'E'), "{:?}", String::from_utf8_lossy(answer));
    let mut fields = answer[5..].split(|byte| *byte == 0);
    let code = fields.find(|field| field.first() == Some(&b'C')).unwrap();
    String::from_utf8_lossy(&code[1..]).into_owned()
}

async fn answer_to(proxy: &Proxy, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    // It may be closed before all is written.
    let _ = stream.write_all(bytes).await;
    read_to_end(&mut stream, SOON).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_startup_packets_are_refused() {
    let proxy = narrow_proxy().await;
    let before = proxy.peak_memory();

    let too_short = answer_to(&proxy, &7_u32.to_be_bytes()).await;
    assert!(too_short.is_empty() || sqlstate(&too_short) == "08P01", "{too_short:?}");
    let huge = answer_to(&proxy, &[0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0]).await;
    assert!(huge.is_empty() || sqlstate(&huge) == "08P01", "{huge:?}");
    // PostgreSQL reads up to 10,000 bytes.
    let mut long = vec![b'x'; 20_000];
    long[..8].copy_from_slice(&[0, 0, 0x4e, 0x20, 0, 3, 0, 0]);
    let long = answer_to(&proxy, &long).await;
    assert!(long.is_empty() || sqlstate(&long) == "08P01", "{long:?}");
    assert_eq!(sqlstate(&answer_to(&proxy, &[0, 0, 0, 9, 0, 2, 0, 0, 0]).await), "0A000");
    // No user at all.
    assert_eq!(sqlstate(&answer_to(&proxy, &[0, 0, 0, 9, 0, 3, 0, 0, 0]).await), "28000");
    // Not closed by us: the proxy's own time limit ends it.
    let packet = startup("app");
    for cut in [0, 1, 3, 4, 7, 8, 12, packet.len() - 1] {
        answer_to(&proxy, &packet[..cut]).await;
    }
    // A cancel request for nobody: silence.
    let cancel = [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 0, 0, 0, 2];
    assert!(answer_to(&proxy, &cancel).await.is_empty());

    assert_serves(&proxy).await;
    assert!(proxy.peak_memory() < before + 32 * 1024, "grew to {} KiB", proxy.peak_memory());
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_are_survived() {
    let proxy = narrow_proxy().await;
    let mut random = StdRng::seed_from_u64(2026);
    let mut attempts = tokio::task::JoinSet::new();
    for number in 0..200 {
        let mut bytes = vec![0; random.random_range(1..2000)];
        random.fill_bytes(&mut bytes);
        if number % 2 == 0 && bytes.len() > 8 {
            // A start-up that begins well, so that the rest is looked at.
            bytes[..8].copy_from_slice(&[0, 0, 0, 200, 0, 3, 0, 0]);
        }
        let address = proxy.address;
        attempts.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            read_to_end(&mut stream, SOON).await
        });
    }
    attempts.join_all().await;

    // And after the login.
    for _ in 0..40 {
        let mut wire = Wire::login(&proxy, "app").await;
        let mut bytes = vec![0; random.random_range(1..500)];
        random.fill_bytes(&mut bytes);
        let _ = wire.stream.write_all(&bytes).await;
        let _ = wire.stream.shutdown().await;
        wire.until_end(SOON).await;
    }
    assert_serves(&proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_lie_end_the_connection() {
    let proxy = narrow_proxy().await;
    let lies: [&[u8]; 6] = [
        b"Q\0\0\0\x03",                 // shorter than itself
        b"Q\0\0\0\0",                   //
        b"Q\x7f\xff\xff\xffSELECT 1\0", // longer than PostgreSQL allows
        b"Q\xff\xff\xff\xff",           // negative
        b"\x01\0\0\0\x04",              // no such type
        b"z\0\0\0\x04",                 // no such type
    ];
    for lie in lies {
        let mut wire = Wire::login(&proxy, "app").await;
        wire.send(lie).await;
        let answer = wire.until_end(SOON).await;
        // PostgreSQL says nothing of a length that no message can have.
        let told = matches!(lie[0], b'\x01' | b'z');
        assert_eq!(told, !answer.is_empty(), "{lie:?}: {answer:?}");
        assert!(!told || sqlstate(&answer) == "08P01", "{lie:?}: {answer:?}");
    }
    // In the middle of a pipeline, with a server perhaps at work for it.
    let mut wire = Wire::login(&proxy, "app").await;
    wire.send(&frame(b'P', b"\0SELECT 1\0\0\0")).await;
    wire.send(b"y\0\0\0\x04").await;
    wire.until_end(SOON).await;
    assert_serves(&proxy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_stop_in_the_middle_of_a_message_leave_nothing_behind() {
    let proxy = narrow_proxy().await;
    for cut in [1, 4, 5, 10] {
        let mut wire = Wire::login(&proxy, "app").await;
        wire.send(&query("SELECT 1, 2, 3")[..cut]).await;
    }
    // Half of a COPY, half of a transaction's message, half of a pipeline.
    let mut wire = Wire::login(&proxy, "app").await;
    wire.send(&query("BEGIN")).await;
    wire.until_ready().await;
    wire.send(&query("CREATE TABLE half (n int)")).await;
    wire.until_ready().await;
    wire.send(&query("COPY half FROM STDIN")).await;
    wire.send(&frame(b'd', b"1\n")).await;
    wire.send(b"d\0\0").await;
    drop(wire);
    let mut wire = Wire::login(&proxy, "app").await;
    wire.send(&frame(b'P', b"\0SELECT 1\0\0\0")).await;
    drop(wire);
    assert_serves(&proxy).await;
    let client = proxy.connect("app").await;
    let row = client.query_one("SELECT to_regclass('half') IS NULL", &[]).await.unwrap();
    assert!(row.get::<_, bool>(0), "the transaction of a client that left was not rolled back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_in_a_query_frees_its_server() {
    let proxy = narrow_proxy().await;
    // On a replica, on the primary, and in a transaction there.
    for text in [
        "SELECT pg_sleep(600)",
        "SELECT pg_sleep(600) FOR UPDATE",
        "BEGIN; SELECT pg_sleep(600)",
        "CREATE TABLE vanished AS SELECT pg_sleep(600)",
    ] {
        for _ in 0..2 {
            let mut wire = Wire::login(&proxy, "app").await;
            wire.send(&query(text)).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let since = Instant::now();
        assert_serves(&proxy).await;
        assert!(since.elapsed() < Duration::from_secs(15), "{text}: {:?}", since.elapsed());
    }
    // And nothing keeps running on the nodes for nobody.
    for node in shared_cluster().nodes() {
        let direct = node.connect("postgres").await.unwrap();
        await_until("no orphan sleeps on", async || {
            let orphans = "SELECT count(*) FROM pg_stat_activity \
                           WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()";
            let row = direct.query_one(orphans, &[]).await.unwrap();
            row.get::<_, i64>(0) == 0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_costs_no_memory_and_holds_up_nobody() {
    let proxy = narrow_proxy().await;
    let database = fresh_database(shared_cluster()).await;
    assert_serves(&proxy).await;
    let before = proxy.peak_memory();
    let mut silent = Vec::new();
    // Of another database, so that others' pools have room.
    for _ in 0..2 {
        let mut wire = Wire::login(&proxy, &database).await;
        let big = "SELECT repeat('x', 1000) FROM generate_series(1, 200000)";
        wire.send(&query(big)).await;
        silent.push(wire);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_serves(&proxy).await;
    let grown = proxy.peak_memory() - before;
    assert!(grown < 16 * 1024, "holds {grown} KiB for clients that do not read");
    drop(silent);
    let client = proxy.connect(&database).await;
    assert_eq!(client.query_one("SELECT 7", &[]).await.unwrap().get::<_, i32>(0), 7);
}

/// Connections that never log in: they are bounded in number and in time, and who is there already
/// does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_silent_connections_takes_only_its_share() {
    let options = ProxyOptions {
        proxy: "workers = 1",
        more: "[limits]\nlogins = 50\nstartup_timeout = \"4s\"",
        ..Default::default()
    };
    let proxy = Proxy::start(shared_cluster(), &options).await;
    let client = proxy.connect("app").await;
    let before = proxy.peak_memory();
    let mut flood = Vec::new();
    for number in 0..400 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        // Some say nothing, some begin and stop.
        let _ = stream.write_all(&startup("app")[..number % 30]).await;
        flood.push(stream);
    }
    for _ in 0..50 {
        let asked = tokio::time::timeout(SOON, client.simple_query("SELECT 1")).await;
        asked.expect("in time").expect("the session goes on");
    }
    let refused = proxy.config("app").connect(tokio_postgres::NoTls).await.err().expect("refused");
    let report = refused.as_db_error().expect("told");
    assert_eq!(
        (report.code().code(), report.message()),
        ("53300", "too many connections are logging in")
    );
    crate::harness::await_until("their time is over", async || {
        proxy.config("app").connect(tokio_postgres::NoTls).await.is_ok()
    })
    .await;
    let grown = proxy.peak_memory() - before;
    assert!(grown < 16 * 1024, "{grown} KiB for connections that never logged in");
    drop(flood);
    let limit = [("limit", "logins")];
    let counted = proxy.metrics().await.sum("causeway_refused_clients_total", &limit);
    assert!(counted.is_some_and(|count| count >= 1.0), "{counted:?}");
}

/// Which servers the proxy has in this database, over all nodes.
async fn servers_in(database: &str) -> Vec<i32> {
    let mut servers = Vec::new();
    for node in shared_cluster().nodes() {
        let direct = node.connect("postgres").await.unwrap();
        let text = "SELECT pid FROM pg_stat_activity \
                    WHERE datname = $1 AND application_name NOT LIKE 'causeway%' ORDER BY pid";
        let rows = direct.query(text, &[&database]).await.unwrap();
        servers.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
    }
    servers
}

/// What a role may not do, or does to itself, closes nobody else's servers, however often it is tried.
#[tokio::test(flavor = "multi_thread")]
async fn statements_about_roles_and_databases_disturb_nobody_who_is_not_concerned() {
    let cluster = shared_cluster();
    let database = fresh_database(cluster).await;
    let role = "CREATE ROLE meddler LOGIN PASSWORD 'meddler'; CREATE ROLE bystander";
    cluster.primary().execute(role).await.unwrap();
    cluster.await_replay().await.unwrap();
    let more = "[[user]]\nname = \"meddler\"\npassword = \"meddler\"\n";
    let proxy = Proxy::start(cluster, &ProxyOptions { more, ..Default::default() }).await;
    let client = proxy.connect(&database).await;
    for _ in 0..4 {
        client.batch_execute("SELECT 1; CREATE TEMP TABLE t (n int); DROP TABLE t").await.unwrap();
    }
    let meddler = async || {
        let mut config = proxy.config("app");
        config.user("meddler").password("meddler");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let other = meddler().await;
    let before = servers_in(&database).await;
    assert!(!before.is_empty());
    for _ in 0..5 {
        for text in [
            "ALTER ROLE bystander SET work_mem = '5MB'",
            "ALTER ROLE app SET work_mem = '5MB'",
            "DROP ROLE app",
        ] {
            assert!(other.batch_execute(text).await.is_err(), "{text}");
        }
        other.batch_execute("ALTER ROLE meddler SET work_mem = '5MB'").await.unwrap();
        other
            .batch_execute("BEGIN; ALTER ROLE meddler SET work_mem = '6MB'; ROLLBACK")
            .await
            .unwrap();
    }
    assert_eq!(servers_in(&database).await, before);
    // Way may have to be made before it is known that it was not worth it: once.
    let drop = format!("DROP DATABASE {database}");
    assert!(other.batch_execute(&drop).await.is_err());
    client.batch_execute("CREATE TEMP TABLE t (n int); DROP TABLE t").await.unwrap();
    let before = servers_in(&database).await;
    assert!(!before.is_empty());
    for text in [&drop, &format!("ALTER DATABASE {database} SET work_mem = '5MB'"), &drop, &drop] {
        assert!(other.batch_execute(text).await.is_err(), "{text}");
    }
    assert_eq!(servers_in(&database).await, before);
    // What a transaction changes counts when it has ended.
    let text = "BEGIN; ALTER ROLE CURRENT_USER SET work_mem = '7MB'; COMMIT";
    other.batch_execute(text).await.unwrap();
    let new = meddler().await;
    let row =
        new.query_one("/* causeway: primary */ SELECT current_setting('work_mem')", &[]).await;
    assert_eq!(row.unwrap().get::<_, String>(0), "7MB");
    // Who may, may: servers and catalog get out of the way.
    drop_database(&proxy, &database).await;
}

/// As test runners do (Django's): CREATE, which fails as it is there already, DROP and CREATE, while sessions that are
/// idle have servers in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_there_already_is_dropped_at_once() {
    let cluster = shared_cluster();
    let role = "CREATE ROLE creator LOGIN CREATEDB PASSWORD 'creator'";
    cluster.primary().execute(role).await.unwrap();
    cluster.await_replay().await.unwrap();
    let more = "[[user]]\nname = \"creator\"\npassword = \"creator\"\n";
    let proxy = Proxy::start(cluster, &ProxyOptions { more, ..Default::default() }).await;
    let creator = async |database: &str| {
        let mut config = proxy.config(database);
        config.user("creator").password("creator");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let client = creator("app").await;
    let create = "CREATE DATABASE tried_again TEMPLATE template0";
    client.batch_execute(create).await.unwrap();
    cluster.await_replay().await.unwrap();
    let inside = creator("tried_again").await;
    inside.batch_execute("SELECT 1; CREATE TEMP TABLE t (n int); DROP TABLE t").await.unwrap();
    let error = client.batch_execute(create).await.unwrap_err();
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("42P04"));
    client.batch_execute("DROP DATABASE tried_again").await.expect("way is made");
    client.batch_execute(create).await.unwrap();
    client.batch_execute("DROP DATABASE tried_again").await.unwrap();
}

/// As the owner, by way of the proxy.
async fn drop_database(proxy: &Proxy, database: &str) {
    let owner = proxy.connect("app").await;
    owner.batch_execute(&format!("DROP DATABASE {database}")).await.expect("nobody is connected");
}

/// Names of databases that do not exist are not kept: those that do go on having their catalogs.
#[tokio::test(flavor = "multi_thread")]
async fn databases_that_do_not_exist_take_nobodys_place() {
    let proxy = Proxy::start(shared_cluster(), &ProxyOptions::default()).await;
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..300 {
        let config = proxy.config(&format!("no_such_database_{number}"));
        clients.spawn(async move {
            let error = config.connect(tokio_postgres::NoTls).await.err().expect("there is none");
            error.as_db_error().map(|error| error.code().code().to_owned())
        });
    }
    for told in clients.join_all().await {
        assert_eq!(told.as_deref(), Some("3D000"));
    }
    let database = fresh_database(shared_cluster()).await;
    proxy.await_catalog(shared_cluster(), &database).await;
    // One that is gone and comes back is known again.
    drop_database(&proxy, &database).await;
    let again = format!("CREATE DATABASE {database} OWNER app");
    shared_cluster().primary().execute(&again).await.unwrap();
    shared_cluster().await_replay().await.unwrap();
    proxy.await_catalog(shared_cluster(), &database).await;
}

/// What comes beyond `limits.logins` costs next to nothing: so many are told why not, for a moment and without TLS, and
/// the rest is closed at once. Whoever waits with a load balancer's header is counted as well.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_beyond_the_limit_is_not_held() {
    let options = ProxyOptions {
        proxy: "workers = 1\nproxy_protocol_from = [\"127.0.0.2\"]",
        more: "[limits]\nlogins = 40\nrefusals = 20\nstartup_timeout = \"10min\"",
        ..Default::default()
    };
    let proxy = Proxy::start(shared_cluster(), &options).await;
    let client = proxy.connect("app").await;
    let balancer = || async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        socket.connect(proxy.address).await.unwrap()
    };
    let mut there = Vec::new();
    for _ in 0..40 {
        there.push(balancer().await);
    }
    let metric = async |name| proxy.metric(name, None).await;
    await_until("all are counted", async || metric("causeway_logins_under_way").await >= 40.0)
        .await;
    let mut late = Vec::new();
    for number in 0..500 {
        late.push(if number % 2 == 0 {
            balancer().await
        } else {
            TcpStream::connect(proxy.address).await.unwrap()
        });
        if number % 50 == 0 {
            assert!(metric("causeway_refusals_under_way").await <= 20.0);
        }
    }
    assert!(metric("causeway_logins_under_way").await <= 40.0);
    for stream in &mut late {
        assert!(read_to_end(stream, SOON).await.is_empty(), "long before startup_timeout");
    }
    let unheard = [("limit", "refusals")];
    let unheard = proxy.metrics().await.sum("causeway_refused_clients_total", &unheard);
    assert!(unheard.is_some_and(|count| count >= 100.0), "{unheard:?}");
    let told = proxy.log().matches("clients refused because of a limit").count();
    assert!((1..=20).contains(&told), "{told} lines");
    assert!(proxy.config("app").connect(tokio_postgres::NoTls).await.is_err());
    client.simple_query("SELECT 1").await.expect("who is in does not notice");
    drop(there);
    await_until("there is room again", async || {
        proxy.config("app").connect(tokio_postgres::NoTls).await.is_ok()
    })
    .await;
}

/// What a session hears of others' malice: the 50th and the 99th of a hundred of its answers.
async fn answers_of(client: &tokio_postgres::Client) -> (Duration, Duration) {
    let mut times = Vec::new();
    for _ in 0..300 {
        let began = Instant::now();
        let asked = tokio::time::timeout(SOON, client.simple_query("SELECT 1")).await;
        asked.expect("an answer, whatever others do").expect("the session goes on");
        times.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// Does it again and again, `hands` at a time, until it is dropped.
fn attack<F: Future<Output = ()> + Send + 'static>(
    hands: usize,
    once: impl Fn() -> F + Clone + Send + 'static,
) -> tokio::task::JoinSet<()> {
    let mut attackers = tokio::task::JoinSet::new();
    for _ in 0..hands {
        let once = once.clone();
        attackers.spawn(async move {
            loop {
                once().await;
                tokio::task::yield_now().await;
            }
        });
    }
    attackers
}

/// Bystanders, measured: what one session's answers take alone and under each attack is printed. Asserted is
/// only what must hold on any machine: everything is answered, and in seconds at worst.
#[tokio::test(flavor = "multi_thread")]
async fn bystanders_are_served_under_every_attack() {
    let authority = crate::certificates::Authority::new(
        &shared_cluster().directory().join("bystanders"),
        "authority",
    );
    let identity = authority.sign("server", "localhost", &["localhost"]);
    let more = format!(
        "[limits]\nlogins = 100\nstartup_timeout = \"2s\"\n[tls]\nmode = \"allow\"\n\
         certificate = \"{}\"\nkey = \"{}\"\n",
        identity.certificate.display(),
        identity.key.display()
    );
    let options = ProxyOptions { proxy: "workers = 1", more: more.leak(), ..Default::default() };
    let proxy = Proxy::start(shared_cluster(), &options).await;
    let address = proxy.address;
    let client = proxy.connect("app").await;
    let (calm_half, calm) = answers_of(&client).await;
    println!("bystander alone: p50 {calm_half:?}, p99 {calm:?}");

    let send = move |bytes: Vec<u8>| async move {
        let Ok(mut stream) = TcpStream::connect(address).await else { return };
        let _ = stream.write_all(&bytes).await;
        read_to_end(&mut stream, SOON).await;
    };
    let wrong = [
        startup("app"),
        frame(b'p', b"SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc"),
        frame(b'p', b"c=biws,r=abc,p=AAAA"),
    ]
    .concat();
    let hello = {
        let mut hello = vec![0x16, 3, 1, 2, 0];
        hello.resize(5 + 512, 0x5a);
        hello
    };
    let drip = move || async move {
        let Ok(mut stream) = TcpStream::connect(address).await else { return };
        for byte in startup("app") {
            if stream.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let knock = move || async move {
        drop(TcpStream::connect(address).await);
    };
    let notices = "DO $$ BEGIN FOR n IN 1..20000 LOOP RAISE NOTICE '%', repeat('x', 1000); \
                   END LOOP; END $$";
    let rows = "SELECT repeat('x', 1000) FROM generate_series(1, 20000)";
    let ask = |text: &'static str| {
        let config = proxy.config("app");
        move || {
            let config = config.clone();
            async move {
                let Ok((client, connection)) = config.connect(tokio_postgres::NoTls).await else {
                    return;
                };
                let reads = tokio::spawn(connection);
                let _ = client.batch_execute(text).await;
                reads.abort();
            }
        }
    };
    let measure = async |name: &str, mut attackers: tokio::task::JoinSet<()>| {
        let (half, most) = answers_of(&client).await;
        attackers.shutdown().await;
        let times = most.as_secs_f64() / calm.as_secs_f64().max(1e-6);
        println!("bystander under {name}: p50 {half:?}, p99 {most:?}, {times:.1} times alone");
        assert!(most < Duration::from_secs(5), "{name}: p99 {most:?}, alone {calm:?}");
    };
    measure("connections that come and go", attack(8, knock)).await;
    measure("a slow-loris of 90", attack(90, drip)).await;
    measure("proofs that are none", attack(8, move || send(wrong.clone()))).await;
    measure("handshakes that are none", attack(8, move || send(hello.clone()))).await;
    measure("endless notices", attack(2, ask(notices))).await;
    measure("large answers", attack(2, ask(rows))).await;
}
