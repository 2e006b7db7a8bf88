//! The normal form of a query string: what remains when literals, white space and comments are
//! taken away. Statements that differ only in those have one shape and share their facts.
//!
//! The normal form is itself SQL: words in lower case, identifiers as written or decoded, every
//! string `''`, every number `0`, every parameter `$1`; runs of literals in `IN (...)` and
//! `ARRAY[...]` and equal neighbouring rows of VALUES appear once; empty statements are gone.
//! Facts are read from the normal form and from nothing else, so that one shape has one set of
//! facts by construction, whatever text came first. Two texts share a cache entry only if their
//! normal forms are equal byte for byte: no collision of hashes can lend one the facts of another.
//!
//! Invariants: one pass, linear; normalising a normal form changes nothing; a token that the
//! scanner did not understand leaves the byte 0x01, which it does not understand either.

use super::hint;
use super::scan::{Kind, Scanner, Token};
use super::statement::{Hints, Lexis};

/// Stands in a normal form for what was not understood.
pub const NOT_UNDERSTOOD: u8 = 0x01;

/// Appends the normal form of `text` to `out` and returns the hints found in its comments.
pub fn normalise(text: &[u8], lexis: Lexis, out: &mut Vec<u8>) -> Hints {
    let mut writer =
        Writer { out, previous: Kind::Semicolon, semicolon: false, list: List::None, rows: None };
    let mut hints = Hints::default();
    let mut scanner = Scanner::new(text, lexis);
    while let Some(token) = scanner.next() {
        let source = &text[token.start..token.end];
        match token.kind {
            Kind::Comment => hint::read(source, &mut hints),
            Kind::Word => writer.word(source),
            Kind::Number | Kind::String | Kind::Param => writer.literal(token.kind),
            Kind::UnicodeString => {
                uescape(text, &mut scanner);
                writer.literal(Kind::String);
            }
            Kind::UnicodeQuoted => {
                let escape = uescape(text, &mut scanner);
                match escape.and_then(|escape| unicode_unescaped(source, escape)) {
                    Some(name) => writer.quoted_name(&name),
                    None => writer.token(Kind::Error, &[NOT_UNDERSTOOD]),
                }
            }
            Kind::Error => writer.token(Kind::Error, &[NOT_UNDERSTOOD]),
            Kind::Semicolon => writer.semicolon = true,
            Kind::Comma => writer.comma(),
            Kind::Open | Kind::OpenBracket => writer.open(token.kind),
            Kind::Close => writer.close(),
            kind => writer.token(kind, source),
        }
    }
    writer.finish();
    hints
}

/// Whether the writer is inside a list whose literals may be told once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    None,
    /// After IN or ARRAY.
    Announced,
    /// After its parenthesis or bracket.
    Opened,
    /// After a literal in it.
    AfterLiteral,
    /// After a comma that is not written yet.
    AfterComma,
}

/// The rows of a VALUES list, to tell equal neighbours once.
struct Rows {
    /// Parentheses open inside the row; zero between rows.
    depth: usize,
    /// Where the last whole row lies in the output.
    last: Option<(usize, usize)>,
    /// Where the row that is being written begins.
    start: usize,
    /// A comma between rows is held back until the next row turns out to differ.
    between: bool,
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    previous: Kind,
    semicolon: bool,
    list: List,
    rows: Option<Rows>,
}

