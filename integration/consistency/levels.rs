//! Levels where they meet: in one request, in one transaction, in one session; with what is asked for late.
//!
//! The replicas stand still, so that whatever they serve after a write is too old.

use super::client::{Client, Protocol, Sql};
use super::scene::Scene;
use super::{cluster, faults};
use crate::harness::ProxyOptions;

/// Replicas are taken for fit however long they stand still, and are not waited for.
fn impatient() -> ProxyOptions {
    let routing = "safe_functions = [\"witness\"]\ncatchup_wait = \"1ms\"";
    ProxyOptions { routing, ..super::cell::proxy_options() }
}

const READ: &str = "SELECT value FROM counters WHERE key = 0";

/// The value that a client reads, or the SQLSTATE of its refusal.
async fn read(client: &mut Client, text: &str) -> String {
    let answer = client.ask(Protocol::Simple, &Sql::new(text, &[])).await.unwrap();
    match (answer.refusal, answer.rows.last()) {
        (Some(refusal), _) => refusal.sqlstate,
        (None, Some(columns)) => columns[0].clone().unwrap_or_default(),
        (None, None) => String::new(),
    }
}

async fn run(client: &mut Client, script: &str) {
    let refusal = client.run(script).await.unwrap().refusal;
    assert_eq!(refusal, None, "{script}");
}

