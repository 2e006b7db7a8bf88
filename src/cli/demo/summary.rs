//! The end of a demo: what was served where, and whether that is as promised.

use std::fmt;

use super::screen::{Row, Totals};

/// Everything that the verdict is made of.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// The nodes at the end, by their own account.
    pub rows: Vec<Row>,
    /// What the clients saw.
    pub totals: Totals,
    /// The first few failures in words.
    pub failures: Vec<String>,
    /// Ejections that the proxy counted.
    pub ejections: u64,
    /// Whether a replica was made to lag, and if so, whether it was ejected and came back.
    pub lag_shown: Option<LagShown>,
}

/// How the lagging replica fared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LagShown {
    /// It was seen ejected.
    pub ejected: bool,
    /// It was seen up after that.
    pub readmitted: bool,
}

/// What a demo can show that must not be.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// A replica was sent something that it had to refuse.
    WriteOnReplica {
        /// The node.
        node: String,
        /// How often.
        times: i64,
    },
    /// Statements of clients failed.
    Failed(u64),
    /// A replica served less than a tenth of the reads.
    NotShared {
        /// The node.
        node: String,
        /// Its part of all reads, in percent.
        percent: f64,
    },
    /// More than a tenth of the reads went to the primary though replicas were up.
    PrimaryRead {
        /// Its part of all reads, in percent.
        percent: f64,
    },
    /// The nodes together account for fewer statements than clients had answers.
    Unaccounted {
        /// By the nodes' own account.
        served: i64,
        /// By the clients'.
        answered: u64,
    },
    /// The lagging replica stayed in.
    NotEjected,
    /// The replica that had caught up stayed out.
    NotReadmitted,
    /// Nothing was read or nothing was written.
    Idle,
}

