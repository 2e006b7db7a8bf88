//! Sights before a model that knows the truth ([`world`]): every short history of two sessions, three nodes
//! and one failover ([`explore`]), long ones by chance, and the mutants of the rules, each of which the
//! model must catch.

mod explore;
mod world;

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use self::explore::{Counterexample, explore};
use self::world::{Event, World, id, xid};
use super::*;
use crate::cluster::mutant::among_tests::with;

const PRIMARY: NodeId = NodeId(0);

/// Everything that can happen to one session. What only mirrors another event is left out: the replicas
/// are alike.
const ONE_SESSION: [Event; 17] = [
    Event::Insert { shown: true },
    Event::Insert { shown: false },
    Event::Show,
    Event::Replay(1),
    Event::Replay(2),
    Event::Restart(1),
    Event::Open(1),
    Event::Tick(0),
    Event::Tick(1),
    Event::Tick(2),
    Event::TickMidway(1),
    Event::Promote(1),
    Event::Promote(2),
    Event::Primary { session: 0, writes: true },
    Event::Primary { session: 0, writes: false },
    Event::Replica { session: 0, node: 1 },
    Event::Replica { session: 0, node: 2 },
];

/// What a second adds.
const SECOND_SESSION: [Event; 7] = [
    Event::Key { from: 0, to: 1 },
    Event::Token { from: 0, to: 1 },
    Event::Key { from: 1, to: 0 },
    Event::Primary { session: 1, writes: true },
    Event::Primary { session: 1, writes: false },
    Event::Replica { session: 1, node: 1 },
    Event::Replica { session: 1, node: 2 },
];

fn all_events() -> Vec<Event> {
    ONE_SESSION.into_iter().chain(SECOND_SESSION).collect()
}

fn is_short(world: &World) -> bool {
    world.inserted() <= 3
}

/// `DEPTH=6` for histories of six events, which takes minutes.
#[test]
fn every_short_history_keeps_the_promise() {
    let depth = std::env::var("DEPTH").map_or(5, |depth| depth.parse().expect("a number"));
    let began = Instant::now();
    let explored = explore(&all_events(), depth, is_short);
    let explored = explored.unwrap_or_else(|found| panic!("{found}"));
    println!("{explored:?} in {:?}", began.elapsed());
    assert!(explored.reads > 10_000 && explored.after_failover > 10_000, "{explored:?}");
}

/// A history that chance makes: with what would only mirror the others, and with reads that promise nothing.
fn by_chance(seed: u64, length: usize) -> Result<usize, Counterexample> {
    let more = [
        Event::Restart(2),
        Event::Open(2),
        Event::TickMidway(2),
        Event::Token { from: 1, to: 0 },
        Event::Eventual { session: 0, node: 1 },
        Event::Eventual { session: 0, node: 2 },
        Event::Eventual { session: 1, node: 1 },
    ];
    let events: Vec<Event> = all_events().into_iter().chain(more).collect();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut world, mut history) = (World::new(), Vec::new());
    while history.len() < length && world.inserted() < 25 {
        let event = *events.choose(&mut random).expect("there are events");
        // One failover in a history, and not at its beginning.
        let early = matches!(event, Event::Promote(_)) && random.random_range(0..length) > 3;
        if early || !world.may_happen(event) {
            continue;
        }
        history.push(event);
        if let Err(broken) = world.happens(event) {
            return Err(Counterexample { history, broken });
        }
    }
    Ok(world.reads())
}

#[test]
fn long_histories_keep_the_promise() {
    let mut reads = 0;
    for seed in 0..1500 {
        reads += by_chance(seed, 100).unwrap_or_else(|found| panic!("{found}"));
    }
    assert!(reads > 5_000, "{reads}");
}

/// The rules without one of their parts are seen to be wrong.
#[test]
fn the_model_catches_every_mutant_of_the_rules() {
    for mutant in [
        Mutant::EarlySample,
        Mutant::FloorCleared,
        Mutant::CheckInRead,
        Mutant::NoBarrier,
        Mutant::StaleWatermark,
    ] {
        let found = with(mutant, || explore(&ONE_SESSION, 6, is_short).err());
        let found = found.unwrap_or_else(|| panic!("{mutant:?} is not caught"));
        assert!(found.broken.starts_with("node"), "{mutant:?}: {found}");
        println!("{mutant:?}: {found}");
    }
}

fn replica(node: usize) -> Event {
    Event::Replica { session: 0, node }
}

#[test]
fn a_session_that_waits_for_nothing_stays_and_one_that_is_told_moves() {
    let mut world = World::new();
    let mut at = |event| {
        let before = world.sessions[0].reads;
        world.happens(event).unwrap();
        world.sessions[0].reads > before
    };
    assert!(at(replica(1)), "nothing was seen yet");
    assert!(at(replica(1)), "where it was it may stay");
    assert!(!at(replica(2)), "nobody knows what the first has shown");
    at(Event::Tick(1));
    assert!(!at(replica(2)), "nobody knows what the second has");
    at(Event::Tick(2));
    assert!(at(replica(2)));
    at(Event::Open(2));
    assert!(!at(replica(2)), "the second may have restarted");
    at(Event::Tick(2));
    assert!(at(replica(2)));
}

