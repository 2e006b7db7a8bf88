//! The judge in scenes: samples with made-up clocks in, verdicts out.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::config::settings::Address;

const MS: Duration = Duration::from_millis(1);

fn limits() -> Limits {
    Limits {
        interval: 250 * MS,
        max_lag: 2000 * MS,
        max_lag_bytes: None,
        readmit_lag: 500 * MS,
        readmit_after: 3,
    }
}

/// A judge, a clock, and the changes that came of it.
struct Scene {
    judge: Judge,
    start: Instant,
    now: Instant,
    changes: Vec<Change>,
}

fn node(name: &str) -> settings::Node {
    let address = Address { host: name.to_owned(), port: 5432 };
    settings::Node { name: name.into(), address, weight: 1, zone: None }
}

impl Scene {
    fn of(nodes: usize) -> Self {
        let mut judge = Judge::new(limits());
        for number in 0..nodes {
            judge.add(&node(&format!("pg{number}"))).unwrap();
        }
        let start = Instant::now();
        Self { judge, start, now: start, changes: Vec::new() }
    }

    /// pg0 is the primary at 1000, the rest have replayed that.
    fn running(nodes: usize) -> Self {
        let mut scene = Self::of(nodes);
        scene.primary(0, 1, 1000);
        (1..nodes).for_each(|id| scene.replica(id, 1, 1000));
        let states = vec![NodeState::Up; nodes];
        assert_eq!(scene.states(), states, "{:?}", scene.changes);
        scene.changes.clear();
        scene
    }

    fn sample(&self, role: Role, timeline: u32, position: u64) -> Sample {
        Sample {
            role,
            system_identifier: 7,
            timeline,
            timeline_exact: true,
            position: Lsn(position),
            inserted: Lsn(position),
            torn: false,
            streamed: Lsn(position),
            paused: false,
            recovered_to: None,
            life: 1,
            server_version_num: 150_000,
            sent: self.now,
            received: self.now,
        }
    }

    fn give(&mut self, id: usize, sample: Sample) {
        let id = NodeId(u16::try_from(id).unwrap());
        self.changes.extend(self.judge.on_sample(id, sample, self.now));
    }

    fn primary(&mut self, id: usize, timeline: u32, position: u64) {
        let sample = self.sample(Role::Primary, timeline, position);
        self.give(id, sample);
    }

    fn replica(&mut self, id: usize, timeline: u32, position: u64) {
        let sample = self.sample(Role::Replica, timeline, position);
        self.give(id, sample);
    }

    fn fails(&mut self, id: usize) {
        let id = NodeId(u16::try_from(id).unwrap());
        self.changes.extend(self.judge.on_failure(id, "refused".to_owned(), self.now));
    }

    fn after(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
        self.changes.extend(self.judge.on_tick(self.now));
    }

    fn topology(&self) -> Topology {
        self.judge.topology(self.now)
    }

    fn states(&self) -> Vec<NodeState> {
        self.topology().nodes.iter().map(|node| node.state).collect()
    }

    fn state(&self, id: usize) -> NodeState {
        self.states()[id]
    }

    fn is_primary(&self) -> Option<u16> {
        self.topology().primary.map(|id| id.0)
    }

    fn said(&mut self) -> Vec<String> {
        let told = |change: Change| format!("{} {}", change.name, change.why);
        self.changes.drain(..).map(told).collect()
    }
}

#[test]
fn nobody_is_judged_before_all_were_heard_of() {
    let mut scene = Scene::of(3);
    scene.replica(1, 1, 1000);
    let mut foreign = scene.sample(Role::Primary, 5, 9000);
    foreign.system_identifier = 8;
    scene.give(0, foreign);
    assert_eq!((scene.is_primary(), scene.judge.settled()), (None, false));
    assert!(scene.changes.is_empty());
    scene.primary(2, 1, 1000);
    assert_eq!(scene.is_primary(), Some(2));
    assert_eq!(scene.states(), [NodeState::Banned, NodeState::Up, NodeState::Up]);
    assert_eq!(scene.topology().system_identifier, Some(7));
    let said = scene.said();
    assert!(said[1].contains("another cluster: its system identifier is 8"), "{said:?}");
}

