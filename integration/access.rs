//! Who may enter, whose password it is, and that none shows: by the file, by the database, and by
//! where a client comes from.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{Client, Config, NoTls};

use crate::harness::{Proxy, ProxyOptions, SOON, await_until, fresh_database, shared_cluster};
use crate::wire::{read_to_end, startup};

/// A proxy with these sections.
async fn proxy_with(sections: String) -> Proxy {
    proxy_and(String::new(), sections).await
}

/// The same with these lines in `[proxy]`.
async fn proxy_and(proxy: String, sections: String) -> Proxy {
    // Files are written once per test: what leaks is a few hundred bytes.
    let options = ProxyOptions { proxy: proxy.leak(), more: sections.leak(), ..Default::default() };
    Proxy::start(shared_cluster(), &options).await
}

/// Roles belong to the cluster, which tests share.
fn fresh_role(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{stem}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn run(statements: &str) {
    shared_cluster().primary().execute(statements).await.unwrap();
    shared_cluster().await_replay().await.unwrap();
}

async fn kept_of(role: &str) -> String {
    let direct = shared_cluster().primary().connect("postgres").await.unwrap();
    let query = "SELECT rolpassword FROM pg_authid WHERE rolname = $1";
    direct.query_one(query, &[&role]).await.unwrap().get(0)
}

async fn enter(
    proxy: &Proxy,
    user: &str,
    password: &str,
    database: &str,
) -> Result<Client, String> {
    enter_with(&proxy.config(database), user, password).await
}

/// A client that has asked something, or the refusal.
async fn enter_with(config: &Config, user: &str, password: &str) -> Result<Client, String> {
    let mut config = config.clone();
    config.user(user).password(password);
    let told = |error: tokio_postgres::Error| match error.as_db_error() {
        Some(report) => format!("{} {}", report.code().code(), report.message()),
        None => error.to_string(),
    };
    let (client, connection) = config.connect(NoTls).await.map_err(told)?;
    tokio::spawn(connection);
    client.simple_query("SELECT 1").await.map_err(told)?;
    Ok(client)
}

/// Nothing that proves anybody stands in what the proxy has logged or counts.
async fn assert_silent(proxy: &Proxy, secrets: &[&str]) {
    let metrics = proxy.get("/metrics").await.unwrap().1;
    for secret in secrets {
        for (place, text) in [("log", proxy.log()), ("metrics", metrics.clone())] {
            assert!(!text.contains(secret), "a secret is in the {place}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_is_enough_to_open_servers() {
    let role = fresh_role("kept");
    let (password, other) = ("p\u{2168}ss w\u{f6}rd", "not it");
    run(&format!("CREATE ROLE {role} LOGIN PASSWORD '{password}'")).await;
    let verifier = kept_of(&role).await;
    assert!(verifier.starts_with("SCRAM-SHA-256$"));
    let user = format!("[[user]]\nname = \"{role}\"\npassword = \"{verifier}\"");
    let proxy = proxy_with(user).await;
    let client = enter(&proxy, &role, password, "app").await.expect("its proof opens a server");
    let row = client.query_one("SELECT current_user::text", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), role);
    client.batch_execute("CREATE TEMP TABLE t (n int); DROP TABLE t").await.expect("a write");
    // Enough of them that replicas are opened too.
    for _ in 0..8 {
        client.query_one("/* causeway: replica */ SELECT 1", &[]).await.unwrap();
    }
    let refused = enter(&proxy, &role, other, "app").await.err();
    let expected = format!("28P01 password authentication failed for user \"{role}\"");
    assert_eq!(refused, Some(expected.clone()));

    // The node has another verifier by now: new servers cannot be opened, and it is said why.
    run(&format!("ALTER ROLE {role} PASSWORD '{password}'")).await;
    let database = fresh_database(shared_cluster()).await;
    let refused = enter(&proxy, &role, password, &database).await.expect_err("no server");
    assert!(refused.starts_with("08P01"), "{refused}");
    await_until("the log says why", async || proxy.log().contains("another verifier")).await;

    // What an md5 hash proves opens servers that ask for md5 only, so here it does not.
    assert_silent(&proxy, &[password, other, &verifier]).await;
}

/// The password of a role changes, and a client logs in with the new one: whoever was there before stays, and
/// gets new servers as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_changed_under_a_session_leaves_it_its_servers() {
    let (_, section) = look_up_function().await;
    let role = fresh_role("renewed");
    run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'old'")).await;
    let proxy = proxy_with(format!("{section}keep = \"0s\"\n")).await;
    let before = enter(&proxy, &role, "old", "app").await.unwrap();
    run(&format!("ALTER ROLE {role} PASSWORD 'new'")).await;
    let after = enter(&proxy, &role, "new", "app").await.expect("the new one counts");
    works(&before).await;
    works(&after).await;
    // All its servers are gone: others are opened, for the old session and the new.
    let text = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1";
    for node in shared_cluster().nodes() {
        let direct = node.connect("postgres").await.unwrap();
        direct.query_one(text, &[&role]).await.unwrap();
    }
    works(&before).await;
    works(&after).await;
    // Who still has the old password takes nothing away.
    assert!(enter(&proxy, &role, "old", "app").await.is_err());
    works(&before).await;
}

/// A session reads and writes, and its server has been given back when it is done.
async fn works(client: &Client) {
    for _ in 0..4 {
        client.batch_execute("SELECT 1").await.expect("a read");
        let write = "CREATE TEMP TABLE t (n int); DROP TABLE t";
        client.batch_execute(write).await.expect("a write");
    }
    // Of the last one it may still be asked what is left on it.
    client.batch_execute("SELECT 1").await.expect("a read");
}

/// The same where the session changes its own password: the servers that are there are kept, and it needs no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_changed_by_a_session_leaves_it_its_servers() {
    let (_, section) = look_up_function().await;
    let role = fresh_role("renewing");
    run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'old'")).await;
    let proxy = proxy_with(section).await;
    let session = enter(&proxy, &role, "old", "app").await.unwrap();
    works(&session).await;
    for text in
        ["ALTER ROLE CURRENT_USER PASSWORD 'new'", &format!("ALTER USER {role} PASSWORD 'new'")]
    {
        session.batch_execute(text).await.expect("its own");
        works(&session).await;
    }
    // Whoever hears of it logs in with the new one, and no more with the old.
    works(&enter(&proxy, &role, "new", "app").await.expect("the new one counts")).await;
    assert!(enter(&proxy, &role, "old", "app").await.is_err());
    works(&session).await;
}

/// A user known by a verifier: what its proof has left opens servers also when another of its clients comes in
/// without one.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_without_a_proof_takes_nothing_from_who_had_one() {
    let role = fresh_role("both");
    run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'")).await;
    let verifier = kept_of(&role).await;
    let socket = tempfile::tempdir().unwrap();
    let more = format!(
        "[[user]]\nname = \"{role}\"\npassword = \"{verifier}\"\n\
         [[access]]\nfrom = \"local\"\nmethod = \"trust\"\n"
    );
    let options = ProxyOptions {
        socket: Some(socket.path().to_owned()),
        more: more.leak(),
        ..Default::default()
    };
    let proxy = Proxy::start(shared_cluster(), &options).await;
    let proved = enter(&proxy, &role, "secret", "app").await.unwrap();
    let mut config = Config::new();
    config.host_path(socket.path()).port(proxy.address.port()).user(&role).dbname("app");
    let (trusted, connection) = config.connect(NoTls).await.expect("trusted over the socket");
    tokio::spawn(connection);
    for client in [&proved, &trusted] {
        for _ in 0..4 {
            client.batch_execute("SELECT 1").await.expect("a read");
        }
    }
    let text = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = $1";
    for node in shared_cluster().nodes() {
        node.connect("postgres").await.unwrap().query_one(text, &[&role]).await.unwrap();
    }
    for client in [&proved, &trusted] {
        client
            .batch_execute("CREATE TEMP TABLE t (n int); DROP TABLE t")
            .await
            .expect("a new server");
    }
}

