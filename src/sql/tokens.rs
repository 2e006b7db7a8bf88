//! The tokens of one statement in normal form, with the few questions that readers ask of them.

use super::scan::{Kind, Token};

/// `PostgreSQL` cuts identifiers to this many bytes (`NAMEDATALEN - 1`).
const NAME_BYTES: usize = 63;

/// One statement's tokens; `text` is the normal form they lie in.
#[derive(Debug, Clone, Copy)]
pub struct Tokens<'a> {
    /// The normal form of the whole query string.
    pub text: &'a [u8],
    /// The statement's tokens, comments left out.
    pub list: &'a [Token],
}

impl<'a> Tokens<'a> {
    /// The kind of the token at `index`, if there is one.
    pub fn kind(&self, index: usize) -> Option<Kind> {
        self.list.get(index).map(|token| token.kind)
    }

    /// The bytes of the token at `index`; empty past the end.
    pub fn source(&self, index: usize) -> &'a [u8] {
        self.list.get(index).map_or(&[], |token| &self.text[token.start..token.end])
    }

    /// The unquoted word at `index` in lower case; empty if there is none.
    pub fn word(&self, index: usize) -> &'a [u8] {
        match self.list.get(index) {
            Some(token) if token.kind == Kind::Word => &self.text[token.start..token.end],
            _ => &[],
        }
    }

    /// Whether the token is an unquoted word or a quoted identifier.
    pub fn is_name(&self, index: usize) -> bool {
        matches!(self.kind(index), Some(Kind::Word | Kind::Quoted))
    }

    /// Whether the token is this operator.
    pub fn is_operator(&self, index: usize, spelling: &[u8]) -> bool {
        self.kind(index) == Some(Kind::Operator) && self.source(index) == spelling
    }

    /// The tokens from `index` on.
    pub fn from(&self, index: usize) -> Self {
        Self { text: self.text, list: self.list.get(index..).unwrap_or_default() }
    }

    /// The tokens before `index`.
    pub fn until(&self, index: usize) -> Self {
        Self { text: self.text, list: self.list.get(..index).unwrap_or(self.list) }
    }

    /// Past the parenthesis that closes the one at `open`; the end if none does.
    pub fn past_group(&self, open: usize) -> usize {
        let mut depth = 0_usize;
        for (offset, token) in self.list.iter().enumerate().skip(open) {
            match token.kind {
                Kind::Open => depth += 1,
                Kind::Close => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return offset + 1;
                    }
                }
                _ => {}
            }
        }
        self.list.len()
    }

    /// The name at `index` as `PostgreSQL` sees it: quotes removed, cut to 63 bytes.
    pub fn name(&self, index: usize) -> Option<Box<str>> {
        match self.kind(index)? {
            Kind::Word => Some(clipped(&String::from_utf8_lossy(self.source(index))).into()),
            Kind::Quoted => {
                let source = self.source(index);
                let inside = String::from_utf8_lossy(&source[1..source.len() - 1]);
                if inside.contains('"') {
                    return Some(clipped(&inside.replace("\"\"", "\"")).into());
                }
                Some(clipped(&inside).into())
            }
            _ => None,
        }
    }
}

/// Cut to the length of a name, at a character's border.
fn clipped(name: &str) -> &str {
    if name.len() <= NAME_BYTES {
        return name;
    }
    let mut end = NAME_BYTES;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// A place in a statement's tokens that moves forward as words are taken.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    /// The statement.
    pub tokens: Tokens<'a>,
    /// The token that comes next.
    pub at: usize,
}

impl<'a> Cursor<'a> {
    /// At the statement's first token.
    pub fn new(tokens: Tokens<'a>) -> Self {
        Self { tokens, at: 0 }
    }

    /// Takes the next token if it is this word.
    pub fn eat(&mut self, word: &str) -> bool {
        let found = self.tokens.word(self.at) == word.as_bytes();
        self.at += usize::from(found);
        found
    }

    /// Takes the next tokens if they are these words in a row.
    pub fn eat_all(&mut self, words: &[&str]) -> bool {
        let found = words
            .iter()
            .enumerate()
            .all(|(offset, word)| self.tokens.word(self.at + offset) == word.as_bytes());
        if found {
            self.at += words.len();
        }
        found
    }

    /// Takes the next token if it is of this kind.
    pub fn eat_kind(&mut self, kind: Kind) -> bool {
        let found = self.tokens.kind(self.at) == Some(kind);
        self.at += usize::from(found);
        found
    }

    /// Takes the next token if it is a name.
    pub fn name(&mut self) -> Option<Box<str>> {
        let name = self.tokens.name(self.at)?;
        self.at += 1;
        Some(name)
    }

    /// Whether every token has been taken.
    pub fn is_done(&self) -> bool {
        self.at >= self.tokens.list.len()
    }
}