#[test]
fn a_replica_behind_the_first_sample_waits_until_its_lag_is_known() {
    let mut scene = Scene::of(2);
    scene.primary(0, 1, 1000);
    scene.replica(1, 1, 900);
    assert_eq!(scene.state(1), NodeState::Ejected);
    assert_eq!(scene.topology().nodes[1].lag, None);
    scene.after(250);
    scene.primary(0, 1, 2000);
    scene.replica(1, 1, 1500);
    assert_eq!(scene.state(1), NodeState::Up, "the first sample whose lag is known admits");
    assert_eq!(scene.said().len(), 2);
}

#[test]
fn a_paused_replica_is_out_within_max_lag_and_two_intervals_and_comes_back() {
    let mut scene = Scene::running(3);
    let mut position = 1000;
    let mut out = None;
    for step in 1..=12 {
        scene.after(250);
        position += 500;
        scene.primary(0, 1, position);
        scene.replica(1, 1, 1000);
        scene.replica(2, 1, position);
        if out.is_none() && scene.state(1) == NodeState::Ejected {
            out = Some(step * 250);
        }
    }
    assert!(out.is_some_and(|ms| (2000..=2500).contains(&ms)), "{out:?}");
    assert_eq!(scene.state(2), NodeState::Up);
    let view = scene.topology().nodes[1].clone();
    assert_eq!((view.lag_bytes, view.lag), (6000, Some(3000 * MS)));
    let said = scene.said();
    assert_eq!(said, ["pg1 lags by 2s 250ms (3.9 KiB of WAL); max_lag is 2s"]);

    for good in 1..=3 {
        assert_eq!(scene.state(1), NodeState::Ejected, "{good}");
        scene.after(250);
        position += 500;
        scene.primary(0, 1, position);
        scene.replica(1, 1, position);
    }
    assert_eq!(scene.state(1), NodeState::Up);
    assert_eq!(scene.said(), ["pg1 caught up (lag 0s, 3 good samples in a row)"]);
}

#[test]
fn one_bad_sample_starts_the_count_again() {
    let mut scene = Scene::running(2);
    scene.after(1900);
    scene.primary(0, 1, 5000);
    scene.after(200);
    scene.primary(0, 1, 6000);
    scene.replica(1, 1, 1000);
    assert_eq!(scene.state(1), NodeState::Ejected);
    let mut position = 6000;
    for good in [true, true, false, true, true] {
        scene.after(600);
        position += 1000;
        scene.primary(0, 1, position);
        scene.after(100);
        scene.replica(1, 1, if good { position } else { position - 1 });
        assert_eq!(scene.state(1), NodeState::Ejected, "{position}");
    }
    scene.replica(1, 1, position);
    assert_eq!(scene.state(1), NodeState::Up);
}

#[test]
fn an_idle_primary_ejects_nobody() {
    let mut scene = Scene::running(2);
    for _ in 0..100 {
        scene.after(250);
        scene.primary(0, 1, 1000);
        scene.replica(1, 1, 1000);
    }
    assert_eq!(scene.said(), [] as [String; 0]);
}

#[test]
fn bytes_eject_as_well() {
    let mut scene = Scene::running(2);
    scene.judge.set_limits(Limits { max_lag_bytes: Some(100), ..limits() });
    scene.after(1);
    scene.primary(0, 1, 1101);
    assert_eq!(scene.state(1), NodeState::Ejected);
    assert_eq!(scene.said(), ["pg1 lags by 101 B of WAL; max_lag_bytes is 100 B"]);
}

