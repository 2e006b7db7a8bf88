//! The scanner and what is built on it: tokens cover the text in order, there are as many ranges as
//! statements, and a shape is its own shape.

use causeway::sql::scan::Scanner;
use causeway::sql::{Lexis, ScriptCache, analyze, set_value, shape, split};

/// Under both readings of a backslash.
pub fn check(text: &[u8]) {
    for standard_conforming_strings in [true, false] {
        let lexis = Lexis { standard_conforming_strings };
        tokens_in_order(text, lexis);
        let script = analyze(text, lexis);
        let ranges = split(text, lexis);
        assert_eq!(script.statements.len(), ranges.len(), "statements and ranges");
        assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "ranges in order");
        assert_eq!(ScriptCache::new(4).script(text, lexis).shape, script.shape, "cached shape");
        let _ = set_value(text, lexis);
        let once = normal(text, lexis);
        assert_eq!(once, normal(&once, Lexis::default()), "the normal form of a normal form");
    }
}

fn tokens_in_order(text: &[u8], lexis: Lexis) {
    let blank = |bytes: &[u8]| bytes.iter().all(|byte| b" \t\n\r\x0b\x0c".contains(byte));
    let mut at = 0;
    for token in Scanner::new(text, lexis) {
        assert!(token.start >= at && token.end > token.start, "tokens in order");
        assert!(blank(&text[at..token.start]), "nothing but blanks between tokens");
        at = token.end;
    }
    assert!(blank(&text[at..]), "nothing but blanks after the last token");
}

fn normal(text: &[u8], lexis: Lexis) -> Vec<u8> {
    let mut out = Vec::new();
    shape::normalise(text, lexis, &mut out);
    out
}
