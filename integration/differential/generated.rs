//! Sequences that nobody wrote: drawn from fragments, played on both stages, compared byte for byte.
//!
//! `PROPTEST_CASES` says how many; a failing one is made as short as it can be before it is shown.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::play::Stage;
use super::{first_difference, script, two_servers, world};
use crate::harness::{Proxy, shared_cluster};

/// Steps whose answers depend on nothing but the session and what it has written itself.
const STEPS: &[&str] = &[
    "Q SELECT 1",
    "Q SELECT n, s FROM t ORDER BY n LIMIT 2",
    "Q SELECT count(*) FROM w WHERE n = 900",
    "Q INSERT INTO w VALUES (900, 'x')",
    "Q DELETE FROM w WHERE n = 900",
    "Q BEGIN",
    "Q BEGIN READ ONLY",
    "Q BEGIN ISOLATION LEVEL SERIALIZABLE",
    "Q COMMIT",
    "Q ROLLBACK",
    "Q COMMIT AND CHAIN",
    "Q SAVEPOINT a",
    "Q ROLLBACK TO a",
    "Q RELEASE a",
    "Q SELECT 1/0",
    "Q SELEC",
    "Q ",
    "Q SET app.x = 'one'",
    "Q SET app.x = 'two'",
    "Q SET LOCAL app.x = 'local'",
    "Q RESET app.x",
    // Absent or empty: in a transaction that began without naming it, that cannot be kept apart
    // (docs/COMPATIBILITY.md); where it can, scenarios look.
    "Q SELECT coalesce(current_setting('app.x', true), '')",
    "Q SELECT set_config('app.x', 'three', false)",
    "Q SELECT set_config('app.x', 'four', true)",
    "Q SELECT setter('app.x', 'five')",
    "Q SET TimeZone = 'Asia/Tokyo'",
    "Q SET LOCAL TimeZone = 'Europe/Rome'",
    "Q RESET TimeZone",
    "Q RESET ALL",
    "Q DISCARD ALL",
    "Q SHOW TimeZone",
    "Q SET TimeZone = 'Asia/Tokyo'; SELECT current_setting('TimeZone'); SELECT 1/0",
    "Q SET search_path = other",
    "Q SET search_path = public",
    "Q SELECT count(*) FROM t",
    "Q SET ROLE diff_a",
    "Q RESET ROLE",
    "Q SELECT current_user",
    "Q SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "Q SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
    "Q SHOW transaction_read_only",
    "Q CREATE TEMP TABLE tt (n int)",
    "Q INSERT INTO tt VALUES (1)",
    "Q SELECT count(*) FROM tt",
    "Q DROP TABLE tt",
    "Q LISTEN here",
    "Q UNLISTEN *",
    "Q NOTIFY here, 'x'",
    "Q DECLARE c CURSOR FOR SELECT n FROM t ORDER BY n",
    "Q DECLARE c CURSOR WITH HOLD FOR SELECT n FROM t ORDER BY n",
    "Q FETCH 2 FROM c",
    "Q CLOSE c",
    "Q SELECT pg_advisory_lock(771); SELECT pg_advisory_unlock(771)",
    "Q SELECT pg_advisory_unlock(771)",
    "Q PREPARE s AS SELECT n FROM t WHERE n = 3",
    "Q PREPARE u (int) AS INSERT INTO w VALUES ($1) RETURNING n",
    "Q EXECUTE s",
    "Q EXECUTE u (900)",
    "Q DEALLOCATE s",
    "Q DEALLOCATE ALL",
    "Q SELECT name FROM pg_prepared_statements WHERE name IN ('s', 'u') ORDER BY 1",
    "P s SELECT n + 1 FROM t WHERE n = 3\n S",
    "P u SELECT set_config('app.x', 'bound', false)\n S",
    "P - SELECT current_setting('TimeZone')\n S",
    "P - INSERT INTO w VALUES (900)\n B - -\n E -\n S",
    "B - -\n E -\n S",
    "B - s\n E -\n S",
    "B - u\n E -\n S",
    "D S s\n S",
    "C S s\n S",
    "P - EXECUTE s\n D S -\n B - -\n E -\n S",
    "P - SELECT n FROM t ORDER BY n\n B p -\n E p 2\n E p 1\n S",
    "E p 2\n S",
    "P - SELECT 1\n B - -\n E -\n P - SELECT 1/0\n B - -\n E -\n S\n S",
    "P - BEGIN\n B - -\n E -\n S",
    "P - COMMIT\n B - -\n E -\n S",
    "P - SET app.x = 'piped'\n B - -\n E -\n P - SHOW app.x\n B - -\n E -\n S",
    "Q COPY w FROM STDIN\nawait G\nd 900\\tx\\n\n c\nawait Z",
    "Q COPY (SELECT n FROM t ORDER BY n LIMIT 2) TO STDOUT",
    "S",
];

/// What the start-up packet may say.
const STARTS: &[&str] = &[
    "",
    "start TimeZone=America/Lima\n",
    "start app.x=start\nstart application_name=me\n",
    "start options=-c search_path=other\n",
];

#[test]
fn generated_sessions_cannot_tell() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = shared_cluster();
    let (direct, through, _proxy) = runtime.block_on(async {
        let (plain, behind) = (world(cluster).await, world(cluster).await);
        let proxy = Proxy::start(cluster, &two_servers()).await;
        let direct = Stage::new(([127, 0, 0, 1], cluster.primary().port()).into(), plain);
        (direct, Stage::new(proxy.address, behind).before(cluster).await, proxy)
    });
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let config = Config {
        cases: cases.unwrap_or(40),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let sequence =
        (prop::sample::select(STARTS), prop::collection::vec(prop::sample::select(STEPS), 1..25));
    let outcome = TestRunner::new(config).run(&sequence, |(start, steps)| {
        // What one case has written the next would find.
        let text = format!(
            "# generated\n{start}{}\nQ ROLLBACK\nQ RESET ROLE\nQ DELETE FROM w",
            steps.join("\n")
        );
        let [scenario] = &script::parse(&text)[..] else { unreachable!("one scenario") };
        let (expected, found) =
            runtime.block_on(async { (direct.play(scenario).await, through.play(scenario).await) });
        match first_difference(&expected, &found) {
            Some(difference) if cannot_leave(&text, &difference) => Ok(()),
            Some(difference) => Err(TestCaseError::fail(format!("{text}\n\n{difference}"))),
            None => Ok(()),
        }
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

/// A read-only transaction with a cursor or a portal stays at its replica, and is refused what no standby
/// runs (docs/COMPATIBILITY.md).
fn cannot_leave(text: &str, difference: &str) -> bool {
    let (_, through) = difference.rsplit_once("through:").unwrap_or_default();
    let keeps = text.contains("DECLARE c") || text.contains("B p -");
    keeps && through.contains("C25006") && through.contains("during recovery")
}
