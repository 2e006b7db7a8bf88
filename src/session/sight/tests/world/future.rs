//! What the future of a world depends on: worlds with the same are one.
//!
//! After each event the moments are numbered anew, and ticks that nothing can ask for any more are
//! dropped; the rest is told as numbers. Changes nothing that a sight or a read could notice.

use super::super::super::*;
use super::{Moment, NODES, Session, World};

impl World {
    /// Drops the ticks that nothing can ask for any more, and numbers the moments that are left.
    pub(super) fn compress(&mut self) {
        let mut asked: Vec<Moment> = Vec::new();
        self.each_sight_moment(|at| asked.push(at));
        for ticks in &mut self.ticks {
            let first_after = |at: Moment| ticks.iter().position(|tick| tick.sent > at);
            let mut kept: Vec<usize> = asked.iter().filter_map(|at| first_after(*at)).collect();
            kept.extend(ticks.len().checked_sub(1));
            let mut place = 0;
            ticks.retain(|_| {
                place += 1;
                kept.contains(&(place - 1))
            });
        }
        let mut moments = asked;
        moments.extend(self.connected.iter().chain(&self.opened));
        for tick in self.ticks.iter().flatten() {
            moments.extend([tick.connected, tick.sent]);
        }
        moments.sort_unstable();
        moments.dedup();
        let rank = |at: Moment| {
            let place = moments.binary_search(&at).expect("every moment is there");
            Moment::try_from(place).expect("moments are few")
        };
        for at in self.connected.iter_mut().chain(&mut self.opened) {
            *at = rank(*at);
        }
        for tick in self.ticks.iter_mut().flatten() {
            (tick.connected, tick.sent) = (rank(tick.connected), rank(tick.sent));
        }
        let (base, now) = (self.base, moments.len());
        for at in self.sessions.iter_mut().flat_map(|session| sight_moments(&mut session.sight)) {
            let rank = rank(since(base, *at));
            *at = base + Duration::from_millis(rank.into());
        }
        self.now = Moment::try_from(now).expect("moments are few");
    }

    fn each_sight_moment(&self, mut what: impl FnMut(Moment)) {
        for Session { sight, .. } in &self.sessions {
            let pending = sight.pending.iter().map(|pending| pending.at);
            for at in
                pending.chain(sight.seen.iter().flat_map(|seen| [seen.when.from, seen.when.to]))
            {
                what(since(self.base, at));
            }
        }
    }

    /// All that the future depends on, as numbers.
    pub fn key(&self) -> Vec<u64> {
        let number = |count: usize| count as u64;
        let moment = |at: Moment| u64::from(at);
        let mut key = vec![number(self.primary), self.lost, number(self.switch.unwrap_or(99))];
        let mut list = |all: &mut dyn Iterator<Item = u64>| {
            let at = key.len();
            key.push(0);
            key.extend(all);
            key[at] = number(key.len() - at);
        };
        list(&mut self.log.iter().map(|commit| u64::from(*commit)));
        list(&mut self.waiting.iter().map(|place| number(*place)));
        for node in 0..NODES {
            let facts = [number(self.replayed[node]), u64::from(self.gone[node])];
            let moments = [self.connected[node], self.opened[node]].map(moment);
            list(&mut facts.into_iter().chain(moments));
            for tick in &self.ticks[node] {
                let role = u64::from(tick.role == Role::Primary);
                let counts = [tick.position, tick.bound, tick.newest, tick.next].map(number);
                let moments = [role, moment(tick.connected), moment(tick.sent)];
                let waiting = tick.waiting.iter().map(|place| number(*place));
                list(&mut counts.into_iter().chain(moments).chain(waiting));
            }
        }
        for Session { sight, known, .. } in &self.sessions {
            list(&mut [*known, u64::from(sight.era), sight.floor.0].into_iter());
            let pending = sight.pending.iter();
            let at = |at| moment(since(self.base, at));
            list(&mut pending.flat_map(|one| [u64::from(one.node.0), at(one.at)]));
            let mut seen: Vec<_> = sight.seen.iter().collect();
            seen.sort_unstable_by_key(|seen| seen.node);
            let numbers = |seen: &Seen| {
                let node = u64::from(seen.node.0);
                [node, at(seen.when.from), at(seen.when.to), seen.had.0]
            };
            list(&mut seen.into_iter().flat_map(numbers));
        }
        key
    }
}

fn since(base: Instant, at: Instant) -> Moment {
    let passed = at.checked_duration_since(base).expect("the model began before");
    Moment::try_from(passed.as_millis()).expect("a model's time is short")
}

fn sight_moments(sight: &mut Sight) -> impl Iterator<Item = &mut Instant> {
    let pending = sight.pending.iter_mut().map(|pending| &mut pending.at);
    let seen = sight.seen.iter_mut();
    pending.chain(seen.flat_map(|seen| [&mut seen.when.from, &mut seen.when.to]))
}
