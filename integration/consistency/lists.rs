//! Lists that transactions append to: the checker of transactions. Pure; O(n) in what was read.
//!
//! Every element is appended once, so a list that was read tells who wrote it and in which order: the
//! longest that anyone read is the order of versions, and every other must be its beginning. From
//! that follow the dependencies between transactions (Adya, *Weak Consistency*; the method is Elle's):
//! who wrote over whom (ww), who read from whom (wr), and who came after whom in one session (so).
//!
//! - **G0**: a circle of ww, or two writers interleaved in one list.
//! - **G1a**: an element of a transaction that was rolled back.
//! - **G1b**: an element that its transaction had not left as the last.
//! - **G1c**: a circle of ww and wr.
//! - **Session**: a circle that also needs so, or a list shorter than the session had it.
//! - **Fractured**: one snapshot with a transaction's element in one list, without its element in another.
//! - **Lost**: a committed element that the last look at everything did not find.

use std::collections::{HashMap, HashSet};

use super::cycles;
use super::history::{Done, Key, Outcome};

/// An element of a list: unique in the history.
pub type Element = u64;

/// A step of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Lists as one statement read them.
    Read(Vec<(Key, Vec<Element>)>),
    Append(Key, Element),
}

#[derive(Debug, Clone)]
pub struct Transaction {
    pub done: Done,
    pub steps: Vec<Step>,
    pub outcome: Outcome,
    /// All its statements read one snapshot.
    pub repeatable: bool,
}

/// A history of transactions; each session's are in its order.
#[derive(Debug, Default, Clone)]
pub struct History {
    pub sessions: usize,
    pub transactions: Vec<Transaction>,
    /// Everything as it was at the end.
    pub last: HashMap<Key, Vec<Element>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Anomaly {
    G0,
    G1a,
    G1b,
    G1c,
    Session,
    Fractured,
    Lost,
    /// An element twice, or one that nobody appended.
    Garbage,
    /// Two lists of which neither is the beginning of the other.
    Forked,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub anomaly: Anomaly,
    /// The transactions that show it, as numbers in the history.
    pub transactions: Vec<usize>,
    /// The list, where it is one list's.
    pub key: Option<Key>,
}

/// Finds every anomaly.
pub fn check(history: &History) -> Vec<Violation> {
    let mut checker = Checker::new(history);
    for number in 0..history.transactions.len() {
        checker.transaction(number);
    }
    checker.versions();
    checker.nothing_is_lost();
    checker.nothing_goes_back();
    checker.circles();
    checker.violations
}

/// Who appended an element.
#[derive(Debug, Clone, Copy)]
struct Origin {
    transaction: usize,
    key: Key,
    /// Nothing was appended to this list by this transaction after it.
    last: bool,
}

struct Checker<'a> {
    history: &'a History,
    origins: HashMap<Element, Origin>,
    /// The longest list of each key.
    order: HashMap<Key, &'a [Element]>,
    violations: Vec<Violation>,
}

impl<'a> Checker<'a> {
    fn new(history: &'a History) -> Self {
        let mut origins = HashMap::new();
        let mut order: HashMap<Key, &[Element]> =
            history.last.iter().map(|(key, list)| (*key, &list[..])).collect();
        for (number, transaction) in history.transactions.iter().enumerate() {
            let mut newest: HashMap<Key, Element> = HashMap::new();
            for step in &transaction.steps {
                match step {
                    Step::Append(key, element) => {
                        let origin = Origin { transaction: number, key: *key, last: true };
                        origins.insert(*element, origin);
                        if let Some(before) = newest.insert(*key, *element) {
                            origins.entry(before).and_modify(|origin| origin.last = false);
                        }
                    }
                    // What a transaction reads after it has appended is not yet a version.
                    Step::Read(lists) => {
                        for (key, list) in lists {
                            if !newest.contains_key(key) {
                                let longest = order.entry(*key).or_default();
                                if list.len() > longest.len() {
                                    *longest = list;
                                }
                            }
                        }
                    }
                }
            }
        }
        Self { history, origins, order, violations: Vec::new() }
    }

    /// What one transaction read, by itself.
    fn transaction(&mut self, number: usize) {
        let transaction = &self.history.transactions[number];
        let mut together: Vec<&(Key, Vec<Element>)> = Vec::new();
        for step in &transaction.steps {
            let Step::Read(lists) = step else { continue };
            for (key, list) in lists {
                self.list(number, *key, list);
            }
            if !transaction.repeatable {
                together.clear();
            }
            together.extend(lists);
            self.fractured(number, &together);
        }
    }

