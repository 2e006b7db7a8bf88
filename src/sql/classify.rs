//! What kind of statement it is: the facts of one statement from its tokens in normal form.
//!
//! The head of a statement gives its class and verb; what its keywords betray at any depth can only
//! make that stricter. Follows the statement rules of `gram.y`, `PostgreSQL` 14 to 18.

use super::names::{self, Betrayed};
use super::scan::Kind;
use super::setting::{self, Set};
use super::statement::{Class, SessionEffect, Statement};
use super::tokens::{Cursor, Tokens};
use super::transaction;
use super::verb;

/// How many statements may stand in each other (EXPLAIN in PREPARE ...): more is no SQL.
const NESTED: u8 = 3;

/// The facts of one statement.
#[must_use]
pub fn classify(tokens: Tokens<'_>) -> Statement {
    nested(tokens, NESTED)
}

/// A statement of which nothing is known.
#[must_use]
pub fn unknown() -> Statement {
    Statement {
        class: Class::Unknown,
        verb: "",
        transaction: None,
        session: Vec::new(),
        calls: Vec::new(),
        relations: Vec::new(),
        identifiers: Vec::new(),
        operators: Vec::new(),
        builtin_operators: Vec::new(),
        non_ascii: false,
        shown: None,
        inner: None,
        planned_only: false,
        understood: true,
    }
}

fn nested(tokens: Tokens<'_>, depth: u8) -> Statement {
    let mut statement = unknown();
    let Some(depth) = depth.checked_sub(1) else {
        statement.understood = false;
        return statement;
    };
    let mut cursor = Cursor::new(tokens);
    let body = head(&mut cursor, &mut statement, depth);
    let found = names::collect(body, &mut statement);
    if tokens.list.iter().any(|token| token.kind == Kind::Error) || found.broken {
        statement.understood = false;
    }
    settle(&mut statement, found);
    called_effects(&mut statement);
    statement
}

/// Lets the keywords at any depth overrule the head.
fn settle(statement: &mut Statement, found: Betrayed) {
    if statement.class == Class::Read {
        statement.class = if found.writes {
            Class::Write
        } else if found.into {
            Class::Ddl
        } else if found.locks {
            Class::LockingRead
        } else {
            Class::Read
        };
        if found.into && found.into_temp {
            statement.session.push(SessionEffect::CreateTemp);
        }
    }
    let creates = statement.class == Class::Ddl && statement.verb.split(' ').next() != Some("DROP");
    if found.pg_temp && creates && !statement.session.contains(&SessionEffect::CreateTemp) {
        statement.session.push(SessionEffect::CreateTemp);
    }
    if statement.class == Class::Unknown {
        statement.understood = false;
    }
    if !statement.understood && matches!(statement.class, Class::Read | Class::Show) {
        statement.class = Class::Unknown;
    }
}

/// What the functions of `PostgreSQL` that are called do to the session.
fn called_effects(statement: &mut Statement) {
    for call in &statement.calls {
        let effect = match &*call.name.name {
            "set_config" => SessionEffect::SetConfig,
            "nextval" | "setval" => SessionEffect::SequenceAdvance,
            "currval" | "lastval" => SessionEffect::SequenceRead,
            "pg_advisory_lock"
            | "pg_advisory_lock_shared"
            | "pg_try_advisory_lock"
            | "pg_try_advisory_lock_shared" => SessionEffect::AdvisoryLock,
            "pg_advisory_unlock" | "pg_advisory_unlock_shared" | "pg_advisory_unlock_all" => {
                SessionEffect::AdvisoryUnlock
            }
            _ => continue,
        };
        if !statement.session.contains(&effect) {
            statement.session.push(effect);
        }
    }
}

/// Reads the head of a statement; returns the tokens whose names are this statement's.
fn head<'a>(cursor: &mut Cursor<'a>, statement: &mut Statement, depth: u8) -> Tokens<'a> {
    let all = cursor.tokens;
    if let Some((verb, transaction)) = transaction::read(cursor) {
        statement.class = Class::Transaction;
        statement.verb = verb;
        statement.transaction = Some(transaction);
        statement.understood = cursor.is_done();
        return all.until(0);
    }
    if all.kind(cursor.at) == Some(Kind::Open) {
        query_in_parentheses(cursor, statement);
        return all;
    }
    match all.word(cursor.at) {
        b"select" | b"values" | b"table" | b"with" => {
            statement.class = Class::Read;
            statement.verb = verb::of_query(all);
            all
        }
        b"explain" => explain(cursor, statement, depth),
        b"copy" => copy(cursor, statement),
        b"declare" => declare(cursor, statement, depth),
        b"prepare" => prepare(cursor, statement, depth),
        b"execute" => {
            cursor.at += 1;
            statement.class = Class::Session;
            statement.verb = "EXECUTE";
            named_effect(cursor, statement, SessionEffect::Execute);
            all.from(cursor.at)
        }
        _ => {
            if session(cursor, statement) {
                return all.until(0);
            }
            command(cursor, statement);
            all
        }
    }
}