/// Raises the counter where no replica follows, and gives the position after.
async fn write(writer: &mut Client, value: u64) -> String {
    run(writer, &format!("UPDATE counters SET value = {value} WHERE key = 0")).await;
    read(writer, "SHOW causeway.lsn").await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_in_the_middle_of_a_transaction_is_kept() {
    let cluster = cluster();
    let scene = Scene::open(&cluster, impatient(), None).await;
    let mut writer = scene.client(&[]).await;
    for replica in cluster.replicas() {
        replica.pause_replay().await.unwrap();
    }
    let mut written = 0;
    for isolation in ["READ COMMITTED", "REPEATABLE READ"] {
        for local in ["", "LOCAL "] {
            for what in ["after_lsn", "consistency", "primary"] {
                let mut reader = scene.client(&[]).await;
                run(&mut reader, &format!("BEGIN ISOLATION LEVEL {isolation}, READ ONLY")).await;
                let before = read(&mut reader, READ).await;
                written += 1;
                let position = write(&mut writer, written).await;
                assert_eq!(read(&mut reader, READ).await, before, "nothing more was asked for");
                let (name, value) = match what {
                    "after_lsn" => (what, &*position),
                    "primary" => ("consistency", what),
                    _ => (what, "global"),
                };
                run(&mut reader, &format!("SET {local}causeway.{name} = '{value}'")).await;
                let wanted = match isolation {
                    "READ COMMITTED" => written.to_string(),
                    // It has one snapshot wherever it is.
                    _ => before,
                };
                assert_eq!(read(&mut reader, READ).await, wanted, "{isolation} {local}{what}");
                run(&mut reader, "COMMIT").await;
                let kept = read(&mut reader, "SHOW causeway.consistency").await;
                let stays = local.is_empty() && name == "consistency";
                assert_eq!(kept == value, stays, "{local}{what}: {kept}");
            }
        }
    }

    // What only its server has keeps it there, and it is failed.
    let mut reader = scene.client(&[]).await;
    run(&mut reader, "BEGIN READ ONLY").await;
    read(&mut reader, READ).await;
    run(&mut reader, &format!("DECLARE c CURSOR FOR {READ}")).await;
    let hinted = format!("/* causeway: consistency=primary */ {READ}");
    assert_eq!(read(&mut reader, &hinted).await, "40001");
    run(&mut reader, "ROLLBACK").await;
    for replica in cluster.replicas() {
        replica.resume_replay().await.unwrap();
    }
    faults::tidy(&cluster).await.unwrap();
}

/// What one statement of a request gives up, the other does not.
#[tokio::test(flavor = "multi_thread")]
async fn one_statement_does_not_lower_the_level_of_another() {
    let cluster = cluster();
    let scene = Scene::open(&cluster, impatient(), None).await;
    for replica in cluster.replicas() {
        replica.pause_replay().await.unwrap();
    }
    let eventual = format!("/* causeway: consistency=eventual */ {READ}");
    let mut session = scene.client(&[]).await;
    for value in 1..4_u64 {
        write(&mut session, value).await;
        assert_eq!(read(&mut session, READ).await, value.to_string());
        assert_eq!(read(&mut session, &eventual).await, "0");
        // One Sync for both.
        let mut request = session.request(Protocol::Extended, &Sql::new(&*eventual, &[])).to_vec();
        request.truncate(request.len() - 5);
        request.extend(session.request(Protocol::Extended, &Sql::new(READ, &[])));
        session.send(&request).await.unwrap();
        let rows = session.answer().await.unwrap().rows;
        assert_eq!(rows[1][0].as_deref(), Some(&*value.to_string()));
        run(&mut session, "BEGIN READ ONLY").await;
        assert_eq!(read(&mut session, &eventual).await, "0");
        assert_eq!(read(&mut session, READ).await, value.to_string());
        run(&mut session, "COMMIT").await;
        run(
            &mut session,
            &format!("/* causeway: consistency=eventual */ PREPARE p{value} AS {READ}"),
        )
        .await;
        assert_eq!(read(&mut session, &format!("EXECUTE p{value}")).await, "0");
        let said = format!("/* causeway: consistency=session */ EXECUTE p{value}");
        assert_eq!(read(&mut session, &said).await, value.to_string());
        // A setting of the session goes before a rule, a hint before both.
        run(&mut session, "SET causeway.consistency = 'eventual'").await;
        assert_eq!(read(&mut session, READ).await, "0");
        run(&mut session, "RESET causeway.consistency").await;
    }
    for replica in cluster.replicas() {
        replica.resume_replay().await.unwrap();
    }
    faults::tidy(&cluster).await.unwrap();
}

/// Where replicas stand still, what lags too much is read on the primary: by hint, and by setting.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_says_how_much_it_may_lag() {
    let cluster = cluster();
    let scene = Scene::open(&cluster, impatient(), None).await;
    let mut writer = scene.client(&[]).await;
    for replica in cluster.replicas() {
        replica.pause_replay().await.unwrap();
    }
    write(&mut writer, 1).await;
    let mut reader = scene.client(&[]).await;
    run(&mut reader, "SET causeway.consistency = 'eventual'").await;
    let hinted = format!("/* causeway: max_lag=500ms */ {READ}");
    crate::harness::await_until("the replicas lag too much", async || {
        let now = read(&mut writer, "SELECT value FROM counters WHERE key = 0").await;
        assert_eq!(now, "1");
        read(&mut reader, &hinted).await == "1"
    })
    .await;
    assert_eq!(read(&mut reader, READ).await, "0", "whatever they lag");
    run(&mut reader, "SET causeway.max_lag = '500ms'").await;
    assert_eq!(read(&mut reader, READ).await, "1");
    let lenient = format!("/* causeway: max_lag=1h */ {READ}");
    assert_eq!(read(&mut reader, &lenient).await, "0", "a hint goes before the setting");
    for replica in cluster.replicas() {
        replica.resume_replay().await.unwrap();
    }
    faults::tidy(&cluster).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_is_taken_in_every_way_and_one_of_the_future_in_none() {
    let cluster = cluster();
    let scene = Scene::open(&cluster, impatient(), None).await;
    let mut writer = scene.client(&[]).await;
    for replica in cluster.replicas() {
        replica.pause_replay().await.unwrap();
    }
    let position = write(&mut writer, 1).await;
    let option = |value: &str| [("options".to_owned(), format!("-c causeway.after_lsn={value}"))];
    assert_eq!(read(&mut scene.client(&[]).await, READ).await, "0");
    assert_eq!(read(&mut scene.client(&option(&position)).await, READ).await, "1");
    for set in [
        format!("SET causeway.after_lsn = '{position}'"),
        format!("SELECT set_config('causeway.after_lsn', '{position}', false)"),
        format!("SET application_name = 'a'; SET causeway.after_lsn = '{position}'"),
        format!("BEGIN; SET LOCAL causeway.after_lsn = '{position}'; SELECT 1; COMMIT"),
    ] {
        let mut reader = scene.client(&[]).await;
        run(&mut reader, &set).await;
        assert_eq!(read(&mut reader, READ).await, "1", "{set}");
    }

    let future = "FFFFFFFF/0";
    let mut reader = scene.client(&[]).await;
    assert_eq!(read(&mut reader, &format!("SET causeway.after_lsn = '{future}'")).await, "22023");
    let mut config = scene.proxy.config(scene.database());
    let refused = config.options(format!("-c causeway.after_lsn={future}"));
    let refused = refused.connect(tokio_postgres::NoTls).await.err().expect("it is refused");
    assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("22023"));
    // What only PostgreSQL has looked at counts for nothing: replicas serve all the same, and under a key nobody is
    // held up.
    let key = [("causeway.session_key".to_owned(), "user:7".to_owned())];
    for set in [
        format!("SELECT set_config('causeway.after_lsn', '{future}', false)"),
        format!("SELECT 1; SET causeway.after_lsn = '{future}'"),
    ] {
        for _ in 0..2 {
            let mut reader = scene.client(&key).await;
            run(&mut reader, &set).await;
            // It has been on the primary, and sees what is there.
            assert_eq!(read(&mut reader, READ).await, "1", "{set}");
        }
    }
    for replica in cluster.replicas() {
        replica.resume_replay().await.unwrap();
    }
    let key = key.clone();
    crate::harness::await_until("replicas serve under the key", async || {
        let mut reader = scene.client(&key).await;
        read(&mut reader, "SELECT witness()").await.starts_with("replica")
    })
    .await;
    faults::tidy(&cluster).await.unwrap();
}
