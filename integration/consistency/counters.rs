//! Single-writer counters: the checker of session guarantees. Pure; one pass, O(n).
//!
//! Every key has one session that writes it, always the next value. So a value is a version, the order
//! of versions is known without asking, and "older" is `<`. A write stores beside its value what its
//! session had read last (its *cause*): whoever sees the write must from then on see the cause.
//!
//! Each session has a *floor* for each key: the highest value that it has written, seen, seen the
//! effect of, or was given with a token. Sessions under one key share one more floor, and all
//! committed writes together make the floor of level `global`. A read below a floor that stood when
//! the read was sent is a violation. Floors of the session itself are taken in the session's order,
//! which for a pipeline is the order of its answers; shared ones in the order of moments.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::history::{Done, Key, Outcome, Turn, Value, turns};

/// A row as it was read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    pub key: Key,
    pub value: Value,
    /// What the writer had read before it wrote.
    pub cause: Option<(Key, Value)>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Rows of one statement: one snapshot.
    Read(Vec<Row>),
    Write(Row, Outcome),
    /// `SHOW causeway.lsn`: what the session knows goes into this token.
    Show(usize),
    /// `SET causeway.after_lsn`: what the token holds is known here from now on.
    Take(usize),
}

#[derive(Debug, Clone)]
pub struct Op {
    pub done: Done,
    pub act: Act,
}

/// What a session was promised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// Level `global` instead of `session`.
    pub global: bool,
    /// The number of its `causeway.session_key`.
    pub group: Option<usize>,
}

#[derive(Debug, Default, Clone)]
pub struct History {
    pub sessions: Vec<Terms>,
    /// Keys are numbered below this.
    pub keys: usize,
    pub ops: Vec<Op>,
}

/// A promise, by what its breach is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Promise {
    ReadYourWrites,
    MonotonicReads,
    WritesFollowReads,
    /// Older than the token that the session took.
    Token,
    /// Older than what another connection under the same key had.
    SharedKey,
    /// Older than a commit that somebody was told of before.
    Global,
    /// A write without its cause in one snapshot.
    Snapshot,
    /// A value that was rolled back.
    Aborted,
    /// A value that nobody had written.
    Invented,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub promise: Promise,
    /// The read, as its number in the history.
    pub read: usize,
    pub row: Row,
    /// The least value that would have been right, and the operation that made it so.
    pub floor: Option<(Value, usize)>,
}

/// Why a floor is where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Wrote,
    Saw,
    SawEffect,
    Took,
}

#[derive(Debug, Clone, Copy)]
struct Floor {
    value: Value,
    op: usize,
    why: Why,
}

/// Finds every read that breaks a promise.
pub fn check(history: &History) -> Vec<Violation> {
    let mut checker = Checker::new(history);
    for turn in turns(history.ops.iter().map(|op| &op.done)) {
        match turn {
            Turn::Sent(op) => checker.sent(op),
            Turn::Answered(op) => checker.answered(op),
        }
    }
    checker.violations
}

/// Floors of one scope, by key.
type Floors = Vec<Option<Floor>>;

struct Checker<'a> {
    history: &'a History,
    /// Who wrote, or tried to write, this value.
    attempts: HashMap<(Key, Value), usize>,
    own: Vec<Floors>,
    groups: Vec<Floors>,
    global: Floors,
    tokens: HashMap<usize, Floors>,
    /// For a read in flight: what shared floors said when it was sent, row by row.
    shared: HashMap<usize, Vec<Option<(Promise, Floor)>>>,
    /// Scratch: the values of one snapshot.
    snapshot: Vec<Option<Value>>,
    violations: Vec<Violation>,
}

impl<'a> Checker<'a> {
    fn new(history: &'a History) -> Self {
        let writes = history.ops.iter().enumerate().filter_map(|(number, op)| match &op.act {
            Act::Write(row, _) => Some(((row.key, row.value), number)),
            _ => None,
        });
        let groups = history.sessions.iter().filter_map(|terms| terms.group).max();
        let empty = vec![None; history.keys];
        Self {
            history,
            attempts: writes.collect(),
            own: vec![empty.clone(); history.sessions.len()],
            groups: vec![empty.clone(); groups.map_or(0, |last| last + 1)],
            global: empty,
            tokens: HashMap::new(),
            shared: HashMap::new(),
            snapshot: vec![None; history.keys],
            violations: Vec::new(),
        }
    }

