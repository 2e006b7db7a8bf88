//! A hunt for leaks: clients with settings, roles, temporary tables, locks, prepared names, cursors and
//! sequences of their own, in random order on few servers. Each must see its own and nothing else.
//!
//! `make leaks` is the long form (`LEAKS=clients,transactions,servers`).

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, Statement};

use super::world;
use crate::harness::{Proxy, ProxyOptions, shared_cluster};

const ZONES: [&str; 4] = ["Asia/Tokyo", "Europe/Berlin", "America/Lima", "UTC"];
const ROLES: [&str; 2] = ["diff_a", "diff_b"];
const PATHS: [&str; 2] = ["other", "public"];

/// Everything of a session that another could see and that goes wherever the session goes.
const LOOK: &str = "SELECT current_setting('app.x'), current_setting('TimeZone'), \
                    current_user::text, current_setting('search_path')";

/// What is left on the server itself: nothing of anybody's, while the session has nothing there.
const LEFT: &str = "SELECT (SELECT count(*) FROM pg_listening_channels()), \
    (SELECT count(*) FROM pg_cursors WHERE is_holdable), \
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
    (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())";

/// How many clients, how many transactions in all, on how many servers.
fn extent() -> (usize, usize, usize) {
    let given = std::env::var("LEAKS").unwrap_or_default();
    let numbers: Vec<usize> = given.split(',').filter_map(|part| part.parse().ok()).collect();
    if let [clients, transactions, servers] = numbers[..] {
        (clients, transactions, servers)
    } else {
        (8, 600, 2)
    }
}

struct Hunter {
    client: Client,
    number: usize,
    value: usize,
    mine: Statement,
}

impl Hunter {
    async fn begin(client: Client, number: usize) -> Self {
        for set in [
            format!("SET app.x = '{number}/0'"),
            format!("SET TimeZone = '{}'", ZONES[number % 4]),
            format!("SET search_path = {}", PATHS[number / 2 % 2]),
            format!("SET ROLE {}", ROLES[number % 2]),
            format!("PREPARE own AS SELECT {number} AS own"),
        ] {
            client.batch_execute(&set).await.unwrap();
        }
        let mine = client.prepare(&format!("SELECT {number}")).await.unwrap();
        Self { client, number, value: 0, mine }
    }

    async fn run(&self, text: &str) {
        self.client.batch_execute(text).await.unwrap();
    }

    /// The first value of a simple query's only row.
    async fn ask(&self, text: &str) -> Option<String> {
        let answer = self.client.simple_query(text).await.unwrap();
        answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    }

