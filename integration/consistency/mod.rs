//! Never older than your own writes, shown on a real cluster of three.
//!
//! Many sessions read and write through Causeway while replicas lag, stop and die. Everything they do is
//! noted, and two checkers, pure functions of the history, look for what must never be:
//!
//! - [`counters`]: single-writer counters. A session sees at least what it wrote (read-your-writes), what it
//!   saw (monotonic reads, across nodes), and what those had seen whose writes it saw (writes follow
//!   reads); with a token (`SHOW causeway.lsn`, `SET causeway.after_lsn`) what its giver knew, under a
//!   key (`SET causeway.session_key`) what all under it know, at level `global` every commit that was
//!   acknowledged to anyone.
//! - [`lists`]: transactions that append to lists and read them. G0, G1a, G1b, G1c, circles through sessions, torn
//!   snapshots, lost appends.
//!
//! Both are O(n) in what was done, and both know where each read was served: a read brings along what
//! its node says of itself, so that a violation is printed with node, position and snapshot.
//!
//! A *cell* ([`cell`]) is a fault ([`faults`]) and a `synchronous_commit`. In each the sessions speak the simple,
//! the extended (named and unnamed) and the pipelined protocol, and write in every way there is
//! ([`world::Form`]): nothing may be missed by a guess about what writes.
//!
//! | run | what |
//! |---|---|
//! | `make test` | every fault and every `synchronous_commit` once, a few seconds each; all mutants |
//! | `make consistency` | every fault with every `synchronous_commit`, 200,000 reads and 50,000 writes each; `CELLS="kill pause/off"` runs those whose names begin so |
//!
//! Tolerated are no violations and no errors, but for 40001 where a node died under a transaction of several
//! statements, and 08006 where one died in the middle of an answer. No read may have waited for a position for longer than
//! `catchup_wait` and a round trip, by the proxy's own clock: what a client sees on a busy machine is printed and not
//! judged. With healthy replicas, 64 sessions and 90 % reads replicas must serve 80 %.
//!
//! [`promises`] puts single promises to the proof while every replica is behind.
//!
//! That the checker can fail is shown by *mutants* ([`mutants`]): proxies that are wrong in one point. Each
//! must be caught in circumstances made for it, in which the proxy as it should be passes.

mod appending;
mod cell;
mod client;
mod counters;
mod counting;
mod cycles;
mod faults;
mod ground;
mod history;
mod levels;
mod lists;
mod mutants;
mod promises;
mod scene;
mod session;
mod world;

use std::time::Duration;

use causeway::cli::demo::cluster::{Cluster, ClusterOptions};
use causeway::cluster::mutant::Mutant;

use self::cell::{Cell, Goal, proxy_options};
use self::faults::{Commit, Fault};
use self::ground::Mix;

const MIX: Mix = Mix { reads: 78, placed: 20, tokens: 10, procedures: 2, pause: Duration::ZERO };

/// Nine reads in ten operations, put wherever the proxy likes, by clients that think in between.
const READERS: Mix =
    Mix { reads: 90, placed: 0, tokens: 0, procedures: 0, pause: Duration::from_millis(40) };

fn cluster() -> Cluster {
    let server_options = "-c max_prepared_transactions=100".into();
    Cluster::start(&ClusterOptions { replicas: 2, server_options }).expect("a cluster starts")
}

/// Every fault and every `synchronous_commit` once and shortly; or, where `CELLS` is set, all cells whose
/// names begin with one of its words, each in full.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_the_past() {
    let cluster = cluster();
    let mut broken = Vec::new();
    for cell in chosen_cells() {
        let report = cell.run(&cluster, &proxy_options()).await;
        println!("{}", report.summary());
        if !report.is_good() {
            println!("{}", report.details());
            broken.push(cell.name());
        }
        if !cell.label.is_empty() {
            report.judge_share(0.8);
        }
    }
    assert!(broken.is_empty(), "broken: {broken:?}");
}

fn chosen_cells() -> Vec<Cell> {
    let Ok(words) = std::env::var("CELLS") else { return short_cells() };
    let words: Vec<&str> = words.split_whitespace().collect();
    let wanted = |cell: &Cell| {
        let name = cell.name();
        words.is_empty() || words.iter().any(|word| name.starts_with(word))
    };
    let chosen: Vec<Cell> = whole_table().into_iter().filter(wanted).collect();
    assert!(!chosen.is_empty(), "no cell is named so: {words:?}");
    chosen
}

fn short_cells() -> Vec<Cell> {
    let goal = Goal { time: Duration::from_secs(4), reads: 1000, writes: 200 };
    let mix = Mix { pause: Duration::from_millis(5), ..MIX };
    let cells = [
        (Fault::Delay(Duration::from_millis(200)), Commit::Off),
        (Fault::Delay(Duration::from_secs(2)), Commit::On),
        (Fault::Pause, Commit::RemoteApply),
        (Fault::Restart, Commit::On),
        (Fault::Kill, Commit::RemoteWrite),
        (Fault::Receiver, Commit::Off),
        (Fault::SlowStandby, Commit::RemoteApply),
        (Fault::Clock, Commit::On),
    ];
    let cell = |(fault, commit)| Cell { label: "", fault, commit, sessions: 32, mix, goal };
    cells.map(cell).into()
}

/// Every fault with every `synchronous_commit`.
fn whole_table() -> Vec<Cell> {
    let goal = Goal { time: Duration::ZERO, reads: 200_000, writes: 50_000 };
    let mut cells = vec![readers(goal)];
    for fault in Fault::ALL {
        let cell = |commit| Cell { label: "", fault, commit, sessions: 64, mix: MIX, goal };
        cells.extend(Commit::ALL.map(cell));
    }
    cells
}

/// Replicas that nothing befalls, and clients that mostly read.
fn readers(goal: Goal) -> Cell {
    let (fault, commit) = (Fault::None, Commit::On);
    Cell { label: "readers-", fault, commit, sessions: 64, mix: READERS, goal }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_serve_the_reads() {
    let goal = Goal { time: Duration::from_secs(6), reads: 1000, writes: 100 };
    let report = readers(goal).run(&cluster(), &proxy_options()).await;
    report.judge();
    report.judge_share(0.8);
}

#[tokio::test(flavor = "multi_thread")]
async fn mutants_are_caught() {
    let cluster = cluster();
    let only = std::env::var("MUTANT").unwrap_or_default();
    let mut survived = Vec::new();
    for mutant in Mutant::ALL.iter().filter(|mutant| mutant.name().starts_with(&only)) {
        let (history, violations) = mutants::play(*mutant, &cluster, false).await;
        let traces: Vec<String> = violations.iter().map(|one| one.trace(&history)).collect();
        assert!(violations.is_empty(), "{}, unmutated:\n{}", mutant.name(), traces.join("\n"));
        let (history, violations) = mutants::play(*mutant, &cluster, true).await;
        println!("{}: {} violations", mutant.name(), violations.len());
        match violations.first() {
            Some(first) => println!("{}", first.trace(&history)),
            None => survived.push(mutant.name()),
        }
    }
    assert!(survived.is_empty(), "not caught: {survived:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_replica_has_shown_is_not_taken_back() {
    let cluster = cluster();
    let (history, violations) = mutants::play_last_words(&cluster, None).await;
    let traces: Vec<String> = violations.iter().map(|one| one.trace(&history)).collect();
    assert!(violations.is_empty(), "{}", traces.join("\n"));
    let (_, violations) = mutants::play_last_words(&cluster, Some(Mutant::NoBarrier)).await;
    assert!(!violations.is_empty(), "without a barrier it is not");
}
