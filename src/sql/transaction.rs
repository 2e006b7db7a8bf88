//! Transaction control: BEGIN to COMMIT in every spelling, savepoints, two-phase, SET TRANSACTION.
//!
//! Follows `TransactionStmt` and `transaction_mode_list` of `gram.y`.

use super::scan::Kind;
use super::statement::{Isolation, Modes, Transaction};
use super::tokens::Cursor;

/// Reads a statement whose first word may be one of transaction control.
///
/// Returns its verb and what it does; the cursor is then where it stopped, and a statement that is
/// right ends there. Nothing if it is none.
pub fn read(cursor: &mut Cursor<'_>) -> Option<(&'static str, Transaction)> {
    let start = cursor.at;
    let found = match cursor.tokens.word(start) {
        b"begin" => {
            cursor.at += 1;
            optional_noise(cursor);
            Some(("BEGIN", Transaction::Begin(modes(cursor))))
        }
        b"start" if cursor.eat_all(&["start", "transaction"]) => {
            Some(("START TRANSACTION", Transaction::Begin(modes(cursor))))
        }
        b"commit" if cursor.eat_all(&["commit", "prepared"]) => {
            literal(cursor);
            Some(("COMMIT PREPARED", Transaction::CommitPrepared))
        }
        b"rollback" if cursor.eat_all(&["rollback", "prepared"]) => {
            literal(cursor);
            Some(("ROLLBACK PREPARED", Transaction::RollbackPrepared))
        }
        b"commit" | b"end" => {
            cursor.at += 1;
            optional_noise(cursor);
            Some(("COMMIT", Transaction::Commit { chain: chain(cursor) }))
        }
        b"rollback" | b"abort" => {
            let may_go_to = cursor.tokens.word(start) == b"rollback";
            cursor.at += 1;
            optional_noise(cursor);
            if may_go_to && cursor.eat("to") {
                Some(("ROLLBACK", Transaction::RollbackTo(savepoint_name(cursor)?)))
            } else {
                Some(("ROLLBACK", Transaction::Rollback { chain: chain(cursor) }))
            }
        }
        b"savepoint" => {
            cursor.at += 1;
            cursor.name().map(|name| ("SAVEPOINT", Transaction::Savepoint(name)))
        }
        b"release" => {
            cursor.at += 1;
            savepoint_name(cursor).map(|name| ("RELEASE", Transaction::Release(name)))
        }
        b"prepare" if cursor.tokens.kind(start + 2) == Some(Kind::String) => {
            cursor.eat_all(&["prepare", "transaction"]).then(|| {
                literal(cursor);
                ("PREPARE TRANSACTION", Transaction::Prepare)
            })
        }
        _ => None,
    };
    if found.is_none() {
        cursor.at = start;
    }
    found
}

/// `[SAVEPOINT] name`, where the name may itself be `savepoint`.
fn savepoint_name(cursor: &mut Cursor<'_>) -> Option<Box<str>> {
    if cursor.tokens.is_name(cursor.at + 1) {
        cursor.eat("savepoint");
    }
    cursor.name()
}

/// WORK or TRANSACTION, which mean nothing.
fn optional_noise(cursor: &mut Cursor<'_>) {
    if !cursor.eat("work") {
        cursor.eat("transaction");
    }
}

fn literal(cursor: &mut Cursor<'_>) {
    cursor.eat_kind(Kind::String);
}

fn chain(cursor: &mut Cursor<'_>) -> bool {
    !cursor.eat_all(&["and", "no", "chain"]) && cursor.eat_all(&["and", "chain"])
}

/// Transaction modes, parted by commas or nothing; of repeated ones the last holds.
pub fn modes(cursor: &mut Cursor<'_>) -> Modes {
    let mut modes = Modes::default();
    loop {
        let before = cursor.at;
        if cursor.eat_all(&["read", "only"]) {
            modes.read_only = Some(true);
        } else if cursor.eat_all(&["read", "write"]) {
            modes.read_only = Some(false);
        } else if cursor.eat_all(&["isolation", "level"]) {
            let Some(level) = isolation(cursor) else {
                cursor.at = before;
                return modes;
            };
            modes.isolation = Some(level);
        } else if cursor.eat("deferrable") {
            modes.deferrable = Some(true);
        } else if cursor.eat_all(&["not", "deferrable"]) {
            modes.deferrable = Some(false);
        } else {
            return modes;
        }
        // A comma must be followed by a mode; otherwise it is left and betrays the error.
        if cursor.tokens.kind(cursor.at) == Some(Kind::Comma)
            && cursor.tokens.kind(cursor.at + 1) == Some(Kind::Word)
        {
            cursor.at += 1;
        }
    }
}

fn isolation(cursor: &mut Cursor<'_>) -> Option<Isolation> {
    if cursor.eat_all(&["read", "uncommitted"]) {
        Some(Isolation::ReadUncommitted)
    } else if cursor.eat_all(&["read", "committed"]) {
        Some(Isolation::ReadCommitted)
    } else if cursor.eat_all(&["repeatable", "read"]) {
        Some(Isolation::RepeatableRead)
    } else if cursor.eat("serializable") {
        Some(Isolation::Serializable)
    } else {
        None
    }
}