#[test]
fn a_commit_that_only_a_replica_shows_holds_the_way_to_the_primary() {
    let mut world = World::new();
    for event in [
        Event::Insert { shown: false },
        Event::Replay(1),
        replica(1),
        Event::Tick(0),
        Event::Tick(1),
    ] {
        world.happens(event).unwrap();
    }
    let barrier = |world: &World| world.sessions[0].sight.barrier(PRIMARY, &world.topology());
    let Barrier::Doubts(node, _, xids) = barrier(&world) else { panic!("it passes") };
    assert_eq!((node, xids), (id(1), vec![xid(2)]));
    world.happens(Event::Show).unwrap();
    world.happens(Event::Tick(0)).unwrap();
    assert_eq!(barrier(&world), Barrier::Passes);
}

fn promoted(world: &World) -> Topology {
    let mut after = world.topology();
    after.timeline = Some(2);
    after.primary = Some(id(1));
    after.switches = Arc::new([Switch {
        ended: 1,
        restarted: false,
        at: Lsn(50),
        exact: true,
        last_ticks: world.topology().node(PRIMARY).clock.ticks(),
    }]);
    after
}

#[test]
fn lost_history_is_told_once_and_only_to_whom_it_concerns() {
    let world = World::new();
    let after = promoted(&world);
    let follow = |floor| {
        let mut sight = Sight::default();
        sight.raise(floor, &world.topology());
        let told = sight.follow(&after, world.now());
        assert_eq!(sight.follow(&after, world.now()), None, "told once");
        assert!(sight.floor() <= Lsn(50) && sight.pending().is_some());
        told
    };
    assert_eq!(follow(Lsn(50)), None);
    let lost = follow(Lsn(51)).unwrap();
    assert_eq!((lost.floor, lost.switch.at), (Some(Lsn(51)), Lsn(50)));
    assert_eq!(Sight::default().follow(&after, world.now()), None);
}

/// Of several ends of histories the least counts, whichever it was.
#[test]
fn what_the_second_of_two_failovers_has_lost_is_told_as_well() {
    let world = World::new();
    let mut after = promoted(&world);
    let second = Switch { ended: 2, at: Lsn(30), ..after.switches[0].clone() };
    after.switches = Arc::new([after.switches[0].clone(), second]);
    after.timeline = Some(3);
    for (floor, lost) in [(30, None), (40, Some(2)), (60, Some(2))] {
        let mut sight = Sight::default();
        sight.raise(Lsn(floor), &world.topology());
        let told = sight.follow(&after, world.now());
        assert_eq!(told.map(|lost| lost.switch.ended), lost, "{floor}");
        assert!(sight.floor() <= Lsn(30), "{floor}");
    }
}

/// What a crash takes from the primary no replica has had.
#[test]
fn a_crash_of_the_primary_loses_what_was_written_and_nothing_that_replicas_showed() {
    let world = World::new();
    let mut after = world.topology();
    let crash =
        Switch { ended: 1, restarted: true, at: Lsn(50), exact: true, last_ticks: Arc::default() };
    after.switches = Arc::new([crash]);
    let follow = |sight: &mut Sight| sight.follow(&after, world.now());
    let mut wrote = Sight::default();
    wrote.raise(Lsn(51), &world.topology());
    assert!(wrote.is_behind(&after) && wrote.proof(id(1), world.now(), &after).is_none());
    assert_eq!(follow(&mut wrote).unwrap().floor, Some(Lsn(51)));
    let mut pending = Sight::default();
    pending.on_primary(PRIMARY, world.now(), true, &world.topology());
    assert!(follow(&mut pending).is_some(), "nobody knows");
    let mut read = Sight::default();
    let when = Span::at(world.now());
    read.on_replica(id(1), when, Some(Lsn(40)), &world.topology());
    assert_eq!(follow(&mut read), None);
}

/// A replica that follows another history already proves nothing of this one.
#[test]
fn a_position_of_another_timeline_is_none() {
    let mut world = World::new();
    world.happens(Event::Tick(1)).unwrap();
    let topology = world.topology();
    let mut sight = Sight::default();
    sight.raise(Lsn(10), &topology);
    assert!(sight.allows(id(1), &topology));
    let clock = &topology.node(id(1)).clock;
    let before = (*clock.latest().unwrap()).clone();
    for (timeline, allowed) in [(Some(1), true), (Some(2), false), (None, true)] {
        clock.push(Tick { position: Lsn(60), timeline, ..before.clone() });
        assert_eq!(sight.allows(id(1), &topology), allowed, "{timeline:?}");
        let opened = before.sent.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(sight.proof(id(1), opened, &topology).is_some(), allowed, "{timeline:?}");
    }
}

/// Whoever the old primary's clock has ticked for since knows where its last request was.
#[test]
fn nothing_is_said_to_be_lost_that_is_known_to_be_kept() {
    for event in [Event::Primary { session: 0, writes: true }, replica(1), replica(2)] {
        for told in [true, false] {
            let mut world = World::new();
            world.happens(event).unwrap();
            if !told {
                world.happens(Event::Tick(0)).unwrap();
            }
            let (after, now) = (promoted(&world), world.now());
            let lost = world.sessions[0].sight.follow(&after, now);
            // Without a tick it is not known, also not whether the promoted one had lived on.
            assert_eq!(lost.is_some(), told, "{event:?}");
            assert_eq!(lost.and_then(|lost| lost.floor), None);
        }
    }
}

/// The answer of a primary that has been left behind is not waited for on its clock.
#[test]
fn an_answer_that_comes_after_the_promotion_is_of_the_old_timeline() {
    let world = World::new();
    let after = promoted(&world);
    let mut sight = Sight::default();
    sight.on_primary(PRIMARY, world.now(), true, &after);
    assert!(sight.follow(&after, world.now()).is_some(), "it may be lost");
    assert_eq!(sight.pending(), Some((id(1), world.now())));
}