#[test]
fn a_record_that_is_not_whole_is_not_held_against_a_replica() {
    let torn_for = |position, streamed, paused| {
        let mut scene = Scene::running(2);
        for _ in 0..20 {
            scene.after(250);
            let mut primary = scene.sample(Role::Primary, 1, 8192);
            (primary.torn, primary.inserted) = (true, Lsn(9000));
            scene.give(0, primary);
            let mut replica = scene.sample(Role::Replica, 1, position);
            (replica.streamed, replica.paused) = (Lsn(streamed), paused);
            scene.give(1, replica);
        }
        // The record becomes whole; the replica has its end a moment later.
        scene.after(250);
        scene.primary(0, 1, 9000);
        let before = scene.state(1);
        scene.replica(1, 1, position);
        assert_eq!(scene.state(1), before);
        before
    };
    assert_eq!(torn_for(8100, 8192, false), NodeState::Up);
    assert_eq!(torn_for(8100, 8192, true), NodeState::Ejected, "paused");
    assert_eq!(torn_for(8100, 8191, false), NodeState::Ejected, "has not received it");
    assert_eq!(torn_for(999, 8192, false), NodeState::Ejected, "behind the last whole end");
}

#[test]
fn silence_is_not_health() {
    let mut scene = Scene::running(2);
    for _ in 0..9 {
        scene.after(250);
        scene.primary(0, 1, 1000);
    }
    assert_eq!(scene.state(1), NodeState::Down);
    assert_eq!(scene.said(), ["pg1 has not answered for 2s 250ms"]);
}

#[test]
fn a_dead_primary_makes_nobody_fresh_and_nobody_stale() {
    let mut scene = Scene::running(3);
    scene.after(250);
    scene.primary(0, 1, 2000);
    scene.replica(1, 1, 2000);
    scene.replica(2, 1, 1900);
    scene.fails(0);
    assert_eq!((scene.is_primary(), scene.state(0)), (None, NodeState::Down));
    for _ in 0..40 {
        scene.after(250);
        scene.fails(0);
        scene.replica(1, 1, 2000);
        scene.replica(2, 1, 1900);
    }
    assert_eq!(scene.states(), [NodeState::Down, NodeState::Up, NodeState::Ejected]);
    assert!(scene.topology().nodes[1].lag.unwrap() < 300 * MS);
    let said = scene.said();
    assert_eq!(said[0], "pg0 cannot be reached: refused");
    assert!(said[1].starts_with("pg2 lags by 2s"), "{said:?}");
    assert_eq!(said.len(), 2);
}

#[test]
fn a_promotion_moves_the_writes_and_the_reads_follow() {
    let mut scene = Scene::running(3);
    scene.after(250);
    scene.fails(0);
    scene.replica(2, 1, 1000);
    scene.after(250);
    scene.primary(1, 2, 1100);
    assert_eq!(scene.is_primary(), Some(1));
    let topology = scene.topology();
    assert_eq!(
        (topology.timeline, topology.nodes[1].epoch, topology.nodes[2].epoch),
        (Some(2), 2, 1)
    );
    assert_eq!(scene.state(2), NodeState::Banned, "not yet seen on timeline 2");
    for _ in 0..3 {
        scene.after(250);
        scene.primary(1, 2, 1200);
        scene.replica(2, 2, 1200);
    }
    assert_eq!(scene.state(2), NodeState::Up);
    // The former primary comes back, unaware.
    scene.primary(0, 1, 1500);
    assert_eq!((scene.is_primary(), scene.state(0)), (Some(1), NodeState::Banned));
    let said = scene.said();
    assert!(said.last().unwrap().contains("pg_rewind"), "{said:?}");
    // ... and is rebuilt.
    for _ in 0..4 {
        scene.after(250);
        scene.primary(1, 2, 1200);
        let mut sample = scene.sample(Role::Replica, 2, 1200);
        sample.life = 2;
        scene.give(0, sample);
    }
    assert_eq!(scene.state(0), NodeState::Up);
}