/// Rules for Unix sockets, over one: the first that matches decides, and without any a proof is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn rules_for_local_clients_hold_over_a_real_socket() {
    let (out, other) = (fresh_role("kept_out"), fresh_role("let_in"));
    run(&format!("CREATE ROLE {out} LOGIN PASSWORD 'x'; CREATE ROLE {other} LOGIN PASSWORD 'x'"))
        .await;
    let socket = tempfile::tempdir().unwrap();
    let more = format!(
        "[[user]]\nname = \"{out}\"\npassword = \"x\"\n[[user]]\nname = \"{other}\"\npassword = \"x\"\n\
         [[access]]\nfrom = \"local\"\nuser = \"{out}\"\nmethod = \"reject\"\n\
         [[access]]\nfrom = \"local\"\nuser = \"app\"\nmethod = \"trust\"\n\
         [[access]]\nfrom = \"loopback\"\nuser = \"{other}\"\nmethod = \"reject\"\n"
    );
    let options = ProxyOptions {
        socket: Some(socket.path().to_owned()),
        more: more.leak(),
        ..Default::default()
    };
    let proxy = Proxy::start(shared_cluster(), &options).await;
    let mut local = Config::new();
    local.host_path(socket.path()).port(proxy.address.port()).dbname("app");
    for (user, password, over_socket, over_tcp) in [
        (out.as_str(), "x", Some("28000"), None),
        (other.as_str(), "x", None, Some("28000")),
        (other.as_str(), "wrong", Some("28P01"), Some("28000")),
        ("app", "wrong", None, Some("28P01")),
        ("app", "app", None, None),
    ] {
        for (place, config, expected) in
            [("local", &local, over_socket), ("loopback", &proxy.config("app"), over_tcp)]
        {
            let told = enter_with(config, user, password).await.err();
            let code = told.as_ref().map(|told| &told[..5]);
            assert_eq!(code, expected, "{user} {password} {place}: {told:?}");
        }
    }
}