    fn sent(&mut self, number: usize) {
        let op = &self.history.ops[number];
        let terms = self.history.sessions[op.done.session];
        let Act::Read(rows) = &op.act else { return };
        if !terms.global && terms.group.is_none() {
            return;
        }
        let needs = rows.iter().map(|row| {
            let group = terms.group.and_then(|group| self.groups[group][row.key as usize]);
            let group = group.map(|floor| (Promise::SharedKey, floor));
            let global = self.global[row.key as usize].filter(|_| terms.global);
            let global = global.map(|floor| (Promise::Global, floor));
            group.into_iter().chain(global).max_by_key(|(_, floor)| floor.value)
        });
        self.shared.insert(number, needs.collect());
    }

    fn answered(&mut self, number: usize) {
        let op = &self.history.ops[number];
        match &op.act {
            Act::Read(rows) => self.read(number, rows),
            Act::Write(row, Outcome::Committed) => {
                self.raise(number, row.key, row.value, Why::Wrote);
                let floor = Floor { value: row.value, op: number, why: Why::Wrote };
                lift(&mut self.global, row.key, floor);
            }
            Act::Write(..) => {}
            Act::Show(token) => {
                self.tokens.insert(*token, self.own[op.done.session].clone());
            }
            Act::Take(token) => {
                let known = self.tokens.get(token).expect("a token is shown before it is taken");
                for (key, floor) in known.clone().into_iter().enumerate() {
                    let key = Key::try_from(key).expect("keys are small");
                    if let Some(Floor { value, .. }) = floor {
                        self.raise(number, key, value, Why::Took);
                    }
                }
            }
        }
    }

    fn read(&mut self, number: usize, rows: &[Row]) {
        let session = self.history.ops[number].done.session;
        let shared = self.shared.remove(&number);
        for (place, row) in rows.iter().enumerate() {
            let own = self.own[session][row.key as usize].map(|floor| (promise(floor.why), floor));
            let shared = shared.as_ref().and_then(|needs| needs[place]);
            let most = own.into_iter().chain(shared).max_by_key(|(_, floor)| floor.value);
            if let Some((promise, floor)) = most.filter(|(_, floor)| row.value < floor.value) {
                self.broken(promise, number, *row, Some((floor.value, floor.op)));
            }
            self.was_written(number, *row);
        }
        self.whole_snapshot(number, rows);
        for row in rows {
            self.raise(number, row.key, row.value, Why::Saw);
            if let Some((key, value)) = row.cause {
                self.raise(number, key, value, Why::SawEffect);
            }
        }
    }

    /// The value was sent before it was seen, and not taken back.
    fn was_written(&mut self, number: usize, row: Row) {
        if row.value == 0 {
            return;
        }
        let answered = self.history.ops[number].done.answered;
        let Some(&writer) = self.attempts.get(&(row.key, row.value)) else {
            return self.broken(Promise::Invented, number, row, None);
        };
        let attempt = &self.history.ops[writer];
        let Act::Write(written, outcome) = attempt.act else { unreachable!("attempts are writes") };
        if outcome == Outcome::RolledBack {
            self.broken(Promise::Aborted, number, row, None);
        } else if attempt.done.sent > answered || written != row {
            self.broken(Promise::Invented, number, row, None);
        }
    }

    /// Who is in a snapshot has its cause there too.
    fn whole_snapshot(&mut self, number: usize, rows: &[Row]) {
        for row in rows {
            self.snapshot[row.key as usize] = Some(row.value);
        }
        for row in rows {
            let Some((key, value)) = row.cause else { continue };
            if let Some(seen) = self.snapshot[key as usize].filter(|&seen| seen < value) {
                let stale = Row { key, value: seen, cause: None };
                self.broken(Promise::Snapshot, number, stale, Some((value, number)));
            }
        }
        for row in rows {
            self.snapshot[row.key as usize] = None;
        }
    }

