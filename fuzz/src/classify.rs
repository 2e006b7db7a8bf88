//! A command that changes data, or a row lock, outside strings, comments and identifiers is never in
//! a read, and no text with one goes to a replica.

use std::sync::{Arc, LazyLock};

use causeway::config::settings::{Balance, Consistency, Routing};
use causeway::routing::{Asked, LearnedShapes, Router, SessionView, Target, decide};
use causeway::sql::statement::{Class, Statement};
use causeway::sql::{Lexis, analyze};

use super::words::{Word, words};

/// Under both readings of a backslash.
pub fn check(text: &[u8]) {
    for standard_conforming_strings in [true, false] {
        let found = words(text, !standard_conforming_strings);
        if !found.is_some_and(|words| has_command(&words)) {
            continue;
        }
        let script = analyze(text, Lexis { standard_conforming_strings });
        let reads = script.statements.iter().all(is_read);
        assert!(!reads, "called a read: {}", String::from_utf8_lossy(text));
        let asked = Asked { catalog_needed: false, ..ROUTER.asked(&VIEW) };
        let target = decide(&script, &asked).target;
        assert_ne!(target, Target::Replica, "for a replica: {}", String::from_utf8_lossy(text));
    }
}

/// A read, or a cursor over one, or one that is prepared.
fn is_read(statement: &Statement) -> bool {
    match &statement.inner {
        Some(inner) => is_read(inner),
        None => statement.class == Class::Read,
    }
}

/// Whether words in a row begin a command that changes data, or lock rows. After a dot or AS a word
/// is only a name.
fn has_command(words: &[Word]) -> bool {
    let bare = |at: usize| match words.get(at) {
        Some(Word::Bare(word)) => word.as_str(),
        _ => "",
    };
    let name = |at: usize| match words.get(at) {
        Some(Word::Quoted) => true,
        Some(Word::Bare(word)) => !matches!(word.as_str(), "set" | "of" | "skip" | "nowait" | "as"),
        _ => false,
    };
    (0..words.len()).any(|at| {
        let only_a_name = at > 0 && (words[at - 1] == Word::Dot || bare(at - 1) == "as");
        !only_a_name
            && match (bare(at), bare(at + 1)) {
                ("insert" | "merge", "into") | ("delete", "from") | ("for", "update" | "share") => {
                    true
                }
                ("update", "only") => name(at + 2) && bare(at + 3) == "set",
                ("update", _) => name(at + 1) && bare(at + 2) == "set",
                ("for", "no") => bare(at + 2) == "key" && bare(at + 3) == "update",
                ("for", "key") => bare(at + 2) == "share",
                _ => false,
            }
    })
}

static ROUTER: LazyLock<Router> = LazyLock::new(|| {
    let routing = Routing {
        consistency: Consistency::Eventual,
        balance: Balance::RoundRobin,
        primary_reads: true,
        catchup_wait: std::time::Duration::ZERO,
        safe_functions: Vec::new(),
        rules: Vec::new(),
    };
    let shape_of = |example: &str| analyze(example.as_bytes(), Lexis::default()).shape;
    Router::new(&routing, Arc::new(LearnedShapes::default()), shape_of)
});

const VIEW: SessionView<'static> = SessionView {
    catalog: None,
    database: "d",
    user: "u",
    application_name: "",
    search_path: None,
    route: None,
    consistency: None,
    max_lag: None,
    default_isolation_serializable: false,
    names_are_utf8: true,
    temp_names_possible: false,
};
