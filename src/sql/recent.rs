//! The texts that a thread has looked up of late, to know them again when only literals differ.
//!
//! What an application sends again and again differs from the last time in a few numbers and strings. Between
//! these it is compared byte for byte, which costs a tenth of bringing it into its normal form. Only literals
//! that the scanner cannot take for anything else, whatever they contain, may differ: runs of digits between
//! bytes that cannot be of a number, and plain strings without a quote or a backslash inside. All else of two texts that
//! are the same here is the same, so they have one normal form and one set of facts.
//!
//! Bounded: [`SETS`] times [`WAYS`] texts of at most [`LONGEST`] bytes.

use std::sync::Arc;

use memchr::memchr3;
use smallvec::SmallVec;

use super::scan::{Kind, Scanner};
use super::statement::{Lexis, Script};

/// Sets of texts that begin alike.
const SETS: usize = 32;
/// Texts in a set.
const WAYS: usize = 4;
/// Longer texts are not kept.
const LONGEST: usize = 1024;
/// Nor are those with more literals.
const MOST_LITERALS: usize = 32;
/// Of the texts of a set that were not known, one in so many is kept: what never comes again costs little.
const ADMIT_EVERY: u32 = 8;
/// So much of a text's beginning says which set is its.
const PREFIX: usize = 16;

/// What a thread remembers.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// Empty until something is kept.
    sets: Box<[Set]>,
}

#[derive(Debug, Default)]
struct Set {
    texts: SmallVec<[Known; WAYS]>,
    unknown: u32,
}

#[derive(Debug)]
struct Known {
    text: Box<[u8]>,
    lexis: Lexis,
    /// Where literals lie that may differ, in order.
    literals: Box<[(usize, usize)]>,
    script: Arc<Script>,
}

impl Recent {
    /// The facts of a text like this one.
    pub(super) fn find(&self, text: &[u8], lexis: Lexis) -> Option<Arc<Script>> {
        let set = self.sets.get(set_of(text))?;
        let known = set.texts.iter().find(|known| known.lexis == lexis && known.is_like(text))?;
        Some(Arc::clone(&known.script))
    }

    /// The facts of a text that was not found.
    pub(super) fn keep(&mut self, text: &[u8], lexis: Lexis, script: &Arc<Script>) {
        if text.len() > LONGEST {
            return;
        }
        if self.sets.is_empty() {
            self.sets = (0..SETS).map(|_| Set::default()).collect();
        }
        let set = &mut self.sets[set_of(text)];
        set.unknown = set.unknown.wrapping_add(1);
        let turn = set.unknown / ADMIT_EVERY;
        if !set.unknown.is_multiple_of(ADMIT_EVERY) {
            return;
        }
        let Some(literals) = literals(text, lexis) else { return };
        let literals = literals.into_vec().into();
        let known = Known { text: text.into(), lexis, literals, script: Arc::clone(script) };
        if set.texts.len() < WAYS {
            set.texts.push(known);
        } else {
            set.texts[turn as usize % WAYS] = known;
        }
    }
}

fn set_of(text: &[u8]) -> usize {
    let (words, rest) = text[..text.len().min(PREFIX)].as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    let rest = rest.iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte));
    let mix =
        |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x51_7c_c1_b7_27_22_0a_95);
    let hash = words.chain([rest]).fold(0, mix);
    (hash >> 32) as usize % SETS
}

impl Known {
    /// Whether a text differs in nothing but literals.
    fn is_like(&self, text: &[u8]) -> bool {
        let (mut rest, mut from) = (text, 0);
        for &(start, end) in &self.literals {
            let Some(after) = rest.strip_prefix(&self.text[from..start]) else { return false };
            let length =
                if self.text[start] == b'\'' { plain_string(after) } else { digits(after) };
            if length == 0 {
                return false;
            }
            rest = &after[length..];
            from = end;
        }
        *rest == self.text[from..]
    }
}

/// How many digits a text begins with.
fn digits(text: &[u8]) -> usize {
    text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len())
}

