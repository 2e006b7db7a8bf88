//! A data-changing command outside strings, comments and identifiers is never in a read.
#![no_main]

use causeway::sql::scan::{Kind, Scanner};
use causeway::sql::statement::Class;
use causeway::sql::{Lexis, analyze};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let lexis = Lexis::default();
    let words: Vec<Vec<u8>> = Scanner::new(text, lexis)
        .filter(|token| token.kind != Kind::Comment)
        .map(|token| match token.kind {
            Kind::Word => text[token.start..token.end].to_ascii_lowercase(),
            // A label or a field may have any word for its name.
            Kind::Dot => b".".to_vec(),
            _ => Vec::new(),
        })
        .collect();
    let name = |word: &[u8]| matches!(word, b"." | b"as");
    let changes = words.windows(3).any(|three| {
        let pair = (three[1].as_slice(), three[2].as_slice());
        !name(&three[0])
            && matches!(pair, (b"insert" | b"merge", b"into") | (b"delete", b"from") | (b"for", b"update"))
    });
    if changes {
        let script = analyze(text, lexis);
        assert!(script.statements.iter().any(|one| one.class != Class::Read));
    }
});