    fn list(&mut self, reader: usize, key: Key, list: &[Element]) {
        let foreign = |origin: &Origin| origin.transaction != reader;
        for element in list {
            match self.origins.get(element) {
                Some(origin) if origin.key == key => {
                    let outcome = self.history.transactions[origin.transaction].outcome;
                    if foreign(origin) && outcome == Outcome::RolledBack {
                        let both = [origin.transaction, reader];
                        self.found(Anomaly::G1a, &both, Some(key));
                    }
                }
                _ => self.found(Anomaly::Garbage, &[reader], Some(key)),
            }
        }
        let settled = self.settled(reader, list);
        let order = self.order.get(&key).copied().unwrap_or_default();
        if order.len() < settled || order[..settled] != list[..settled] {
            self.found(Anomaly::Forked, &[reader], Some(key));
        }
        let newest = settled.checked_sub(1).and_then(|last| self.origins.get(&list[last]));
        if let Some(origin) = newest.copied().filter(|origin| !origin.last && foreign(origin)) {
            self.found(Anomaly::G1b, &[origin.transaction, reader], Some(key));
        }
    }

    /// The length of a list without the reader's own appends, which are no versions yet and stand at
    /// the end.
    fn settled(&self, reader: usize, list: &[Element]) -> usize {
        let own = |element: &Element| {
            self.origins.get(element).is_some_and(|origin| origin.transaction == reader)
        };
        list.iter().rposition(|element| !own(element)).map_or(0, |last| last + 1)
    }

    /// Whose element is in one list of a snapshot has its elements in all.
    fn fractured(&mut self, reader: usize, snapshot: &[&(Key, Vec<Element>)]) {
        let elements = snapshot.iter().flat_map(|(_, list)| list);
        let seen: HashSet<Element> = elements.copied().collect();
        let mut broken: Vec<(usize, Key)> = Vec::new();
        for (_, list) in snapshot {
            // Of older writers the order of versions speaks; the newest of each list are at the edge.
            for writer in list.iter().rev().take(4).filter_map(|element| self.origins.get(element))
            {
                let transaction = &self.history.transactions[writer.transaction];
                let missing = transaction.steps.iter().find_map(|step| match step {
                    Step::Append(key, element) => {
                        let elsewhere = *key != writer.key;
                        let looked = snapshot.iter().any(|(other, _)| other == key);
                        (elsewhere && looked && !seen.contains(element)).then_some(*key)
                    }
                    Step::Read(_) => None,
                });
                if let Some(key) = missing.filter(|_| writer.transaction != reader) {
                    broken.push((writer.transaction, key));
                }
            }
        }
        broken.sort_unstable();
        broken.dedup();
        for (writer, key) in broken {
            self.found(Anomaly::Fractured, &[writer, reader], Some(key));
        }
    }

    /// No element twice, and each writer's side by side.
    fn versions(&mut self) {
        for (key, list) in self.order.clone() {
            let mut closed = HashSet::new();
            let mut seen = HashSet::new();
            let mut current = None;
            for element in list {
                if !seen.insert(*element) {
                    self.found(Anomaly::Garbage, &[], Some(key));
                }
                let writer = self.origins.get(element).map(|origin| origin.transaction);
                if writer != current {
                    closed.extend(current);
                    current = writer;
                    if let Some(writer) = writer.filter(|writer| closed.contains(writer)) {
                        self.found(Anomaly::G0, &[writer], Some(key));
                    }
                }
            }
        }
    }

    fn nothing_is_lost(&mut self) {
        let found: HashSet<Element> = self.history.last.values().flatten().copied().collect();
        let lost: Vec<Origin> = self
            .origins
            .iter()
            .filter(|(element, _)| !found.contains(element))
            .map(|(_, origin)| *origin)
            .filter(|o| self.history.transactions[o.transaction].outcome == Outcome::Committed)
            .collect();
        for origin in lost {
            self.found(Anomaly::Lost, &[origin.transaction], Some(origin.key));
        }
    }

    /// In each session a list is at least as long as it was, and holds what the session appended.
    fn nothing_goes_back(&mut self) {
        let places: HashMap<Element, usize> = self
            .order
            .values()
            .flat_map(|list| list.iter().enumerate().map(|(place, element)| (*element, place)))
            .collect();
        let mut floors: HashMap<(usize, Key), (usize, usize)> = HashMap::new();
        for (number, transaction) in self.history.transactions.iter().enumerate() {
            let session = transaction.done.session;
            let mut raise = |key: Key, length: usize| {
                let floor = floors.entry((session, key)).or_insert((0, number));
                if floor.0 < length {
                    *floor = (length, number);
                }
                *floor
            };
            let mut backwards = Vec::new();
            for step in &transaction.steps {
                if let Step::Read(lists) = step {
                    for (key, list) in lists {
                        let length = self.settled(number, list);
                        let (least, maker) = raise(*key, length);
                        if length < least {
                            backwards.push((maker, *key));
                        }
                    }
                }
            }
            if transaction.outcome == Outcome::Committed {
                for step in &transaction.steps {
                    if let Step::Append(key, element) = step
                        && let Some(place) = places.get(element)
                    {
                        raise(*key, place + 1);
                    }
                }
            }
            for (maker, key) in backwards {
                let violation = Violation {
                    anomaly: Anomaly::Session,
                    transactions: vec![maker, number],
                    key: Some(key),
                };
                self.violations.push(violation);
            }
        }
    }

