//! The words of a text outside strings, comments and quoted identifiers, read one byte after another:
//! slow, plain, and apart from `causeway::sql::scan`, which it is held against.

/// What stands outside strings and comments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// An unquoted word in lower case.
    Bare(String),
    /// A quoted identifier.
    Quoted,
    /// `.`
    Dot,
    /// `;` (which may yet be inside a routine's body).
    Semicolon,
    /// Anything else.
    Other,
}

/// Reads the words; `None` where PostgreSQL's versions read a text differently, or none accepts it: a
/// zero byte, something that does not end, letters that touch a number.
pub fn words(text: &[u8], escapes_everywhere: bool) -> Option<Vec<Word>> {
    let mut reader = Reader { text, at: 0 };
    let mut found = Vec::new();
    while let Some(byte) = reader.peek(0) {
        match byte {
            0 => return None,
            b'-' if reader.peek(1) == Some(b'-') => reader.line(),
            b'/' if reader.peek(1) == Some(b'*') => reader.comment()?,
            b'\'' => {
                reader.string(escapes_everywhere)?;
                found.push(Word::Other);
            }
            b'"' => {
                reader.quoted()?;
                found.push(Word::Quoted);
            }
            b'$' => {
                reader.dollar()?;
                found.push(Word::Other);
            }
            b'0'..=b'9' => {
                reader.number()?;
                found.push(Word::Other);
            }
            _ if starts_word(byte) => found.push(reader.word(escapes_everywhere)?),
            _ => {
                reader.at += 1;
                match byte {
                    b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => {}
                    b'.' => found.push(Word::Dot),
                    b';' => found.push(Word::Semicolon),
                    _ => found.push(Word::Other),
                }
            }
        }
    }
    Some(found)
}

fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn take(&mut self) -> Option<u8> {
        let byte = self.peek(0)?;
        self.at += 1;
        Some(byte)
    }

    fn line(&mut self) {
        while self.peek(0).is_some_and(|byte| !matches!(byte, b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn comment(&mut self) -> Option<()> {
        let mut depth = 0;
        loop {
            match (self.take()?, self.peek(0)) {
                (b'/', Some(b'*')) => {
                    depth += 1;
                    self.at += 1;
                }
                (b'*', Some(b'/')) => {
                    depth -= 1;
                    self.at += 1;
                    if depth == 0 {
                        return Some(());
                    }
                }
                _ => {}
            }
        }
    }

    /// From its opening quote to its last closing one: strings go on over a line's end.
    fn string(&mut self, escapes: bool) -> Option<()> {
        loop {
            self.at += 1;
            loop {
                match self.take()? {
                    0 => return None,
                    b'\\' if escapes => drop(self.take()?),
                    b'\'' if self.peek(0) == Some(b'\'') => self.at += 1,
                    b'\'' => break,
                    _ => {}
                }
            }
            let end = self.at;
            if !self.goes_on() {
                self.at = end;
                return Some(());
            }
        }
    }

    /// Moves to the quote that continues a string, if one does.
    fn goes_on(&mut self) -> bool {
        let mut line_ended = false;
        loop {
            match self.peek(0) {
                Some(b'\n' | b'\r') => line_ended = true,
                Some(b' ' | b'\t' | 0x0b | 0x0c) => {}
                Some(b'-') if self.peek(1) == Some(b'-') => {
                    self.line();
                    continue;
                }
                Some(b'\'') => return line_ended,
                _ => return false,
            }
            self.at += 1;
        }
    }

    fn quoted(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            match self.take()? {
                0 => return None,
                b'"' if self.peek(0) == Some(b'"') => self.at += 1,
                b'"' => return Some(()),
                _ => {}
            }
        }
    }

    /// `$1`, `$tag$ ... $tag$`.
    fn dollar(&mut self) -> Option<()> {
        let start = self.at;
        self.at += 1;
        if self.peek(0)?.is_ascii_digit() {
            return self.number();
        }
        loop {
            match self.take()? {
                b'$' => break,
                byte if starts_word(byte) || byte.is_ascii_digit() => {}
                _ => return None,
            }
        }
        let tag = &self.text[start..self.at];
        loop {
            if self.text[self.at..].starts_with(tag) {
                self.at += tag.len();
                return Some(());
            }
            self.take()?;
        }
    }

    fn number(&mut self) -> Option<()> {
        while self.peek(0).is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        self.peek(0).is_none_or(|next| !starts_word(next)).then_some(())
    }

    /// A word, or a string or identifier that begins with a letter.
    fn word(&mut self, escapes_everywhere: bool) -> Option<Word> {
        let start = self.at;
        while self.peek(0).is_some_and(|b| starts_word(b) || b.is_ascii_digit() || b == b'$') {
            self.at += 1;
        }
        let word = self.text[start..self.at].to_ascii_lowercase();
        match (&word[..], self.peek(0), self.peek(1)) {
            (b"e", Some(b'\''), _) => self.string(true)?,
            (b"b" | b"x", Some(b'\''), _) => self.string(false)?,
            (b"n", Some(b'\''), _) => self.string(escapes_everywhere)?,
            (b"u", Some(b'&'), Some(b'\'')) => {
                self.at += 1;
                self.string(false)?;
            }
            (b"u", Some(b'&'), Some(b'"')) => {
                self.at += 1;
                self.quoted()?;
                return Some(Word::Quoted);
            }
            _ => return Some(Word::Bare(String::from_utf8_lossy(&word).into_owned())),
        }
        Some(Word::Other)
    }
}