impl Writer<'_> {
    #[inline]
    fn token(&mut self, kind: Kind, source: &[u8]) {
        if self.list != List::None {
            if self.list == List::AfterComma {
                self.list = List::None;
                self.put(Kind::Comma, b",");
            }
            self.list = List::None;
        }
        self.put(kind, source);
    }

    #[inline]
    fn put(&mut self, kind: Kind, source: &[u8]) {
        if self.rows.is_some() {
            self.on_row_token(kind);
        }
        if self.semicolon {
            self.semicolon = false;
            if self.previous != Kind::Semicolon {
                self.out.push(b';');
                self.previous = Kind::Semicolon;
            }
        }
        if needs_space(self.previous, kind, source) {
            self.out.push(b' ');
        }
        // Most tokens are shorter than a call that copies them.
        match source {
            [one] => self.out.push(*one),
            [one, two] => self.out.extend([*one, *two]),
            _ => self.out.extend_from_slice(source),
        }
        self.previous = kind;
    }

    #[inline]
    fn word(&mut self, source: &[u8]) {
        let named = self.previous == Kind::Dot;
        self.token(Kind::Word, &[]);
        let start = self.out.len();
        self.out.extend(source.iter().map(|byte| LOWER[usize::from(*byte)]));
        if !named && matches!(source.len(), 2 | 5 | 6) {
            match &self.out[start..] {
                b"in" | b"array" => self.list = List::Announced,
                b"values" => {
                    self.rows = Some(Rows { depth: 0, last: None, start: 0, between: false });
                }
                _ => {}
            }
        }
    }

    #[inline]
    fn literal(&mut self, kind: Kind) {
        let (placeholder, list): (&[u8], List) = (
            match kind {
                Kind::Number => b"0",
                Kind::Param => b"$1",
                _ => b"''",
            },
            self.list,
        );
        match list {
            List::AfterComma if !self.semicolon => self.list = List::AfterLiteral,
            List::Opened if !self.semicolon => {
                self.put(kind, placeholder);
                self.list = List::AfterLiteral;
            }
            _ => self.token(kind, placeholder),
        }
    }

    fn comma(&mut self) {
        if self.list == List::AfterLiteral && !self.semicolon {
            self.list = List::AfterComma;
            return;
        }
        if let Some(rows) = &mut self.rows
            && rows.depth == 0
            && rows.last.is_some()
            && !rows.between
            && self.previous == Kind::Close
            && !self.semicolon
        {
            rows.between = true;
            return;
        }
        self.token(Kind::Comma, b",");
    }

    fn open(&mut self, kind: Kind) {
        let list = self.list;
        self.token(kind, if kind == Kind::Open { b"(" } else { b"[" });
        if list == List::Announced {
            self.list = List::Opened;
        }
    }

    fn close(&mut self) {
        self.token(Kind::Close, b")");
        let Some(rows) = &mut self.rows else { return };
        if rows.depth != 0 {
            return;
        }
        let row = (rows.start, self.out.len());
        match rows.last {
            // `last` ends where the comma of this row stands.
            Some(last) if self.out[last.0..last.1] == self.out[row.0..row.1] => {
                self.out.truncate(last.1);
            }
            _ => rows.last = Some(row),
        }
    }

    /// Keeps track of the row; forgets the list when something follows that is no row.
    fn on_row_token(&mut self, kind: Kind) {
        let Some(rows) = &mut self.rows else { return };
        if self.semicolon {
            self.end_rows();
            return;
        }
        match kind {
            Kind::Open if rows.depth == 0 => {
                if rows.last.is_some() != rows.between {
                    self.end_rows();
                    return;
                }
                if rows.between {
                    self.out.push(b',');
                    self.previous = Kind::Comma;
                    rows.between = false;
                }
                rows.depth = 1;
                rows.start = self.out.len();
            }
            Kind::Open => rows.depth += 1,
            Kind::Close if rows.depth > 0 => rows.depth -= 1,
            _ if rows.depth == 0 => self.end_rows(),
            _ => {}
        }
    }

    fn end_rows(&mut self) {
        if self.rows.take().is_some_and(|rows| rows.between) {
            self.out.push(b',');
            self.previous = Kind::Comma;
        }
    }

    /// Writes what was held back. A semicolon at the end says nothing and stays away.
    fn finish(&mut self) {
        self.semicolon = false;
        if self.list == List::AfterComma {
            self.put(Kind::Comma, b",");
        }
        self.end_rows();
    }

    fn quoted_name(&mut self, name: &[u8]) {
        let mut quoted = Vec::with_capacity(name.len() + 2);
        quoted.push(b'"');
        for byte in name {
            if *byte == b'"' {
                quoted.push(b'"');
            }
            quoted.push(*byte);
        }
        quoted.push(b'"');
        self.token(Kind::Quoted, &quoted);
    }
}

