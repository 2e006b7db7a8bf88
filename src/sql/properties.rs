//! Properties that hold for every text.

use proptest::prelude::*;

use super::scan::{Kind, Scanner};
use super::statement::{Class, Lexis, Statement};
use super::{ScriptCache, analyze, set_value, shape, split};

/// Bits of SQL whose borders and nesting are what a scanner gets wrong.
fn fragment() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "select",
        " ",
        "\n",
        "1",
        "0x",
        "1.",
        ".5e",
        "'",
        "''",
        "E'",
        "\\",
        "\"",
        "U&\"",
        "U&'",
        "uescape",
        "$",
        "$$",
        "$a$",
        "$1",
        "--",
        "/*",
        "*/",
        "/",
        "*",
        "+",
        "-",
        "@",
        ";",
        ",",
        "(",
        ")",
        "[",
        "]",
        ".",
        ":",
        "::",
        "in",
        "array",
        "values",
        "with",
        "x",
        "as",
        "insert",
        "into",
        "delete",
        "from",
        "update",
        "t",
        "for",
        "share",
        "begin",
        "atomic",
        "end",
        "case",
        "create",
        "function",
        "set",
        "join",
        "on",
        "using",
        "é",
        "\0",
        "\u{1}",
        "causeway:",
        "primary",
        "explain",
        "copy",
        "to",
        "stdout",
        "prepare",
        "declare",
        "cursor",
        "operator",
        "f",
    ])
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        prop::collection::vec((fragment(), any::<bool>()), 0..60).prop_map(|parts| {
            let spaced = parts
                .iter()
                .map(|(part, space)| if *space { format!("{part} ") } else { (*part).to_owned() });
            spaced.collect::<String>().into_bytes()
        }),
    ]
}

fn normal(text: &[u8], lexis: Lexis) -> Vec<u8> {
    let mut out = Vec::new();
    shape::normalise(text, lexis, &mut out);
    out
}

fn facts(statements: &[Statement]) -> String {
    format!("{statements:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_read_without_panic(text in text(), conforming: bool) {
        let lexis = Lexis { standard_conforming_strings: conforming };
        let script = analyze(&text, lexis);
        let ranges = split(&text, lexis);
        prop_assert_eq!(script.statements.len(), ranges.len());
        prop_assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
        let _ = set_value(&text, lexis);
    }

    #[test]
    fn tokens_cover_the_text_in_order(text in text()) {
        let mut at = 0;
        for token in Scanner::new(&text, Lexis::default()) {
            prop_assert!(token.start >= at && token.end > token.start);
            prop_assert!(text[at..token.start].iter().all(|byte| b" \t\n\r\x0b\x0c".contains(byte)));
            at = token.end;
        }
        prop_assert!(text[at..].iter().all(|byte| b" \t\n\r\x0b\x0c".contains(byte)));
    }

    #[test]
    fn a_normal_form_is_its_own_normal_form(text in text(), conforming: bool) {
        let once = normal(&text, Lexis { standard_conforming_strings: conforming });
        let twice = normal(&once, Lexis::default());
        prop_assert_eq!(String::from_utf8_lossy(&once), String::from_utf8_lossy(&twice));
    }

    #[test]
    fn splitting_again_changes_nothing(text in text()) {
        for range in split(&text, Lexis::default()) {
            let part = &text[range];
            // What a part ends in the middle of cannot be told from the part alone.
            if Scanner::new(part, Lexis::default()).all(|token| token.kind != Kind::Error) {
                prop_assert_eq!(split(part, Lexis::default()), vec![0..part.len()]);
            }
        }
    }

    #[test]
    fn literals_white_space_and_comments_do_not_matter(
        text in text(), number in 0_u32.., string in "[a-z ;(]{0,9}", space in "[ \t\n]{1,3}",
    ) {
        // Written anew from its tokens with other values in their places.
        let mut other = Vec::new();
        for token in Scanner::new(&text, Lexis::default()) {
            match token.kind {
                Kind::Number => other.extend_from_slice(number.to_string().as_bytes()),
                Kind::String => other.extend_from_slice(format!("$x${string}$x$").as_bytes()),
                Kind::Comment | Kind::UnicodeString | Kind::UnicodeQuoted | Kind::Error => return Ok(()),
                _ => other.extend_from_slice(&text[token.start..token.end]),
            }
            other.extend_from_slice(space.as_bytes());
            other.extend_from_slice(b"/* causeway? */ ");
        }
        let (left, right) = (analyze(&text, Lexis::default()), analyze(&other, Lexis::default()));
        prop_assert_eq!(left.shape, right.shape, "{}", String::from_utf8_lossy(&other));
        prop_assert_eq!(facts(&left.statements), facts(&right.statements));
    }

    #[test]
    fn the_cache_never_changes_an_answer(texts in prop::collection::vec(text(), 1..20)) {
        let cache = ScriptCache::new(4);
        for text in texts.iter().chain(&texts) {
            let (cached, fresh) = (cache.script(text, Lexis::default()), analyze(text, Lexis::default()));
            prop_assert_eq!(cached.shape, fresh.shape);
            prop_assert_eq!(facts(&cached.statements), facts(&fresh.statements));
        }
        prop_assert!(cache.len() <= 64);
    }

    #[test]
    fn a_command_in_a_query_is_never_a_read(
        before in fragment(), after in fragment(), command in 0_usize..6,
    ) {
        let command = ["insert into t values (1)", "update t set a = 1", "update \"T\" set a = 1",
            "delete from t", "merge into t using s on true when matched then delete",
            "select 1 from t for update"][command];
        let text = format!("with x as ( {command} returning 1 ) select {before} from x {after} ");
        for statement in analyze(text.as_bytes(), Lexis::default()).statements.iter().take(1) {
            prop_assert_ne!(statement.class, Class::Read, "{}", text);
        }
    }
}

/// The scanner and the classifier take time in proportion to the text, whatever it is.
#[test]
fn hostile_texts_take_linear_time() {
    let size = 1 << 18;
    let started = std::time::Instant::now();
    for part in [
        "(",
        ")",
        "'",
        "''",
        "\"a",
        "$a$",
        "$a",
        "$",
        "/*",
        "/*/",
        "*/",
        "--\n",
        "--",
        "-",
        "+-",
        "@-",
        "'a'\n",
        "'a' --x\n",
        "U&\"a\" ",
        "U&'a' --\n",
        "a.",
        "a,",
        "in (1,",
        "in (",
        "values (1),",
        "values ((1,",
        "with x as (",
        "with x(",
        "operator(",
        "operator(a.",
        "from a join ",
        "select ",
        "explain ",
        "prepare p as ",
        "declare c cursor for ",
        "set ",
        "1;",
        ";",
        "create function begin atomic ",
        "causeway: /*",
        "/* causeway='",
        "\\",
        "E'\\",
        "a[",
        "f(",
        ", f(1)",
        "x as (select 1), ",
        "1e",
        "0x_",
        "\u{e9}",
        "\0",
    ] {
        let text = part.repeat(size / part.len());
        let script = analyze(text.as_bytes(), Lexis::default());
        assert_eq!(
            script.statements.len(),
            split(text.as_bytes(), Lexis::default()).len(),
            "{part}"
        );
        assert!(started.elapsed() < std::time::Duration::from_secs(60), "{part} takes too long");
    }
}