/// Adds an effect with the name that comes next, or owns up to not understanding.
fn named_effect(
    cursor: &mut Cursor<'_>,
    statement: &mut Statement,
    effect: impl FnOnce(Box<str>) -> SessionEffect,
) {
    match cursor.name() {
        Some(name) => statement.session.push(effect(name)),
        None => statement.understood = false,
    }
}

/// `(SELECT ...)`, in any number of parentheses.
fn query_in_parentheses(cursor: &mut Cursor<'_>, statement: &mut Statement) {
    let mut at = cursor.at;
    while cursor.tokens.kind(at) == Some(Kind::Open) {
        at += 1;
    }
    if matches!(cursor.tokens.word(at), b"select" | b"values" | b"table" | b"with") {
        statement.class = Class::Read;
        statement.verb = verb::of_query(cursor.tokens.from(at));
    }
}

/// EXPLAIN takes the class of what it explains: whether ANALYZE runs it or not.
fn explain<'a>(cursor: &mut Cursor<'a>, statement: &mut Statement, depth: u8) -> Tokens<'a> {
    cursor.at += 1;
    let analyze = explain_options(cursor).unwrap_or_else(|| {
        let analyze = cursor.eat("analyze") || cursor.eat("analyse");
        cursor.eat("verbose");
        analyze
    });
    let rest = cursor.tokens.from(cursor.at);
    let inner = nested(rest, depth);
    let explained = match inner.class {
        // EXPLAIN DECLARE explains the query and declares nothing.
        Class::Cursor => inner.inner.map_or(Class::Unknown, |query| query.class),
        // EXPLAIN EXECUTE: routed by what was prepared.
        Class::Session if inner.verb == "EXECUTE" => Class::Session,
        class @ (Class::Read | Class::LockingRead | Class::Write | Class::Ddl) => class,
        Class::Maintenance => Class::Maintenance,
        _ => Class::Unknown,
    };
    statement.class = explained;
    statement.verb = "EXPLAIN";
    statement.planned_only = !analyze;
    statement.understood = inner.understood && explained != Class::Unknown;
    statement.session = inner.session;
    statement.session.retain(|effect| !matches!(effect, SessionEffect::Declare { .. }));
    rest
}

/// `(option [value], ...)`; whether one of them may be ANALYZE that is not off. What is no such list
/// may be a query in parentheses.
fn explain_options(cursor: &mut Cursor<'_>) -> Option<bool> {
    let tokens = cursor.tokens;
    let mut at = cursor.at;
    let mut analyze = false;
    let query = |word: &[u8]| matches!(word, b"select" | b"values" | b"table" | b"with");
    if tokens.kind(at) != Some(Kind::Open) || query(tokens.word(at + 1)) {
        return None;
    }
    loop {
        let option = at + 1;
        if !tokens.is_name(option) {
            return None;
        }
        at = option + 1;
        // A sign before a number; no option takes one, all take the same values.
        at += usize::from(tokens.kind(at) == Some(Kind::Operator));
        let off = matches!(tokens.word(at), b"off" | b"false");
        let value = matches!(tokens.kind(at), Some(Kind::Number | Kind::String));
        at += usize::from(value || tokens.is_name(at));
        if matches!(&*tokens.name(option)?, "analyze" | "analyse") {
            // The last one holds.
            analyze = !off;
        }
        match tokens.kind(at)? {
            Kind::Comma => {}
            Kind::Close => {
                cursor.at = at + 1;
                return Some(analyze);
            }
            _ => return None,
        }
    }
}