/// ASCII letters in lower case, all else as it is.
static LOWER: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u8;
    loop {
        table[byte as usize] = byte.to_ascii_lowercase();
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

/// Whether two tokens must be kept apart so that the scanner finds them again.
#[inline]
fn needs_space(previous: Kind, next: Kind, source: &[u8]) -> bool {
    use Kind::{
        Close, CloseBracket, Comma, Dot, Open, OpenBracket, Operator, Quoted, Semicolon, Word,
    };
    match (previous, next) {
        (Open | Close | OpenBracket | CloseBracket | Comma | Semicolon, _)
        | (_, Open | Close | OpenBracket | CloseBracket | Comma | Semicolon)
        | (Dot, Word | Quoted)
        | (Word | Quoted, Dot) => false,
        (Dot, Operator) => source.first() == Some(&b'.'),
        _ => true,
    }
}

/// Reads the `UESCAPE 'c'` that may follow, and returns the escape character: a backslash if none
/// is given, nothing if the clause is wrong.
fn uescape(text: &[u8], scanner: &mut Scanner<'_>) -> Option<u8> {
    let mut ahead = scanner.clone();
    let next = |ahead: &mut Scanner<'_>| -> Option<Token> {
        ahead.by_ref().find(|token| token.kind != Kind::Comment)
    };
    let Some(word) = next(&mut ahead) else { return Some(b'\\') };
    if word.kind != Kind::Word || !text[word.start..word.end].eq_ignore_ascii_case(b"uescape") {
        return Some(b'\\');
    }
    let literal = next(&mut ahead)?;
    match &text[literal.start..literal.end] {
        [b'\'', escape, b'\'']
            if !escape.is_ascii_hexdigit()
                && !matches!(*escape, b'+' | b'\'' | b'"')
                && escape.is_ascii_graphic() =>
        {
            *scanner = ahead;
            Some(*escape)
        }
        // What stands in its place is left to stand: it may be a parenthesis.
        _ => None,
    }
}

/// The name that `U&"..."` stands for, in UTF-8; nothing if an escape in it is wrong.
fn unicode_unescaped(source: &[u8], escape: u8) -> Option<Vec<u8>> {
    let body = source.get(3..source.len() - 1)?;
    let mut name = Vec::with_capacity(body.len());
    let mut high: Option<u32> = None;
    let mut at = 0;
    while at < body.len() {
        let byte = body[at];
        if byte != escape || body.get(at + 1) == Some(&escape) {
            // A surrogate must be followed by its other half.
            if high.is_some() {
                return None;
            }
            name.push(byte);
            // Doubled quotes and doubled escapes stand for one.
            at += if byte == escape || byte == b'"' { 2 } else { 1 };
            continue;
        }
        let (digits, length) = match body.get(at + 1)? {
            b'+' => (body.get(at + 2..at + 8)?, 8),
            _ => (body.get(at + 1..at + 5)?, 5),
        };
        let mut code = 0_u32;
        for digit in digits {
            code = code * 16 + char::from(*digit).to_digit(16)?;
        }
        at += length;
        match (high.take(), code) {
            (None, 0xD800..=0xDBFF) => high = Some(code),
            (Some(first), 0xDC00..=0xDFFF) => {
                let point = 0x10000 + ((first - 0xD800) << 10) + (code - 0xDC00);
                push_char(&mut name, point)?;
            }
            (None, 1..) => push_char(&mut name, code)?,
            _ => return None,
        }
    }
    (high.is_none() && !name.is_empty()).then_some(name)
}

fn push_char(name: &mut Vec<u8>, point: u32) -> Option<()> {
    let mut buffer = [0; 4];
    name.extend_from_slice(char::from_u32(point)?.encode_utf8(&mut buffer).as_bytes());
    Some(())
}