impl Summary {
    /// Everything that is not as promised.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "percentages of counts")]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.totals.reads == 0 || self.totals.writes == 0 {
            faults.push(Fault::Idle);
        }
        if self.totals.failed > 0 {
            faults.push(Fault::Failed(self.totals.failed));
        }
        let reads: i64 = self.rows.iter().map(|row| row.account.reads).sum();
        let percent = |row: &Row| row.account.reads as f64 * 100.0 / reads.max(1) as f64;
        let replicas = self.rows.iter().filter(|row| row.role == "replica").count();
        for row in &self.rows {
            if row.role == "primary" {
                if replicas > 0 && percent(row) > 10.0 {
                    faults.push(Fault::PrimaryRead { percent: percent(row) });
                }
                continue;
            }
            let node = row.name.clone();
            if row.account.refused > 0 {
                faults.push(Fault::WriteOnReplica { node, times: row.account.refused });
            } else if percent(row) < 10.0 {
                faults.push(Fault::NotShared { node, percent: percent(row) });
            }
        }
        let writes = self.rows.iter().filter(|row| row.role == "primary");
        let writes: i64 = writes.map(|row| row.account.writes).sum();
        for (served, answered) in [(reads, self.totals.reads), (writes, self.totals.writes)] {
            if served.cast_unsigned() < answered {
                faults.push(Fault::Unaccounted { served, answered });
            }
        }
        match self.lag_shown {
            Some(LagShown { ejected: false, .. }) => faults.push(Fault::NotEjected),
            Some(LagShown { readmitted: false, .. }) => faults.push(Fault::NotReadmitted),
            _ => {}
        }
        faults
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nSummary, by the nodes' own statistics:")?;
        for row in &self.rows {
            writeln!(
                f,
                "  {:<10} {:<8} {:>8} reads {:>8} writes {:>4} refused",
                row.name, row.role, row.account.reads, row.account.writes, row.account.refused
            )?;
        }
        writeln!(
            f,
            "  clients: {} reads and {} writes answered, {} statements failed",
            self.totals.reads, self.totals.writes, self.totals.failed
        )?;
        writeln!(f, "  ejections: {}", self.ejections)?;
        for failure in &self.failures {
            writeln!(f, "  failed: {failure}")?;
        }
        let faults = self.faults();
        for fault in &faults {
            writeln!(f, "  WRONG: {fault}")?;
        }
        if faults.is_empty() {
            let on_primary: i64 = self
                .rows
                .iter()
                .filter(|row| row.role == "primary")
                .map(|row| row.account.reads)
                .sum();
            return match on_primary {
                0 => {
                    writeln!(f, "  All reads shared by the replicas, every write on the primary.")
                }
                few => writeln!(
                    f,
                    "  Every write on the primary, all reads shared by the replicas but {few}, for which \
                     no replica was fresh enough at once."
                ),
            };
        }
        Ok(())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WriteOnReplica { node, times } => {
                write!(f, "{node} was sent {times} statements that it had to refuse")
            }
            Self::Failed(times) => write!(f, "{times} statements failed"),
            Self::NotShared { node, percent } => {
                write!(f, "{node} served only {percent:.1} % of the reads")
            }
            Self::PrimaryRead { percent } => {
                write!(f, "the primary served {percent:.1} % of the reads")
            }
            Self::Unaccounted { served, answered } => {
                write!(f, "clients had {answered} answers, the nodes account for {served}")
            }
            Self::NotEjected => f.write_str("the lagging replica was not ejected"),
            Self::NotReadmitted => f.write_str("the replica that caught up was not readmitted"),
            Self::Idle => f.write_str("nothing was read, or nothing was written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::witness::Account;
    use super::*;

    fn good() -> Summary {
        let row = |name: &str, role: &str, reads, writes| Row {
            name: name.into(),
            role: role.into(),
            account: Account { reads, writes, refused: 0 },
            ..Row::default()
        };
        Summary {
            rows: vec![
                row("primary", "primary", 0, 50),
                row("replica1", "replica", 60, 0),
                row("replica2", "replica", 40, 0),
            ],
            totals: Totals { reads: 100, writes: 50, failed: 0 },
            lag_shown: Some(LagShown { ejected: true, readmitted: true }),
            ..Summary::default()
        }
    }

    #[test]
    fn a_good_run_has_no_faults() {
        assert_eq!(good().faults(), []);
    }

    #[test]
    fn what_the_primary_read_is_said() {
        let mut summary = good();
        assert!(
            summary
                .to_string()
                .ends_with("All reads shared by the replicas, every write on the primary.\n")
        );
        summary.rows[0].account.reads = 3;
        assert!(
            summary.to_string().contains("replicas but 3, for which no replica was fresh"),
            "{summary}"
        );
    }

    #[test]
    fn each_promise_is_held_against_the_counts() {
        let faults = |change: fn(&mut Summary)| {
            let mut summary = good();
            change(&mut summary);
            summary.faults()
        };
        assert_eq!(faults(|s| s.totals.failed = 2), [Fault::Failed(2)]);
        let refused = Fault::WriteOnReplica { node: "replica1".into(), times: 1 };
        assert_eq!(faults(|s| s.rows[1].account.refused = 1), [refused]);
        let idle = Fault::NotShared { node: "replica2".into(), percent: 0.0 };
        assert_eq!(
            faults(|s| (s.rows[1].account.reads, s.rows[2].account.reads) = (100, 0)),
            [idle]
        );
        let primary = Fault::PrimaryRead { percent: 50.0 };
        assert_eq!(faults(|s| s.rows[0].account.reads = 100), [primary]);
        let lost = Fault::Unaccounted { served: 49, answered: 50 };
        assert_eq!(faults(|s| s.rows[0].account.writes = 49), [lost]);
        assert_eq!(faults(|s| s.lag_shown = Some(LagShown::default())), [Fault::NotEjected]);
        assert_eq!(
            faults(|s| s.lag_shown = Some(LagShown { ejected: true, readmitted: false })),
            [Fault::NotReadmitted]
        );
    }
}
