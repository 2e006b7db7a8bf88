//! What the sessions work on, and the statements they work with.

use super::client::{Protocol, Sql};
use super::counters::Row;
use super::history::Key;

/// Made on the primary, as superuser, in a database that `app` owns. `witness()` is vouched for in the
/// proxy's file ([`VOUCHED`]): it speaks of the node, which is what it is for.
pub fn schema(keys: usize) -> String {
    format!(
        "CREATE TABLE counters (
             key int PRIMARY KEY, value bigint NOT NULL DEFAULT 0,
             cause_key int NOT NULL DEFAULT 0, cause_value bigint NOT NULL DEFAULT 0
         ) WITH (fillfactor = 50);
         INSERT INTO counters SELECT key FROM generate_series(0, {keys} - 1) key;
         CREATE TABLE lists (key int PRIMARY KEY, items bigint[] NOT NULL);
         CREATE FUNCTION witness() RETURNS text STABLE LANGUAGE sql AS $$
             SELECT current_setting('cluster_name') || ' ' || CASE WHEN pg_is_in_recovery()
                        THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END
                    || ' ' || pg_current_snapshot() $$;
         CREATE FUNCTION bump(k int, v bigint, ck int, cv bigint) RETURNS int LANGUAGE sql AS $$
             UPDATE counters SET value = v, cause_key = ck, cause_value = cv WHERE key = k
             RETURNING 1 $$;
         CREATE PROCEDURE bump_and_commit(k int, v bigint, ck int, cv bigint) LANGUAGE plpgsql AS $$
             BEGIN PERFORM bump(k, v, ck, cv); COMMIT; PERFORM count(*) FROM lists; END $$;
         CREATE TABLE inbox (k int, v bigint, ck int, cv bigint);
         CREATE FUNCTION deliver() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM bump(NEW.k, NEW.v, NEW.ck, NEW.cv); RETURN NULL; END $$;
         CREATE TRIGGER deliver BEFORE INSERT ON inbox FOR EACH ROW EXECUTE FUNCTION deliver();
         GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC;"
    )
}

/// For `[routing]`.
pub const VOUCHED: &str = "safe_functions = [\"witness\"]";

/// The same, and replicas are waited for as long as they may need.
pub const PATIENT: &str = "safe_functions = [\"witness\"]\ncatchup_wait = \"5s\"";

/// Where a read is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Wherever the proxy likes.
    Any,
    /// On the primary, by a hint.
    Primary,
    /// At level `primary`, by a hint.
    LevelPrimary,
    /// At level `global`, by a hint, wherever the proxy likes.
    LevelGlobal,
    /// In `BEGIN READ ONLY`, two at a time.
    ReadOnly,
    /// In a plain transaction, which the primary serves.
    Transaction,
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "read",
            Self::Primary => "read on the primary",
            Self::LevelPrimary => "read at level primary",
            Self::LevelGlobal => "read at level global",
            Self::ReadOnly => "read in BEGIN READ ONLY",
            Self::Transaction => "read in BEGIN",
        }
    }

    /// Whether the proxy may send it to a replica.
    pub fn is_free(form: &str) -> bool {
        [Self::Any, Self::ReadOnly].iter().any(|place| place.name() == form)
    }
}

/// Which counters are read by one statement.
#[derive(Debug, Clone)]
pub enum Which {
    One(Key),
    Range(Key, Key),
}

impl Which {
    pub fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Range(first, last) => (last - first + 1) as usize,
        }
    }

    /// The SELECT, with the node's word beside the rows or without.
    pub fn select(&self, place: Place, with_witness: bool) -> Sql {
        let hint = match place {
            Place::Primary => "/* causeway: primary */ ",
            Place::LevelPrimary => "/* causeway: consistency=primary */ ",
            Place::LevelGlobal => "/* causeway: consistency=global */ ",
            Place::Any | Place::ReadOnly | Place::Transaction => "",
        };
        let witness = if with_witness { ", (SELECT witness())" } else { "" };
        let (condition, values) = match self {
            Self::One(key) => ("key = $1", vec![u64::from(*key)]),
            Self::Range(first, last) => {
                ("key BETWEEN $1 AND $2", vec![u64::from(*first), u64::from(*last)])
            }
        };
        let columns = "key, value, cause_key, cause_value";
        Sql::new(
            format!("{hint}SELECT {columns}{witness} FROM counters WHERE {condition}"),
            &values,
        )
    }
}