#[test]
fn lost_history_is_told() {
    let mut scene = Scene::running(2);
    scene.after(100);
    scene.primary(0, 1, 3000);
    scene.fails(0);
    scene.primary(1, 2, 2000);
    let said = scene.said();
    assert!(
        said.iter().any(|line| line.contains("1000 B of WAL behind its predecessor")),
        "{said:?}"
    );
}

/// Whether its postmaster lives on or not: a backend that crashes takes the shared memory along.
#[test]
fn a_crash_of_the_primary_ends_a_history_and_a_clean_restart_does_not() {
    let mut scene = Scene::running(2);
    let mut restart = |life: i64, recovered_to: Option<u64>| {
        scene.after(250);
        let before = scene.topology();
        let mut sample = scene.sample(Role::Primary, 1, 3000);
        (sample.life, sample.recovered_to) = (life, recovered_to.map(Lsn));
        scene.give(0, sample);
        let after = scene.topology();
        assert_eq!(after.era() > before.era(), after.version > before.version && life != 2);
        after.switches.last().map(|switch| (switch.ended, switch.restarted, switch.at.0))
    };
    assert_eq!(restart(1, None), None);
    assert_eq!(restart(2, None), None, "stopped and started");
    assert_eq!(restart(3, Some(2000)), Some((1, true, 2000)));
    assert_eq!(restart(3, Some(2000)), Some((1, true, 2000)));
    assert_eq!(restart(3, Some(2500)), Some((1, true, 2500)), "in one life");
    assert_eq!(scene.topology().era(), 2);
}

#[test]
fn where_the_timeline_is_hidden_the_position_must_prove_it() {
    let mut scene = Scene::running(3);
    scene.fails(0);
    scene.primary(1, 2, 1100);
    let unsure = |position, scene: &mut Scene| {
        scene.after(250);
        scene.primary(1, 2, 1300);
        let mut sample = scene.sample(Role::Replica, 1, position);
        sample.timeline_exact = false;
        scene.give(2, sample);
        scene.state(2)
    };
    assert_eq!(unsure(1100, &mut scene), NodeState::Banned, "may be before the switch");
    assert_eq!(unsure(1250, &mut scene), NodeState::Banned, "may be anything");
    assert_eq!(unsure(1300, &mut scene), NodeState::Ejected, "exactly where the primary is");
    assert_eq!(unsure(1300, &mut scene), NodeState::Ejected);
    assert_eq!(unsure(1300, &mut scene), NodeState::Up);
}

#[test]
fn two_primaries_on_one_timeline_stop_the_writes() {
    let mut scene = Scene::running(3);
    scene.fails(0);
    scene.primary(1, 2, 1100);
    scene.primary(2, 2, 1200);
    assert_eq!(scene.is_primary(), None);
    assert_eq!(scene.states()[1..], [NodeState::Banned; 2]);
    scene.fails(1);
    scene.primary(2, 2, 1300);
    assert_eq!(scene.is_primary(), None, "the timeline's primary is only out of reach");
    scene.primary(1, 2, 1100);
    assert_eq!(scene.is_primary(), None);
    scene.replica(2, 2, 1100);
    assert_eq!(scene.is_primary(), Some(1), "the other went into recovery");
}

#[test]
fn a_replica_past_the_primary_has_another_history() {
    let mut scene = Scene::running(2);
    scene.replica(1, 1, 5000);
    assert_eq!(scene.state(1), NodeState::Up, "the primary may be there by now");
    scene.after(250);
    scene.primary(0, 1, 1100);
    assert_eq!(scene.state(1), NodeState::Banned);
    scene.primary(0, 1, 9000);
    scene.replica(1, 1, 9000);
    assert_eq!(scene.state(1), NodeState::Banned, "until it restarts");
    for _ in 0..3 {
        scene.after(1);
        let mut sample = scene.sample(Role::Replica, 1, 9000);
        sample.life = 2;
        scene.give(1, sample);
    }
    assert_eq!((scene.state(1), scene.topology().nodes[1].epoch), (NodeState::Up, 2));
}