/// CVE-2025-2291 (PgBouncer): auth_query let in whose password had expired, for it did not look at VALID UNTIL.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2025_2291_a_password_that_has_expired_lets_nobody_in() {
    let (_, section) = look_up_function().await;
    let role = fresh_role("lapsed");
    run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'right' VALID UNTIL '2020-01-01'")).await;
    let proxy = proxy_with(section).await;
    let expected = format!("28P01 password authentication failed for user \"{role}\"");
    for password in ["right", "wrong"] {
        assert_eq!(enter(&proxy, &role, password, "app").await.err().as_ref(), Some(&expected));
    }
    run(&format!("ALTER ROLE {role} VALID UNTIL 'infinity'")).await;
    await_until("it is good again", async || enter(&proxy, &role, "right", "app").await.is_ok())
        .await;
}

/// CVE-2026-6667 (PgBouncer) was a way to end others' connections without the right to. Here the process id that a
/// client is told stands for its session: who may not signal its role ends nothing by it.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_6667_nobody_ends_a_session_without_the_right_to() {
    let role = fresh_role("meek");
    run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'meek'")).await;
    let proxy = proxy_with(format!("[[user]]\nname = \"{role}\"\npassword = \"meek\"")).await;
    let meek = enter(&proxy, &role, "meek", "app").await.unwrap();
    let victim = enter(&proxy, "app", "app", "app").await.unwrap();
    let id = victim.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0);
    let harm = async |when: &str| {
        for text in ["SELECT pg_terminate_backend($1)", "SELECT pg_cancel_backend($1)"] {
            match meek.query_one(text, &[&id]).await {
                Err(error) => {
                    let code = error.as_db_error().map(|error| error.code().code().to_owned());
                    assert_eq!(code.as_deref(), Some("42501"), "{text} {when}: {error}");
                }
                // No server could stand in for the session in time: nobody is there, as far as anybody knows.
                Ok(row) => assert!(!row.get::<_, bool>(0), "{text} {when}"),
            }
        }
    };
    harm("while it has no server").await;
    victim.simple_query("SELECT 1").await.expect("it goes on");
    victim.batch_execute("BEGIN; CREATE TEMP TABLE t (n int)").await.unwrap();
    harm("in a transaction").await;
    victim.batch_execute("INSERT INTO t VALUES (1); ROLLBACK").await.expect("it goes on");
    let (slept, ()) = tokio::join!(victim.simple_query("SELECT pg_sleep(2)"), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        harm("while a query runs").await;
    });
    slept.expect("it runs to its end");
    // The server that it was told of is there: it is not said that the session still has that one.
    let direct = shared_cluster().primary().connect("postgres").await.unwrap();
    let alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1";
    assert_eq!(direct.query_one(alive, &[&id]).await.unwrap().get::<_, i64>(0), 1);
}

