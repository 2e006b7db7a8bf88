//! Any bytes: tokens in order, as many ranges as statements, no panic.
#![no_main]

use causeway::sql::scan::Scanner;
use causeway::sql::{Lexis, analyze, split};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, &[u8])| {
    let (standard_conforming_strings, text) = input;
    let lexis = Lexis { standard_conforming_strings };
    let mut at = 0;
    for token in Scanner::new(text, lexis) {
        assert!(token.start >= at && token.end > token.start);
        at = token.end;
    }
    assert_eq!(analyze(text, lexis).statements.len(), split(text, lexis).len());
});