/// COPY in every form: a table or a query, in or out, to the client or to a file or program.
fn copy<'a>(cursor: &mut Cursor<'a>, statement: &mut Statement) -> Tokens<'a> {
    cursor.at += 1;
    statement.verb = "COPY";
    let query = cursor.tokens.kind(cursor.at) == Some(Kind::Open);
    let start = cursor.at;
    let mut names_end = start;
    if query {
        cursor.at = cursor.tokens.past_group(cursor.at);
    } else {
        // COPY BINARY t ...: the old place of an option.
        if cursor.tokens.is_name(cursor.at + 1) && !is_direction(cursor.tokens.word(cursor.at + 1))
        {
            cursor.eat("binary");
        }
        relation(cursor, statement);
        // The list of columns that may follow is no list of arguments.
        names_end = cursor.at;
        if cursor.tokens.kind(cursor.at) == Some(Kind::Open) {
            let open = cursor.at;
            cursor.at = cursor.tokens.past_group(open);
            if !is_list_of_names(cursor.tokens, open + 1, cursor.at.saturating_sub(1)) {
                statement.class = Class::Unknown;
                return cursor.tokens.until(cursor.at).from(start);
            }
        }
    }
    let end = cursor.at;
    let out = cursor.tokens.word(end) == b"to";
    if !is_direction(cursor.tokens.word(end)) || (query && !out) {
        statement.class = Class::Unknown;
        return cursor.tokens.until(end).from(start);
    }
    let client = matches!(cursor.tokens.word(end + 1), b"stdin" | b"stdout");
    statement.class = match (client, out) {
        (false, _) => Class::CopyFile,
        (true, true) => Class::Read,
        (true, false) => Class::CopyIn,
    };
    if query && statement.class == Class::Read {
        let inside = cursor.tokens.until(end.saturating_sub(1)).from(start + 1);
        if is_data_change(inside) {
            statement.class = Class::Write;
        }
        return inside;
    }
    if out || !client {
        return cursor.tokens.until(if query { end } else { names_end }).from(start);
    }
    // COPY ... FROM STDIN WHERE condition: calls may stand there.
    cursor.tokens.from(end + 2)
}

/// Whether names stand in these places, with commas between them.
fn is_list_of_names(tokens: Tokens<'_>, from: usize, to: usize) -> bool {
    (from..to).all(|at| match (at - from) % 2 {
        0 => tokens.is_name(at),
        _ => tokens.kind(at) == Some(Kind::Comma),
    })
}

fn is_direction(word: &[u8]) -> bool {
    matches!(word, b"from" | b"to")
}

fn is_data_change(tokens: Tokens<'_>) -> bool {
    matches!(tokens.word(0), b"insert" | b"update" | b"delete" | b"merge")
}

/// Takes a qualified name as the relation of a statement.
fn relation(cursor: &mut Cursor<'_>, statement: &mut Statement) {
    let mut schema = None;
    let Some(mut name) = cursor.name() else { return };
    while cursor.eat_kind(Kind::Dot) {
        let Some(next) = cursor.name() else { return };
        schema = Some(std::mem::replace(&mut name, next));
    }
    statement.relations.push(super::statement::Name { schema, name });
}

/// `DECLARE name ... CURSOR [WITH HOLD] FOR query`.
fn declare<'a>(cursor: &mut Cursor<'a>, statement: &mut Statement, depth: u8) -> Tokens<'a> {
    cursor.at += 1;
    statement.class = Class::Cursor;
    statement.verb = "DECLARE CURSOR";
    statement.understood = cursor.name().is_some();
    while cursor.eat_all(&["no", "scroll"])
        || ["binary", "insensitive", "asensitive", "scroll"].iter().any(|word| cursor.eat(word))
    {
    }
    statement.understood &= cursor.eat("cursor");
    let hold = cursor.eat_all(&["with", "hold"]);
    if !hold {
        cursor.eat_all(&["without", "hold"]);
    }
    statement.understood &= cursor.eat("for");
    let rest = cursor.tokens.from(cursor.at);
    let query = nested(rest, depth);
    statement.session.push(SessionEffect::Declare { hold });
    statement.understood &= query.understood;
    statement.inner = Some(Box::new(query));
    rest
}

/// `PREPARE name [(types)] AS statement`: does nothing of what is in it.
fn prepare<'a>(cursor: &mut Cursor<'a>, statement: &mut Statement, depth: u8) -> Tokens<'a> {
    cursor.at += 1;
    statement.class = Class::Session;
    statement.verb = "PREPARE";
    named_effect(cursor, statement, SessionEffect::Prepare);
    if cursor.tokens.kind(cursor.at) == Some(Kind::Open) {
        cursor.at = cursor.tokens.past_group(cursor.at);
    }
    statement.understood &= cursor.eat("as");
    let inner = nested(cursor.tokens.from(cursor.at), depth);
    statement.understood &= inner.understood;
    statement.inner = Some(Box::new(inner));
    cursor.tokens.until(0)
}