/// A function as an operator would make it, and the role that may call it.
async fn look_up_function() -> (String, String) {
    let looker = fresh_role("looker");
    run(&format!(
        "CREATE ROLE {looker} LOGIN PASSWORD 'looking';
         CREATE SCHEMA of_{looker};
         CREATE FUNCTION of_{looker}.role(text) RETURNS TABLE (rolname name, rolpassword text, \
             rolvaliduntil timestamptz, rolcanlogin bool) LANGUAGE sql STABLE SECURITY DEFINER \
             SET search_path = pg_catalog AS 'SELECT rolname, rolpassword, rolvaliduntil, rolcanlogin \
             FROM pg_authid WHERE rolname = $1';
         REVOKE ALL ON FUNCTION of_{looker}.role(text) FROM public;
         GRANT USAGE ON SCHEMA of_{looker} TO {looker};
         GRANT EXECUTE ON FUNCTION of_{looker}.role(text) TO {looker};"
    ))
    .await;
    let section = format!(
        "[auth_query]\nuser = \"{looker}\"\npassword = \"looking\"\ndatabase = \"postgres\"\n\
         query = \"SELECT * FROM of_{looker}.role($1)\"\n"
    );
    (looker, section)
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_the_database_need_no_line_in_the_file() {
    let (_, section) = look_up_function().await;
    let [plain, changed, dropped, expired, forever, locked, open] =
        ["plain", "changed", "dropped", "expired", "forever", "locked", "open"].map(fresh_role);
    run(&format!(
        "CREATE ROLE {plain} LOGIN PASSWORD 'one';
         CREATE ROLE {changed} LOGIN PASSWORD 'old';
         CREATE ROLE {dropped} LOGIN PASSWORD 'one';
         CREATE ROLE {expired} LOGIN PASSWORD 'one' VALID UNTIL '2020-01-01';
         CREATE ROLE {forever} LOGIN PASSWORD 'one' VALID UNTIL 'infinity';
         CREATE ROLE {locked} NOLOGIN PASSWORD 'one';
         CREATE ROLE {open} LOGIN;"
    ))
    .await;
    let proxy = proxy_with(section).await;
    for role in [&plain, &forever] {
        for _ in 0..2 {
            enter(&proxy, role, "one", "app").await.unwrap_or_else(|e| panic!("{role}: {e}"));
        }
    }
    let failed = |role: &str| format!("28P01 password authentication failed for user \"{role}\"");
    for (role, password, expected) in [
        (&plain, "two", failed(&plain)),
        // CVE-2025-2291 of PgBouncer: VALID UNTIL did not count once a password came by auth_query.
        (&expired, "one", failed(&expired)),
        (&open, "", failed(&open)),
        (&"nobody".to_owned(), "one", failed("nobody")),
        (&"x' OR true --".to_owned(), "one", failed("x' OR true --")),
        (&locked, "one", format!("28000 role \"{locked}\" is not permitted to log in")),
    ] {
        let refused = enter(&proxy, role, password, "app").await.err();
        assert_eq!(refused, Some(expected), "{role}");
        // As from PostgreSQL itself.
        let mut direct = Config::new();
        direct.host("127.0.0.1").port(shared_cluster().primary().port()).dbname("app");
        let directly = enter_with(&direct, role, password).await.err();
        if !password.is_empty() {
            assert_eq!(enter(&proxy, role, password, "app").await.err(), directly, "{role}");
        }
    }

    // A password that was changed counts from the second attempt on, long before `keep` is over.
    enter(&proxy, &changed, "old", "app").await.expect("the old password");
    run(&format!("ALTER ROLE {changed} PASSWORD 'new'")).await;
    await_until("the new password counts", async || {
        enter(&proxy, &changed, "new", "app").await.is_ok()
    })
    .await;
    // One that expires meanwhile counts no more, though it is remembered.
    run(&format!("ALTER ROLE {dropped} VALID UNTIL '{}'", soon().await)).await;
    enter(&proxy, &dropped, "one", "app").await.expect("still valid");
    await_until("it expires", async || enter(&proxy, &dropped, "one", "app").await.is_err()).await;
    assert_silent(&proxy, &["looking", &kept_of(&plain).await, &kept_of(&changed).await]).await;
}

/// Whoever tries names keeps nobody else waiting, and equal questions are asked once.
#[tokio::test(flavor = "multi_thread")]
async fn look_ups_of_many_names_do_not_starve_those_of_real_ones() {
    let (looker, section) = look_up_function().await;
    let role = fresh_role("real");
    run(&format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'secret';
         CREATE SEQUENCE of_{looker}.asked;
         ALTER FUNCTION of_{looker}.role(text) RENAME TO fast;
         CREATE FUNCTION of_{looker}.role(text) RETURNS TABLE (rolname name, rolpassword text, \
             rolvaliduntil timestamptz, rolcanlogin bool) LANGUAGE sql VOLATILE SECURITY DEFINER \
             SET search_path = pg_catalog AS 'SELECT pg_sleep(0.05); SELECT * FROM of_{looker}.fast($1)';
         GRANT EXECUTE ON FUNCTION of_{looker}.role(text) TO {looker};"
    ))
    .await;
    let open = "[[access]]\nfrom = \"192.0.2.0/24\"\nmethod = \"scram-sha-256\"\n";
    let lines = "proxy_protocol_from = [\"127.0.0.1\"]".to_owned();
    let proxy = proxy_and(lines, format!("{section}{open}")).await;
    // From one address, by way of a balancer: 400 names that nobody has, each a question of 50 ms.
    let header = |host: u8| {
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        header.extend([192, 0, 2, host, 127, 0, 0, 1, 0x30, 0x39, 0x19, 0x20]);
        header
    };
    let packet = |user: &str| {
        let body = format!("\0\u{3}\0\0user\0{user}\0database\0app\0\0");
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&length[..], body.as_bytes()].concat()
    };
    let mut there = Vec::new();
    for number in 0..400 {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        let sent = [header(1), packet(&format!("x{number}"))].concat();
        stream.write_all(&sent).await.unwrap();
        there.push(stream);
    }
    // From another, the real one, forty times over.
    let began = std::time::Instant::now();
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let sent = [header(2), packet(&role)].concat();
        let address = proxy.address;
        asked.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&sent).await.unwrap();
            stream.read_u8().await.unwrap()
        });
    }
    assert!(asked.join_all().await.into_iter().all(|first| first == b'R'), "a challenge");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    println!("forty logins beside 400 look-ups of names that do not exist: {took:?}");
    drop(there);
}

