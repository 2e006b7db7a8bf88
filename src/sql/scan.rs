//! The token scanner: `PostgreSQL`'s lexical rules over bytes, linear and without allocation.
//!
//! Owns where a token begins and ends and what kind it is; says nothing about meaning. Works on any
//! client encoding in which an ASCII byte always means that ASCII character (see
//! [`encoding_is_ascii_safe`]); bytes from 0x80 up are identifier characters, as in `PostgreSQL`.
//! Follows `src/backend/parser/scan.l` of `PostgreSQL` 14 to 18. Where those versions differ (what
//! may follow a number without white space) every token of the more permissive one is found.
//!
//! Invariants: every byte is looked at a bounded number of times; no input panics; a construct that
//! does not end, and a byte that begins no token, come out as [`Kind::Error`].

use memchr::{memchr, memchr2, memchr3};

use super::statement::Lexis;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `-- ...` or `/* ... */`.
    Comment,
    /// An unquoted identifier or a keyword.
    Word,
    /// `"..."`.
    Quoted,
    /// `U&"..."`; a UESCAPE clause is not part of it.
    UnicodeQuoted,
    /// `'...'` with its continuations, also `E''`, `B''`, `X''`, `N''` and `$tag$...$tag$`.
    String,
    /// `U&'...'`; a UESCAPE clause is not part of it.
    UnicodeString,
    /// An integer or decimal number, any radix.
    Number,
    /// `$1`.
    Param,
    /// An operator of one or more characters, also `::`, `:=`, `=>`, `..` and `:`.
    Operator,
    /// `.`
    Dot,
    /// `,`
    Comma,
    /// `;`
    Semicolon,
    /// `(`
    Open,
    /// `)`
    Close,
    /// `[`
    OpenBracket,
    /// `]`
    CloseBracket,
    /// A byte that begins no token, or a construct that never ends (it then reaches to the end).
    Error,
}

/// One token: `text[start..end]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Its first byte.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
}

/// An iterator over the tokens of a text, comments included, white space left out.
#[derive(Debug, Clone)]
pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// Up to here stand only signs that are an operator each: what was cut off an operator, and is
    /// not looked through again for every one of them.
    signs_until: usize,
    standard_conforming_strings: bool,
}