/// The length of the string that a text begins with, if there is nothing but its end to find in it; else 0.
fn plain_string(text: &[u8]) -> usize {
    let Some(inner) = text.strip_prefix(b"'") else { return 0 };
    // No text of PostgreSQL's has a zero byte; what the scanner makes of one is its own.
    match memchr3(b'\'', b'\\', 0, inner) {
        Some(end) if inner[end] == b'\'' => end + 2,
        _ => 0,
    }
}

/// Where the literals lie that may differ. `None`: the text has something of which they could be a part.
fn literals(text: &[u8], lexis: Lexis) -> Option<SmallVec<[(usize, usize); 8]>> {
    let mut found = SmallVec::new();
    for token in Scanner::new(text, lexis) {
        let literal = &text[token.start..token.end];
        let next = text.get(token.end).copied().unwrap_or(b' ');
        let previous = token.start.checked_sub(1).map_or(b' ', |before| text[before]);
        let may_differ = match token.kind {
            Kind::Error | Kind::UnicodeString | Kind::UnicodeQuoted => return None,
            Kind::Number => {
                digits(literal) == literal.len()
                    && !goes_with_a_number(previous)
                    && !goes_with_a_number(next)
            }
            Kind::String => plain_string(literal) == literal.len() && next != b'\'',
            _ => false,
        };
        if may_differ {
            if found.len() == MOST_LITERALS {
                return None;
            }
            found.push((token.start, token.end));
        }
    }
    Some(found)
}