    fn circles(&mut self) {
        let count = self.history.transactions.len();
        let (mut ww, mut wr, mut so) =
            (vec![Vec::new(); count], vec![Vec::new(); count], vec![Vec::new(); count]);
        let writer = |element: &Element| self.origins.get(element).map(|o| o.transaction);
        for list in self.order.values() {
            for pair in list.windows(2) {
                if let (Some(before), Some(after)) = (writer(&pair[0]), writer(&pair[1])) {
                    ww[before].push(after);
                }
            }
        }
        let mut previous = vec![None; self.history.sessions];
        for (number, transaction) in self.history.transactions.iter().enumerate() {
            if let Some(before) = previous[transaction.done.session].replace(number) {
                so[before].push(number);
            }
            for step in &transaction.steps {
                let Step::Read(lists) = step else { continue };
                let newest = lists.iter().filter_map(|(_, list)| list.last());
                for from in newest.filter_map(writer).filter(|from| *from != number) {
                    wr[from].push(number);
                }
            }
        }
        // From the fewest kinds of edges to the most: a circle is named by what it needs.
        for (anomaly, kinds) in [
            (Anomaly::G0, &[&ww][..]),
            (Anomaly::G1c, &[&ww, &wr]),
            (Anomaly::Session, &[&ww, &wr, &so]),
        ] {
            let circles = cycles::circles(count, |from| {
                kinds.iter().flat_map(move |edges| edges[from].iter().copied())
            });
            if !circles.is_empty() {
                for circle in circles {
                    self.found(anomaly, &circle, None);
                }
                return;
            }
        }
    }

    fn found(&mut self, anomaly: Anomaly, transactions: &[usize], key: Option<Key>) {
        self.violations.push(Violation { anomaly, transactions: transactions.to_vec(), key });
    }
}