impl<'a> Scanner<'a> {
    /// Scans `text` from its start.
    #[must_use]
    pub fn new(text: &'a [u8], lexis: Lexis) -> Self {
        Self {
            text,
            at: 0,
            signs_until: 0,
            standard_conforming_strings: lexis.standard_conforming_strings,
        }
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn one(&mut self, kind: Kind) -> Kind {
        self.at += 1;
        kind
    }

    fn unterminated(&mut self) -> Kind {
        self.at = self.text.len();
        Kind::Error
    }

    fn word(&mut self) -> Kind {
        while self.at < self.text.len() && is_ident_cont(self.text[self.at]) {
            self.at += 1;
        }
        Kind::Word
    }

    /// A word, or one of the literals that begin with a letter.
    fn letter(&mut self) -> Kind {
        let (first, second) = (self.peek(0) | 0x20, self.peek(1));
        match (first, second) {
            (b'e', b'\'') => {
                self.at += 1;
                self.string(true)
            }
            (b'b' | b'x' | b'n', b'\'') => {
                self.at += 1;
                let escapes = first == b'n' && !self.standard_conforming_strings;
                self.string(escapes)
            }
            (b'u', b'&') if self.peek(2) == b'\'' => {
                self.at += 2;
                match self.string(false) {
                    Kind::String => Kind::UnicodeString,
                    other => other,
                }
            }
            (b'u', b'&') if self.peek(2) == b'"' => {
                self.at += 2;
                match self.quoted() {
                    Kind::Quoted => Kind::UnicodeQuoted,
                    other => other,
                }
            }
            _ => self.word(),
        }
    }

    /// A quoted identifier; `at` is on the quote.
    fn quoted(&mut self) -> Kind {
        let open = self.at;
        self.at += 1;
        loop {
            let Some(offset) = memchr2(b'"', 0, &self.text[self.at..]) else {
                return self.unterminated();
            };
            self.at += offset + 1;
            if self.text[self.at - 1] == 0 {
                return self.unterminated();
            }
            if self.peek(0) != b'"' {
                break;
            }
            self.at += 1;
        }
        // A zero-length identifier is an error to PostgreSQL.
        if self.at - open == 2 { Kind::Error } else { Kind::Quoted }
    }

    /// A string from its opening quote, with continuations over a newline.
    fn string(&mut self, escapes: bool) -> Kind {
        loop {
            self.at += 1;
            loop {
                let rest = &self.text[self.at..];
                let found =
                    if escapes { memchr3(b'\'', b'\\', 0, rest) } else { memchr2(b'\'', 0, rest) };
                let Some(offset) = found else { return self.unterminated() };
                self.at += offset + 1;
                match self.text[self.at - 1] {
                    b'\\' if self.at < self.text.len() => self.at += 1,
                    b'\\' | 0 => return self.unterminated(),
                    _ if self.peek(0) == b'\'' => self.at += 1,
                    _ => break,
                }
            }
            match continuation(&self.text[self.at..]) {
                Some(skip) => self.at += skip,
                None => return Kind::String,
            }
        }
    }

    /// `$1`, `$tag$...$tag$`, or a dollar that means nothing.
    fn dollar(&mut self) -> Kind {
        let rest = &self.text[self.at..];
        if self.peek(1).is_ascii_digit() {
            self.at += 1;
            while self.peek(0).is_ascii_digit() {
                self.at += 1;
            }
            return Kind::Param;
        }
        let mut length = 1;
        while length < rest.len() && is_tag_cont(rest[length]) {
            length += 1;
        }
        if rest.get(length) != Some(&b'$') {
            return self.one(Kind::Error);
        }
        let tag = &rest[..=length];
        let mut from = tag.len();
        // A tag holds no dollar inside, so each comparison ends before the next candidate.
        while let Some(offset) = memchr(b'$', &rest[from..]) {
            from += offset;
            if rest[from..].starts_with(tag) {
                self.at += from + tag.len();
                return Kind::String;
            }
            from += 1;
        }
        self.unterminated()
    }

    fn digits(&mut self, accept: fn(&u8) -> bool) {
        while accept(&self.peek(0)) || (self.peek(0) == b'_' && accept(&self.peek(1))) {
            self.at += 1;
        }
    }

    /// A number; `at` is on a digit, or on a dot before a digit.
    fn number(&mut self) -> Kind {
        if self.peek(0) == b'0' {
            let accept: Option<fn(&u8) -> bool> = match self.peek(1) | 0x20 {
                b'x' => Some(u8::is_ascii_hexdigit),
                b'o' => Some(|byte| matches!(byte, b'0'..=b'7')),
                b'b' => Some(|byte| matches!(byte, b'0' | b'1')),
                _ => None,
            };
            if let Some(accept) = accept {
                let after = if self.peek(2) == b'_' { 3 } else { 2 };
                if accept(&self.peek(after)) {
                    self.at += after;
                    self.digits(accept);
                    return Kind::Number;
                }
            }
        }
        self.digits(u8::is_ascii_digit);
        if self.peek(0) == b'.' && self.peek(1) != b'.' {
            self.at += 1;
            self.digits(u8::is_ascii_digit);
        }
        if self.peek(0) | 0x20 == b'e' {
            let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
            if self.peek(1 + sign).is_ascii_digit() {
                self.at += 1 + sign;
                self.digits(u8::is_ascii_digit);
            }
        }
        Kind::Number
    }

    /// Maximal munch, less what would open a comment and less a trailing sign that SQL forbids.
    fn operator(&mut self) -> Kind {
        if self.at < self.signs_until {
            return self.one(Kind::Operator);
        }
        let rest = &self.text[self.at..];
        let mut length = 0;
        let mut special = false;
        let mut lasting = 1;
        while length < rest.len() && is_operator(rest[length]) {
            let byte = rest[length];
            let next = rest.get(length + 1).copied().unwrap_or(0);
            if length > 0 && matches!((byte, next), (b'/', b'*') | (b'-', b'-')) {
                break;
            }
            special |=
                matches!(byte, b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%');
            length += 1;
            // Without such a character a multi-character operator may not end in + or -. A special
            // one further left licenses the sign; PostgreSQL looks only at what is before it.
            if special || !matches!(byte, b'+' | b'-') {
                lasting = length;
            }
        }
        self.signs_until = self.at + length;
        self.at += lasting;
        Kind::Operator
    }

    /// `/* ... */`, nested; `at` is on the slash.
    fn block_comment(&mut self) -> Kind {
        self.at += 2;
        let mut depth = 1_usize;
        while let Some(offset) = memchr2(b'*', b'/', &self.text[self.at..]) {
            self.at += offset;
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return Kind::Comment;
                    }
                }
                _ => self.at += 1,
            }
        }
        self.unterminated()
    }

    fn line_comment(&mut self) -> Kind {
        self.at = match memchr2(b'\n', b'\r', &self.text[self.at..]) {
            Some(offset) => self.at + offset,
            None => self.text.len(),
        };
        Kind::Comment
    }
}

