//! `PostgreSQL`'s keywords by category, and the operators that it has itself.
//!
//! From `src/include/parser/kwlist.h` and `pg_operator.dat`. Only words that are keywords in every
//! version from 14 on stand here: a newer keyword (`json_value`, `system_user`) is a plain name to
//! an older server, where a function of that name may be anybody's, so it is reported as a call.

/// Reserved keywords: never a name unless quoted, or after a dot or AS. Sorted.
static RESERVED: [&[u8]; 77] = [
    b"all",
    b"analyse",
    b"analyze",
    b"and",
    b"any",
    b"array",
    b"as",
    b"asc",
    b"asymmetric",
    b"both",
    b"case",
    b"cast",
    b"check",
    b"collate",
    b"column",
    b"constraint",
    b"create",
    b"current_catalog",
    b"current_date",
    b"current_role",
    b"current_time",
    b"current_timestamp",
    b"current_user",
    b"default",
    b"deferrable",
    b"desc",
    b"distinct",
    b"do",
    b"else",
    b"end",
    b"except",
    b"false",
    b"fetch",
    b"for",
    b"foreign",
    b"from",
    b"grant",
    b"group",
    b"having",
    b"in",
    b"initially",
    b"intersect",
    b"into",
    b"lateral",
    b"leading",
    b"limit",
    b"localtime",
    b"localtimestamp",
    b"not",
    b"null",
    b"offset",
    b"on",
    b"only",
    b"or",
    b"order",
    b"placing",
    b"primary",
    b"references",
    b"returning",
    b"select",
    b"session_user",
    b"some",
    b"symmetric",
    b"table",
    b"then",
    b"to",
    b"trailing",
    b"true",
    b"union",
    b"unique",
    b"user",
    b"using",
    b"variadic",
    b"when",
    b"where",
    b"window",
    b"with",
];

/// Keywords that may name a column or a relation, but no function unless quoted or qualified: what
/// looks like their call is a syntax of its own. `substring` and `overlay` are left out: with commas
/// between their arguments they are called like any function of that name. Sorted.
static COLUMN_NAMES: [&[u8]; 49] = [
    b"between",
    b"bigint",
    b"bit",
    b"boolean",
    b"char",
    b"character",
    b"coalesce",
    b"dec",
    b"decimal",
    b"exists",
    b"extract",
    b"float",
    b"greatest",
    b"grouping",
    b"inout",
    b"int",
    b"integer",
    b"interval",
    b"least",
    b"national",
    b"nchar",
    b"none",
    b"normalize",
    b"nullif",
    b"numeric",
    b"out",
    b"position",
    b"precision",
    b"real",
    b"row",
    b"setof",
    b"smallint",
    b"time",
    b"timestamp",
    b"treat",
    b"trim",
    b"values",
    b"varchar",
    b"xmlattributes",
    b"xmlconcat",
    b"xmlelement",
    b"xmlexists",
    b"xmlforest",
    b"xmlnamespaces",
    b"xmlparse",
    b"xmlpi",
    b"xmlroot",
    b"xmlserialize",
    b"xmltable",
];

/// The operators of `pg_operator` and `!=`, which is spelled `<>` there. Sorted.
static OPERATORS: [&str; 75] = [
    "!!", "!=", "!~", "!~*", "!~~", "!~~*", "#", "##", "#-", "#>", "#>>", "%", "&", "&&", "&<",
    "&<|", "&>", "*", "*<", "*<=", "*<>", "*=", "*>", "*>=", "+", "-", "->", "->>", "-|-", "/",
    "<", "<->", "<<", "<<=", "<<|", "<=", "<>", "<@", "<^", "=", ">", ">=", ">>", ">>=", ">^", "?",
    "?#", "?&", "?-", "?-|", "?|", "?||", "@", "@-@", "@>", "@?", "@@", "@@@", "^", "^@", "|",
    "|&>", "|/", "|>>", "||", "||/", "~", "~*", "~<=~", "~<~", "~=", "~>=~", "~>~", "~~", "~~*",
];

/// Where the words with each first letter begin in a sorted list; one more for the end.
type Letters = [u8; 27];

static RESERVED_BY_LETTER: Letters = by_letter(&RESERVED);
static COLUMN_NAMES_BY_LETTER: Letters = by_letter(&COLUMN_NAMES);

const fn by_letter(words: &[&[u8]]) -> Letters {
    let mut letters = [0; 27];
    let (mut letter, mut at) = (0, 0);
    while letter < 27 {
        while at < words.len() && ((words[at][0] - b'a') as usize) < letter {
            at += 1;
        }
        #[allow(clippy::cast_possible_truncation, reason = "no list has as many words")]
        let place = at as u8;
        letters[letter] = place;
        letter += 1;
    }
    letters
}

/// Most words are in no list: their first letter leaves a few to compare, their lengths fewer.
fn is_in(words: &[&[u8]], letters: &Letters, word: &[u8]) -> bool {
    let Some(letter) = word.first().and_then(|first| first.checked_sub(b'a')) else { return false };
    let letter = usize::from(letter);
    letter < 26
        && words[usize::from(letters[letter])..usize::from(letters[letter + 1])].contains(&word)
}

/// Whether an unquoted word (lower case) is reserved.
#[must_use]
pub fn is_reserved(word: &[u8]) -> bool {
    is_in(&RESERVED, &RESERVED_BY_LETTER, word)
}

/// Whether an unquoted, unqualified word (lower case) before a parenthesis is no function call.
#[must_use]
pub fn is_never_a_call(word: &[u8]) -> bool {
    is_in(&COLUMN_NAMES, &COLUMN_NAMES_BY_LETTER, word) || is_reserved(word)
}

/// `PostgreSQL`'s own spelling of an operator, if it has one of that name.
#[must_use]
pub fn builtin_operator(spelling: &[u8]) -> Option<&'static str> {
    let found = OPERATORS.binary_search_by(|known| known.as_bytes().cmp(spelling)).ok()?;
    Some(OPERATORS[found])
}

/// What looks like an operator to the scanner but names none: casts, arguments, slices.
#[must_use]
pub fn is_punctuation(spelling: &[u8]) -> bool {
    matches!(spelling, b":" | b"::" | b":=" | b"=>" | b"..")
}

#[cfg(test)]
mod tests {
    use super::{
        COLUMN_NAMES, OPERATORS, RESERVED, builtin_operator, is_never_a_call, is_reserved,
    };

    #[test]
    fn the_lists_are_sorted() {
        assert!(RESERVED.is_sorted() && COLUMN_NAMES.is_sorted());
        assert!(OPERATORS.is_sorted_by(|a, b| a.as_bytes() < b.as_bytes()));
    }

    #[test]
    fn words_fall_into_their_categories() {
        assert!(RESERVED.iter().all(|word| is_reserved(word)));
        assert!(COLUMN_NAMES.iter().all(|word| is_never_a_call(word)));
        for word in ["", "a", "zzz", "ALL", "allx", "al", "{", "\u{e9}", "withx", "xmltablex"] {
            assert!(!is_never_a_call(word.as_bytes()), "{word}");
        }
        assert!(is_reserved(b"select") && !is_reserved(b"values") && !is_reserved(b"json_value"));
        assert!(is_never_a_call(b"coalesce") && !is_never_a_call(b"nextval"));
        assert_eq!(builtin_operator(b"->>"), Some("->>"));
        assert_eq!(builtin_operator(b"@+@"), None);
    }
}