impl Violation {
    /// The transactions in words.
    pub fn trace(&self, history: &History) -> String {
        use std::fmt::Write as _;
        let mut text = format!("{:?}", self.anomaly);
        if let Some(key) = self.key {
            let _ = write!(text, " in list {key}");
        }
        for &number in self.transactions.iter().take(8) {
            let transaction = &history.transactions[number];
            let _ = write!(text, "\n  {} {:?}", transaction.done, transaction.outcome);
            for step in &transaction.steps {
                match step {
                    Step::Append(key, element) => {
                        let _ = write!(text, "\n    appended {element} to {key}");
                    }
                    Step::Read(lists) => {
                        for (key, list) in lists {
                            let end = &list[list.len().saturating_sub(3)..];
                            let _ = write!(text, "\n    read {key}: {} ending {end:?}", list.len());
                        }
                    }
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::history::Moment;
    use super::*;

    fn history(all: &[(usize, Outcome, Vec<Step>)], last: &[(Key, &[Element])]) -> History {
        let moment = |tick| Moment { tick, at: Duration::ZERO };
        let transactions = all.iter().enumerate().map(|(number, (session, outcome, steps))| {
            let (sent, answered) = (moment(2 * number), moment(2 * number + 1));
            let done = Done {
                session: *session,
                sent,
                answered,
                how: ["test", "simple"],
                witness: "".into(),
            };
            Transaction { done, steps: steps.clone(), outcome: *outcome, repeatable: false }
        });
        History {
            sessions: 4,
            transactions: transactions.collect(),
            last: last.iter().map(|(key, list)| (*key, list.to_vec())).collect(),
        }
    }

    fn append(key: Key, element: Element) -> Step {
        Step::Append(key, element)
    }

    fn read(key: Key, list: &[Element]) -> Step {
        Step::Read(vec![(key, list.to_vec())])
    }

    fn anomalies(history: &History) -> Vec<Anomaly> {
        let mut all: Vec<Anomaly> = check(history).iter().map(|v| v.anomaly).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    use Outcome::{Committed, RolledBack};

    #[test]
    fn a_good_history_passes() {
        let good = history(
            &[
                (0, Committed, vec![append(1, 10), read(1, &[10]), append(1, 11), append(2, 12)]),
                (1, Committed, vec![read(1, &[]), read(1, &[10, 11])]),
                (0, RolledBack, vec![append(1, 13), read(1, &[10, 11, 13])]),
                (0, Committed, vec![read(1, &[10, 11])]),
                (2, Committed, vec![read(2, &[12]), append(1, 14)]),
                (0, Committed, vec![read(1, &[10, 11, 14]), read(2, &[12])]),
                (3, Outcome::Unknown, vec![append(2, 15)]),
            ],
            &[(1, &[10, 11, 14]), (2, &[12, 15])],
        );
        assert_eq!(check(&good), []);
    }

    #[test]
    fn g0() {
        let bad = history(
            &[
                (0, Committed, vec![append(1, 10), append(2, 20)]),
                (1, Committed, vec![append(1, 11), append(2, 21)]),
            ],
            &[(1, &[10, 11]), (2, &[21, 20])],
        );
        assert_eq!(anomalies(&bad), [Anomaly::G0]);
        let interleaved = history(
            &[
                (0, Committed, vec![append(1, 10), append(1, 12)]),
                (1, Committed, vec![append(1, 11)]),
            ],
            &[(1, &[10, 11, 12])],
        );
        assert_eq!(anomalies(&interleaved), [Anomaly::G0]);
    }

    #[test]
    fn g1a() {
        let bad = history(
            &[(0, RolledBack, vec![append(1, 10)]), (1, Committed, vec![read(1, &[10])])],
            &[],
        );
        assert_eq!(anomalies(&bad), [Anomaly::G1a]);
    }

    #[test]
    fn g1b() {
        let bad = history(
            &[
                (0, Committed, vec![append(1, 10), append(1, 11)]),
                (1, Committed, vec![read(1, &[10])]),
            ],
            &[(1, &[10, 11])],
        );
        assert_eq!(anomalies(&bad), [Anomaly::G1b]);
    }

    #[test]
    fn g1c() {
        let bad = history(
            &[
                (0, Committed, vec![append(1, 10), read(2, &[20])]),
                (1, Committed, vec![append(2, 20), read(1, &[10])]),
            ],
            &[(1, &[10]), (2, &[20])],
        );
        assert_eq!(anomalies(&bad), [Anomaly::G1c]);
    }

    #[test]
    fn a_session_goes_back() {
        let writer = (0, Committed, vec![append(1, 10)]);
        let reads = [(1, Committed, vec![read(1, &[10])]), (1, Committed, vec![read(1, &[])])];
        let [first, second] = reads;
        let bad = history(&[writer.clone(), first, second], &[(1, &[10])]);
        assert_eq!(anomalies(&bad), [Anomaly::Session]);
        let own = history(&[writer, (0, Committed, vec![read(1, &[])])], &[(1, &[10])]);
        assert_eq!(anomalies(&own), [Anomaly::Session]);
    }

    #[test]
    fn a_circle_through_a_session() {
        // Session 1 read 10 and then appended 20; session 2 read 20 and then, elsewhere, what 10
        // was written after: seen only as a circle.
        let bad = history(
            &[
                (0, Committed, vec![append(1, 10)]),
                (0, Committed, vec![append(2, 20)]),
                (1, Committed, vec![read(2, &[20])]),
                (1, Committed, vec![append(1, 11)]),
            ],
            &[(1, &[11, 10]), (2, &[20])],
        );
        assert_eq!(anomalies(&bad), [Anomaly::Session]);
        assert_eq!(check(&bad)[0].transactions.len(), 4);
    }

    #[test]
    fn a_snapshot_with_half_a_transaction() {
        let both = vec![append(1, 10), append(2, 20)];
        let half = Step::Read(vec![(1, vec![10]), (2, vec![])]);
        let last: [(Key, &[Element]); 2] = [(1, &[10]), (2, &[20])];
        let bad = history(&[(0, Committed, both.clone()), (1, Committed, vec![half])], &last);
        assert_eq!(anomalies(&bad), [Anomaly::Fractured]);
        let steps = vec![read(2, &[]), read(1, &[10])];
        let mut repeatable = history(&[(0, Committed, both), (1, Committed, steps)], &last);
        assert_eq!(anomalies(&repeatable), [], "read committed: a snapshot each");
        repeatable.transactions[1].repeatable = true;
        assert_eq!(anomalies(&repeatable), [Anomaly::Fractured]);
    }

    #[test]
    fn lists_that_cannot_be() {
        let writes = [(0, Committed, vec![append(1, 10)]), (1, Committed, vec![append(1, 11)])];
        let with = |list: &[Element]| {
            let mut all = writes.to_vec();
            all.push((2, Committed, vec![read(1, list)]));
            anomalies(&history(&all, &[(1, &[10, 11])]))
        };
        assert_eq!(with(&[10]), []);
        assert_eq!(with(&[11]), [Anomaly::Forked]);
        assert_eq!(with(&[99]), [Anomaly::Garbage, Anomaly::Forked]);
        assert_eq!(with(&[10, 11, 10]), [Anomaly::G0, Anomaly::Garbage]);
        assert_eq!(anomalies(&history(&writes, &[(1, &[10])])), [Anomaly::Lost]);
    }
}