impl Iterator for Scanner<'_> {
    type Item = Token;

    #[inline]
    fn next(&mut self) -> Option<Token> {
        while self.at < self.text.len() && is_space(self.text[self.at]) {
            self.at += 1;
        }
        let start = self.at;
        let byte = *self.text.get(start)?;
        let kind = match CLASS[usize::from(byte)] {
            class if class & LETTER != 0 => match byte {
                b'e' | b'E' | b'b' | b'B' | b'x' | b'X' | b'n' | b'N' | b'u' | b'U' => {
                    self.letter()
                }
                _ => self.word(),
            },
            class if class & DIGIT != 0 => self.number(),
            _ => match byte {
                b',' => self.one(Kind::Comma),
                b'(' => self.one(Kind::Open),
                b')' => self.one(Kind::Close),
                b'.' if self.peek(1).is_ascii_digit() => self.number(),
                b'.' if self.peek(1) == b'.' => {
                    self.at += 2;
                    Kind::Operator
                }
                b'.' => self.one(Kind::Dot),
                b'\'' => self.string(!self.standard_conforming_strings),
                b'"' => self.quoted(),
                b'$' => self.dollar(),
                b';' => self.one(Kind::Semicolon),
                b'[' => self.one(Kind::OpenBracket),
                b']' => self.one(Kind::CloseBracket),
                b':' => {
                    self.at += if matches!(self.peek(1), b':' | b'=') { 2 } else { 1 };
                    Kind::Operator
                }
                b'-' if self.peek(1) == b'-' => self.line_comment(),
                b'/' if self.peek(1) == b'*' => self.block_comment(),
                _ if is_operator(byte) => self.operator(),
                _ => self.one(Kind::Error),
            },
        };
        Some(Token { kind, start, end: self.at })
    }
}

/// How far it is to the opening quote of a continued string: white space with a newline in it, in
/// which `--` comments may stand, then a quote.
fn continuation(rest: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut newline = false;
    loop {
        match rest.get(at)? {
            b'\n' | b'\r' => {
                newline = true;
                at += 1;
            }
            byte if is_space(*byte) => at += 1,
            b'-' if rest.get(at + 1) == Some(&b'-') => at += memchr2(b'\n', b'\r', &rest[at..])?,
            b'\'' if newline => return Some(at),
            _ => return None,
        }
    }
}

const SPACE: u8 = 1;
const LETTER: u8 = 2;
const DIGIT: u8 = 4;
const DOLLAR: u8 = 8;
const OPERATOR: u8 = 16;

/// One look-up per byte: what scan.l's character classes say of it.
static CLASS: [u8; 256] = {
    let mut table = [0_u8; 256];
    let mut index = 0;
    while index < 256 {
        #[allow(clippy::cast_possible_truncation, reason = "the index is below 256")]
        let byte = index as u8;
        table[index] = match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => SPACE,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => LETTER,
            b'0'..=b'9' => DIGIT,
            b'$' => DOLLAR,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*'
            | b'/' | b'%' | b'<' | b'>' | b'=' => OPERATOR,
            _ => 0,
        };
        index += 1;
    }
    table
};

#[inline]
fn is_space(byte: u8) -> bool {
    CLASS[usize::from(byte)] & SPACE != 0
}

#[inline]
fn is_ident_cont(byte: u8) -> bool {
    CLASS[usize::from(byte)] & (LETTER | DIGIT | DOLLAR) != 0
}

#[inline]
fn is_tag_cont(byte: u8) -> bool {
    CLASS[usize::from(byte)] & (LETTER | DIGIT) != 0
}

#[inline]
fn is_operator(byte: u8) -> bool {
    CLASS[usize::from(byte)] & OPERATOR != 0
}

/// Whether a text in this client encoding can be scanned byte by byte: false for the client-only
/// encodings whose later bytes of a character may look like ASCII, and for names not known.
///
/// `name` as `client_encoding` reports it; case and punctuation do not matter, as in `PostgreSQL`.
#[must_use]
pub fn encoding_is_ascii_safe(name: &str) -> bool {
    let plain: String =
        name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    let known = ["utf", "unicode", "latin", "iso8859", "win", "koi8", "euc", "sqlascii", "mule"];
    let unsafe_windows = ["win932", "win936", "win949", "win950", "windows932", "windows936"];
    known.iter().any(|prefix| plain.starts_with(prefix))
        && !unsafe_windows.iter().any(|prefix| plain.starts_with(prefix))
        && !plain.starts_with("windows949")
        && !plain.starts_with("windows950")
}

/// The highest number of a parameter (`$1`) in a text, zero if it has none; nothing if one is
/// beyond all that a Bind can bring.
#[must_use]
pub fn highest_parameter(text: &[u8], lexis: Lexis) -> Option<u16> {
    let parameters = Scanner::new(text, lexis).filter(|token| token.kind == Kind::Param);
    parameters
        .map(|token| std::str::from_utf8(&text[token.start + 1..token.end]).ok()?.parse().ok())
        .try_fold(0_u16, |most, number: Option<u16>| number.map(|number| most.max(number)))
}