/// Be it with the same password: it has another verifier.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_was_made_anew_is_looked_up_anew() {
    let (_, section) = look_up_function().await;
    let role = fresh_role("again");
    let made = format!("CREATE ROLE {role} LOGIN PASSWORD 'same'");
    run(&made).await;
    let proxy = proxy_with(section).await;
    enter(&proxy, &role, "same", "app").await.expect("as it was made");

    // Whoever did it through the proxy finds it done.
    let postgres = enter(&proxy, "postgres", "postgres", "app").await.unwrap();
    postgres.batch_execute(&format!("DROP ROLE {role}; {made}")).await.unwrap();
    enter(&proxy, &role, "same", "app").await.expect("as it was made anew");

    // Of what is done elsewhere the proxy hears from the server that it cannot open.
    run(&format!("DROP ROLE {role}; {made}")).await;
    await_until("the new verifier counts", async || {
        enter(&proxy, &role, "same", "app").await.is_ok()
    })
    .await;
}

/// Servers of a role that is gone serve no other of its name, whoever has made it.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_was_made_anew_has_servers_of_its_own() {
    let (_, section) = look_up_function().await;
    let role = fresh_role("anew");
    let made = format!("CREATE ROLE {role} LOGIN PASSWORD 'same'");
    run(&made).await;
    let proxy = proxy_with(format!("{section}keep = \"0s\"\n")).await;
    let who = async |client: &Client| {
        for place in ["primary", "replica"] {
            let text = format!("/* causeway: {place} */ SELECT session_user::text");
            let row = client.query_one(&text, &[]).await.expect("a server of this role");
            assert_eq!(row.get::<_, String>(0), role, "{place}");
        }
    };
    who(&enter(&proxy, &role, "same", "app").await.unwrap()).await;
    run(&format!("DROP ROLE {role}; {made}")).await;
    who(&enter(&proxy, &role, "same", "app").await.unwrap()).await;
    let postgres = enter(&proxy, "postgres", "postgres", "app").await.unwrap();
    postgres.batch_execute(&format!("DROP ROLE {role}; {made}")).await.unwrap();
    shared_cluster().await_replay().await.unwrap();
    who(&enter(&proxy, &role, "same", "app").await.unwrap()).await;
}

