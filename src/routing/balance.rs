//! Which of the eligible replicas serves the next read.
//!
//! One balancer serves all workers, so that shares are fair over the whole process. It keeps no
//! list of nodes: eligibility is asked anew for each choice, from the topology at hand.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::cluster::{NodeId, NodeView, Topology};
use crate::config::settings::Balance;

/// Loads are kept for so many nodes; numbers beyond share a place, which only makes
/// `least_in_flight` and `lowest_latency` coarser.
const PLACES: usize = 256;
/// Reads that a node may have been spared, at most, before it gets every read that has a choice.
const DEBT_MOST: u64 = 256;
/// Whether sessions that have no choice are spread evenly is looked at once a node has had so many more
/// of their reads ...
const LOOK_READS: u64 = 128;
/// ... and this time has passed: to find out whether a session may move costs questions to all replicas.
const LOOK: Duration = Duration::from_millis(50);
/// So many more reads without a choice than elsewhere since the last look make a session move ...
const MOVE_LEAST: u64 = 32;
/// ... if they are this part of all that the node has had: chance makes small differences.
const MOVE_PART: u64 = 8;
/// A latency peak is forgotten to 1/e after this long.
const DECAY: Duration = Duration::from_secs(10);
/// 2^64 divided by the golden ratio: successive multiples fall evenly between each other.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Chooses replicas.
#[derive(Debug)]
pub struct Balancer {
    kind: Balance,
    turn: AtomicU64,
    /// When it was last looked whether sessions shall move.
    looked: Mutex<Option<Instant>>,
    loads: Box<[Load]>,
}

/// What a node has to bear now.
#[derive(Debug, Default)]
struct Load {
    in_flight: AtomicU32,
    /// Reads that had no choice but this node, and those that made up for such at others.
    forced: AtomicU64,
    /// What `forced` was at the last look.
    forced_then: AtomicU64,
    latency: Mutex<Option<Peak>>,
}

/// An exponentially weighted mean that jumps up at once and comes down slowly.
#[derive(Debug, Clone, Copy)]
struct Peak {
    seconds: f64,
    at: Instant,
}

/// A request under way on a node. Dropping it ends the request; [`InFlight::answered`] also tells
/// how long it took.
#[derive(Debug)]
#[must_use]
pub struct InFlight<'a> {
    load: &'a Load,
}

impl Load {
    /// Reads without a choice since the last look.
    fn since_look(&self) -> u64 {
        let then = self.forced_then.load(Ordering::Relaxed);
        self.forced.load(Ordering::Relaxed).saturating_sub(then)
    }
}

