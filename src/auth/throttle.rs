//! Logins that fail, by address: who has failed often is made to wait before it may try again.
//!
//! Pure but for its lock. An address of IPv6 is its /64, which is what one machine has. Bounded: when
//! too many addresses have failed of late, the oldest are forgotten.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// So many failures cost nothing: people mistype.
const FREE: u32 = 3;
/// The first wait; each further failure doubles it.
const FIRST: Duration = Duration::from_millis(250);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(8);
/// Failures are forgotten after so long without another.
const FORGET: Duration = Duration::from_secs(60);
/// Addresses remembered.
const MOST: usize = 10_000;

/// Failed logins by address.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<HashMap<IpAddr, Failures>>);

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Throttle {
    /// How long a login from there has to wait before it is heard.
    #[must_use]
    pub fn wait(&self, from: IpAddr, now: Instant) -> Duration {
        let failures = self.0.lock();
        let Some(failures) = failures.get(&source(from)) else { return Duration::ZERO };
        if failures.count <= FREE || now.duration_since(failures.last) > FORGET {
            return Duration::ZERO;
        }
        let doublings = (failures.count - FREE - 1).min(16);
        (FIRST * (1 << doublings)).min(LONGEST)
    }

    /// A login from there has failed.
    pub fn failed(&self, from: IpAddr, now: Instant) {
        let mut all = self.0.lock();
        if all.len() >= MOST {
            all.retain(|_, failures| now.duration_since(failures.last) <= FORGET);
            if all.len() >= MOST {
                let oldest = all.iter().min_by_key(|(_, failures)| failures.last).map(|(a, _)| *a);
                oldest.map(|address| all.remove(&address));
            }
        }
        let failures = all.entry(source(from)).or_insert(Failures { count: 0, last: now });
        if now.duration_since(failures.last) > FORGET {
            failures.count = 0;
        }
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
    }

    /// A login from there has succeeded.
    pub fn succeeded(&self, from: IpAddr) {
        self.0.lock().remove(&source(from));
    }
}

/// What counts as one source.
#[must_use]
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_often_waits_longer_and_longer() {
        let throttle = Throttle::default();
        let (now, from) = (Instant::now(), "192.0.2.1".parse().unwrap());
        let mut waits = Vec::new();
        for _ in 0..12 {
            throttle.failed(from, now);
            waits.push(throttle.wait(from, now).as_millis());
        }
        assert_eq!(waits, [0, 0, 0, 250, 500, 1000, 2000, 4000, 8000, 8000, 8000, 8000]);
        assert_eq!(throttle.wait("192.0.2.2".parse().unwrap(), now), Duration::ZERO);
        assert_eq!(throttle.wait(from, now + FORGET * 2), Duration::ZERO);
        throttle.failed(from, now + FORGET * 2);
        assert_eq!(throttle.wait(from, now + FORGET * 2), Duration::ZERO, "counted anew");
        throttle.succeeded(from);
        assert_eq!(throttle.0.lock().len(), 0);
    }

    #[test]
    fn a_machine_has_one_network_and_the_memory_is_bounded() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for host in 0..4 {
            throttle.failed(format!("2001:db8::{host}:1").parse().unwrap(), now);
        }
        assert!(throttle.wait("2001:db8::ffff".parse().unwrap(), now) > Duration::ZERO);
        assert_eq!(throttle.wait("2001:db8:0:1::1".parse().unwrap(), now), Duration::ZERO);
        for number in 0..20_000u32 {
            throttle.failed(IpAddr::from(number.to_be_bytes()), now);
        }
        assert!(throttle.0.lock().len() <= MOST);
    }
}