/// A moment in a few seconds, by the database's clock.
async fn soon() -> String {
    let direct = shared_cluster().primary().connect("postgres").await.unwrap();
    let query = "SELECT (clock_timestamp() + interval '4 s')::text";
    direct.query_one(query, &[]).await.unwrap().get(0)
}

/// CVE-2025-12819 (PgBouncer): a client's `search_path` must not reach the query that looks users up.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2025_12819_a_client_cannot_bend_the_look_up() {
    let evil = fresh_role("evil");
    let victim = fresh_role("victim");
    run(&format!(
        "CREATE ROLE {victim} LOGIN PASSWORD 'the victims own';
         CREATE SCHEMA {evil};
         CREATE TABLE {evil}.pg_authid AS SELECT rolname, rolpassword, rolvaliduntil, rolcanlogin \
             FROM pg_catalog.pg_authid;
         CREATE FUNCTION {evil}.texteq_name(name, text) RETURNS bool LANGUAGE sql AS 'SELECT true';
         CREATE OPERATOR {evil}.= (LEFTARG = name, RIGHTARG = text, FUNCTION = {evil}.texteq_name);
         GRANT USAGE ON SCHEMA {evil} TO public;
         GRANT SELECT ON {evil}.pg_authid TO public;"
    ))
    .await;
    // Unqualified, as an operator may well write it.
    let section = "[auth_query]\nuser = \"postgres\"\npassword = \"postgres\"\ndatabase = \"postgres\"\n\
                   query = \"SELECT rolname, rolpassword, rolvaliduntil FROM pg_authid WHERE rolname = $1\"";
    let proxy = proxy_with(section.to_owned()).await;
    let before = kept_of(&victim).await;
    run(&format!(
        "UPDATE {evil}.pg_authid SET rolpassword = (SELECT rolpassword FROM {evil}.pg_authid \
         WHERE rolname = 'app') WHERE rolname = '{victim}'"
    ))
    .await;
    for options in [format!("-c search_path={evil},pg_catalog"), format!("--search_path={evil}")] {
        let mut config = proxy.config("app");
        config.options(&options);
        let refused = enter_with(&config, &victim, "app").await.err();
        let expected = format!("28P01 password authentication failed for user \"{victim}\"");
        assert_eq!(refused, Some(expected), "{options}");
        enter_with(&config, &victim, "the victims own").await.expect("the right one");
    }
    assert_eq!(kept_of(&victim).await, before);
}

/// A query that does not say until when a password is good would let its users in for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_that_hides_valid_until_is_refused() {
    let section = "[auth_query]\nuser = \"postgres\"\npassword = \"postgres\"\ndatabase = \"postgres\"\n\
                   query = \"SELECT usename, passwd FROM pg_shadow WHERE usename = $1\"";
    let proxy = proxy_with(section.to_owned()).await;
    let refused = enter(&proxy, "postgres", "postgres", "app").await.expect_err("refused");
    assert!(refused.starts_with("57P03"), "{refused}");
    await_until("the log says why", async || proxy.log().contains("until when a password is good"))
        .await;
    enter(&proxy, "app", "app", "app").await.expect("who is in the file is not looked up");
}

/// What HAProxy would send for a client at this address.
fn header(from: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend(from);
    header.extend([10, 0, 0, 1, 0x04, 0xd2, 0x19, 0x20]);
    header
}

async fn first_answer(proxy: &Proxy, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let _ = stream.write_all(bytes).await;
    stream.shutdown().await.unwrap();
    read_to_end(&mut stream, SOON).await
}