fn goes_with_a_number(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.') || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::shape;
    use super::*;

    const STANDARD: Lexis = Lexis { standard_conforming_strings: true };
    const ESCAPING: Lexis = Lexis { standard_conforming_strings: false };

    fn is_like(known: &str, text: &str, lexis: Lexis) -> bool {
        let script = Arc::new(super::super::analyze(known.as_bytes(), lexis));
        literals(known.as_bytes(), lexis).is_some_and(|literals| {
            let literals = literals.into_vec().into();
            let text_of = known.as_bytes().into();
            Known { text: text_of, lexis, literals, script }.is_like(text.as_bytes())
        })
    }

    #[test]
    fn only_literals_may_differ() {
        let known = "select a from t where id = 12345 and name = 'bob' limit 10";
        for (text, wanted) in [
            (known, true),
            ("select a from t where id = 7 and name = '' limit 99999", true),
            ("select a from t where id = 7 and name = 'x y (select nextval(1))' limit 9", true),
            ("select b from t where id = 7 and name = 'bob' limit 10", false),
            ("select a from t where id = 1.5 and name = 'bob' limit 10", false),
            ("select a from t where id = 1e5 and name = 'bob' limit 10", false),
            ("select a from t where id = -1 and name = 'bob' limit 10", false),
            ("select a from t where id = x and name = 'bob' limit 10", false),
            ("select a from t where id =  and name = 'bob' limit 10", false),
            ("select a from t where id = 1 and name = 'o''hara' limit 10", false),
            ("select a from t where id = 1 and name = 'o\\' limit 10", false),
            ("select a from t where id = 1 and name = 'bob limit 10", false),
            ("select a from t where id = 1 and name = 'bob' limit 10; drop table t", false),
            ("select a from t where id = 1 and name = 'bob' limit 1x", false),
            ("", false),
        ] {
            assert_eq!(is_like(known, text, STANDARD), wanted, "{text}");
        }
    }

    #[test]
    fn what_may_be_part_of_something_else_must_be_the_same() {
        for (known, text) in [
            ("select 1.5", "select 2.5"),
            ("select 0x1f", "select 0x2f"),
            ("select 0b12", "select 0b11"),
            ("select 0o18", "select 0o17"),
            ("select 'a'", "select 'a\0b'"),
            ("select $1", "select $2"),
            ("select a1", "select a2"),
            ("select 1x", "select 2x"),
            ("select e'a'", "select e'b'"),
            ("select 'a''b'", "select 'a''c'"),
            ("select \"1\"", "select \"2\""),
            ("select $$1$$", "select $$2$$"),
            ("select U&\"d!0061\" uescape '!'", "select U&\"d!0061\" uescape '?'"),
            ("select U&'d!0061' uescape '!'", "select U&'d!0061' uescape '?'"),
            ("/* 1 */ select 1", "/* 2 */ select 1"),
            ("select 1 -- 1", "select 1 -- 2"),
        ] {
            assert!(!is_like(known, text, STANDARD), "{known} like {text}");
        }
    }

    #[test]
    fn what_comes_again_is_found_by_all_that_it_depends_on() {
        let mut recent = Recent::default();
        let text = b"select a from t where id = 1";
        let script = Arc::new(super::super::analyze(text, STANDARD));
        for _ in 0..ADMIT_EVERY {
            assert!(recent.find(text, STANDARD).is_none());
            recent.keep(text, STANDARD, &script);
        }
        let found = recent.find(b"select a from t where id = 22", STANDARD);
        assert!(found.is_some_and(|found| Arc::ptr_eq(&found, &script)));
        assert!(recent.find(text, ESCAPING).is_none());
        assert!(recent.find(b"select b from t where id = 22", STANDARD).is_none());
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut recent = Recent::default();
        let script = Arc::new(super::super::analyze(b"select 1", STANDARD));
        for number in 0..10_000 {
            recent.keep(format!("select c{number} from t").as_bytes(), STANDARD, &script);
        }
        recent.keep("select 1 ".repeat(1000).as_bytes(), STANDARD, &script);
        assert!(recent.sets.iter().all(|set| set.texts.len() <= WAYS));
        assert!(
            recent.sets.iter().flat_map(|set| &set.texts).all(|known| known.text.len() <= LONGEST)
        );
    }

    /// Pieces that a scanner may take for something else when they meet.
    fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            "[0-9]{1,3}",
            "'[a-z0-9 ;()]{0,3}'",
            prop::sample::select(vec![
                " ",
                "'",
                "\\",
                "''",
                ".",
                "..",
                "e",
                "E",
                "x",
                "_",
                "$",
                "$1",
                "$$",
                "--",
                "/*",
                "*/",
                "\n",
                "-",
                "+",
                "U&",
                "u&'a'",
                "uescape",
                " uescape ",
                "\"",
                "(",
                ")",
                ",",
                ";",
                "in",
                " in (",
                "values",
                "array[",
                "]",
                "select",
                "é",
                "0x",
                "0b",
                "0o",
                "0",
                "1",
                "2",
                "\0",
                "1e",
                "e5",
                "n'",
                "b'",
                ":",
                "::",
                "=",
                "nextval('s')",
                "n",
            ])
            .prop_map(str::to_owned),
        ]
    }

    proptest! {
        #[test]
        fn what_is_alike_has_one_normal_form(
            pieces in prop::collection::vec(piece(), 1..12),
            others in prop::collection::vec(piece(), 12),
            changed in prop::collection::vec(any::<bool>(), 12),
            standard in any::<bool>(),
        ) {
            let lexis = Lexis { standard_conforming_strings: standard };
            let known = pieces.concat();
            // Some pieces are others, of which most are no literals.
            let other: String = pieces.iter().zip(&others).zip(&changed)
                .map(|((piece, other), changed)| if *changed { other.as_str() } else { piece }).collect();
            if is_like(&known, &other, lexis) {
                let normal = |text: &str| {
                    let mut out = Vec::new();
                    let hints = shape::normalise(text.as_bytes(), lexis, &mut out);
                    (out, hints)
                };
                prop_assert_eq!(normal(&known), normal(&other));
            }
        }

        #[test]
        fn a_text_is_like_itself(pieces in prop::collection::vec(piece(), 1..12)) {
            let text = pieces.concat();
            if literals(text.as_bytes(), STANDARD).is_some() {
                prop_assert!(is_like(&text, &text, STANDARD));
            }
        }
    }
}
