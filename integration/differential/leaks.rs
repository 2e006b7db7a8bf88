//! A short hunt for leaks: clients with settings of their own, in turn on few servers.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::Client;

use super::{two_servers, world};
use crate::harness::{Proxy, shared_cluster};

const CLIENTS: usize = 8;
const TRANSACTIONS: usize = 2000;
const ZONES: [&str; 4] = ["Asia/Tokyo", "Europe/Berlin", "America/Lima", "UTC"];
const ROLES: [&str; 2] = ["diff_a", "diff_b"];
const PATHS: [&str; 2] = ["other", "public"];

/// Everything of a session that another could see, in one row.
const LOOK: &str = "SELECT current_setting('app.x'), current_setting('TimeZone'), \
                    current_user::text, current_setting('search_path')";

async fn assert_own(client: &Client, number: usize, value: usize) {
    let row = client.query_one(LOOK, &[]).await.unwrap();
    let seen: [String; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
    let own = [
        format!("{number}/{value}"),
        ZONES[number % 4].into(),
        ROLES[number % 2].into(),
        PATHS[number / 4].into(),
    ];
    assert_eq!(seen, own);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_what_another_has_set() {
    let cluster = shared_cluster();
    let database = world(cluster).await;
    let proxy = Proxy::start(cluster, &two_servers()).await;
    let mut all = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        let client = proxy.connect(&database).await;
        all.spawn(async move {
            let mut random = StdRng::seed_from_u64(number as u64);
            let mut value = 0;
            let (zone, role, path) = (ZONES[number % 4], ROLES[number % 2], PATHS[number / 4]);
            for set in [
                format!("SET app.x = '{number}/0'"),
                format!("SET TimeZone = '{zone}'"),
                format!("SET search_path = {path}"),
                format!("SET ROLE {role}"),
            ] {
                client.batch_execute(&set).await.unwrap();
            }
            let mine = client.prepare(&format!("SELECT {number}")).await.unwrap();
            for _ in 0..TRANSACTIONS / CLIENTS {
                match random.random_range(0..5) {
                    0 => {
                        value += 1;
                        let set = format!("SET app.x = '{number}/{value}'");
                        client.batch_execute(&set).await.unwrap();
                    }
                    1 => {
                        let undone =
                            "BEGIN; SET app.x = 'undone'; SET LOCAL TimeZone = 'Asia/Dili'";
                        client.batch_execute(undone).await.unwrap();
                        client.batch_execute("ROLLBACK").await.unwrap();
                    }
                    2 => {
                        let own = client.query_one(&mine, &[]).await.unwrap();
                        assert_eq!(own.get::<_, i32>(0), i32::try_from(number).unwrap());
                    }
                    3 => {
                        let write = "INSERT INTO public.w VALUES (1); SELECT 1";
                        client.batch_execute(write).await.unwrap();
                    }
                    _ => {}
                }
                assert_own(&client, number, value).await;
            }
        });
    }
    while let Some(one) = all.join_next().await {
        one.unwrap();
    }
}
