//! From a query string to the facts of its statements.

use sha2::{Digest, Sha256};

use super::borders::{Borders, MAX_STATEMENTS};
use super::classify;
use super::hint;
use super::scan::{Kind, Scanner, Token};
use super::shape;
use super::statement::{Class, Hints, Lexis, Memo, Script, SessionEffect, Statement};
use super::tokens::Tokens;
use super::walk;

/// Tokens of one statement that are looked at; of a longer one only the class and these count, and
/// it may do anything to the session. Counted after literals have been folded together.
pub const MAX_STATEMENT_TOKENS: usize = 100_000;

/// The facts of a query string, read anew. Linear in its length; never panics.
///
/// A text of megabytes takes as many tens of milliseconds: a caller that must not be held up for so
/// long does not call this on its own thread.
#[must_use]
pub fn analyze(text: &[u8], lexis: Lexis) -> Script {
    let mut normal = Vec::with_capacity(text.len().min(1 << 16) + 16);
    let hints = shape::normalise(text, lexis, &mut normal);
    from_normal(&normal, hints)
}

/// The shape of every text that was not read.
const UNREAD: u128 = u128::MAX;

impl Script {
    /// What is known of a text that is too long to be read: nothing.
    #[must_use]
    pub fn unread() -> Self {
        let statement = Statement { understood: false, ..classify::unknown() };
        Self { statements: vec![statement], shape: UNREAD, ..Self::default() }
    }

    /// Whether it is that.
    #[must_use]
    pub fn is_unread(&self) -> bool {
        self.shape == UNREAD
    }
}

/// The facts of a normal form.
pub(super) fn from_normal(normal: &[u8], hints: Hints) -> Script {
    let statements = statements(normal);
    let mut key = normal.to_vec();
    hint::write_key(&hints, &mut key);
    let digest = Sha256::digest(&key);
    let mut head = [0; 16];
    head.copy_from_slice(&digest[..16]);
    Script { statements, hints, shape: u128::from_be_bytes(head), memo: Memo::default() }
}

fn statements(normal: &[u8]) -> Vec<Statement> {
    let mut statements = Vec::new();
    let mut borders = Borders::default();
    let mut list: Vec<Token> = Vec::new();
    let mut cut = false;
    for token in Scanner::new(normal, Lexis::default()) {
        if borders.on_token(normal, token) {
            if statements.len() + 1 < MAX_STATEMENTS {
                finish(normal, &mut list, &mut cut, &mut statements);
            } else {
                cut = true;
            }
        } else if list.len() < MAX_STATEMENT_TOKENS {
            list.push(token);
        } else {
            cut = true;
        }
    }
    finish(normal, &mut list, &mut cut, &mut statements);
    statements
}

fn finish(normal: &[u8], list: &mut Vec<Token>, cut: &mut bool, statements: &mut Vec<Statement>) {
    if !list.is_empty() {
        let tokens = Tokens { text: normal, list };
        let mut statement = classify::classify(tokens);
        if std::mem::take(cut) {
            beyond_bounds(&mut statement);
        } else if list.last().is_some_and(|token| token.kind != Kind::Error) {
            walk::check(tokens, &mut statement);
        }
        statements.push(statement);
    }
    list.clear();
}

/// A statement of which only the beginning was looked at.
fn beyond_bounds(statement: &mut Statement) {
    statement.understood = false;
    statement.session.push(SessionEffect::Opaque);
    if matches!(
        statement.class,
        Class::Read | Class::Show | Class::Session | Class::Transaction | Class::Cursor
    ) {
        statement.class = Class::Unknown;
    }
}