fn text(answer: &[u8]) -> String {
    String::from_utf8_lossy(answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_go_by_the_address_that_a_load_balancer_names() {
    let rules = "[[access]]\nfrom = \"192.0.2.0/24\"\ndatabase = \"app\"\nmethod = \"scram-sha-256\"\n\
                 [[access]]\nfrom = \"198.51.100.0/24\"\nmethod = \"reject\"\n";
    let lines = "workers = 1\nproxy_protocol_from = [\"127.0.0.1\"]";
    let proxy = proxy_and(lines.to_owned(), rules.to_owned()).await;
    for (from, database, expected) in [
        ([192, 0, 2, 7], "app", "SCRAM-SHA-256"),
        (
            [192, 0, 2, 7],
            "postgres",
            "no [[access]] rule for host \"192.0.2.7\", user \"app\", database \"postgres\", no encryption",
        ),
        (
            [198, 51, 100, 1],
            "app",
            "an [[access]] rule rejects connection for host \"198.51.100.1\"",
        ),
        ([203, 0, 113, 9], "app", "no [[access]] rule for host \"203.0.113.9\""),
        ([127, 0, 0, 1], "app", "SCRAM-SHA-256"),
    ] {
        let bytes = [header(from), startup(database).to_vec()].concat();
        let answer = text(&first_answer(&proxy, &bytes).await);
        assert!(answer.contains(expected), "{from:?} {database}: {answer}");
        assert_eq!(answer.contains("28000"), !expected.starts_with("SCRAM"), "{answer}");
    }
    await_until("the log names the client", async || proxy.log().contains("peer=203.0.113.9:1234"))
        .await;
    // Without a header, with a broken one, with the old one: not a word.
    for bytes in [
        startup("app").to_vec(),
        b"PROXY TCP4 192.0.2.7 10.0.0.1 1234 6432\r\n".to_vec(),
        header([192, 0, 2, 7])[..20].to_vec(),
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(),
    ] {
        assert_eq!(first_answer(&proxy, &bytes).await, b"", "{}", text(&bytes));
    }
    // From who is not listed it is no header but nonsense, and answered as by PostgreSQL.
    let other = proxy_with(rules.to_owned()).await;
    let bytes = [header([192, 0, 2, 7]), startup("app").to_vec()].concat();
    assert_eq!(first_answer(&other, &bytes).await, b"");
    await_until("the log says why", async || {
        other.log().contains("invalid length of startup packet")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_is_for_this_machine_and_said_loudly() {
    let role = fresh_role("trusted");
    run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'x'")).await;
    let rules = format!(
        "[[user]]\nname = \"{role}\"\npassword = \"x\"\n\
         [[access]]\nfrom = \"loopback\"\nuser = [\"{role}\", \"ghost\"]\nmethod = \"trust\"\n"
    );
    let proxy = proxy_with(rules).await;
    enter(&proxy, &role, "anything", "app").await.expect("trusted");
    let ghost = enter(&proxy, "ghost", "x", "app").await.err();
    assert_eq!(ghost.as_deref(), Some("28000 role \"ghost\" does not exist"));
    assert!(enter(&proxy, "app", "wrong", "app").await.is_err(), "others prove themselves");
    assert!(proxy.log().contains("WITHOUT A PASSWORD"), "{}", proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_on_clients_are_told_as_by_postgresql() {
    let limits = "[limits]\nclients = 4\nclients_per_user = 3\nclients_per_database = 2\n";
    let proxy = proxy_with(limits.to_owned()).await;
    let database = fresh_database(shared_cluster()).await;
    let one = enter(&proxy, "app", "app", "app").await.unwrap();
    let _two = enter(&proxy, "app", "app", "app").await.unwrap();
    let full = enter(&proxy, "app", "app", "app").await.err();
    assert_eq!(full.as_deref(), Some("53300 too many connections for database \"app\""));
    let _three = enter(&proxy, "app", "app", &database).await.unwrap();
    let full = enter(&proxy, "app", "app", &database).await.err();
    assert_eq!(full.as_deref(), Some("53300 too many connections for role \"app\""));
    drop(one);
    await_until("there is room again", async || {
        enter(&proxy, "app", "app", &database).await.is_ok()
    })
    .await;
    assert!(proxy.metric("causeway_refused_clients_total", None).await >= 2.0);
}

/// Whoever guesses passwords is slowed down; whoever else comes from there later is not for long.
#[tokio::test(flavor = "multi_thread")]
async fn guessing_passwords_becomes_slow() {
    let proxy = proxy_with(String::new()).await;
    let began = std::time::Instant::now();
    for _ in 0..6 {
        assert!(enter(&proxy, "app", "wrong", "app").await.is_err());
    }
    // The fifth and the sixth have waited for 250 and 500 ms.
    assert!(began.elapsed() >= Duration::from_millis(750), "{:?}", began.elapsed());
    enter(&proxy, "app", "app", "app").await.expect("the right one is let in, a second later");
    let began = std::time::Instant::now();
    enter(&proxy, "app", "app", "app").await.expect("and is forgiven");
    assert!(began.elapsed() < SOON);
}

/// However many guess side by side, their proofs are judged one after the other, and the rest is not looked at.
/// Whoever has been in from there before does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn guessing_side_by_side_is_no_faster() {
    let more = "[limits]\nstartup_timeout = \"5s\"\n";
    let proxy = proxy_with(more.to_owned()).await;
    enter(&proxy, "app", "app", "app").await.expect("known from now on");
    let mut guesses = tokio::task::JoinSet::new();
    for number in 0..400 {
        let mut config = proxy.config("app");
        config.user(if number % 2 == 0 { "postgres" } else { "nobody" }).password("wrong");
        guesses.spawn(async move {
            let error = config.connect(NoTls).await.err().expect("it is wrong");
            error.as_db_error().map_or_else(|| error.to_string(), |e| e.code().code().to_owned())
        });
    }
    let told = guesses.join_all().await;
    let count = |code: &str| told.iter().filter(|told| *told == code).count();
    // Four at once, then after 250 ms, 500 ms more, a second more ...
    let judged = count("28P01");
    assert!((4..=12).contains(&judged), "{judged} guesses were judged: {told:?}");
    assert_eq!(count("53300"), 400 - judged, "{told:?}");
    let began = std::time::Instant::now();
    enter(&proxy, "app", "app", "app").await.expect("goes by its own failures");
    assert!(began.elapsed() < Duration::from_secs(3));
    let refused = [("outcome", "refused")];
    let refused = proxy.metrics().await.sum("causeway_throttled_logins_total", &refused);
    assert!(refused.is_some_and(|count| count >= 300.0), "{refused:?}");
}

/// A password that was changed at the server: those who come with it at once and are asked by what was kept of the old
/// one fail, but nobody is refused for it, then or later.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_is_no_guess() {
    let (_, section) = look_up_function().await;
    let role = fresh_role("rotated");
    run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'old'")).await;
    let proxy = proxy_with(section).await;
    enter(&proxy, &role, "old", "app").await.expect("the old password");
    // An answer that is younger than a second is not doubted.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    run(&format!("ALTER ROLE {role} PASSWORD 'new'")).await;
    for round in 0..2 {
        let mut many = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let mut config = proxy.config("app");
            config.user(&role).password("new");
            many.spawn(async move {
                let error = config.connect(NoTls).await.err();
                error.map(|e| {
                    e.as_db_error().map_or_else(|| e.to_string(), |e| e.code().code().to_owned())
                })
            });
        }
        let told = many.join_all().await;
        let allowed = |told: &Option<String>| match told {
            None => true,
            Some(code) => round == 0 && code == "28P01",
        };
        assert!(told.iter().all(allowed), "round {round}: {told:?}");
    }
}

/// CVE-2015-6817 of PgBouncer: whom auth_query did not find was let in as the role that asked.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2015_6817_an_unknown_user_is_not_who_asks() {
    let (looker, section) = look_up_function().await;
    let proxy = proxy_with(section).await;
    for password in ["looking", "", "app", "postgres"] {
        let refused = enter(&proxy, "a_stranger", password, "app").await.err();
        assert!(refused.is_some(), "let in with {password:?}");
    }
    // The role itself is one like any other.
    let client = enter(&proxy, &looker, "looking", "app").await.expect("with its own password");
    let row = client.query_one("SELECT session_user::text", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), looker);
}

/// CVE-2026-107349 of PgBouncer: an option without a name in the start-up packet was searched for ever.
#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_107349_an_option_without_a_name_ends() {
    let proxy = proxy_with(String::new()).await;
    for options in ["-c =", "-c=", "-c=1", "--=", "--", "-c", "-", "-c \\", "=", "-c a", "-c  -c"] {
        let mut config = proxy.config("app");
        config.options(options);
        let entered = tokio::time::timeout(SOON, enter_with(&config, "app", "app")).await;
        let refused = entered.expect("it ends").err();
        assert!(refused.is_some(), "{options:?} is let in");
    }
    enter(&proxy, "app", "app", "app").await.expect("nobody else notices");
}