    async fn assert_own(&self) {
        let row = self.client.query_one(LOOK, &[]).await.unwrap();
        let seen: [String; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
        let own = [
            format!("{}/{}", self.number, self.value),
            ZONES[self.number % 4].into(),
            ROLES[self.number % 2].into(),
            PATHS[self.number / 2 % 2].into(),
        ];
        assert_eq!(seen, own);
    }

    async fn transaction(&mut self, kind: u32) {
        let own = Some(self.number.to_string());
        match kind {
            0 => {
                self.value += 1;
                self.run(&format!("SET app.x = '{}/{}'", self.number, self.value)).await;
            }
            1 => {
                self.run("BEGIN; SET app.x = 'undone'; SET LOCAL TimeZone = 'Asia/Dili'").await;
                self.run("ROLLBACK").await;
            }
            2 => {
                let row = self.client.query_one(&self.mine, &[]).await.unwrap();
                assert_eq!(row.get::<_, i32>(0), i32::try_from(self.number).unwrap());
                assert_eq!(self.ask("EXECUTE own").await, own);
            }
            3 => self.run("INSERT INTO public.w VALUES (1); SELECT 1").await,
            4 => {
                self.run("CREATE TEMP TABLE tt (n int)").await;
                self.run(&format!("INSERT INTO tt VALUES ({})", self.number)).await;
                self.assert_own().await;
                assert_eq!(self.ask("SELECT n FROM tt").await, own);
                self.run("DROP TABLE tt").await;
            }
            5 => {
                self.run(&format!("SELECT pg_advisory_lock({})", self.number)).await;
                self.assert_own().await;
                let mine = "SELECT objid FROM pg_locks \
                            WHERE locktype = 'advisory' AND pid = pg_backend_pid()";
                assert_eq!(self.ask(mine).await, own);
                let unlock = format!("SELECT pg_advisory_unlock({})", self.number);
                assert_eq!(self.ask(&unlock).await.as_deref(), Some("t"));
            }
            6 => {
                let declare = format!("DECLARE c CURSOR WITH HOLD FOR SELECT {}", self.number);
                self.run(&declare).await;
                assert_eq!(self.ask("FETCH c").await, own);
                self.run("CLOSE c").await;
            }
            7 => {
                let sequence = format!("public.q{}", self.number % 4);
                let next = self.ask(&format!("SELECT nextval('{sequence}')")).await;
                let asked =
                    self.client.simple_query(&format!("SELECT currval('{sequence}')")).await;
                match asked {
                    Ok(answer) => {
                        let seen = answer.iter().find_map(|message| match message {
                            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                            _ => None,
                        });
                        assert_eq!(seen, next, "another's value of {sequence}");
                    }
                    // Its server had to be shared meanwhile.
                    Err(error) => {
                        assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE));
                    }
                }
                self.run("DISCARD SEQUENCES").await;
            }
            _ => {
                let row = self.client.query_one(LEFT, &[]).await.unwrap();
                let left: Vec<i64> = (0..4).map(|column| row.get(column)).collect();
                assert_eq!(left, [0, 0, 0, 0], "listens, cursors, locks, temporary relations");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_what_another_has() {
    let (clients, transactions, servers) = extent();
    let cluster = shared_cluster();
    let database = world(cluster).await;
    let sequences =
        "CREATE SEQUENCE q0; CREATE SEQUENCE q1; CREATE SEQUENCE q2; CREATE SEQUENCE q3";
    let direct = cluster.primary().connect(&database).await.unwrap();
    direct.batch_execute(sequences).await.unwrap();
    direct.batch_execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO PUBLIC").await.unwrap();
    cluster.await_replay().await.unwrap();
    let pool = format!("size = {servers}\nwait = \"60s\"");
    let options = ProxyOptions { proxy: "workers = 2", pool: pool.leak(), ..Default::default() };
    let proxy = Proxy::start(cluster, &options).await;
    let began = std::time::Instant::now();
    let mut all = tokio::task::JoinSet::new();
    for number in 0..clients {
        let client = proxy.connect(&database).await;
        all.spawn(async move {
            let mut random = StdRng::seed_from_u64(number as u64);
            let mut hunter = Hunter::begin(client, number).await;
            for _ in 0..transactions / clients {
                hunter.transaction(random.random_range(0..10)).await;
                hunter.assert_own().await;
            }
        });
    }
    while let Some(one) = all.join_next().await {
        one.unwrap();
    }
    println!(
        "{transactions} transactions of {clients} clients on {servers} servers a pool in {:.0?}: \
         nothing was mixed",
        began.elapsed()
    );
}

/// What sets something for its session where no text shows it.
const HIDDEN: &str = "\
CREATE FUNCTION tell(v text) RETURNS int LANGUAGE plpgsql \
 AS $$ BEGIN PERFORM set_config('app.hidden', v, false); RETURN 1; END $$; \
CREATE FUNCTION tell_of(a int, b int) RETURNS int LANGUAGE sql AS $$ SELECT tell('operator') $$; \
CREATE OPERATOR ### (LEFTARG = int, RIGHTARG = int, FUNCTION = tell_of); \
CREATE FUNCTION tells() RETURNS trigger LANGUAGE plpgsql \
 AS $$ BEGIN PERFORM tell('trigger'); PERFORM pg_advisory_lock(77); RETURN NEW; END $$; \
CREATE FUNCTION log(t text) RETURNS int LANGUAGE plpgsql \
 AS $$ BEGIN CREATE TEMP TABLE IF NOT EXISTS hidden (); SET app.hidden = 'log'; RETURN 1; END $$; \
CREATE TABLE plain (a int); CREATE TABLE given (a int DEFAULT tell('default'), b int); \
CREATE TABLE watched (a int); CREATE TRIGGER told BEFORE INSERT ON watched \
 FOR EACH ROW EXECUTE FUNCTION tells(); \
CREATE VIEW seen AS SELECT tell('view'); INSERT INTO plain VALUES (0); \
GRANT ALL ON plain, given, watched, seen TO PUBLIC";

#[tokio::test(flavor = "multi_thread")]
async fn what_no_text_shows_is_nobody_elses() {
    let cluster = shared_cluster();
    let database = world(cluster).await;
    let direct = cluster.primary().connect(&database).await.unwrap();
    direct.batch_execute(HIDDEN).await.unwrap();
    cluster.await_replay().await.unwrap();
    let options = ProxyOptions {
        proxy: "workers = 1",
        pool: "size = 1\nwait = \"60s\"",
        ..Default::default()
    };
    let proxy = Proxy::start(cluster, &options).await;
    let (one, other) = (proxy.connect(&database).await, proxy.connect(&database).await);
    let large = "x".repeat(2 << 20);
    for (text, left) in [
        ("SELECT tell('call')", "call"),
        ("INSERT INTO plain VALUES (tell('insert'))", "insert"),
        ("SELECT current_setting('TimeZone'), tell('beside')", "beside"),
        ("SELECT tell('locked') FROM plain FOR UPDATE", "locked"),
        ("/* causeway: replica */ SELECT tell('hint')", "hint"),
        ("INSERT INTO given (b) VALUES (1)", "default"),
        ("INSERT INTO watched VALUES (1)", "trigger"),
        ("SELECT * FROM seen", "view"),
        ("SELECT 1 ### 2", "operator"),
        ("SELECT log('x')", "log"),
        ("WITH x AS (INSERT INTO plain VALUES (2) RETURNING a) SELECT tell('with') FROM x", "with"),
        ("", "bound"),
    ] {
        if text.is_empty() {
            let statement = one.prepare("SELECT tell('bound'), length($1::text)").await.unwrap();
            one.query_one(&statement, &[&large]).await.unwrap();
        } else {
            one.batch_execute(text).await.unwrap();
        }
        let own = "SELECT current_setting('app.hidden')";
        let row = one.query_one(own, &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), left, "{text}: to the session itself");
        // The only server is kept for what cannot be taken elsewhere.
        one.batch_execute("SELECT pg_advisory_unlock_all(); DISCARD TEMP").await.unwrap();
        for node in ["primary", "replica"] {
            let look = format!("/* causeway: {node} */ SELECT current_setting('app.hidden', true)");
            let row = other.query_one(&look, &[]).await.unwrap();
            let seen = row.get::<_, Option<String>>(0).unwrap_or_default();
            assert_eq!(seen, "", "{text}: to another, on a {node}");
        }
        let row = other.query_one(LEFT, &[]).await.unwrap();
        let found: Vec<i64> = (0..4).map(|column| row.get(column)).collect();
        assert_eq!(found, [0, 0, 0, 0], "{text}");
    }
}
