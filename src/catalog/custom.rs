//! The names of custom settings (`app.tenant`) that the source of a routine may set.
//!
//! A session may set them by a call, without its own text naming them, and PostgreSQL lists them
//! nowhere: whoever wants to know what they are set to must know what they are called. Found are
//! `SET app.tenant`, and string constants that are such a name (`set_config('app.tenant', ...)`),
//! also inside the strings of dynamic SQL. A name that a routine puts together is not.

use std::collections::BTreeSet;

use crate::sql::scan::{Kind, Scanner, Token};
use crate::sql::statement::Lexis;

/// Names kept of one database, so that no catalog of curious sources is without bound.
const MOST: usize = 1000;
/// Names longer than this, in bytes, are none (`NAMEDATALEN` for each of two parts, and the dot).
const LONGEST: usize = 127;
/// How deep strings may stand in strings.
const NESTED: u8 = 3;

/// Adds the names in one source, lower case.
pub fn add_names(source: &str, names: &mut BTreeSet<Box<str>>) {
    add_nested(source, names, NESTED);
}

fn add_nested(source: &str, names: &mut BTreeSet<Box<str>>, depth: u8) {
    let Some(depth) = depth.checked_sub(1) else { return };
    let tokens: Vec<Token> = Scanner::new(source.as_bytes(), Lexis::default())
        .filter(|token| token.kind != Kind::Comment)
        .collect();
    for (at, token) in tokens.iter().enumerate() {
        let text = &source[token.start..token.end];
        match token.kind {
            Kind::String => {
                let inside = content(text);
                if is_name(&inside) {
                    add(&inside, names);
                } else if inside.contains('.') {
                    add_nested(&inside, names, depth);
                }
            }
            Kind::Word if text.eq_ignore_ascii_case("set") => {
                if let Some(name) = name_after_set(source, &tokens[at + 1..]) {
                    add(&name, names);
                }
            }
            _ => {}
        }
    }
}

fn add(name: &str, names: &mut BTreeSet<Box<str>>) {
    if names.len() < MOST {
        names.insert(name.to_lowercase().into());
    }
}

/// `SET [LOCAL | SESSION] a.b {= | TO}`, as `UPDATE t SET a.b = 1` has it, too: a name too many
/// costs a question, one too few a client its setting.
fn name_after_set(source: &str, tokens: &[Token]) -> Option<String> {
    let text = |token: &Token| &source[token.start..token.end];
    let is = |token: &Token, word: &str| text(token).eq_ignore_ascii_case(word);
    let mut rest = tokens;
    if let [first, after @ ..] = rest
        && (is(first, "local") || is(first, "session"))
    {
        rest = after;
    }
    let mut name = String::new();
    loop {
        let [part, after @ ..] = rest else { return None };
        match part.kind {
            Kind::Word => name.push_str(text(part)),
            Kind::Quoted => name.push_str(&text(part)[1..text(part).len() - 1]),
            _ => return None,
        }
        let [next, more @ ..] = after else { return None };
        if next.kind == Kind::Dot {
            name.push('.');
            rest = more;
        } else {
            let set = text(next) == "=" || is(next, "to");
            return (set && is_name(&name)).then_some(name);
        }
    }
}

/// What a string constant stands for, as far as its quoting is plain.
fn content(constant: &str) -> String {
    if let Some(tag) = constant.strip_prefix('$').and_then(|rest| rest.find('$')) {
        let tag = tag + 2;
        return constant.get(tag..constant.len() - tag).unwrap_or_default().to_owned();
    }
    let open = constant.find('\'').map_or(0, |at| at + 1);
    let inside = constant.get(open..constant.len().saturating_sub(1)).unwrap_or_default();
    inside.replace("''", "'")
}

/// Whether a text is the name of a custom setting: names with dots between them.
fn is_name(text: &str) -> bool {
    let part = |part: &str| {
        let mut characters = part.chars();
        characters.next().is_some_and(|c| c.is_alphabetic() || c == '_')
            && characters.all(|c| c.is_alphanumeric() || matches!(c, '_' | '$'))
    };
    text.len() <= LONGEST && text.contains('.') && text.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_names_that_a_source_sets() {
        let table: &[(&str, &[&str])] = &[
            ("begin perform set_config('app.Tenant', $1, false); end", &["app.tenant"]),
            ("begin set local app.user_id = 7; set a.b.c to 'x'; end", &["a.b.c", "app.user_id"]),
            ("begin set session \"App\".x = 1; -- set no.name = 1\n end", &["app.x"]),
            ("begin execute 'set app.y = ' || quote_literal(v); end", &["app.y"]),
            ("begin execute $q$select set_config('app.z', '1', true)$q$; end", &["app.z"]),
            ("begin execute 'select set_config(''app.q'', ''1'', true)'; end", &["app.q"]),
            ("begin v := 'app.w'; execute format('set %I = 1', v); end", &["app.w"]),
            ("select a.b from a where c = 'no name. here'", &[]),
            ("begin update t set a = 'x', b = t.c; raise notice '1.5 %', 2.5; end", &[]),
            ("begin set work_mem = '4MB'; execute 'set open.", &[]),
        ];
        for (source, expected) in table {
            let mut names = BTreeSet::new();
            add_names(source, &mut names);
            assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), *expected, "{source}");
        }
    }

    #[test]
    fn is_bounded() {
        let mut names = BTreeSet::new();
        for number in 0..2 * MOST {
            add_names(&format!("select set_config('app.x{number}', '', true)"), &mut names);
        }
        assert_eq!(names.len(), MOST);
        add_names(&"'a.b' $a$".repeat(1000), &mut names);
    }
}
