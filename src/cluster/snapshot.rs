//! A snapshot of transactions as PostgreSQL shows it (`pg_snapshot`, `src/backend/utils/adt/xid8funcs.c`):
//! which have ended, and which have not. Pure.

/// `xmin:xmax:xip`: what is below `xmin` has ended; what is at or past `xmax`, or in `running`, has not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// The oldest transaction that had not ended.
    pub xmin: u64,
    /// One past the newest that had.
    pub xmax: u64,
    /// Those in between that had not ended, rising. Empty on a replica, which does not show them.
    pub running: Box<[u64]>,
}

/// Most transactions whose fate is asked for one by one.
pub const DOUBTS_MOST: usize = 1024;

impl Snapshot {
    /// Reads PostgreSQL's text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (xmin, rest) = text.split_once(':')?;
        let (xmax, running) = rest.split_once(':')?;
        let running = match running {
            "" => Box::default(),
            list => list.split(',').map(str::parse).collect::<Result<_, _>>().ok()?,
        };
        Some(Self { xmin: xmin.parse().ok()?, xmax: xmax.parse().ok()?, running })
    }

    /// Whether every transaction below `xid` has ended.
    #[must_use]
    pub fn has_all_below(&self, xid: u64) -> bool {
        self.xmin >= xid || self.doubts(xid).next().is_none()
    }

    /// The transactions below `xid` that had not ended here, rising.
    pub fn doubts(&self, xid: u64) -> impl Iterator<Item = u64> + '_ {
        let running = self.running.iter().copied().take_while(move |running| *running < xid);
        running.chain(self.xmax..xid.max(self.xmax))
    }

    /// Whether this transaction has ended.
    #[must_use]
    pub fn has_ended(&self, xid: u64) -> bool {
        xid < self.xmin || xid < self.xmax && self.running.binary_search(&xid).is_err()
    }
}

/// The next transaction id that will be given, in full, from its low half (`age('3')` tells it) and
/// a snapshot taken with it: it is at or past `xmax`, by less than 2^31.
#[must_use]
pub fn full_xid(low: u32, xmax: u64) -> u64 {
    let full = xmax & !0xFFFF_FFFF | u64::from(low);
    if full < xmax { full + (1 << 32) } else { full }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_postgresql_writes() {
        let read = |text| Snapshot::parse(text).unwrap();
        assert_eq!(read("795:799:"), Snapshot { xmin: 795, xmax: 799, running: Box::default() });
        assert_eq!(*read("795:799:795,797").running, [795, 797]);
        for wrong in ["", "1", "1:2", "a:2:", "1:b:", "1:2:x", "1:2:,"] {
            assert_eq!(Snapshot::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_next_id_is_past_the_newest_that_ended() {
        assert_eq!(full_xid(800, 799), 800);
        assert_eq!(full_xid(799, 799), 799);
        assert_eq!(full_xid(5, 0x1_FFFF_FFF0), 0x2_0000_0005);
        assert_eq!(full_xid(0xFFFF_FFF5, 0x1_FFFF_FFF0), 0x1_FFFF_FFF5);
    }

    proptest! {
        /// Against the definition, transaction by transaction.
        #[test]
        fn doubts_are_what_has_not_ended(
            xmax in 3_u64..60,
            mut running in proptest::collection::vec(3_u64..60, 0..8),
            xid in 3_u64..70,
        ) {
            running.retain(|running| *running < xmax);
            running.sort_unstable();
            running.dedup();
            let xmin = running.first().copied().unwrap_or(xmax);
            let snapshot = Snapshot { xmin, xmax, running: running.clone().into() };
            let ended = |xid: u64| xid < xmax && !running.contains(&xid);
            let doubts: Vec<u64> = (3..xid).filter(|xid| !ended(*xid)).collect();
            prop_assert_eq!(snapshot.doubts(xid).collect::<Vec<_>>(), doubts.clone());
            prop_assert_eq!(snapshot.has_all_below(xid), doubts.is_empty());
            for xid in 3..70 {
                prop_assert_eq!(snapshot.has_ended(xid), ended(xid));
            }
        }
    }
}