/// Statements that only change the session; false if it is none of them.
fn session(cursor: &mut Cursor<'_>, statement: &mut Statement) -> bool {
    statement.class = Class::Session;
    match cursor.tokens.word(cursor.at) {
        b"set" => set(cursor, statement),
        b"reset" => {
            statement.verb = "RESET";
            let effect = setting::read_reset(cursor);
            statement.understood = effect.is_some() && cursor.is_done();
            statement.session.extend(effect);
        }
        b"show" => {
            statement.class = Class::Show;
            statement.verb = "SHOW";
            statement.shown = setting::read_show(cursor);
            statement.understood = statement.shown.is_some() && cursor.is_done();
        }
        b"discard" => {
            let found = setting::read_discard(cursor);
            statement.understood = found.is_some() && cursor.is_done();
            statement.verb = found.as_ref().map_or("DISCARD", |(verb, _)| verb);
            statement.session.extend(found.map(|(_, effect)| effect));
        }
        b"deallocate" => {
            cursor.at += 1;
            statement.verb = "DEALLOCATE";
            // DEALLOCATE PREPARE names a statement called so.
            if cursor.tokens.kind(cursor.at + 1).is_some() {
                cursor.eat("prepare");
            }
            if cursor.eat("all") {
                statement.verb = "DEALLOCATE ALL";
                statement.session.push(SessionEffect::DeallocateAll);
            } else {
                named_effect(cursor, statement, SessionEffect::Deallocate);
            }
            statement.understood &= cursor.is_done();
        }
        b"load" => {
            statement.verb = "LOAD";
            statement.session.push(SessionEffect::Load);
        }
        b"listen" => notify(statement, "LISTEN", Some(SessionEffect::Listen)),
        b"unlisten" => notify(statement, "UNLISTEN", Some(SessionEffect::Unlisten)),
        b"notify" => notify(statement, "NOTIFY", None),
        b"fetch" => cursor_statement(statement, "FETCH", None),
        b"move" => cursor_statement(statement, "MOVE", None),
        b"close" => cursor_statement(statement, "CLOSE CURSOR", Some(SessionEffect::CloseCursor)),
        _ => {
            statement.class = Class::Unknown;
            return false;
        }
    }
    true
}

fn set(cursor: &mut Cursor<'_>, statement: &mut Statement) {
    statement.verb = "SET";
    match setting::read_set(cursor) {
        Some(Set::Setting(head)) => {
            let setting::SettingHead { name, local, to_default, .. } = head;
            statement.session.push(SessionEffect::Set { name, local, to_default });
        }
        Some(Set::Transaction(transaction)) => {
            statement.class = Class::Transaction;
            statement.transaction = Some(transaction);
            statement.understood = cursor.is_done();
        }
        Some(Set::Constraints) => {
            statement.verb = "SET CONSTRAINTS";
            statement.session.push(SessionEffect::Constraints);
        }
        None => statement.understood = false,
    }
}

fn notify(statement: &mut Statement, verb: &'static str, effect: Option<SessionEffect>) {
    statement.class = Class::Notify;
    statement.verb = verb;
    statement.session.extend(effect);
}

fn cursor_statement(statement: &mut Statement, verb: &'static str, effect: Option<SessionEffect>) {
    statement.class = Class::Cursor;
    statement.verb = verb;
    statement.session.extend(effect);
}

/// Everything else: writes, DDL, maintenance, procedures, locks.
fn command(cursor: &mut Cursor<'_>, statement: &mut Statement) {
    let first = cursor.tokens.word(cursor.at);
    statement.class = match first {
        b"insert" | b"update" | b"delete" | b"merge" | b"truncate" => Class::Write,
        b"do" | b"call" => {
            statement.session.push(SessionEffect::Opaque);
            Class::Procedure
        }
        b"lock" => Class::LockTable,
        b"vacuum" | b"analyze" | b"analyse" | b"cluster" | b"reindex" | b"checkpoint"
        | b"refresh" | b"repack" => Class::Maintenance,
        b"alter" if cursor.tokens.word(cursor.at + 1) == b"system" => Class::Maintenance,
        b"create" | b"alter" | b"drop" | b"comment" | b"grant" | b"revoke" | b"security"
        | b"import" | b"reassign" => Class::Ddl,
        _ => Class::Unknown,
    };
    statement.verb = verb::of_command(cursor.tokens);
    if first == b"create" {
        created(cursor.tokens, statement);
    }
}

/// CREATE TEMP in its spellings, and CREATE TABLE AS EXECUTE.
fn created(tokens: Tokens<'_>, statement: &mut Statement) {
    let temporary = (1..6)
        .map(|at| tokens.word(at))
        .take_while(|word| {
            matches!(*word, b"or" | b"replace" | b"local" | b"global" | b"temp" | b"temporary")
        })
        .any(|word| matches!(word, b"temp" | b"temporary"));
    if temporary {
        statement.session.push(SessionEffect::CreateTemp);
    }
    if statement.verb == "CREATE TABLE" {
        for at in 1..tokens.list.len() {
            if tokens.word(at) == b"execute" && tokens.word(at - 1) == b"as" {
                statement.session.extend(tokens.name(at + 1).map(SessionEffect::Execute));
            }
        }
    }
}