#[test]
fn a_restart_raises_the_epoch_and_a_pause_does_not() {
    let mut scene = Scene::running(2);
    scene.fails(1);
    assert_eq!(scene.state(1), NodeState::Down);
    scene.replica(1, 1, 1000);
    assert_eq!((scene.state(1), scene.topology().nodes[1].epoch), (NodeState::Ejected, 1));
    let version = scene.topology().version;
    let mut sample = scene.sample(Role::Primary, 1, 1000);
    sample.life = 2;
    scene.give(0, sample);
    assert_eq!((scene.is_primary(), scene.topology().nodes[0].epoch), (Some(0), 2));
    assert!(scene.topology().version > version);
    let said = scene.said();
    assert_eq!(
        said,
        ["pg1 cannot be reached: refused", "pg1 answers, and is in recovery", "pg0 it restarted"]
    );
}

#[test]
fn a_removed_node_leaves_a_gap() {
    let mut scene = Scene::running(2);
    scene.changes = scene.judge.remove(NodeId(0), scene.now);
    assert_eq!((scene.is_primary(), scene.state(0)), (None, NodeState::Down));
    let id = scene.judge.add(&node("pg9")).unwrap();
    assert_eq!(id, NodeId(2));
    assert_eq!(scene.judge.find(&node("pg0")), None);
    scene.primary(2, 1, 1000);
    assert_eq!(scene.is_primary(), Some(2), "the same cluster under a new address");
    scene.primary(0, 1, 1000);
    assert_eq!(scene.is_primary(), Some(2), "a late answer of a removed node counts for nothing");
}

#[derive(Debug, Clone)]
enum Event {
    Answers { node: usize, role: Role, timeline: u32, position: u64, life: i64 },
    Fails(usize),
    Time(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let answers = (0..4usize, prop::bool::weighted(0.3), 1..4u32, 0..3000u64, 0..2i64);
    prop_oneof![
        6 => answers.prop_map(|(node, primary, timeline, position, life)| {
            let role = if primary { Role::Primary } else { Role::Replica };
            Event::Answers { node, role, timeline, position, life }
        }),
        1 => (0..4usize).prop_map(Event::Fails),
        4 => (1..1500u64).prop_map(Event::Time),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_it_fails_closed(events in prop::collection::vec(event(), 1..120)) {
        let mut scene = Scene::of(4);
        let (mut version, mut known) = (0, 0);
        for event in events {
            match event {
                Event::Answers { node, role, timeline, position, life } => {
                    let mut sample = scene.sample(role, timeline, position);
                    sample.life = life;
                    scene.give(node, sample);
                }
                Event::Fails(node) => scene.fails(node),
                Event::Time(ms) => scene.after(ms),
            }
            let topology = scene.topology();
            prop_assert!(topology.version >= version);
            version = topology.version;
            if let Some(timeline) = topology.timeline {
                prop_assert!(timeline >= known, "a timeline went back");
                known = timeline;
            }
            let silence = limits().silence();
            for node in topology.nodes.iter() {
                let sampled = node.sampled_at.map(|at| scene.now - at);
                if topology.primary == Some(node.id) {
                    prop_assert_eq!((node.role, node.state), (Role::Primary, NodeState::Up));
                    prop_assert!(sampled.unwrap() <= silence);
                    continue;
                }
                if node.state != NodeState::Up {
                    continue;
                }
                prop_assert_eq!(node.role, Role::Replica);
                prop_assert!(sampled.unwrap() <= silence, "silent and up");
                let fresh = node.lag_bytes == 0
                    || node.lag.is_some_and(|lag| lag <= limits().max_lag);
                prop_assert!(fresh, "{:?}", node);
            }
        }
        prop_assert!(scene.now >= scene.start);
    }
}