impl InFlight<'_> {
    /// The node answered after so long.
    pub fn answered(self, took: Duration, now: Instant) {
        let mut latency = self.load.latency.lock();
        let took = took.as_secs_f64();
        let mean = latency.map_or(took, |peak| peak.decayed(now).max(0.0));
        let seconds = if took > mean {
            took
        } else {
            let age = latency.map_or(0.0, |peak| peak.age(now));
            let keep = (-age / DECAY.as_secs_f64()).exp();
            mean.mul_add(keep, took * (1.0 - keep))
        };
        *latency = Some(Peak { seconds, at: now });
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Peak {
    fn age(self, now: Instant) -> f64 {
        now.saturating_duration_since(self.at).as_secs_f64()
    }

    /// The mean as it stands now, with no sample since.
    fn decayed(self, now: Instant) -> f64 {
        self.seconds * (-self.age(now) / DECAY.as_secs_f64()).exp()
    }
}

impl Balancer {
    /// A balancer of that kind.
    #[must_use]
    pub fn new(kind: Balance) -> Self {
        let loads = (0..PLACES).map(|_| Load::default()).collect();
        Self { kind, turn: AtomicU64::new(0), looked: Mutex::new(None), loads }
    }

    /// One of the replicas that are in rotation, `eligible` and `fresh`; `None` if there is none. A
    /// session that has to stay where it was, since only that replica is fresh enough for it,
    /// leaves a debt that those who may go anywhere even out.
    pub fn choose(
        &self,
        topology: &Topology,
        eligible: impl Fn(&NodeView) -> bool,
        fresh: impl Fn(&NodeView) -> bool,
        now: Instant,
    ) -> Option<NodeId> {
        let mut candidates: SmallVec<[&NodeView; 16]> =
            topology.eligible_replicas().filter(|node| eligible(node)).collect();
        let most = candidates.len();
        candidates.retain(|node| fresh(node));
        match &candidates[..] {
            [] => None,
            // No turn is taken where there is no choice, lest such requests skew the others.
            [only] => {
                if most > 1 {
                    self.load(only.id).forced.fetch_add(1, Ordering::Relaxed);
                }
                Some(only.id)
            }
            several => Some(match self.kind {
                Balance::RoundRobin => {
                    self.least_forced(several).unwrap_or_else(|| self.next_in_turn(several))
                }
                Balance::Weighted => self.by_weight(several),
                Balance::LeastInFlight => self.least_in_flight(several),
                Balance::LowestLatency => self.lowest_latency(several, now),
            }),
        }
    }

    /// Where a session shall go that must stay at `from`, as far as is known, if it finds out that it
    /// may: too many others had to stay there as well. One at a time, lest all move at once.
    #[must_use]
    pub fn would_move(
        &self,
        from: NodeId,
        topology: &Topology,
        eligible: impl Fn(&NodeView) -> bool,
        now: Instant,
    ) -> Option<NodeId> {
        if !matches!(self.kind, Balance::RoundRobin) || self.load(from).since_look() < LOOK_READS {
            return None;
        }
        let mut looked = self.looked.try_lock()?;
        if looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK) {
            return None;
        }
        let since_look = |node: &&NodeView| self.load(node.id).since_look();
        let here = self.load(from).since_look();
        if topology.eligible_replicas().any(|node| since_look(&node) > here) {
            return None;
        }
        *looked = Some(now);
        let others = topology.eligible_replicas().filter(|node| node.id != from && eligible(node));
        let target = others.min_by_key(since_look).filter(|least| {
            let behind = here.saturating_sub(since_look(least));
            behind >= MOVE_LEAST && behind >= here / MOVE_PART
        });
        for node in topology.eligible_replicas() {
            let load = self.load(node.id);
            load.forced_then.store(load.forced.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        target.map(|target| target.id)
    }

    /// Whether it chooses by what nodes have to bear, and so must be told.
    #[must_use]
    pub fn weighs_loads(&self) -> bool {
        matches!(self.kind, Balance::LeastInFlight | Balance::LowestLatency)
    }

    /// Counts a request on a node from now until the returned value is dropped.
    pub fn begin(&self, node: NodeId) -> InFlight<'_> {
        let load = self.load(node);
        load.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { load }
    }

    fn turn(&self) -> u64 {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    fn load(&self, node: NodeId) -> &Load {
        &self.loads[usize::from(node.0) % PLACES]
    }

    fn next_in_turn(&self, several: &[&NodeView]) -> NodeId {
        several[index(self.turn() % several.len() as u64)].id
    }

    /// The node that has had the fewest reads without a choice, if that is not the same for all. What is
    /// older than the last [`DEBT_MOST`] is forgiven: a node that comes back is not flooded.
    fn least_forced(&self, several: &[&NodeView]) -> Option<NodeId> {
        let forced = |node: &NodeView| self.load(node.id).forced.load(Ordering::Relaxed);
        let most = several.iter().map(|node| forced(node)).max()?;
        let least = several.iter().min_by_key(|node| forced(node))?;
        let behind = most - forced(least).min(most);
        if behind == 0 {
            return None;
        }
        let forgiven = behind.saturating_sub(DEBT_MOST);
        self.load(least.id).forced.fetch_add(forgiven + 1, Ordering::Relaxed);
        Some(least.id)
    }

    /// Points along the weights laid end to end, each falling into the widest gap of those before.
    fn by_weight(&self, several: &[&NodeView]) -> NodeId {
        let total: u64 = several.iter().map(|node| u64::from(node.weight)).sum();
        if total == 0 {
            return self.next_in_turn(several);
        }
        let fraction = self.turn().wrapping_mul(GOLDEN);
        let scaled = (u128::from(fraction) * u128::from(total)) >> 64;
        let mut point = u64::try_from(scaled).unwrap_or(0);
        for node in several {
            let weight = u64::from(node.weight);
            if point < weight {
                return node.id;
            }
            point -= weight;
        }
        several[0].id
    }

    /// The least loaded; among equals the one whose turn it is.
    fn least_in_flight(&self, several: &[&NodeView]) -> NodeId {
        let start = index(self.turn() % several.len() as u64);
        let order = several[start..].iter().chain(&several[..start]);
        let load = |node: &&&NodeView| self.load(node.id).in_flight.load(Ordering::Relaxed);
        order.min_by_key(load).map_or(several[0].id, |node| node.id)
    }

    /// Two at random; the one with the lower latency for the requests it already has.
    fn lowest_latency(&self, several: &[&NodeView], now: Instant) -> NodeId {
        let chance = mix(self.turn());
        let count = several.len() as u64;
        let first = chance % count;
        let second = (first + 1 + (chance >> 32) % (count - 1)) % count;
        let [first, second] = [several[index(first)], several[index(second)]];
        if self.cost(second, now) < self.cost(first, now) { second.id } else { first.id }
    }

    fn cost(&self, node: &NodeView, now: Instant) -> f64 {
        let load = self.load(node.id);
        let queue = f64::from(load.in_flight.load(Ordering::Relaxed)) + 1.0;
        // A node not yet measured is tried: nothing is cheaper.
        let latency = load.latency.lock().map_or(0.0, |peak| peak.decayed(now));
        latency * queue
    }
}

/// An index below a slice's length, as `usize`.
fn index(below: u64) -> usize {
    usize::try_from(below).unwrap_or(0)
}

/// `SplitMix64`: spreads a counter over all bits.
const fn mix(counter: u64) -> u64 {
    let mut z = counter.wrapping_add(1).wrapping_mul(GOLDEN);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use super::*;
    use crate::cluster::{Lsn, NodeState, Role};
    use crate::config::settings::Address;

    /// A primary (node 0) and replicas with these weights.
    fn cluster(weights: &[u32]) -> Topology {
        let node = |(number, weight): (usize, &u32)| NodeView {
            id: NodeId(u16::try_from(number).unwrap()),
            name: format!("n{number}").into(),
            address: Address { host: "127.0.0.1".into(), port: 1 },
            weight: *weight,
            zone: None,
            role: if number == 0 { Role::Primary } else { Role::Replica },
            state: NodeState::Up,
            removed: false,
            epoch: 1,
            position: Lsn(1),
            lag_bytes: 0,
            lag: None,
            sampled_at: None,
            server_version_num: None,
            clock: Arc::default(),
        };
        let nodes: Arc<[_]> = [1].iter().chain(weights).enumerate().map(node).collect();
        Topology {
            version: 1,
            primary: Some(NodeId(0)),
            system_identifier: None,
            timeline: None,
            switches: Arc::new([]),
            nodes,
        }
    }

    fn shares(
        balancer: &Balancer,
        topology: &Topology,
        reads: usize,
        eligible: impl Fn(&NodeView) -> bool + Copy,
    ) -> HashMap<u16, usize> {
        let mut shares = HashMap::new();
        for _ in 0..reads {
            let node = balancer.choose(topology, eligible, |_| true, Instant::now()).unwrap();
            *shares.entry(node.0).or_default() += 1;
        }
        shares
    }

    #[test]
    fn round_robin_is_strict_over_all_workers() {
        let (balancer, topology) = (Balancer::new(Balance::RoundRobin), cluster(&[1, 1, 1]));
        let workers: Vec<_> = std::thread::scope(|scope| {
            let run = || scope.spawn(|| shares(&balancer, &topology, 750, |_| true));
            let running: Vec<_> = (0..4).map(|_| run()).collect();
            running.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        let total = |node| workers.iter().filter_map(|one| one.get(&node)).sum::<usize>();
        assert_eq!([total(0), total(1), total(2), total(3)], [0, 1000, 1000, 1000]);
    }

    #[test]
    fn stays_fair_when_the_eligible_set_changes() {
        let (balancer, topology) = (Balancer::new(Balance::RoundRobin), cluster(&[1, 1, 1]));
        shares(&balancer, &topology, 100, |_| true);
        let two = shares(&balancer, &topology, 1000, |node| node.id.0 != 2);
        assert_eq!((two.get(&1), two.get(&2), two.get(&3)), (Some(&500), None, Some(&500)));
        let three = shares(&balancer, &topology, 3000, |_| true);
        assert!(three.values().all(|count| (995..=1005).contains(count)), "{three:?}");
        // A request that has no choice takes no turn from those that have.
        let mut counts = HashMap::<u16, usize>::new();
        for _ in 0..500 {
            balancer.choose(&topology, |node| node.id.0 == 1, |_| true, Instant::now());
            let free = balancer
                .choose(&topology, |node| node.id.0 != 3, |_| true, Instant::now())
                .unwrap();
            *counts.entry(free.0).or_default() += 1;
        }
        assert_eq!((counts[&1], counts[&2]), (250, 250));
        assert_eq!(balancer.choose(&topology, |_| false, |_| true, Instant::now()), None);
    }

    #[test]
    fn who_has_a_choice_evens_out_what_others_could_not_choose() {
        let (balancer, topology) = (Balancer::new(Balance::RoundRobin), cluster(&[1, 1]));
        let mut counts = HashMap::<u16, usize>::new();
        let mut read = |fresh: &dyn Fn(&NodeView) -> bool| {
            let node = balancer.choose(&topology, |_| true, fresh, Instant::now()).unwrap();
            *counts.entry(node.0).or_default() += 1;
        };
        // Three of four reads are bound to one node; every fourth has a choice.
        for number in 0..400 {
            if number % 4 == 0 { read(&|_| true) } else { read(&|node| node.id.0 == 1) }
        }
        assert_eq!((counts[&1], counts[&2]), (301, 99));
        // After a long time on one node the other is not flooded for as long.
        let mut counts = HashMap::<u16, usize>::new();
        for _ in 0..10_000 {
            balancer.choose(&topology, |_| true, |node| node.id.0 == 1, Instant::now());
        }
        for _ in 0..1000 {
            let node = balancer.choose(&topology, |_| true, |_| true, Instant::now()).unwrap();
            *counts.entry(node.0).or_default() += 1;
        }
        assert!((620..=630).contains(&counts[&2]), "{counts:?}");
    }

    /// Sessions that are bound to where they are, `reads[n]` of each in a look, and how many have moved
    /// after so many looks.
    fn moves(mut reads: Vec<(u16, usize)>, looks: usize) -> (usize, Vec<usize>) {
        let (balancer, topology) = (Balancer::new(Balance::RoundRobin), cluster(&[1, 1]));
        let (start, mut moved) = (Instant::now(), 0);
        for look in 0..looks {
            let now = start + LOOK * u32::try_from(look).unwrap();
            let most = reads.iter().map(|(_, reads)| *reads).max().unwrap();
            for number in 0..most {
                for (node, reads) in &mut reads {
                    if number >= *reads {
                        continue;
                    }
                    let bound = |view: &NodeView| view.id.0 == *node;
                    balancer.choose(&topology, |_| true, bound, now);
                    if let Some(target) =
                        balancer.would_move(NodeId(*node), &topology, |_| true, now)
                    {
                        (*node, moved) = (target.0, moved + 1);
                    }
                }
            }
        }
        (moved, [1, 2].map(|at| reads.iter().filter(|(node, _)| *node == at).count()).to_vec())
    }

    #[test]
    fn sessions_that_stay_where_they_are_are_spread_and_then_left_alone() {
        assert_eq!(moves(vec![(1, 100); 8], 20), (4, vec![4, 4]));
        let even = [vec![(1, 100); 4], vec![(2, 103); 4]].concat();
        assert_eq!(moves(even, 100), (0, vec![4, 4]));
        // Of three on two nodes one goes to and fro, once a look at most.
        let (moved, _) = moves(vec![(1, 200), (1, 200), (2, 200)], 100);
        assert!((20..=100).contains(&moved), "{moved}");
    }

    #[test]
    fn weights_are_kept_within_two_percent() {
        let (balancer, topology) = (Balancer::new(Balance::Weighted), cluster(&[1, 2, 7]));
        let shares = shares(&balancer, &topology, 3000, |_| true);
        for (node, expected) in [(1, 300.0), (2, 600.0), (3, 2100.0)] {
            let count = f64::from(u32::try_from(shares[&node]).unwrap());
            assert!((count - expected).abs() < 60.0, "{shares:?}");
        }
    }

    #[test]
    fn the_least_loaded_is_chosen_and_equals_share() {
        let (balancer, topology) = (Balancer::new(Balance::LeastInFlight), cluster(&[1, 1]));
        let busy = balancer.begin(NodeId(1));
        assert_eq!(shares(&balancer, &topology, 10, |_| true).get(&2), Some(&10));
        drop(busy);
        let even = shares(&balancer, &topology, 10, |_| true);
        assert_eq!((even[&1], even[&2]), (5, 5));
    }

    #[test]
    fn a_slow_node_is_avoided_until_its_peak_has_decayed() {
        let (balancer, topology) = (Balancer::new(Balance::LowestLatency), cluster(&[1, 1]));
        let start = Instant::now();
        balancer.begin(NodeId(1)).answered(Duration::from_millis(500), start);
        balancer.begin(NodeId(2)).answered(Duration::from_millis(1), start);
        let choose = |now| {
            (0..100)
                .filter(|_| balancer.choose(&topology, |_| true, |_| true, now) == Some(NodeId(1)))
                .count()
        };
        assert_eq!(choose(start), 0);
        let mut now = start;
        for _ in 0..200 {
            now += Duration::from_secs(1);
            balancer.begin(NodeId(1)).answered(Duration::from_micros(900), now);
            balancer.begin(NodeId(2)).answered(Duration::from_millis(1), now);
        }
        assert!(choose(now) > 0);
    }
}
