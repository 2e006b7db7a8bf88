//! Every history up to a length, each world once: breadth first, so that what is found broken is found by
//! a shortest history.

use std::collections::HashSet;
use std::fmt;

use super::world::{Broken, Event, World};

/// What was gone through.
#[derive(Debug, Default)]
pub struct Explored {
    /// Worlds from which everything was tried that may happen.
    pub worlds: usize,
    /// Things that happened: to any of these worlds, each of the events.
    pub steps: usize,
    /// Reads that were let pass.
    pub reads: usize,
    /// Of the steps, those after a failover.
    pub after_failover: usize,
}

/// A history that breaks a promise.
#[derive(Debug)]
pub struct Counterexample {
    pub history: Vec<Event>,
    pub broken: Broken,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {:?}", self.broken, self.history)
    }
}

/// A world, and how it came about: its parent's place and the event.
struct Reached {
    world: World,
    before: Option<(usize, Event)>,
}

/// Goes through all worlds that so many of these events lead to, from the first on. `cares` leaves out
/// worlds of no interest.
pub fn explore(
    events: &[Event],
    depth: usize,
    cares: impl Fn(&World) -> bool,
) -> Result<Explored, Counterexample> {
    let mut known = HashSet::from([World::new().key()]);
    let mut reached = vec![Reached { world: World::new(), before: None }];
    let mut explored = Explored::default();
    let mut layer = 0..1;
    for length in 1..=depth {
        for parent in layer.clone() {
            for event in events {
                if !reached[parent].world.may_happen(*event) {
                    continue;
                }
                let mut world = reached[parent].world.clone();
                if let Err(broken) = world.happens(*event) {
                    let mut history = history(&reached, parent);
                    history.push(*event);
                    return Err(Counterexample { history, broken });
                }
                explored.steps += 1;
                explored.reads += world.reads() - reached[parent].world.reads();
                explored.after_failover += usize::from(world.has_failed_over());
                // What the last events lead to has been looked at and is left.
                if length < depth && cares(&world) && known.insert(world.key()) {
                    reached.push(Reached { world, before: Some((parent, *event)) });
                }
            }
        }
        layer = layer.end..reached.len();
    }
    explored.worlds = reached.len();
    Ok(explored)
}

fn history(reached: &[Reached], mut place: usize) -> Vec<Event> {
    let mut history = Vec::new();
    while let Some((parent, event)) = reached[place].before {
        history.push(event);
        place = parent;
    }
    history.reverse();
    history
}