/// A row as [`Which::select`] returns it; `None` if it is none.
pub fn row(columns: &[Option<String>]) -> Option<Row> {
    let number = |at: usize| columns.get(at)?.as_deref()?.parse::<u64>().ok();
    let key = |at: usize| Key::try_from(number(at)?).ok();
    Some(Row { key: key(0)?, value: number(1)?, cause: Some((key(2)?, number(3)?)) })
}

/// The ways in which a counter is written: none may be missed by whoever guesses what writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Update,
    Transaction,
    Script,
    Function,
    Cte,
    Call,
    Copy,
    TwoPhase,
    Chain,
    Do,
    RolledBack,
}

/// All that do not call procedures.
pub const COMMON: [Form; 9] = [
    Form::Update,
    Form::Transaction,
    Form::Script,
    Form::Function,
    Form::Cte,
    Form::Copy,
    Form::TwoPhase,
    Form::Chain,
    Form::RolledBack,
];

/// What is in a procedure cannot be known.
pub const PROCEDURES: [Form; 2] = [Form::Call, Form::Do];

/// One request of a form.
pub enum Request {
    /// In the session's protocol.
    Sql(Sql),
    /// In a Query message: several statements, or what takes no parameters.
    Script(String),
    /// `COPY ... FROM STDIN` and its data.
    Copy(&'static str, String),
}

impl Form {
    pub fn name(self) -> &'static str {
        match self {
            Self::Update => "UPDATE",
            Self::Transaction => "BEGIN; UPDATE; COMMIT",
            Self::Script => "several statements in one Query",
            Self::Function => "SELECT bump()",
            Self::Cte => "WITH (UPDATE)",
            Self::Call => "CALL with COMMIT inside",
            Self::Copy => "COPY FROM, by a trigger",
            Self::TwoPhase => "PREPARE TRANSACTION; COMMIT PREPARED",
            Self::Chain => "COMMIT AND CHAIN",
            Self::Do => "DO",
            Self::RolledBack => "BEGIN; UPDATE; ROLLBACK",
        }
    }

    /// The plainest of all.
    pub fn update(row: Row) -> Sql {
        Sql::new(UPDATE, &numbers(row))
    }

    /// Its requests, and how many of them are answered once the write is acknowledged.
    pub fn requests(self, row: Row, unique: &str) -> (Vec<Request>, usize) {
        let values = numbers(row);
        let update = Self::update(row);
        let literal = values.map(|number| number.to_string()).join(", ");
        let bump = format!("SELECT bump({literal})");
        let script = |text: &str| Request::Script(text.to_owned());
        let in_between = |first: &str, last: &str| {
            vec![script(first), Request::Sql(update.clone()), script(last)]
        };
        let requests = match self {
            Self::Update => vec![Request::Sql(update)],
            Self::Transaction => in_between("BEGIN", "COMMIT"),
            Self::RolledBack => in_between("BEGIN", "ROLLBACK"),
            Self::Script => vec![Request::Script(format!("SELECT 1; {bump}; SELECT 2"))],
            Self::Function => {
                vec![Request::Sql(Sql::new("SELECT bump($1, $2, $3, $4)", &values))]
            }
            Self::Cte => {
                let text = format!("WITH w AS ({UPDATE} RETURNING 1) SELECT count(*) FROM w");
                vec![Request::Sql(Sql::new(text, &values))]
            }
            Self::Call => vec![Request::Script(format!("CALL bump_and_commit({literal})"))],
            Self::Copy => {
                let line = values.map(|number| number.to_string()).join("\t") + "\n";
                vec![Request::Copy("COPY inbox FROM STDIN", line)]
            }
            Self::TwoPhase => {
                let mut all = in_between("BEGIN", &format!("PREPARE TRANSACTION '{unique}'"));
                all.push(script(&format!("COMMIT PREPARED '{unique}'")));
                all
            }
            Self::Chain => {
                let mut all = in_between("BEGIN", "COMMIT AND CHAIN");
                all.push(script("COMMIT"));
                return (all, 3);
            }
            Self::Do => {
                vec![Request::Script(format!("DO $$ BEGIN PERFORM bump({literal}); END $$"))]
            }
        };
        let count = requests.len();
        (requests, count)
    }
}

const UPDATE: &str =
    "UPDATE counters SET value = $2, cause_key = $3, cause_value = $4 WHERE key = $1";

impl Protocol {
    pub fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
            Self::Prepared => "prepared",
            Self::Pipelined => "pipelined",
        }
    }
}

fn numbers(row: Row) -> [u64; 4] {
    let (cause_key, cause_value) = row.cause.unwrap_or_default();
    [u64::from(row.key), row.value, u64::from(cause_key), cause_value]
}
