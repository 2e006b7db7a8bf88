//! Hints, the session's own settings, rules: which of them decides, and what none of them can move.

use causeway::cli::demo::cluster::{Cluster, Node};

use super::{Answer, ask_with};
use crate::harness::{Proxy, ProxyOptions, fresh_database, shared_cluster};

/// One rule for each kind of condition; `{replica}` is the second replica.
const RULES: &str = r#"
[[routing.rule]]
name = "by table"
table = "hot"
target = "primary"

[[routing.rule]]
name = "by function"
function = "vouched"
target = "replica"

[[routing.rule]]
name = "by shape"
statement = "select a from cold where a = 1"
target = "node:{replica}"

[[routing.rule]]
name = "by application"
application_name = "accounting"
target = "primary"

[[routing.rule]]
name = "by user and database"
user = "app"
database = "{database}"
table = "lukewarm"
max_lag = "1h"
"#;

/// `vouched` is VOLATILE, and nothing tells what it does.
const WORLD: &str = "
    CREATE TABLE hot AS SELECT 1 AS a;
    CREATE TABLE cold AS SELECT 1 AS a;
    CREATE TABLE lukewarm AS SELECT 1 AS a;
    CREATE FUNCTION vouched() RETURNS int LANGUAGE internal AS 'pg_backend_pid';
    GRANT ALL ON ALL TABLES IN SCHEMA public TO app;";

/// Settings, text, whether it is for the primary, and the reason.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, bool, &'a str);

struct Stage {
    cluster: &'static Cluster,
    proxy: Proxy,
    database: String,
}

impl Stage {
    async fn new() -> Self {
        let cluster = shared_cluster();
        let database = fresh_database(cluster).await;
        let direct = cluster.primary().connect(&database).await.unwrap();
        direct.batch_execute(WORLD).await.unwrap();
        cluster.await_replay().await.unwrap();
        let rules = RULES.replace("{replica}", &cluster.replicas()[1].address());
        let more = Box::leak(rules.replace("{database}", &database).into_boxed_str());
        let proxy = Proxy::start(cluster, &ProxyOptions { more, ..ProxyOptions::default() }).await;
        proxy.await_catalog(cluster, &database).await;
        Self { cluster, proxy, database }
    }

    async fn ask(&self, settings: &[(&str, &str)], text: &str) -> Answer {
        ask_with(self.proxy.address, &self.database, settings, text).await
    }

    fn replicas(&self) -> Vec<String> {
        self.cluster.replicas().iter().map(Node::address).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_outranks_the_session_which_outranks_rules() {
    let stage = Stage::new().await;
    let primary = stage.cluster.primary().address();
    let accounting = [("application_name", "accounting")];
    let to_primary = [("causeway.route", "primary")];
    let to_replica = [("causeway.route", "replica"), ("application_name", "accounting")];
    let table: &[Case] = &[
        (&[], "select a from cold", false, "read"),
        (&[], "select a from hot", true, "rule"),
        (&[], "select a from lukewarm", false, "read"),
        (&[], "select vouched()", false, "rule"),
        (&accounting, "select a from cold", true, "rule"),
        (&to_primary, "select a from cold", true, "session_route"),
        (&to_primary, "select vouched()", true, "volatile_function"),
        (&to_replica, "select a from cold", false, "session_route"),
        (&to_replica, "select a from hot", false, "session_route"),
        (&to_replica, "/* causeway: primary */ select a from cold", true, "hint_primary"),
        (&to_primary, "/* causeway: replica */ select a from cold", false, "hint_replica"),
        (&[], "/* causeway: replica */ select a from hot", false, "hint_replica"),
        (&[], "select a from cold /*causeway='primary',traceparent='00-1'*/", true, "hint_primary"),
        (&[], "/*causeway='replica%2Cmax_lag%3D1h'*/ select a from hot", false, "hint_replica"),
        (
            &[],
            "/* causeway: consistency=primary */ select a from cold",
            true,
            "consistency_primary",
        ),
        // What is known to write, to lock or to fail on a replica, nothing moves there.
        (&to_replica, "/* causeway: replica */ update cold set a = 1", true, "write"),
        (&to_replica, "/* causeway: replica */ select a from cold for update", true, "row_lock"),
        (
            &to_replica,
            "/* causeway: replica */ select pg_advisory_xact_lock(1)",
            true,
            "advisory_lock_function",
        ),
        (
            &[],
            "/* causeway: replica */ with d as (delete from cold where false returning a) table d",
            true,
            "write",
        ),
    ];
    for (settings, text, for_primary, reason) in table {
        let answer = stage.ask(settings, text).await;
        assert!(answer.outcome.is_ok(), "{text}: {answer:?}");
        let [(node, said)] = &answer.attempts[..] else { panic!("{text}: {answer:?}") };
        assert_eq!(
            (*node == primary, said.as_str()),
            (*for_primary, *reason),
            "{text} {settings:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_by_shape_names_its_node() {
    let stage = Stage::new().await;
    let [first, second] = &stage.replicas()[..] else { panic!("two replicas") };
    let mut seen = std::collections::BTreeSet::new();
    for number in 0..8 {
        // The shape, not the text.
        let answer = stage.ask(&[], &format!("SELECT a\nFROM cold WHERE a={number}")).await;
        assert_eq!(answer.attempts, [(second.clone(), "rule".to_owned())]);
        let other = stage.ask(&[], "select a from cold where a > 1").await;
        seen.extend(other.attempts.into_iter().map(|(node, _)| node));
    }
    assert!(
        seen.contains(first) && seen.contains(second),
        "other shapes go to every replica: {seen:?}"
    );
}
