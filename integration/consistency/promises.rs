//! Single promises, put to the proof one by one while every replica is behind: what was written in each
//! way is read right after, in each protocol; what a notification tells of is there for who has heard it.
//!
//! Replicas are waited for, so that it is they who answer: a floor that is too low shows.

use std::io;
use std::time::Duration;

use tokio::task::JoinSet;

use super::cell::proxy_options;
use super::client::Protocol;
use super::counters::{Op, Terms};
use super::scene::Scene;
use super::session::Session;
use super::world::{COMMON, Form, PATIENT, PROCEDURES, Place, Which, row};
use super::{cluster, faults};
use crate::harness::ProxyOptions;

const PROTOCOLS: [Protocol; 4] =
    [Protocol::Simple, Protocol::Extended, Protocol::Prepared, Protocol::Pipelined];

fn patient() -> ProxyOptions {
    ProxyOptions { routing: PATIENT, ..proxy_options() }
}

/// Writes in each of these ways, and reads in two after each.
async fn write_and_read(mut session: Session, forms: &[Form]) -> io::Result<Session> {
    let own = Which::One(session.own[0].0);
    for form in forms {
        session.write(0, *form).await?;
        session.read(&own, Place::Any, true).await?;
        session.write(0, *form).await?;
        session.read_together(&[own.clone(), own.clone()], Place::ReadOnly).await?;
    }
    Ok(session)
}

/// A session for each protocol; tells what they did.
async fn every_way(scene: &mut Scene<'_>, forms: &'static [Form]) -> Vec<Op> {
    let mut sessions = JoinSet::new();
    for protocol in PROTOCOLS {
        let session = scene.speaking(protocol, Terms::default(), &[]).await;
        sessions.spawn(write_and_read(session, forms));
    }
    let mut ops = Vec::new();
    for session in sessions.join_all().await {
        ops.extend(session.expect("no session loses its connection").into_ops());
    }
    scene.was_done(&ops);
    ops
}

/// Of the reads outside of transactions: how many were on replicas, and how many there were.
fn on_replicas(ops: &[Op]) -> (usize, usize) {
    let reads = ops.iter().filter(|op| op.done.how[0] == Place::Any.name());
    let nodes: Vec<&str> = reads.filter_map(|op| op.done.node()).collect();
    (nodes.iter().filter(|node| node.starts_with("replica")).count(), nodes.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_writing_is_seen_in_every_protocol() {
    let cluster = cluster();
    // Replicas that follow, and are waited for.
    let mut scene = Scene::open(&cluster, patient(), None).await;
    for replica in cluster.replicas() {
        faults::delay_replay(replica, Duration::from_millis(200)).await.unwrap();
    }
    let (on_replicas, reads) = on_replicas(&every_way(&mut scene, &COMMON).await);
    // The proxy looks at the database again after each of these, and the primary serves meanwhile.
    every_way(&mut scene, &PROCEDURES).await;
    scene.close_unbroken().await;
    println!("{on_replicas} of {reads} reads on replicas");
    assert!(on_replicas * 4 > reads * 3, "{on_replicas} of {reads} on replicas");

    // Replicas that stand still.
    let mut scene = Scene::open(&cluster, proxy_options(), None).await;
    for replica in cluster.replicas() {
        replica.pause_replay().await.unwrap();
    }
    every_way(&mut scene, &COMMON).await;
    every_way(&mut scene, &PROCEDURES).await;
    for replica in cluster.replicas() {
        replica.resume_replay().await.unwrap();
    }
    scene.close_unbroken().await;
}

/// The listener itself is bound to the primary; whoever shares its key is not.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_heard_a_notification_sees_what_it_tells_of() {
    let cluster = cluster();
    let scene = Scene::open(&cluster, patient(), None).await;
    for replica in cluster.replicas() {
        faults::delay_replay(replica, Duration::from_millis(200)).await.unwrap();
    }
    let key = [("causeway.session_key".to_owned(), "user:42".to_owned())];
    let (mut listener, mut twin) = (scene.client(&key).await, scene.client(&key).await);
    let mut writer = scene.client(&[]).await;
    assert_eq!(listener.run("LISTEN news").await.unwrap().refusal, None);
    let counter = Which::One(0).select(Place::Any, true);
    let mut on_replicas = 0;
    for value in 1..=8 {
        let write = format!("UPDATE counters SET value = {value} WHERE key = 0");
        let script = format!("BEGIN; {write}; NOTIFY news; COMMIT");
        assert_eq!(writer.run(&script).await.unwrap().refusal, None);
        listener.notification().await.unwrap();
        for client in [&mut twin, &mut listener] {
            let answer = client.ask(Protocol::Extended, &counter).await.unwrap();
            let columns = &answer.rows[0];
            assert_eq!(row(columns).unwrap().value, value, "{columns:?}");
            let witness = columns[4].as_deref().unwrap();
            on_replicas += usize::from(witness.starts_with("replica"));
        }
    }
    assert!(on_replicas > 4, "{on_replicas} reads on replicas");
    scene.close_unbroken().await;
}