    /// The session knows this value from now on, and so do those under its key.
    fn raise(&mut self, op: usize, key: Key, value: Value, why: Why) {
        let session = self.history.ops[op].done.session;
        let floor = Floor { value, op, why };
        lift(&mut self.own[session], key, floor);
        if let Some(group) = self.history.sessions[session].group {
            lift(&mut self.groups[group], key, floor);
        }
    }

    fn broken(&mut self, promise: Promise, read: usize, row: Row, floor: Option<(Value, usize)>) {
        self.violations.push(Violation { promise, read, row, floor });
    }
}

fn lift(floors: &mut Floors, key: Key, floor: Floor) {
    let place = &mut floors[key as usize];
    if place.is_none_or(|old| old.value < floor.value) {
        *place = Some(floor);
    }
}

fn promise(why: Why) -> Promise {
    match why {
        Why::Wrote => Promise::ReadYourWrites,
        Why::Saw => Promise::MonotonicReads,
        Why::SawEffect => Promise::WritesFollowReads,
        Why::Took => Promise::Token,
    }
}

impl Violation {
    /// The read, what made its floor, and the write that was missed.
    pub fn trace(&self, history: &History) -> String {
        let Row { key, value, cause } = self.row;
        let mut text = format!("{:?}: key {key} was {value}", self.promise);
        if let Some((least, _)) = self.floor {
            let _ = write!(text, ", must be at least {least}");
        }
        if let Some((key, value)) = cause {
            let _ = write!(text, " (written after reading key {key} = {value})");
        }
        let mut line = |word: &str, number: usize| {
            let op = &history.ops[number];
            let what = match &op.act {
                Act::Read(rows) => format!("read of {} keys", rows.len()),
                Act::Write(row, outcome) => {
                    format!("write of key {} = {}, {outcome:?}", row.key, row.value)
                }
                act => format!("{act:?}"),
            };
            let _ = write!(text, "\n  {word:<8} {}  {what}", op.done);
        };
        line("read", self.read);
        let missed = self.floor.map_or(value, |(least, _)| least);
        if let Some((_, maker)) = self.floor.filter(|(_, maker)| *maker != self.read) {
            line("floor", maker);
        }
        let write = history.ops.iter().position(
            |op| matches!(&op.act, Act::Write(row, _) if (row.key, row.value) == (key, missed)),
        );
        if let Some(write) = write.filter(|&write| self.floor.is_none_or(|(_, op)| op != write)) {
            line("written", write);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::history::Moment;
    use super::*;

    fn moment(tick: usize) -> Moment {
        Moment { tick, at: Duration::from_millis(tick as u64) }
    }

    /// Operations of which each is answered before the next is sent.
    fn in_turn(sessions: &[Terms], acts: &[(usize, Act)]) -> History {
        let ops = acts
            .iter()
            .enumerate()
            .map(|(number, (session, act))| op(*session, 2 * number, 2 * number + 1, act.clone()));
        History { sessions: sessions.to_vec(), keys: 4, ops: ops.collect() }
    }

    fn op(session: usize, sent: usize, answered: usize, act: Act) -> Op {
        let (sent, answered) = (moment(sent), moment(answered));
        Op {
            done: Done { session, sent, answered, how: ["test", "simple"], witness: "".into() },
            act,
        }
    }

    fn row(key: Key, value: Value) -> Row {
        Row { key, value, cause: None }
    }

    fn read(key: Key, value: Value) -> Act {
        Act::Read(vec![row(key, value)])
    }

    fn write(key: Key, value: Value) -> Act {
        Act::Write(row(key, value), Outcome::Committed)
    }

    fn broken(history: &History) -> Vec<Promise> {
        check(history).iter().map(|violation| violation.promise).collect()
    }

    const PLAIN: Terms = Terms { global: false, group: None };
    const GLOBAL: Terms = Terms { global: true, group: None };
    const SHARED: Terms = Terms { global: false, group: Some(0) };

    #[test]
    fn a_good_history_passes() {
        let good = in_turn(
            &[PLAIN, GLOBAL, SHARED],
            &[
                (0, read(1, 0)),
                (0, write(1, 1)),
                (0, read(1, 1)),
                (1, read(1, 1)),
                (2, read(1, 0)),
                (2, write(2, 1)),
                (0, read(2, 0)),
                (0, Act::Write(row(1, 2), Outcome::RolledBack)),
                (0, read(1, 1)),
                (0, Act::Write(row(1, 3), Outcome::Unknown)),
                (0, read(1, 1)),
                (0, read(1, 3)),
            ],
        );
        assert_eq!(broken(&good), []);
    }

    #[test]
    fn older_than_ones_own_write() {
        let bad = in_turn(&[PLAIN], &[(0, write(1, 1)), (0, read(1, 0))]);
        assert_eq!(broken(&bad), [Promise::ReadYourWrites]);
        let trace = check(&bad)[0].trace(&bad);
        assert!(trace.contains("key 1 was 0, must be at least 1"), "{trace}");
    }

    #[test]
    fn back_in_time() {
        let acts = [(0, write(1, 1)), (1, read(1, 1)), (1, read(1, 0)), (1, read(1, 0))];
        let bad = in_turn(&[PLAIN, PLAIN], &acts);
        assert_eq!(broken(&bad), [Promise::MonotonicReads; 2], "the floor stays");
    }

    #[test]
    fn the_effect_without_its_cause() {
        let effect = Row { key: 2, value: 1, cause: Some((1, 1)) };
        let acts = [
            (0, write(1, 1)),
            (1, read(1, 1)),
            (1, Act::Write(effect, Outcome::Committed)),
            (2, Act::Read(vec![effect])),
            (2, read(1, 0)),
        ];
        assert_eq!(broken(&in_turn(&[PLAIN; 3], &acts)), [Promise::WritesFollowReads]);
        let mut at_once = acts[..3].to_vec();
        at_once.push((2, Act::Read(vec![row(1, 0), effect])));
        assert_eq!(broken(&in_turn(&[PLAIN; 3], &at_once)), [Promise::Snapshot]);
    }

    #[test]
    fn tokens_carry_what_was_known() {
        let acts = |value| {
            [
                (0, write(1, 1)),
                (0, Act::Show(7)),
                (0, write(1, 2)),
                (1, Act::Take(7)),
                (1, read(1, value)),
            ]
        };
        assert_eq!(broken(&in_turn(&[PLAIN; 2], &acts(0))), [Promise::Token]);
        assert_eq!(broken(&in_turn(&[PLAIN; 2], &acts(1))), [], "what came later is not in it");
    }

    #[test]
    fn a_key_is_one_floor_for_many() {
        let acts = [(0, write(1, 1)), (1, read(1, 0)), (2, read(1, 0))];
        assert_eq!(broken(&in_turn(&[SHARED, SHARED, PLAIN], &acts)), [Promise::SharedKey]);
        // The write was not answered when the read was sent: either value is right.
        let mut beside = in_turn(&[SHARED, SHARED], &acts[..2]);
        beside.ops[0] = op(0, 0, 2, write(1, 1));
        beside.ops[1] = op(1, 1, 3, read(1, 0));
        assert_eq!(broken(&beside), []);
    }

    #[test]
    fn global_is_every_commit_that_anyone_was_told_of() {
        let acts = [(0, write(1, 1)), (1, read(1, 0)), (2, read(1, 0))];
        assert_eq!(broken(&in_turn(&[PLAIN, GLOBAL, PLAIN], &acts)), [Promise::Global]);
    }

    #[test]
    fn a_pipeline_is_in_the_order_of_its_answers() {
        let mut bad = in_turn(&[PLAIN], &[(0, write(1, 1)), (0, read(1, 0))]);
        bad.ops[0] = op(0, 0, 2, write(1, 1));
        bad.ops[1] = op(0, 1, 3, read(1, 0));
        assert_eq!(broken(&bad), [Promise::ReadYourWrites]);
    }

    #[test]
    fn values_out_of_nothing() {
        assert_eq!(broken(&in_turn(&[PLAIN], &[(0, read(1, 1))])), [Promise::Invented]);
        let rolled_back = [(0, Act::Write(row(1, 1), Outcome::RolledBack)), (1, read(1, 1))];
        assert_eq!(broken(&in_turn(&[PLAIN; 2], &rolled_back)), [Promise::Aborted]);
        let future = [(1, read(1, 1)), (0, write(1, 1))];
        assert_eq!(broken(&in_turn(&[PLAIN; 2], &future)), [Promise::Invented]);
    }
}
